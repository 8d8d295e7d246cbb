# SPDX-License-Identifier: Apache-2.0
"""Render the map from above, cut at the height of its cameras, to draw trajectories on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import RGB
from thermal_nerf_loc.visualization.colour_map import CELSIUS, fitted_scale, HEAT
from thermal_nerf_loc.visualization.surface import MIN_OPACITY

Array = NDArray[np.float64]

_MARGIN_M = 2.0  # shown around the drive, at least
_MARGIN = 0.5  # and this share of the drive's extent
_MOST_SPREAD_M = 0.25  # of the distance; beyond, no camera has seen the surface
_HEAD_ROOM_M = 1.0  # above the drive, for maps without keyframes
_PALE = 0.3  # share of white, so that lines stand out


@dataclass(frozen=True, slots=True, eq=False)
class TopView:
    """An image (h, w, 4) in [0, 1], row 0 on top, and what it shows."""

    image: NDArray[np.float32]
    extent_m: tuple[float, float, float, float]  # left, right, bottom, top
    axes: tuple[int, int]  # of the map: to the right, and up on the page


def ground_axes(poses: Array) -> tuple[tuple[int, int], int]:
    """The map's axes (right, up on the page) as the robot stands, and the vertical one."""
    up = np.asarray(poses)[:, :3, 2].mean(axis=0)
    vertical = int(np.argmax(np.abs(up)))
    first, second = (vertical + 1) % 3, (vertical + 2) % 3
    return ((first, second) if up[vertical] > 0.0 else (second, first)), vertical


def render_top_view(renderer: LocalizationMap, poses: Array, pixels: int = 320) -> TopView:
    """Render straight down around the base's `poses` (n, 4, 4); `pixels` on the longer side."""
    axes, vertical = ground_axes(poses)
    left, right, bottom, top = _area(renderer, poses[:, :3, 3], axes)
    step_m = max(right - left, top - bottom) / pixels
    columns, rows = (max(2, round(span / step_m)) for span in (right - left, top - bottom))
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    y = top - (np.arange(rows) + 0.5) * (top - bottom) / rows
    origins = np.zeros((rows, columns, 3), np.float32)
    origins[..., axes[0]], origins[..., axes[1]] = np.meshgrid(x, y)
    upward = 1.0 if poses[:, vertical, 2].mean() > 0.0 else -1.0
    origins[..., vertical] = _cut_height(renderer, poses, vertical, upward)
    down = np.zeros(3, np.float32)
    down[vertical] = -upward
    modality = RGB if RGB in renderer.modalities else renderer.modalities[0]
    rendered = renderer.render_rays(modality, origins.reshape(-1, 3),
                                    np.tile(down, (rows * columns, 1)))
    known = (rendered.opacity >= MIN_OPACITY) & (rendered.spread_m <= _MOST_SPREAD_M)
    scale = fitted_scale(HEAT, CELSIUS, [rendered.values[known]])
    colours = (np.clip(rendered.values, 0.0, 1.0) if modality == RGB
               else scale.paint(rendered.values[:, 0]) / 255.0)
    image = np.ones((rows * columns, 4), np.float32)
    image[:, :3] = colours * (1.0 - _PALE) + _PALE
    image[:, 3] = known
    return TopView(image.reshape(rows, columns, 4), (left, right, bottom, top), axes)


def _area(renderer: LocalizationMap, positions: Array, axes: tuple[int, int],
          ) -> tuple[float, float, float, float]:
    """The drive with a margin, within the map's box where it has one."""
    out = []
    bounds = renderer.bounds
    for axis in axes:
        low, high = float(positions[:, axis].min()), float(positions[:, axis].max())
        margin = max(_MARGIN_M, _MARGIN * (high - low))
        begin, end = low - margin, high + margin
        if bounds is not None:  # a drive that leaves the box is shown all the same
            begin = min(max(begin, float(bounds[0][axis])), low)
            end = max(min(end, float(bounds[1][axis])), high)
        out += [begin, end]
    return out[0], out[1], out[2], out[3]


def _cut_height(renderer: LocalizationMap, poses: Array, vertical: int, upward: float) -> float:
    """The height at which the map is cut: that of the cameras it was trained from."""
    keyframes = renderer.keyframes
    if keyframes is not None and len(keyframes):
        return float(np.median(keyframes.poses[:, vertical, 3]))
    return float(np.median(poses[:, vertical, 3])) + upward * _HEAD_ROOM_M
