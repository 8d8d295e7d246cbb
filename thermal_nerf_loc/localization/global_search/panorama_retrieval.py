# SPDX-License-Identifier: Apache-2.0
"""
Retrieve candidates from a map's panoramas: every position, in every orientation of a camera.

Image and panoramas are blurred so much that half a metre and half a step between orientations make
little difference; then each position in each orientation is scored by correlation alone. With the
mask M of the panorama's rays that lie in the view, the image A at those rays, and a panorama's
values V and weights W, all sums that a weighted correlation needs are products of matrices over
(panoramas, rays, orientations):

    sum w a b = (W V) A^T,   sum w a = W A^T,   sum w a^2 = W (A^2)^T,   sum w b = (W V) M^T, ...

The score is the likelihood with gain, offset and noise profiled out, `-n/2 log(1 - rho^2)`. The
best are then aligned with the panorama's own points, which have depth, and scored again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.threads import parallel_map
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_separation import PoseSeparation
from thermal_nerf_loc.localization.global_search.candidates import Candidate
from thermal_nerf_loc.localization.refinement.aligner import (
    align, AlignConfig, ModalityView, PosePrior)
from thermal_nerf_loc.localization.refinement.image_prior import image_prior
from thermal_nerf_loc.localization.refinement.image_pyramid import (
    ImageConfig, make_level, observe, ObservedImage, PyramidLevel)
from thermal_nerf_loc.localization.refinement.pose_hypotheses import (
    correlation_likelihood, score_poses)
from thermal_nerf_loc.localization.refinement.rendered_points import RenderedPoints
from thermal_nerf_loc.mapping.map.panoramas import Panoramas, sphere
from thermal_nerf_loc.sensing.frame import Frame, RGB

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_MAX_CORRELATION = 0.99
_SCORES_KEPT = 40  # times the hypotheses: best scores among which distinct ones are chosen
_RGB_FLOOR, _THERMAL_FLOOR = 0.02, 0.1  # least error of panoramas, the latter in deg C or counts
_PRIOR_M, _PRIOR_STEPS = 0.4, 1.5  # sigmas of a hypothesis; the latter in steps of the angle
_BEYOND_VIEW_RAD = np.deg2rad(20.0)  # rays so far outside the image may come into view
_MIN_WEIGHT = 0.05  # rays with less are left out of the alignment


@dataclass(frozen=True, slots=True)
class RetrievalConfig:
    """How candidates are retrieved from a map's panoramas."""

    step_deg: float = setting(10.0, 'between two orientations', 2.0, 45.0)
    tilt_deg: float = setting(8.0, 'how much further than in training a camera may be tilted',
                              0.0, 180.0)
    blur_deg: float = setting(4.5, 'of image and panoramas', 0.5, 30.0)
    hypotheses: int = setting(64, 'best scores aligned with the panoramas', 1, 1000,
                              formerly='aligned')
    separation_m: float = setting(0.4, 'hypotheses closer than this in position and in '
                                  'orientation count as one', 0.0, 100.0, formerly='apart_m')
    separation_deg: float = setting(14.0, 'the same of the orientation', 0.0, 180.0,
                                    formerly='apart_deg')
    align: AlignConfig = setting(AlignConfig(iterations=6, step_px=0.2), 'with the panoramas')


@dataclass(frozen=True, slots=True, eq=False)
class _Blurred:
    """One modality's blurred panoramas as factors of the products: (panoramas, rays)."""

    weight: Array32  # W
    weighted: Array32  # W V, (channels, panoramas, rays)
    squared: Array32  # W V^2, (channels, panoramas, rays)
    values: Array32  # (panoramas, rays, channels)
    mean: Array32  # (channels,) subtracted from V and A: squares of kelvins lose digits


