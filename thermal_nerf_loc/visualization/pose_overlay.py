# SPDX-License-Identifier: Apache-2.0
"""
A picture of how well a pose fits: the observed image, the map rendered there, both blended.

One row for each modality. The marks on the observed image are the pixels that the localizer's
sampler chooses.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.localization.localizer import LocalizerConfig
from thermal_nerf_loc.localization.refinement.image_pyramid import observe
from thermal_nerf_loc.localization.refinement.pixel_sampling import sample_pixels
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage
from thermal_nerf_loc.sensing.rendering import render_image

Array = NDArray[np.float64]
Image = NDArray[np.uint8]  # (height, width, 3) RGB

_PANEL_PX = 320
_RENDER_PX = 80  # rendered this wide, then enlarged, to take little time from the tracking
_GREEN = (60, 255, 60)


def draw_overlay(renderer: LocalizationMap, config: LocalizerConfig, frame: Frame,
                 T_world_cam: Array, title: str = '') -> Image:
    """Three panels a row, (rows * height, 960, 3); unusable images say why they are."""
    usable, ignored = observe(frame, tuple(n for n in renderer.modalities if n in frame.images),
                              config.images)
    rows = []
    for name in (*usable, *ignored):
        image = frame.images[name]
        low, high = _range(name, image.values)
        rendered = _rendered(renderer, name, image, T_world_cam)
        shown, drawn = (_panel(name, values, image, low, high)
                        for values in (image.values, rendered))
        blend = np.asarray(cv2.addWeighted(shown, 0.5, drawn, 0.5, 0.0), np.uint8)
        if name in usable:
            uv = sample_pixels(config.refinement.sampler, usable[name], config.refinement.rays,
                               np.random.default_rng(config.seed), balanced=True)
            _mark(shown, uv * _PANEL_PX / image.camera.width)
        _write(shown, f'{name} observed' if name in usable else f'{name}: {ignored[name]}')
        _write(drawn, 'rendered')
        _write(blend, 'both')
        rows.append(np.concatenate([shown, drawn, blend], axis=1))
    picture: Image = (np.concatenate(rows).astype(np.uint8) if rows
                      else np.zeros((40, 3 * _PANEL_PX, 3), np.uint8))
    _write(picture, title, from_bottom=True)
    return np.ascontiguousarray(picture)


def _rendered(renderer: LocalizationMap, name: str, image: SensorImage, T_world_cam: Array,
              ) -> NDArray[np.float32]:
    width = min(_RENDER_PX, image.camera.width)
    height = max(1, round(width * image.camera.height / image.camera.width))
    camera = image.camera.resized(width, height)
    return render_image(renderer, name, camera, T_world_cam @ image.T_cam_sensor,
                        offset=renderer.flat_field_offset(name, camera.size)).values


def _range(name: str, values: NDArray[np.float32]) -> tuple[float, float]:
    """The values that are drawn black and white."""
    if name == RGB:
        return 0.0, 1.0
    low, high = np.quantile(values[np.isfinite(values)], (0.01, 0.99)) if values.size else (0, 1)
    return float(low), float(max(high, low + 1e-3))


def _panel(name: str, values: NDArray[np.float32], image: SensorImage, low: float, high: float,
           ) -> Image:
    height = round(_PANEL_PX * image.camera.height / image.camera.width)
    scaled = np.nan_to_num(np.clip((values - low) / (high - low), 0.0, 1.0))
    pixels = cv2.resize(np.rint(scaled * 255.0).astype(np.uint8), (_PANEL_PX, height),
                        interpolation=cv2.INTER_LINEAR)
    if name == RGB:
        return np.asarray(pixels, np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(pixels, cv2.COLORMAP_INFERNO)[..., ::-1])


def _mark(panel: Image, uv: Array) -> None:
    for u, v in np.rint(uv - 0.5).astype(int):
        panel[max(v, 0):v + 2, max(u, 0):u + 2] = _GREEN


def _write(panel: Image, text: str, from_bottom: bool = False) -> None:
    position = 6, len(panel) - 8 if from_bottom else 16
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(panel, text, position, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness,
                    cv2.LINE_AA)
