# SPDX-License-Identifier: Apache-2.0
"""
Render colour, temperature, depth and uncertainty from a pose, and lay them out with colour bars.

Titles and bars are drawn once; for each frame of a video only the pictures are pasted in.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import pixel_rays, RGB, THERMAL
from thermal_nerf_loc.sensing.rendering import render_images
from thermal_nerf_loc.visualization.colour_map import (
    CELSIUS, ColourScale, DEPTH, draw_bar, fitted_scale, GRAY, HEAT, METRES, Picture)

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

COLOUR, TEMPERATURE, DISTANCE, UNCERTAINTY = 'colour', 'temperature', 'depth', 'uncertainty'
# The modality that each kind of picture needs; None: any.
KINDS = {COLOUR: RGB, TEMPERATURE: THERMAL, DISTANCE: None, UNCERTAINTY: None}
_UNCERTAINTY_COLOURS, _UNCERTAINTY_UNIT = 'magma', 'log sigma'
_HEAD_PX, _BAR_PX, _GAP_PX = 24, 64, 8
_SCALE_VIEWS, _SCALE_WIDTH_PX = 24, 48  # small renders that colour scales are fitted to


def all_kinds(renderer: LocalizationMap) -> tuple[str, ...]:
    """All kinds of picture that the map can show."""
    available = tuple(kind for kind, modality in KINDS.items()
                      if modality is None or modality in renderer.modalities)
    if renderer.uncertainty is None:
        available = tuple(kind for kind in available if kind != UNCERTAINTY)
    return available


def shown_kinds(renderer: LocalizationMap, requested: Sequence[str] | None = None,
                ) -> tuple[str, ...]:
    """
    What to show: all that the map has, or what was requested, if the map has it.

    Uncertainty is shown only on request.
    """
    available = all_kinds(renderer)
    if requested is None:
        return tuple(kind for kind in available if kind != UNCERTAINTY)
    for kind in requested:
        if kind not in KINDS:
            raise InputError('cannot show that', where=kind or 'an empty name',
                             expected='some of ' + ','.join(KINDS))
        if kind not in available:
            raise InputError(f'map has no {kind}', expected='some of ' + ','.join(available),
                             got=kind, hint=f'It was trained without {KINDS[kind]} images.'
                             if KINDS[kind] else 'Train it again.')
    if len(set(requested)) != len(requested):
        raise InputError('the same twice', expected='each once', got=','.join(requested))
    return tuple(requested)


def render_kinds(renderer: LocalizationMap, camera: Camera, T_world_cam: Array,
                 kinds: Sequence[str],
         ) -> dict[str, Array32]:
    """
    Images by kind: colour (h, w, 3) in [0, 1], deg C (h, w), metres along z (h, w).

    Uncertainty (h, w) is that of the surface.
    """
    modalities = [modality for kind in kinds if (modality := KINDS[kind])]
    images = render_images(  # thermal is the cheaper one
        renderer, modalities or renderer.modalities[-1:], camera, T_world_cam)
    last = list(images.values())[-1]
    out = {}
    for kind in kinds:
        if kind == COLOUR:
            out[kind] = np.clip(images[RGB].values, 0.0, 1.0)
        elif kind == TEMPERATURE:
            out[kind] = images[THERMAL].values[..., 0]
        elif kind == DISTANCE:
            out[kind] = last.depth_m
        else:
            origins, directions = (np.array(part, np.float32)
                                   for part in pixel_rays(camera, T_world_cam))
            surface = origins + directions * last.rays.distance_m[:, None]
            out[kind] = last.per_pixel(uncertainty_at(renderer, surface))
    return out


def uncertainty_at(renderer: LocalizationMap, points: Array32) -> Array32:
    """The map's uncertainty (log sigma) at world points (n, 3)."""
    field = renderer.uncertainty
    if field is None:
        raise InputError('map has no uncertainty', hint='Train it again.')
    return np.asarray(field.at(points), np.float32)


def scales_for(renderer: LocalizationMap, camera: Camera, poses: Array, kinds: Sequence[str],
               celsius: tuple[float, float] | None = None) -> dict[str, ColourScale]:
    """Scales that fit a whole path, from small views of some of its poses."""
    height = max(2, round(_SCALE_WIDTH_PX * camera.height / camera.width))
    small = camera.resized(_SCALE_WIDTH_PX, height)
    others = [kind for kind in kinds if kind != COLOUR]
    chosen = poses[np.unique(np.linspace(0, len(poses) - 1, _SCALE_VIEWS).round().astype(int))]
    views = [render_kinds(renderer, small, T, others) for T in chosen] if others else []
    unit = thermal_unit(renderer)
    fitted = {TEMPERATURE: (HEAT, unit), DISTANCE: (DEPTH, METRES),
              UNCERTAINTY: (_UNCERTAINTY_COLOURS, _UNCERTAINTY_UNIT)}
    scales = {kind: fitted_scale(*fitted[kind], [view[kind] for view in views])
              for kind in others}
    if celsius is not None and TEMPERATURE in scales:
        scales[TEMPERATURE] = ColourScale(HEAT, *celsius, unit)
    return scales


def thermal_unit(renderer: LocalizationMap) -> str:
    """deg C, or gray values for maps that were trained on images without radiometry."""
    return CELSIUS if renderer.radiometric else GRAY


class Panels:
    """Pictures of one size in a row, each below its title and left of its colour bar."""

    def __init__(self, kinds: Sequence[str], size: tuple[int, int],
                 scales: Mapping[str, ColourScale]) -> None:
        """Draw titles and bars; `size` is (width, height) of one picture."""
        self._kinds, self._scales, (width, height) = tuple(kinds), scales, size
        self._left, right = {}, 0
        for kind in self._kinds:
            self._left[kind] = right
            right += width + (_BAR_PX if kind in scales else _GAP_PX)
        # Video codecs want even sizes.
        self._background = np.full((_even(height + _HEAD_PX + _GAP_PX), _even(right), 3), 255,
                                   np.uint8)
        for kind, left in self._left.items():
            _write(self._background, kind, left + 4)
            if kind in scales:
                # OpenCV's letters have no degree sign.
                unit = scales[kind].unit.replace(CELSIUS, 'deg C')
                _write(self._background, unit, left + width + 6)
                bar = draw_bar(scales[kind], (_BAR_PX, height))
                self._background[_HEAD_PX:_HEAD_PX + height,
                                 left + width:left + width + _BAR_PX] = bar

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the whole."""
        return self._background.shape[1], self._background.shape[0]

    def compose(self, images: Mapping[str, Array32]) -> Picture:
        """One frame (height, width, 3), sRGB of 8 bits."""
        frame = self._background.copy()
        for kind in self._kinds:
            painted = paint(kind, images[kind], self._scales)
            left, (height, width) = self._left[kind], painted.shape[:2]
            frame[_HEAD_PX:_HEAD_PX + height, left:left + width] = painted
        return frame


def paint(kind: str, image: Array32, scales: Mapping[str, ColourScale]) -> Picture:
    """One image of `render_kinds` as sRGB of 8 bits."""
    if kind == COLOUR:
        return np.asarray(np.rint(image * 255.0), np.uint8)
    return scales[kind].paint(image)


def _write(picture: Picture, text: str, left: int) -> None:
    import cv2

    cv2.putText(picture, text, (left, _HEAD_PX - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 30, 30),
                1, cv2.LINE_AA)


def _even(pixels: int) -> int:
    return pixels + pixels % 2
