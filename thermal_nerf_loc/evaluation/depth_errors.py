# SPDX-License-Identifier: Apache-2.0
"""How well depth that a network sees fits measured depth: the figures papers report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.sensing.frame import SensorImage, THERMAL

Predict = Callable[[SensorImage], tuple[NDArray[np.floating], NDArray[np.floating]]]


@dataclass(frozen=True, slots=True)
class DepthScores:
    """Means over images of means over pixels with measured depth."""

    images: int
    abs_rel: float  # |z - z*| / z*
    rmse_m: float
    delta1: float  # share with max(z / z*, z* / z) < 1.25
    within_spread: float  # share with |z - z*| below the predicted standard deviation


def score_depth(predict: Predict, scene: Scene, indices: Sequence[int]) -> DepthScores:
    """Hold depth and spread (h, w), as predicted from thermal images, against measured depth."""
    rows = []
    for index in indices:
        record = scene.frames[index].records.get(THERMAL)
        if record is None or record.depth_path is None:
            continue
        image = load_image(THERMAL, record)
        assert image.depth_m is not None  # its path is known
        rows.append(_row(*predict(image), image.depth_m))
    rows = [row for row in rows if row is not None]
    if not rows:
        raise InputError('no frame has measured thermal depth', where=scene.root,
                         expected='thermal_depth_file_path')
    abs_rel, mean_square, delta1, within = np.mean(np.array(rows), axis=0)
    return DepthScores(len(rows), float(abs_rel), float(np.sqrt(mean_square)), float(delta1),
                       float(within))


def _row(depth_m: NDArray[np.floating], spread_m: NDArray[np.floating],
         truth_m: NDArray[np.floating]) -> tuple[float, ...] | None:
    known = np.isfinite(truth_m) & (truth_m > 0.0) & (depth_m > 0.0)
    if not known.any():
        return None
    z, truth, spread = (np.asarray(part, np.float64)[known]
                        for part in (depth_m, truth_m, spread_m))
    off, ratio = np.abs(z - truth), np.maximum(z / truth, truth / z)
    return (float((off / truth).mean()), float((off**2).mean()), float((ratio < 1.25).mean()),
            float((off < spread).mean()))
