# SPDX-License-Identifier: Apache-2.0
"""
Spatial uncertainty: where a map could be deformed without changing any training image.

The idea is Bayes' Rays (Goli et al., 2024). A grid of vertices over the (contracted) space moves
the points of each ray by trilinear interpolation. Where a small motion d changes no rendered value
C, the images do not constrain the map. With the diagonal of the Hessian over N training rays,

    H_v = sum over samples x of (w_v(x) dC/dx)^2,   sigma_v = 1 / sqrt(2 H_v / N + lambda)

Where the training knew depth (`DepthSupport`), sigma grows where the map's surface contradicts it:
images alone often hold a wrong surface as firmly as a right one.

    sigma_v -> sigma_v / sqrt(s_v),   s_v = (a_v + 1) / (a_v + d_v + 1)

with a_v, d_v the confidence of the rays that agree, and that disagree, with the surface near v.

Values are in [0, 1]; signs drawn at random for each channel give the sum over channels at once.
Sigma ranks places and has no reliable unit, so its logarithm (base 10) is kept.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
import torch

from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.volume_rendering import render, Samples
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.training.ray_sampler import RayBatch
from thermal_nerf_loc.mapping.training.strategies import Learner
from thermal_nerf_loc.sensing.rendering import Renderer

Array32 = NDArray[np.float32]

CELLS = 64  # vertices along each side
_RAYS = 24_000  # of each modality
_BATCH = 2048
_SAMPLES, _EXPLORING = 16, 0.05
_LAMBDA = 1e-4 / CELLS**3
_AGREEMENT = 0.05  # of the distance: more than the errors of stereo
_LEAST_SUPPORT = 0.01  # sigma grows tenfold at most


@dataclass(frozen=True, slots=True, eq=False)
class Uncertainty:
    """Base-10 logarithms of sigma at the vertices (cells, cells, cells) of contracted space."""

    values: Array32
    space: ContractedSpace

    def __post_init__(self) -> None:
        """Check the shape that `at` reads."""
        if self.values.shape != (CELLS,) * 3 or not np.isfinite(self.values).all():
            raise ValueError('uncertainty is no finite cube')

    def at(self, points: NDArray[Any]) -> Array32:
        """Interpolate at world points (n, 3)."""
        corners, weights = _corners(points, self.space)
        return np.asarray((self.values.ravel()[corners] * weights).sum(axis=1), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class DepthSupport:
    """Share s of known depth that agrees with a map, at the vertices of its space, flat."""

    share: Array32

    @classmethod
    def of(cls, renderer: Renderer, space: ContractedSpace, rays: Iterable[tuple[str, RayBatch]],
           ) -> 'DepthSupport':
        """Compare the map with the known depth of rays, by modality."""
        agreeing, differing = np.zeros(CELLS**3), np.zeros(CELLS**3)
        for name, batch in rays:
            rendered = renderer.render_rays(name, batch.origins, batch.directions)
            far, known = np.asarray(rendered.distance_m, np.float32), batch.depth_m.numpy()
            off = np.abs(far - known) > _AGREEMENT * known
            corners, weights = _corners(batch.origins + far[:, None] * batch.directions, space)
            weights = weights * batch.confidence.numpy()[:, None]
            for sums, chosen in ((agreeing, ~off), (differing, off)):
                sums += np.bincount(corners[chosen].ravel(), weights[chosen].ravel(), CELLS**3)
        share = (agreeing + 1.0) / (agreeing + differing + 1.0)
        return cls(np.maximum(share, _LEAST_SUPPORT).astype(np.float32))


class FieldMap(Protocol):
    """A map of radiance fields that share one space."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names such as 'rgb' and 'thermal'."""

    @property
    def space(self) -> ContractedSpace:
        """The space of all fields."""

    def learner(self, modality: str) -> Learner:
        """Field and density grid that show a modality."""


def uncertainty_of(radiance_map: FieldMap, scene: Scene, seed: int = 0,
                   support: DepthSupport | None = None) -> Uncertainty:
    """Sum the Hessian over random training rays of all modalities; `support`: by known depth."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    space = radiance_map.space
    hessian, total = np.zeros(CELLS**3), 0
    for modality in radiance_map.modalities:
        learner = radiance_map.learner(modality)
        for origins, directions in _training_rays(scene, modality, rng):
            points, slopes = _slopes(learner, modality, origins, directions)
            corners, weights = _corners(points, space)
            share = (weights**2 * (slopes.astype(np.float64)**2).sum(axis=1)[:, None] / 3.0)
            hessian += np.bincount(corners.ravel(), share.ravel(), CELLS**3)
            total += len(origins)
    sigma = 1.0 / np.sqrt(2.0 * hessian / max(total, 1) + _LAMBDA)
    if support is not None:
        sigma /= np.sqrt(support.share)
    return Uncertainty(np.log10(sigma).astype(np.float32).reshape((CELLS,) * 3), space)


def _slopes(learner: Learner, modality: str, origins: Array32, directions: Array32,
            ) -> tuple[NDArray[Any], NDArray[Any]]:
    """Samples (n, 3) of rays, and slopes of the rendered values in each sample's position."""
    drawn = learner.grid.sample(origins, directions, _SAMPLES, _EXPLORING)
    rendered = render(learner.field, modality, torch.from_numpy(origins).requires_grad_(),
                      torch.from_numpy(directions), Samples.from_numpy(*drawn))
    signs = torch.randint(0, 2, rendered.values.shape) * 2.0 - 1.0
    slopes, = torch.autograd.grad((signs * rendered.values).sum(), rendered.points)
    return rendered.points.detach().numpy(), slopes.numpy()


def _training_rays(scene: Scene, modality: str, rng: np.random.Generator,
                   ) -> Iterator[tuple[Array32, Array32]]:
    """Origins and unit directions (n, 3) of random pixels of random training images."""
    frames = [scene.frames[i] for i in scene.train if modality in scene.frames[i].records]
    for _ in range(_RAYS // _BATCH if frames else 0):
        chosen = rng.integers(0, len(frames), 16)
        rays = []
        for k in chosen:
            record = frames[k].records[modality]
            T = frames[k].T_world_cam @ record.T_cam_sensor
            uv = rng.random((_BATCH // 16, 2)) * record.camera.size
            directions = record.camera.unproject(uv) @ T[:3, :3].T
            rays.append((np.broadcast_to(T[:3, 3], directions.shape), directions))
        yield tuple(np.concatenate(part).astype(np.float32)  # type: ignore[misc]
                    for part in zip(*rays, strict=True))


def _corners(points: NDArray[Any], space: ContractedSpace) -> tuple[NDArray[np.intp],
                                                                    NDArray[Any]]:
    """Indices (n, 8) of the vertices around world points, and their trilinear weights."""
    unit = space.to_unit(torch.from_numpy(np.asarray(points, np.float32))).numpy()
    at = np.clip(unit * (CELLS - 1), 0.0, CELLS - 1.001)
    base = at.astype(np.intp)
    part = at - base
    index, weight = [], []
    for corner in np.ndindex(2, 2, 2):
        i, j, k = (base + corner).T
        index.append((i * CELLS + j) * CELLS + k)
        weight.append(np.where(corner, part, 1.0 - part).prod(axis=1))
    return np.stack(index, axis=1), np.stack(weight, axis=1)
