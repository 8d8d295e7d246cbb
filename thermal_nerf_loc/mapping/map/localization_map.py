# SPDX-License-Identifier: Apache-2.0
"""
The interface of a map: what localization, evaluation and visualization read.

`LocalizationMap` declares every member. Those that a map may lack have a default (None or empty),
so that an explicit subclass is a complete map as soon as it renders rays. Consumers read
attributes directly: a misspelt name is then an error, not a feature switched off. `RadianceMap` is
the trained map; a simulated world is a map too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
import logging
from types import MappingProxyType
from typing import Any, Protocol, TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common import __version__
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.mapping.map.panoramas import find_panoramas, Panoramas
from thermal_nerf_loc.sensing.rendering import Array32, RayRendering, Renderer

if TYPE_CHECKING:  # torch and cv2 take seconds to load, and a world needs neither
    import torch
    from torch import Tensor

    from thermal_nerf_loc.mapping.map.keyframes import Keyframes
    from thermal_nerf_loc.mapping.map.landmarks import Landmarks
    from thermal_nerf_loc.mapping.map.uncertainty import Uncertainty
    from thermal_nerf_loc.mapping.tiles.panorama_index import PanoramaIndex

Array = NDArray[np.float64]
CovarianceScale = tuple[float, float]  # factor, and floor of the position (m)
Tail = tuple[float, float, float]  # offset, scale (both logits) and shape

_LOG = logging.getLogger(__name__)
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MapInfo:
    """Where a map comes from."""

    scene_name: str
    training: Mapping[str, Any]  # settings, as `TrainConfig` has them
    steps: int
    seconds: float
    made_by: str = f'thermal_nerf_loc {__version__}'
    refinement: Mapping[str, Any] = field(default_factory=dict)  # `CameraOptimizer.facts`
    temperature_offset: Mapping[str, float] = field(default_factory=dict)  # `camera_response.py`
    geometry: Mapping[str, Any] = field(default_factory=dict)  # `SceneDepth.facts`
    # latitude_deg, longitude_deg and height_m of the origin of a frame that is east, north, up
    geo_anchor: Mapping[str, float] = field(default_factory=dict)


class LocalizationMap(Renderer, Protocol):
    """A map to localize in; subclass it explicitly to inherit the defaults."""

    @property
    def name(self) -> str:
        """Name of the map."""
        return ''

    def on(self, device: 'torch.device') -> 'LocalizationMap':
        """The same map, rendered on a device; what torch does not render stays as it is."""
        return self

    @property
    def device(self) -> 'torch.device | None':
        """Where torch renders it; None: the processor does, by compiled kernels."""
        return None

    @property
    def scene_name(self) -> str:
        """Name of the mapped place, which saved poses belong to; '' where it is unknown."""
        return ''

    @property
    def info(self) -> MapInfo | None:
        """Where the map comes from."""
        return None

    @property
    def bounds(self) -> Array | None:
        """Corners (2, 3) of the box at full resolution, world metres; None: unbounded."""
        return None

    @property
    def radiometric(self) -> bool:
        """Whether thermal values are deg C; False for a map of images without radiometry."""
        return True

    @property
    def viewpoints(self) -> Array:
        """Poses T_world_cam (n, 4, 4) of cameras that stood in the place; may be empty."""
        return np.empty((0, 4, 4))

    @property
    def keyframes(self) -> 'Keyframes | None':
        """Training cameras with thumbnails of what they saw."""
        return None

    @property
    def panoramas(self) -> Panoramas | None:
        """Panoramas from free space, for a search without a guess; None: not rendered yet."""
        return None

    @property
    def landmarks(self) -> 'Mapping[str, Landmarks]':
        """Points that feature detectors find again, by modality."""
        return _NONE

    @property
    def uncertainty(self) -> 'Uncertainty | None':
        """Where training images do not constrain the map; see `Uncertainty`."""
        return None

    @property
    def calibration(self) -> Mapping[str, CovarianceScale]:
        """Scale of covariances by modalities; see `localization/confidence`."""
        return _NONE

    @property
    def false_positive_tails(self) -> Mapping[str, Tail]:
        """How confident wrong poses get, by modalities; see `localization/confidence`."""
        return _NONE

    def flat_field_offset(self, modality: str, size: tuple[int, int]) -> Array32 | None:
        """What the map's own camera adds to images of `size` (w, h), (h, w, 1); None: nothing."""
        return None

    @property
    def panorama_index(self) -> 'PanoramaIndex | None':
        """Compact panoramas of a map of tiles; None: the map is one, see `panoramas`."""
        return None

    def keep_within(self, memory_mb: float) -> None:
        """Have no more than this in memory, where the map can be loaded in parts."""
        return

    def keep_near(self, position: ArrayLike) -> None:
        """Have what is around and ahead of this position in memory; a map in one has it."""
        return

    def render_differentiable(self, modality: str, origins: 'Tensor', directions: 'Tensor',
                              ) -> 'Tensor':
        """Values (n, channels) of torch rays (n, 3), differentiable in both; for iNeRF."""
        raise InputError('this map cannot be differentiated', expected='a radiance map',
                         got=type(self).__name__, hint='Use the method align.')


