# SPDX-License-Identifier: Apache-2.0
"""
Thermal extrinsics from scratch: where thermal edges lie on colour edges.

A map of colour alone gives the distance of what a colour image shows, so that its edges can be
projected into the thermal image of the same frame, whatever the correction D of the rig.
Maximised is their correlation over all frames f:

    S(D) = mean_f corr(colour edges, thermal edges at project((T_cam_thermal D)^-1 p))

First on a lattice of rotations with much blur, then by damped Gauss-Newton steps in all six
directions with less and less blur.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.sensing.frame import RGB, SensorImage, THERMAL

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
RenderDistance = Callable[[Array32, Array32], Array32]  # origins, directions (n, 3) -> (n,) m

_WIDTH_PX = 160  # images are reduced to it first
_MOST_FRAMES = 40
_LATTICE_BLUR_PX = 4.0
_LATTICE_REACH_DEG, _LATTICE_STEP_DEG = 12.0, 3.0
_LATTICE_STRIDE_PX, _STRIDE_PX = 3, 2  # of the pixels whose edges are compared
_LARGEST_SHIFT = 0.2  # of the median depth
_BLURS_PX = (4.0, 2.5, 1.5, 1.0, 0.7)
_NORMALIZING_PX = 6.0  # gradients count relative to their surroundings of this size
_MOST_STEPS = 25  # with each blur
_LEAST_GAIN = 1e-5  # of the correlation: a step that gains less is the last
_LEAST_IN_VIEW = 0.1  # of a frame's points
_FEWEST_FOR_PATTERN = 5  # frames, to separate the camera's pattern from the scene


@dataclass(frozen=True, slots=True, eq=False)
class RigEstimate:
    """Correction of the thermal camera in the rig, with the correlation of edges."""

    T: Array  # (4, 4) D, right of T_cam_thermal
    correlation: float
    correlation_before: float  # with the rig as given


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """One frame's reduced images, and the points that its colour pixels show."""

    colour: Array32
    heat: Array32
    points: Array  # (height, width, 3) in the reference camera, metres
    thermal: Camera
    T_cam_thermal: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Edge strength of one frame at one blur."""

    points: Array  # (n, 3)
    colour: Array32  # (n,) at the points
    heat: Array32  # (height, width)
    heat_gradient: tuple[Array32, ...]  # in x and in y
    thermal: Camera
    T_cam_thermal: Array


def find_rig(scene: Scene, render_distance: RenderDistance) -> RigEstimate:
    """Search around the given rig; `render_distance` renders the colour map."""
    frames = _frames(scene, render_distance)
    depth_m = float(np.median([np.median(frame.points[..., 2]) for frame in frames]))
    coarse = [_edges_of(frame, _LATTICE_BLUR_PX, _LATTICE_STRIDE_PX) for frame in frames]
    lattice = _rotation_lattice(_LATTICE_REACH_DEG, _LATTICE_STEP_DEG)
    rotations = se3.from_parts(se3.so3_exp(np.deg2rad(lattice)), np.zeros(3))
    best = rotations[int(np.argmax([_score(coarse, T) for T in rotations]))]
    for blur_px in _BLURS_PX:
        edges = [_edges_of(frame, blur_px, _STRIDE_PX) for frame in frames]
        best = _maximized(edges, best, depth_m)
    return RigEstimate(best, _score(edges, best), _score(edges, np.eye(4)))


def _rotation_lattice(reach: float, step: float) -> Array:
    """Rotation vectors (n, 3) of a cubic lattice in a ball."""
    ticks = np.arange(-round(reach / step), round(reach / step) + 1) * step
    w = np.stack(np.meshgrid(ticks, ticks, ticks, indexing='ij'), axis=-1).reshape(-1, 3)
    return np.asarray(w[np.linalg.norm(w, axis=1) <= reach + 1e-9])


def _maximized(edges: Sequence[_Edges], T: Array, depth_m: float) -> Array:
    """
    Damped Gauss-Newton from T, uphill.

    Steps are lengthened while they gain: thermal images have edges that colour lacks, which makes
    the curvature bound too large.
    """
    unit = np.repeat((depth_m, 1.0), 3)
    score, g, H = _linearized(edges, T)
    length = 1.0
    for _ in range(_MOST_STEPS):
        g, H = g * unit, H * unit * unit[:, None]
        step = unit * np.linalg.solve(H + 1e-3 * np.trace(H) / 6.0 * np.eye(6), length * g)
        trial = se3.plus(T, step)
        after = _linearized(edges, trial)
        g, H = g / unit, H / unit / unit[:, None]
        gain = after[0] - score
        if gain <= 0.0 or not _is_possible(trial, depth_m):
            length *= 0.3
        else:
            T, (score, g, H), length = trial, after, min(1.5 * length, 5.0)
        if abs(gain) < _LEAST_GAIN:
            break
    return T


def _is_possible(T: Array, depth_m: float) -> bool:
    """False beyond the search range: where the map shows nothing yet, anything may fit."""
    metres, degrees = se3.distance(np.eye(4), T)
    return (metres <= _LARGEST_SHIFT * depth_m
            and degrees <= _LATTICE_REACH_DEG + _LATTICE_STEP_DEG)


def _score(edges: Sequence[_Edges], T: Array) -> float:
    """Correlation of edges, mean over frames; 0 for frames with few points in view."""
    total = 0.0
    for edge in edges:
        uv, in_view = edge.thermal.project(_in_thermal(edge, T))
        if in_view.mean() >= _LEAST_IN_VIEW:
            heat, colour = _unit(_at(edge.heat, uv[in_view])), _unit(edge.colour[in_view])
            total += float(colour @ heat)
    return total / len(edges)


def _linearized(edges: Sequence[_Edges], T: Array) -> tuple[float, Array, Array]:
    """The score, its gradient (6,) in a twist right of T, and a bound (6, 6) on its curvature."""
    total, g, H = 0.0, np.zeros(6), np.zeros((6, 6))
    for edge in edges:
        p = _in_thermal(edge, T)
        uv, J, in_view = edge.thermal.project_with_jacobian(p)
        if in_view.mean() < _LEAST_IN_VIEW:
            continue
        p, uv, J = p[in_view], uv[in_view], J[in_view]
        heat, colour = _at(edge.heat, uv), edge.colour[in_view]
        slope = np.stack([_at(part, uv) for part in edge.heat_gradient], axis=-1)
        by_point = np.einsum('ni,nij->nj', slope, J)
        D = np.concatenate([-by_point, np.cross(by_point, p)], axis=1)  # p moves by -v - w x p
        D -= D.mean(axis=0)
        strength = max(float(np.linalg.norm(heat - heat.mean())), 1e-12)
        h, c = _unit(heat), _unit(colour)
        D = (D - h[:, None] * (h @ D)) / strength
        total, g, H = total + float(c @ h), g + c @ D, H + D.T @ D
    return total / len(edges), g / len(edges), H / len(edges)


def _unit(values: Array32) -> Array:
    """Values without their mean, scaled to norm 1."""
    centred = values.astype(np.float64) - values.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-12))


def _in_thermal(edge: _Edges, T: Array) -> Array:
    X = se3.inverse(edge.T_cam_thermal @ T)
    return np.asarray(edge.points @ X[:3, :3].T + X[:3, 3])


def _at(image: Array32, uv: Array) -> Array32:
    where = (uv - 0.5).astype(np.float32)[None]
    return np.asarray(cv2.remap(image, where, None, cv2.INTER_LINEAR,  # type: ignore[call-overload]
                                borderMode=cv2.BORDER_REPLICATE)[0])


def _frames(scene: Scene, render_distance: RenderDistance) -> list[_Frame]:
    both = [i for i in scene.train if {RGB, THERMAL} <= set(scene.frames[i].records)]
    chosen = both[::max(1, -(-len(both) // _MOST_FRAMES))]
    images = [{name: load_image(name, scene.frames[i].records[name]) for name in (RGB, THERMAL)}
              for i in chosen]
    pattern = _pattern([image[THERMAL] for image in images])
    out = []
    for i, image in zip(chosen, images):
        colour, camera = _reduced(image[RGB].values.mean(axis=-1), image[RGB].camera)
        rays, T = camera.rays(), scene.frames[i].T_world_cam @ image[RGB].T_cam_sensor
        directions = (rays @ T[:3, :3].T).astype(np.float32)
        origins = np.broadcast_to(T[:3, 3].astype(np.float32), directions.shape)
        rig = image[RGB].T_cam_sensor
        distance_m = render_distance(origins, directions)
        points = (rays * distance_m[:, None]) @ rig[:3, :3].T + rig[:3, 3]
        values = image[THERMAL].values[..., 0]
        heat, thermal = _reduced(values if pattern is None else values - pattern,
                                 image[THERMAL].camera)
        out.append(_Frame(colour, heat, points.reshape(*colour.shape, 3), thermal,
                          image[THERMAL].T_cam_sensor))
    return out


def _edges_of(frame: _Frame, blur_px: float, stride_px: int) -> _Edges:
    heat = _edge_strength(frame.heat, blur_px)
    gradient = tuple(np.asarray(cv2.Sobel(heat, cv2.CV_32F, *order, scale=1 / 8), np.float32)
                     for order in ((1, 0), (0, 1)))
    colour = _edge_strength(frame.colour, blur_px)[::stride_px, ::stride_px].reshape(-1)
    points = frame.points[::stride_px, ::stride_px].reshape(-1, 3)
    return _Edges(points, colour, heat, gradient, frame.thermal, frame.T_cam_thermal)


def _edge_strength(values: Array32, blur_px: float) -> Array32:
    """Gradient magnitude relative to its surroundings, compressed by a square root, blurred."""
    smooth = cv2.GaussianBlur(values, (0, 0), 1.0)
    gradient = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    surroundings = cv2.GaussianBlur(gradient, (0, 0), _NORMALIZING_PX) + np.median(gradient) + 1e-9
    above = np.sqrt(np.maximum(gradient / surroundings - 1.0, 0.0))
    return np.asarray(cv2.GaussianBlur(above, (0, 0), blur_px), np.float32)


def _reduced(values: Array32, camera: Camera) -> tuple[Array32, Camera]:
    width = min(_WIDTH_PX, camera.width)
    height = max(round(camera.height * width / camera.width), 4)
    image = cv2.resize(np.nan_to_num(values), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(image, np.float32), camera.resized(width, height)


def _pattern(images: Sequence[SensorImage]) -> Array32 | None:
    """What all thermal images show at the same pixels: vignetting and columns, not the scene."""
    if len(images) < _FEWEST_FOR_PATTERN or len({image.camera.size for image in images}) > 1:
        return None
    levels = [image.values[..., 0] - np.median(image.values) for image in images]
    return np.asarray(np.median(levels, axis=0), np.float32)
