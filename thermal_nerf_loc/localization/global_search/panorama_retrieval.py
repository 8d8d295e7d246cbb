# SPDX-License-Identifier: Apache-2.0
"""
Candidates from a map's panoramas: every place in every direction a camera may be held.

The view is blurred until half a metre and half a step of the angle do not matter; then a place p
seen in orientation o is scored by correlations alone. With the mask M of the panorama's rays that
lie in the view, the image A at those rays, and a panorama's values V and weights W, all the sums
that a weighted correlation needs are products of matrices over (places, rays, orientations):

    sum w a b = (W V) A^T,   sum w a = W A^T,   sum w a^2 = W (A^2)^T,   sum w b = (W V) M^T, ...

The score is the likelihood with gain, offset and noise profiled out, `-n/2 log(1 - rho^2)`. The
best are then aligned with the panorama's own points, which have depth, and scored again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.threads import side_by_side
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.global_search.candidates import best_apart, Candidate, distinct
from thermal_nerf_loc.localization.refinement import pose_hypotheses
from thermal_nerf_loc.localization.refinement.aligner import (
    align, AlignConfig, GainOffset, ModalityView, PosePrior)
from thermal_nerf_loc.localization.refinement.image_pyramid import (
    Layer, make_layer, observe, ObservedImage)
from thermal_nerf_loc.localization.refinement.rendered_points import RenderedPoints
from thermal_nerf_loc.mapping.map.panoramas import Panoramas, sphere
from thermal_nerf_loc.sensing.frame import Frame, RGB

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_MAX_CORRELATION = 0.99
_LOOKED_AT = 40  # times as many hypotheses as candidates are held apart from one another


@dataclass(frozen=True, slots=True)
class RetrievalConfig:
    """How a map's places are searched."""

    step_deg: float = setting(10.0, 'between two orientations', 2.0, 45.0)
    tilt_deg: float = setting(8.0, 'how much further than in training a camera may be tilted',
                              0.0, 180.0)
    blur_deg: float = setting(4.5, 'of image and panoramas', 0.5, 30.0)
    aligned: int = setting(64, 'hypotheses aligned with the panoramas', 1, 1000)
    apart_m: float = setting(0.4, 'hypotheses as close as this in place and', 0.0, 100.0)
    apart_deg: float = setting(14.0, 'direction are one', 0.0, 180.0)
    align: AlignConfig = setting(AlignConfig(iterations=6, step_px=0.2), 'with the panoramas')


@dataclass(frozen=True, slots=True, eq=False)
class _Blurred:
    """One modality's panoramas, ready for products: all (places, rays) or (channels, ...)."""

    weight: Array32  # W
    weighted: Array32  # W V
    squared: Array32  # W V^2
    values: Array32  # (places, rays, channels)
    mean: Array32  # (channels,) taken from V and A: squares of kelvins lose digits