class WrappedMap(LocalizationMap):
    """Another map, with what is given here in place of its own; the other map stays as it is."""

    def __init__(self, inner: LocalizationMap, *, panoramas: Panoramas | None = None,
                 calibration: Mapping[str, CovarianceScale] | None = None,
                 false_positive_tails: Mapping[str, Tail] | None = None) -> None:
        """Members that are None are those of `inner`."""
        self._inner, self._panoramas = inner, panoramas
        self._calibration, self._tails = calibration, false_positive_tails

    def on(self, device: 'torch.device') -> 'WrappedMap':
        """See `LocalizationMap`."""
        return WrappedMap(self._inner.on(device), panoramas=self._panoramas,
                          calibration=self._calibration, false_positive_tails=self._tails)

    @property
    def modalities(self) -> tuple[str, ...]:
        """See `Renderer`."""
        return self._inner.modalities

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        """See `Renderer`."""
        return self._inner.render_rays(modality, origins, directions)

    @property
    def name(self) -> str:
        """See `LocalizationMap`, as for all that follow."""
        return self._inner.name

    @property
    def device(self) -> 'torch.device | None':
        """Where torch renders it."""
        return self._inner.device

    @property
    def scene_name(self) -> str:
        """Name of the mapped place."""
        return self._inner.scene_name

    @property
    def info(self) -> MapInfo | None:
        """Where the map comes from."""
        return self._inner.info

    @property
    def bounds(self) -> Array | None:
        """Corners of its box."""
        return self._inner.bounds

    @property
    def radiometric(self) -> bool:
        """Whether thermal values are deg C."""
        return self._inner.radiometric

    @property
    def viewpoints(self) -> Array:
        """Poses of cameras."""
        return self._inner.viewpoints

    @property
    def keyframes(self) -> 'Keyframes | None':
        """Training cameras."""
        return self._inner.keyframes

    @property
    def panoramas(self) -> Panoramas | None:
        """Those given, else the inner map's."""
        return self._inner.panoramas if self._panoramas is None else self._panoramas

    @property
    def landmarks(self) -> 'Mapping[str, Landmarks]':
        """Those of the wrapped map."""
        return self._inner.landmarks

    @property
    def uncertainty(self) -> 'Uncertainty | None':
        """Spatial uncertainty."""
        return self._inner.uncertainty

    @property
    def calibration(self) -> Mapping[str, CovarianceScale]:
        """The one given, else the inner map's."""
        return self._inner.calibration if self._calibration is None else self._calibration

    @property
    def false_positive_tails(self) -> Mapping[str, Tail]:
        """Those given, else the inner map's."""
        return self._inner.false_positive_tails if self._tails is None else self._tails

    def flat_field_offset(self, modality: str, size: tuple[int, int]) -> Array32 | None:
        """What the map's own camera adds."""
        return self._inner.flat_field_offset(modality, size)

    @property
    def panorama_index(self) -> 'PanoramaIndex | None':
        """That of a map of tiles."""
        return self._inner.panorama_index

    def keep_within(self, memory_mb: float) -> None:
        """Limit the memory of the inner map."""
        self._inner.keep_within(memory_mb)

    def keep_near(self, position: ArrayLike) -> None:
        """Have what is around in memory."""
        self._inner.keep_near(position)

    def render_differentiable(self, modality: str, origins: 'Tensor', directions: 'Tensor',
                              ) -> 'Tensor':
        """Differentiable values."""
        return self._inner.render_differentiable(modality, origins, directions)


def panoramas_of(localization_map: LocalizationMap, progress: Progress = silent) -> Panoramas:
    """Return the panoramas that a map holds; else render them now. The caller keeps them."""
    if localization_map.panoramas is not None:
        return localization_map.panoramas
    if localization_map.panorama_index is not None:  # the compact ones of all tiles
        return localization_map.panorama_index.compact
    if not len(localization_map.viewpoints):
        raise InputError('map cannot be searched: it does not say where its cameras stood',
                         hint='Give a rough pose, or train the map again.')
    if progress is silent:
        _LOG.warning('map holds no panoramas to search: rendering them takes a while')
    return find_panoramas(localization_map, localization_map.viewpoints, progress=progress)


def with_panoramas(localization_map: LocalizationMap, progress: Progress = silent,
                   ) -> LocalizationMap:
    """Return a map that holds panoramas: this one if it does, else one that wraps it."""
    if localization_map.panoramas is not None or localization_map.panorama_index is not None:
        return localization_map
    return WrappedMap(localization_map, panoramas=panoramas_of(localization_map, progress))
