# SPDX-License-Identifier: Apache-2.0
"""
Retrieve candidates from a map of tiles: compact panoramas of all tiles first, then full ones.

The compact panoramas are compared as the full ones are, with more blur and fewer orientations.
The best of them, from whatever tiles, are read in full and compared as in one map. So twins in
other tiles are candidates as well, and the search tells that a pose is ambiguous.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.localization.global_search.candidates import Candidate
from thermal_nerf_loc.localization.global_search.panorama_retrieval import (
    PanoramaRetrieval, RetrievalConfig)
from thermal_nerf_loc.localization.refinement.image_pyramid import ImageConfig, observe
from thermal_nerf_loc.mapping.tiles.panorama_index import PanoramaIndex
from thermal_nerf_loc.sensing.frame import Frame

_COARSE_BLUR_DEG, _COARSE_STEP_DEG = 9.0, 18.0
_CHOSEN = 160  # panoramas that are compared in full


class TileRetrieval:
    """A `CandidateSource`: compares a frame with the panoramas of all tiles."""

    def __init__(self, index: PanoramaIndex, config: RetrievalConfig | None = None,
                 images: ImageConfig = ImageConfig(), chosen: int = _CHOSEN) -> None:
        """Blur the compact panoramas."""
        self.index, self.images = index, images
        self.config = RetrievalConfig() if config is None else config
        self._chosen = chosen
        self._coarse = PanoramaRetrieval(index.compact, replace(
            self.config, blur_deg=max(self.config.blur_deg, _COARSE_BLUR_DEG),
            step_deg=max(self.config.step_deg, _COARSE_STEP_DEG)), images)

    def candidates(self, frame: Frame, count: int) -> list[Candidate]:
        """See `CandidateSource`."""
        images, _ = observe(frame, tuple(self.index.compact.values), self.images)
        if not images:
            return []
        scores = self._coarse.scores(images, self._coarse.levels(images)).max(axis=1)
        full = self.index.full(best(scores, self._chosen))
        return PanoramaRetrieval(full, self.config, self.images).search(images, count)


def best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Numbers of the best scores, in rising order."""
    most = min(count, len(scores))
    return np.sort(np.argpartition(-scores, most - 1)[:most]).astype(np.int64)