class PanoramaRetrieval:
    """A `CandidateSource`: compares a frame with all panoramas of a map."""

    def __init__(self, panoramas: Panoramas, config: RetrievalConfig | None = None,
                 images: ImageConfig = ImageConfig()) -> None:
        """Blur the panoramas and lay out the orientations."""
        self.panoramas, self.images = panoramas, images
        self.config = RetrievalConfig() if config is None else config
        self._directions = sphere(panoramas.distance_m.shape[1])
        self._rotations = orientations(panoramas, self.config)
        self._blurred = {name: self._blur(values) for name, values in panoramas.values.items()}

    def candidates(self, frame: Frame, count: int) -> list[Candidate]:
        """See `CandidateSource`."""
        images, _ = observe(frame, tuple(self.panoramas.values), self.images)
        return self.search(images, count)

    def scores(self, images: Mapping[str, ObservedImage], levels: Mapping[str, PyramidLevel],
               ) -> Array32:
        """Log-likelihood of each panorama in each orientation, (panoramas, orientations)."""
        return sum((self._scores(name, images[name], level) for name, level in levels.items()),
                   np.zeros((len(self.panoramas), len(self._rotations)), np.float32))

    def levels(self, images: Mapping[str, ObservedImage]) -> dict[str, PyramidLevel]:
        """Images as blurred as the panoramas."""
        return {name: make_level(image, self._sigma_px(image)) for name, image in images.items()}

    def search(self, images: Mapping[str, ObservedImage], count: int) -> list[Candidate]:
        """The same for images that are prepared already: score, align the best, score again."""
        levels = self.levels(images)
        scores, config = self.scores(images, levels), self.config
        most = min(_SCORES_KEPT * config.hypotheses, scores.size)
        top = np.argpartition(-scores.ravel(), most - 1)[:most]
        index, rotation = np.unravel_index(np.sort(top), scores.shape)
        poses = se3.from_parts(self._rotations[rotation], self.panoramas.positions[index])
        kept = self._separation(1.0).best(poses, scores[index, rotation].astype(np.float64),
                                          config.hypotheses)
        found = parallel_map(
            lambda k: self._align(images, levels, int(index[k]), poses[k]), kept)
        found.sort(key=lambda candidate: -candidate.score)
        kept = self._separation(0.5).distinct([candidate.T_world_cam for candidate in found])
        return [found[k] for k in kept[:count]]

    def _separation(self, factor: float) -> PoseSeparation:
        return PoseSeparation(factor * self.config.separation_m,
                              float(np.deg2rad(factor * self.config.separation_deg)))

    def _sigma_px(self, image: ObservedImage) -> float:
        return float(np.deg2rad(self.config.blur_deg)) * image.camera.fx

    def _scores(self, name: str, image: ObservedImage, level: PyramidLevel) -> Array32:
        """Log-likelihood of each position in each orientation, (panoramas, orientations)."""
        panoramas = self._blurred[name]
        sampled, inside = self._sample(image, level)
        W, M = panoramas.weight, inside.astype(np.float32)
        n = np.maximum(W @ M.T, 1e-6)
        total = np.zeros_like(n)
        for c, signal in enumerate(level.signal):
            A = np.where(inside, sampled[..., c] - panoramas.mean[c], np.float32(0.0))
            WV, WVV = panoramas.weighted[c], panoramas.squared[c]
            a, b = W @ A.T / n, WV @ M.T / n
            variances = (W @ (A * A).T / n - a * a) * (WVV @ M.T / n - b * b)
            rho = (WV @ A.T / n - a * b) / np.sqrt(np.maximum(variances, 1e-12))
            total += np.float32(signal) * correlation_likelihood(rho, _MAX_CORRELATION)
        return np.asarray(total * n * np.float32(1.0 / len(level.signal)))

    def _sample(self, image: ObservedImage, level: PyramidLevel,
                ) -> tuple[Array32, NDArray[np.bool_]]:
        """The image along each ray in each orientation (o, m, channels), and the mask in view."""
        R_sensor_world = image.T_cam_sensor[:3, :3].T @ self._rotations.transpose(0, 2, 1)
        directions = self._directions @ R_sensor_world.transpose(0, 2, 1)
        camera, samples = level.camera, level.samples
        corners = camera.unproject(np.array([[0.0, 0.0], [camera.width, 0.0],
                                             [0.0, camera.height], [camera.width, camera.height]]))
        inside = directions[..., 2] > corners[:, 2].min() - 0.05
        uv, front = camera.project(directions[inside])
        good = front & ((uv > 0.5) & (uv < np.array(camera.size) - 0.5)).all(axis=1)
        rows = _bilinear(samples[..., 0], uv)
        good &= np.isfinite(rows).all(axis=1)
        sampled = np.zeros((*inside.shape, samples.shape[2]), np.float32)
        sampled[inside] = rows
        inside[inside] = good
        return sampled, inside

    def _align(self, images: Mapping[str, ObservedImage], levels: Mapping[str, PyramidLevel],
               index: int, T: Array) -> Candidate:
        """Align a hypothesis with the points of its panorama; score it there."""
        views = [self._view(name, images[name], level, index, T)
                 for name, level in levels.items()]
        prior = PosePrior(T, np.diag(np.repeat(
            (1.0 / _PRIOR_M**2, 1.0 / np.deg2rad(_PRIOR_STEPS * self.config.step_deg)**2), 3)))
        found = align(views, T, T, self.config.align, prior).T_world_cam
        return Candidate(found, float(score_poses(views, T, found[None])[0]))

    def _view(self, name: str, image: ObservedImage, level: PyramidLevel, index: int,
              T: Array) -> ModalityView:
        """The panorama's points that lie in or near the view, and the image."""
        directions = self._directions @ T[:3, :3]
        corner = level.camera.unproject(np.zeros((1, 2)))[0, 2]
        min_cosine = np.cos(min(np.arccos(np.clip(corner, -1.0, 1.0)) + _BEYOND_VIEW_RAD, np.pi))
        weight = self.panoramas.weight[index]
        near = (directions @ image.T_cam_sensor[:3, 2] > min_cosine) & (weight > _MIN_WEIGHT)
        points = RenderedPoints(directions[near] * self.panoramas.distance_m[index, near, None],
                                self._blurred[name].values[index, near].astype(np.float64),
                                weight[near].astype(np.float64))
        prior = image_prior(name, image.radiometric,
                            _RGB_FLOOR if name == RGB else _THERMAL_FLOOR, _THERMAL_FLOOR)
        return ModalityView(level, points, image.T_cam_sensor, prior.gain_offset,
                            prior.noise_floor)

    def _blur(self, values: Array32) -> _Blurred:
        """Blur on the sphere, weighted by how sure the map is of each ray."""
        W = self.panoramas.weight
        sharpness = np.deg2rad(self.config.blur_deg)**-2.0
        kernel = np.exp(sharpness * (self._directions @ self._directions.T - 1.0)).astype(
            np.float32)
        share = np.maximum(W @ kernel, 1e-6)
        smooth = np.stack([(W * values[..., c]) @ kernel / share
                           for c in range(values.shape[2])])
        mean = smooth.mean(axis=(1, 2))
        V = smooth - mean[:, None, None]
        return _Blurred(W, W * V, W * V * V, np.moveaxis(smooth, 0, -1).copy(), mean)


