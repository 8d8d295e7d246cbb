# SPDX-License-Identifier: Apache-2.0
"""
How the thermal camera is turned in the rig, from nothing: edges of heat lie on edges of colour.

Both images of a frame become gradient magnitudes, blurred; for a turn D the colour image is looked
up along the thermal camera's rays, and the correlation is averaged over all frames. A lattice of
turns is searched coarsely, then ever finer with less blur. The scene counts as far away: a shift
between the cameras hides in the turn, to be found by what comes after.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.data.scene import load_image, Scene
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.frame import RGB, SensorImage, THERMAL

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_WIDTH_PX = 160  # images are made so small first
_MOST_FRAMES = 40
# blur (pixels), reach and step of the lattice (degrees), around the best turn so far
_ROUNDS = ((4.0, 12.0, 3.0), (2.5, 3.0, 1.0), (1.5, 1.0, 0.33))
_LEAST_IN_VIEW = 0.25
_FEWEST_TO_COMPARE = 5  # frames, for what they have in common to be told from the scene


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """The best turn behind the given rig, and the mean correlation there and before."""

    R: Array  # (3, 3)
    correlation: float
    before: float


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Edges of one frame's images, and how the rays of the one reach the other."""

    colour: Array32
    heat: Array32
    colour_camera: Camera
    rays: Array  # (n, 3) of the thermal camera's pixels
    R_cam_thermal: Array


def find_turn(scene: Scene) -> Turn:
    """Search around the rig as the scene has it."""
    both = [i for i in scene.train if {RGB, THERMAL} <= set(scene.frames[i].records)]
    chosen = both[::max(1, -(-len(both) // _MOST_FRAMES))]
    images = [{name: load_image(name, scene.frames[i].records[name]) for name in (RGB, THERMAL)}
              for i in chosen]
    pattern = _pattern([image[THERMAL] for image in images])
    best, before, score = np.eye(3), 0.0, 0.0
    for sigma_px, reach_deg, step_deg in _ROUNDS:
        pairs = _uncommon([_pair(image[RGB], image[THERMAL], pattern, sigma_px)
                           for image in images])
        turns = best @ se3.so3_exp(np.deg2rad(_lattice(reach_deg, step_deg)))
        scores = np.array([_score(pairs, R) for R in turns])
        best, score = turns[int(scores.argmax())], float(scores.max())
        before = _score(pairs, np.eye(3))
    return Turn(best, score, before)


def _lattice(reach: float, step: float) -> Array:
    """Rotation vectors in a ball."""
    ticks = np.arange(-round(reach / step), round(reach / step) + 1) * step
    w = np.stack(np.meshgrid(ticks, ticks, ticks, indexing='ij'), axis=-1).reshape(-1, 3)
    return np.asarray(w[np.linalg.norm(w, axis=1) <= reach + 1e-9])


def _score(pairs: Sequence[_Pair], R: Array) -> float:
    """Mean correlation of edges over all frames."""
    return float(np.mean([_correlation(pair, R) for pair in pairs]))


def _correlation(pair: _Pair, R: Array) -> float:
    uv, seen = pair.colour_camera.project(pair.rays @ (pair.R_cam_thermal @ R).T)
    if seen.mean() < _LEAST_IN_VIEW:
        return -1.0
    where = (uv[seen] - 0.5).astype(np.float32)[None]
    colour = cv2.remap(pair.colour, where, None, cv2.INTER_LINEAR)[0]  # type: ignore[call-overload]
    heat = pair.heat.reshape(-1)[seen]
    # little in view correlates easily by chance
    return float(np.corrcoef(colour, heat)[0, 1] * np.sqrt(seen.mean()))


def _pair(rgb: SensorImage, thermal: SensorImage, pattern: Array32 | None, sigma_px: float,
          ) -> _Pair:
    colour, colour_camera = _small(rgb.values.mean(axis=-1), rgb.camera)
    values = thermal.values[..., 0]
    heat, heat_camera = _small(values if pattern is None else values - pattern, thermal.camera)
    step = 2 if sigma_px >= 2.0 else 1
    coarse = heat_camera.resized(heat_camera.width // step, heat_camera.height // step)
    edges = cv2.resize(_edges(heat, sigma_px), coarse.size, interpolation=cv2.INTER_AREA)
    return _Pair(_edges(colour, sigma_px), np.asarray(edges, np.float32), colour_camera,
                 coarse.rays(), thermal.T_cam_sensor[:3, :3])


def _uncommon(pairs: Sequence[_Pair]) -> list[_Pair]:
    """Without what all frames have alike: how pictures are composed tells nothing of the rig."""
    if len(pairs) < _FEWEST_TO_COMPARE or len({(p.colour.shape, p.heat.shape)
                                               for p in pairs}) > 1:
        return list(pairs)
    colour, heat = (np.mean([getattr(p, name) for p in pairs], axis=0)
                    for name in ('colour', 'heat'))
    return [replace(p, colour=p.colour - colour, heat=p.heat - heat) for p in pairs]


def _edges(values: Array32, sigma_px: float) -> Array32:
    """Gradient magnitude, its strongest tamed, blurred."""
    smooth = cv2.GaussianBlur(values, (0, 0), 1.0)
    steep = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    tamed = np.minimum(steep, np.quantile(steep, 0.98))
    return np.asarray(cv2.GaussianBlur(tamed, (0, 0), sigma_px), np.float32)


def _small(values: Array32, camera: Camera) -> tuple[Array32, Camera]:
    width = min(_WIDTH_PX, camera.width)
    height = max(round(camera.height * width / camera.width), 4)
    image = cv2.resize(np.nan_to_num(values), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(image, np.float32), camera.resized(width, height)


def _pattern(images: Sequence[SensorImage]) -> Array32 | None:
    """What all thermal images show at the same pixels is the camera: vignetting, columns."""
    if len(images) < _FEWEST_TO_COMPARE or len({image.camera.size for image in images}) > 1:
        return None
    levels = [image.values[..., 0] - np.median(image.values) for image in images]
    return np.asarray(np.median(levels, axis=0), np.float32)