class PanoramaRetrieval:
    """A `CandidateSource`: looks for a frame from all places of a map."""

    def __init__(self, places: Panoramas, config: RetrievalConfig | None = None) -> None:
        """Blur the panoramas and lay out the orientations."""
        self.places = places
        self.config = RetrievalConfig() if config is None else config
        self._directions = sphere(places.distance_m.shape[1])
        self._rotations = orientations(places, self.config)
        self._blurred = {name: self._blur(values) for name, values in places.values.items()}

    def candidates(self, frame: Frame, count: int) -> list[Candidate]:
        """See `CandidateSource`."""
        images, _ = observe(frame, tuple(self.places.values))
        return self.search(images, count)

    def search(self, images: Mapping[str, ObservedImage], count: int) -> list[Candidate]:
        """The same for images that are prepared already."""
        layers = {name: make_layer(image, self._sigma_px(image)) for name, image in images.items()}
        scores = sum((self._scores(name, images[name], layer) for name, layer in layers.items()),
                     np.zeros((len(self.places), len(self._rotations)), np.float32))
        config = self.config
        most = min(_LOOKED_AT * config.aligned, scores.size)
        top = np.argpartition(-scores.ravel(), most - 1)[:most]
        place, turn = np.unravel_index(np.sort(top), scores.shape)
        poses = se3.from_parts(self._rotations[turn], self.places.positions[place])
        kept = best_apart(poses, scores[place, turn].astype(np.float64), config.aligned,
                          config.apart_m, np.deg2rad(config.apart_deg))
        found = side_by_side(
            lambda k: self._aligned(images, layers, int(place[k]), poses[k]), kept)
        found.sort(key=lambda candidate: -candidate.score)
        apart = distinct([candidate.T_world_cam for candidate in found], 0.5 * config.apart_m,
                         np.deg2rad(0.5 * config.apart_deg))
        return [found[k] for k in apart[:count]]

    def _sigma_px(self, image: ObservedImage) -> float:
        return float(np.deg2rad(self.config.blur_deg)) * image.camera.fx

    def _scores(self, name: str, image: ObservedImage, layer: Layer) -> Array32:
        """Log-likelihood of each place in each orientation, (places, orientations)."""
        panoramas = self._blurred[name]
        seen, inside = self._seen(image, layer)
        W, M = panoramas.weight, inside.astype(np.float32)
        n = np.maximum(W @ M.T, 1e-6)
        total = np.zeros_like(n)
        for c, signal in enumerate(layer.signal):
            A = np.where(inside, seen[..., c] - panoramas.mean[c], np.float32(0.0))
            WV, WVV = panoramas.weighted[c], panoramas.squared[c]
            a, b = W @ A.T / n, WV @ M.T / n
            variances = (W @ (A * A).T / n - a * a) * (WVV @ M.T / n - b * b)
            rho = (WV @ A.T / n - a * b) / np.sqrt(np.maximum(variances, 1e-12))
            total -= np.float32(signal) * np.log1p(-np.clip(rho, 0.0, _MAX_CORRELATION)**2)
        return np.asarray(total * n * np.float32(0.5 / len(layer.signal)))

    def _seen(self, image: ObservedImage, layer: Layer) -> tuple[Array32, NDArray[np.bool_]]:
        """The image along each ray in each orientation (o, m, channels), and where it has one."""
        R_sensor_world = image.T_cam_sensor[:3, :3].T @ self._rotations.transpose(0, 2, 1)
        along = self._directions @ R_sensor_world.transpose(0, 2, 1)
        camera, samples = layer.camera, layer.samples
        corners = camera.unproject(np.array([[0.0, 0.0], [camera.width, 0.0],
                                             [0.0, camera.height], [camera.width, camera.height]]))
        inside = along[..., 2] > corners[:, 2].min() - 0.05
        uv, front = camera.project(along[inside])
        good = front & ((uv > 0.5) & (uv < np.array(camera.size) - 0.5)).all(axis=1)
        rows = _bilinear(samples[..., 0], uv)
        good &= np.isfinite(rows).all(axis=1)
        seen = np.zeros((*inside.shape, samples.shape[2]), np.float32)
        seen[inside] = rows
        inside[inside] = good
        return seen, inside

    def _aligned(self, images: Mapping[str, ObservedImage], layers: Mapping[str, Layer],
                 place: int,
                 T: Array) -> Candidate:
        """Move a hypothesis until the panorama's points fit; score it there."""
        views = [self._view(name, images[name], layer, place, T)
                 for name, layer in layers.items()]
        prior = PosePrior(T, np.diag(np.repeat(
            (1.0 / 0.4**2, 1.0 / np.deg2rad(1.5 * self.config.step_deg)**2), 3)))
        found = align(views, T, T, self.config.align, prior).T_world_cam
        return Candidate(found, float(pose_hypotheses.scores(views, T, found[None])[0]))

    def _view(self, name: str, image: ObservedImage, layer: Layer, place: int,
              T: Array) -> ModalityView:
        along = self._directions @ T[:3, :3]
        corner = layer.camera.unproject(np.zeros((1, 2)))[0, 2]
        wide = np.cos(min(np.arccos(np.clip(corner, -1.0, 1.0)) + np.deg2rad(20.0), np.pi))
        near = (along @ image.T_cam_sensor[:3, 2] > wide) & (self.places.weight[place] > 0.05)
        points = along[near] * self.places.distance_m[place, near, None]
        values = self._blurred[name].values[place, near].astype(np.float64)
        prior = (GainOffset(None, 0.3, None, 1e3) if name == RGB or not image.radiometric
                 else GainOffset(1.0, 0.1, None, 1e3))
        return ModalityView(layer, RenderedPoints(points, values, self.places.weight[place, near]
                                          .astype(np.float64)), image.T_cam_sensor, prior,
                    0.02 if name == RGB else 0.1)

    def _blur(self, values: Array32) -> _Blurred:
        """Low-pass on the sphere, by how sure the map is of each ray."""
        W = self.places.weight
        sharpness = np.deg2rad(self.config.blur_deg)**-2.0
        kernel = np.exp(sharpness * (self._directions @ self._directions.T - 1.0)).astype(
            np.float32)
        share = np.maximum(W @ kernel, 1e-6)
        smooth = np.stack([(W * values[..., c]) @ kernel / share
                           for c in range(values.shape[2])])
        mean = smooth.mean(axis=(1, 2))
        V = smooth - mean[:, None, None]
        return _Blurred(W, W * V, W * V * V, np.moveaxis(smooth, 0, -1).copy(), mean)


def orientations(places: Panoramas, config: RetrievalConfig) -> Array:
    """Rotations (o, 3, 3) camera to world: all headings, tilted about as in training."""
    step = np.deg2rad(config.step_deg)
    lattice = sphere(round(4.0 * np.pi / step**2))
    nearest = (lattice @ places.camera_ups.T).max(axis=1)
    tilts = lattice[nearest > np.cos(np.deg2rad(config.tilt_deg))]
    if not len(tilts):
        tilts = places.camera_ups[:1]
    headings = np.arange(0.0, 2.0 * np.pi - 1e-9, 2.0 * np.pi / round(2.0 * np.pi / step))
    turn = se3.so3_exp(headings[:, None] * places.up)
    level = np.stack([_turning(u, places.up) for u in tilts])
    return np.asarray((turn[:, None] @ level[None]).reshape(-1, 3, 3))


def _bilinear(image: Array32, uv: Array) -> Array32:
    """Values (n, channels) at pixels (n, 2), whose centres lie at +0.5."""
    size = np.array(image.shape[1::-1])
    at = np.clip(uv - 0.5, 0.0, size - 1.001)
    i, j = at.astype(np.intp).T
    du, dv = (at - np.floor(at)).astype(np.float32).T[..., None]
    upper = image[j, i] * (1 - du) + image[j, i + 1] * du
    lower = image[j + 1, i] * (1 - du) + image[j + 1, i + 1] * du
    return np.asarray(upper * (1 - dv) + lower * dv)


def _turning(a: Array, b: Array) -> Array:
    """The shortest rotation that brings the unit vector `a` to `b`."""
    axis, cosine = np.cross(a, b), float(a @ b)
    size = float(np.linalg.norm(axis))
    if size < 1e-9:
        if cosine > 0.0:
            return np.eye(3)
        other = np.cross(a, np.eye(3)[int(np.argmin(np.abs(a)))])
        return np.asarray(se3.so3_exp(np.pi * other / np.linalg.norm(other)))
    return np.asarray(se3.so3_exp(np.arctan2(size, cosine) * axis / size))