def orientations(panoramas: Panoramas, config: RetrievalConfig) -> Array:
    """Rotations (o, 3, 3) camera to world: all headings, tilted about as in training."""
    step = np.deg2rad(config.step_deg)
    lattice = sphere(round(4.0 * np.pi / step**2))
    nearest = (lattice @ panoramas.camera_ups.T).max(axis=1)
    tilts = lattice[nearest > np.cos(np.deg2rad(config.tilt_deg))]
    if not len(tilts):
        tilts = panoramas.camera_ups[:1]
    headings = np.arange(0.0, 2.0 * np.pi - 1e-9, 2.0 * np.pi / round(2.0 * np.pi / step))
    turned = se3.so3_exp(headings[:, None] * panoramas.up)
    leveled = np.stack([_rotation_between(u, panoramas.up) for u in tilts])
    return np.asarray((turned[:, None] @ leveled[None]).reshape(-1, 3, 3))


def _bilinear(image: Array32, uv: Array) -> Array32:
    """Values (n, channels) at pixels (n, 2), whose centres lie at +0.5."""
    size = np.array(image.shape[1::-1])
    pixel = np.clip(uv - 0.5, 0.0, size - 1.001)
    i, j = pixel.astype(np.intp).T
    du, dv = (pixel - np.floor(pixel)).astype(np.float32).T[..., None]
    upper = image[j, i] * (1 - du) + image[j, i + 1] * du
    lower = image[j + 1, i] * (1 - du) + image[j + 1, i + 1] * du
    return np.asarray(upper * (1 - dv) + lower * dv)


def _rotation_between(a: Array, b: Array) -> Array:
    """The shortest rotation that brings the unit vector `a` to `b`."""
    axis, cosine = np.cross(a, b), float(a @ b)
    size = float(np.linalg.norm(axis))
    if size < 1e-9:
        if cosine > 0.0:
            return np.eye(3)
        other = np.cross(a, np.eye(3)[int(np.argmin(np.abs(a)))])
        return np.asarray(se3.so3_exp(np.pi * other / np.linalg.norm(other)))
    return np.asarray(se3.so3_exp(np.arctan2(size, cosine) * axis / size))
