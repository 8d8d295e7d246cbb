# SPDX-License-Identifier: Apache-2.0
"""
Scene bounds: how far the cameras see, from depth where it is known, else from a coarse field.

The hash grid resolves a box; all beyond is contracted. The path of the cameras is a poor guess of
how far they see: a corridor is much longer than wide, a robot in a hall keeps to its middle. So a
box is put around surfaces: those of known depth where enough pixels have one; else those of a
coarse field, trained for a few seconds from uniform samples alone. Their median distance also
gives the size that a pixel covers, and thus how fine the grid may be.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
import torch

from thermal_nerf_loc.field.contraction import ContractedSpace, space_around_cameras
from thermal_nerf_loc.field.density_grid import DensityGrid, DepthFusion, SamplingConfig
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.field.volume_rendering import BranchOptions, render, Samples
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import CameraOptimizer, FixedCameras
from thermal_nerf_loc.mapping.training.config import capacity_factor, METRIC, TrainConfig
from thermal_nerf_loc.mapping.training.objective import Objective
from thermal_nerf_loc.mapping.training.ray_sampler import PixelSource, RayBatch
from thermal_nerf_loc.mapping.training.schedule import adam, SchedulePosition
from thermal_nerf_loc.mapping.training.strategies import Learner, learners_for

Array = NDArray[np.float64]

_FEWEST_STEPS = 50  # with fewer a coarse field has no surfaces yet
_LEAST_SECONDS = 60.0  # of a training that has the time for it
_STEPS_SHARE = 0.1  # of the training's steps, at most
_FIELD = FieldConfig(EncodingConfig(levels=4, log2_rows=15, coarsest=16, finest=64))
_SAMPLING = SamplingConfig(grid_cells=16, bins=64, near=0.03)
_RAYS = 1024
_SAMPLES = 32
_SURFACE_RAYS = 4096  # of each modality
_OUTLIERS = 0.05  # share of the surfaces on either side that may be fog, or far behind a window
_FAR_TOO_LARGE = 4.0  # times the volume
_MARGIN = 0.05  # of the box, on either side
_PIXELS_A_CELL = 1.2  # of the finest level, at the median distance, where there are few images
_LEAST_KNOWN, _LEAST_VIEWS = 0.25, 0.5  # share of the pixels, in such a share of the views
_DEPTH_POINTS = 100_000  # of all modalities
_POINTS = 256, 1024  # of the finest level along the longest axis, fewest and most


@dataclass(frozen=True, slots=True)
class SceneBounds:
    """The box that holds what the cameras see, and what a pixel covers at the median distance."""

    space: ContractedSpace
    pixel_m: float | None = None  # None: not measured

    def finest(self, factor: float = 1.0) -> int:
        """
        Grid points along an axis for cells as large as what the images can show.

        With `factor` times the images of a room, as many pixels fall on smaller cells.
        """
        if self.pixel_m is None:
            return EncodingConfig().finest_points
        longest_m = 4.0 * max(self.space.half_extent_m)  # with what is contracted
        cell_m = _PIXELS_A_CELL * self.pixel_m / factor**0.5
        return int(np.clip(longest_m / cell_m, *_POINTS))


def fit_bounds(config: TrainConfig, sources: Mapping[str, PixelSource], positions: Array,
           ) -> tuple[TrainConfig, ContractedSpace]:
    """Settings and space that suit what cameras at these positions (n, 3) see."""
    bounds = find_bounds(sources, positions, config)
    images = _images(sources)
    if starts_from_depth(config, sources):
        known = float(np.mean([source.known_depth().mean() for source in sources.values()]))
        config = replace(config, schedule=replace(config.schedule, known_depth=known))
    return config.filled(images, bounds.finest(capacity_factor(images))), bounds.space


def starts_from_depth(config: TrainConfig, sources: Mapping[str, PixelSource]) -> bool:
    """Whether depth in metres is known and may tell where surfaces are."""
    return (config.depth_weight > 0.0 and config.schedule.depth_steps > 0
            and config.depth_kind == METRIC
            and any(source.known_depth().any() for source in sources.values()))


@torch.no_grad()
def known_rays(sources: Mapping[str, PixelSource], most: int,
               cameras: CameraOptimizer | FixedCameras = FixedCameras(),
               ) -> Iterator[tuple[str, RayBatch]]:
    """Rays of known depth, at most about so many, as the cameras are estimated now."""
    for name, source in sources.items():
        for batch in source.rays_of_known_depth(most // len(sources)):
            origins, directions = (part.cpu().contiguous().numpy()
                                   for part in cameras.rays(name, batch))
            yield name, replace(batch, origins=origins, directions=directions)


def fuse_depth(grid: DensityGrid, rays: Iterable[tuple[str, RayBatch]]) -> DepthFusion:
    """Rays of known depth in the cells of a density grid."""
    fused = DepthFusion(grid.config, grid.space)
    for _, batch in rays:
        fused.add(batch.origins, batch.directions, batch.depth_m.numpy(),
                  batch.confidence.numpy())
    return fused


def find_bounds(sources: Mapping[str, PixelSource], positions: Array, config: TrainConfig,
                ) -> SceneBounds:
    """
    Bounds by known depth, or by a coarse field in the box that the cameras' path suggests.

    Where that was far too large, once more in the box that was found; in short trainings the
    guess from the path is the answer.
    """
    guess = space_around_cameras(positions)
    if (config.scene_bounds_steps and starts_from_depth(config, sources)
            and _cover_enough(sources)):
        return _around_depth(sources, positions)
    planned = config.filled(_images(sources), EncodingConfig().finest_points).planned_steps
    steps = min(config.scene_bounds_steps, int(_STEPS_SHARE * planned))
    is_short = config.max_seconds is not None and config.max_seconds < _LEAST_SECONDS
    if steps < _FEWEST_STEPS or is_short:
        return SceneBounds(guess)
    bounds = _measured(sources, positions, guess, config, steps)
    if np.prod(guess.half_extent_m) > _FAR_TOO_LARGE * np.prod(bounds.space.half_extent_m):
        bounds = _measured(sources, positions, bounds.space, config, steps)
    return bounds


def _measured(sources: Mapping[str, PixelSource], positions: Array, space: ContractedSpace,
              config: TrainConfig, steps: int) -> SceneBounds:
    """Train a coarse field in `space`, then put a box around its surfaces and the cameras."""
    learner = _coarse_field(sources, space, config, steps)
    rng = np.random.default_rng(config.seed)
    surfaces = {name: _surfaces(learner, name, source, rng) for name, source in sources.items()}
    return _around(surfaces, sources, positions)


def _cover_enough(sources: Mapping[str, PixelSource]) -> bool:
    """Whether depth is known of enough pixels in enough views of some modality."""
    return any((source.known_depth() >= _LEAST_KNOWN).mean() >= _LEAST_VIEWS
               for source in sources.values())


def _around_depth(sources: Mapping[str, PixelSource], positions: Array) -> SceneBounds:
    """Put a box around points of known depth and the cameras."""
    batches: dict[str, list[RayBatch]] = {}
    for name, batch in known_rays(sources, _DEPTH_POINTS):
        batches.setdefault(name, []).append(batch)
    surfaces = {}
    for name, parts in batches.items():
        far = np.concatenate([batch.depth_m.numpy() for batch in parts]).astype(np.float64)
        origins, directions = (np.concatenate([getattr(batch, rays) for batch in parts])
                               for rays in ('origins', 'directions'))
        surfaces[name] = origins + far[:, None] * directions, far
    return _around(surfaces, sources, positions)


def _around(surfaces: Mapping[str, tuple[Array, Array]], sources: Mapping[str, PixelSource],
            positions: Array) -> SceneBounds:
    """A box around surface points and the cameras; by their distances what a pixel covers."""
    points = np.concatenate([points for points, _ in surfaces.values()])
    low, high = np.quantile(points, (_OUTLIERS, 1.0 - _OUTLIERS), axis=0)
    low, high = np.minimum(low, positions.min(axis=0)), np.maximum(high, positions.max(axis=0))
    center, half = 0.5 * (low + high), (0.5 + _MARGIN) * (high - low)
    half = np.maximum(half, _MARGIN * half.max())  # flat scenes have some depth, too
    pixel_m = min(float(np.median(distances)) * sources[name].pixel_rad
                  for name, (_, distances) in surfaces.items())
    return SceneBounds(ContractedSpace(_triple(center), _triple(half)), pixel_m)


def _coarse_field(sources: Mapping[str, PixelSource], space: ContractedSpace, config: TrainConfig,
                  steps: int) -> Learner:
    """A coarse field of all modalities, from uniform samples, without viewing directions."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    schedule = replace(config.schedule, uniform_steps=steps, uniform_samples=_SAMPLES)
    config = replace(config, schedule=schedule, near_gradient=0.0, camera_response=False)
    learner, = learners_for('rgbx', _FIELD, _SAMPLING, space,
                            {name: source.channels for name, source in sources.items()})
    objective = Objective(config, sources, torch.device('cpu'))
    optimizer = adam(config, [learner])
    for step in range(steps):
        position = SchedulePosition(step, 5.0 * steps)  # uniform samples take a fifth
        loss = torch.zeros(())
        for name, source in sources.items():
            batch = source.draw(_RAYS // len(sources), rng)
            loss = loss + objective.loss(learner, name, batch, position, rng)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return learner


@torch.no_grad()
def _surfaces(learner: Learner, modality: str, source: PixelSource, rng: np.random.Generator,
              ) -> tuple[Array, Array]:
    """Surface points (n, 3) of random rays, and their distances: the median of the weight."""
    batch = source.draw(_SURFACE_RAYS, rng)
    samples = Samples.from_numpy(*learner.grid.sample(batch.origins, batch.directions,
                                                      2 * _SAMPLES, 1.0))
    origins, directions = torch.from_numpy(batch.origins), torch.from_numpy(batch.directions)
    weights = render(learner.field, modality, origins, directions, samples,
                     BranchOptions(0.0)).weights
    middle = (torch.cumsum(weights, dim=1) < 0.5).sum(dim=1, keepdim=True)
    middle = middle.clamp(max=weights.shape[1] - 1)
    distances = samples.distance_m.gather(1, middle)
    return (origins + distances * directions).double().numpy(), distances[:, 0].double().numpy()


def _images(sources: Mapping[str, PixelSource]) -> int:
    return max(source.images for source in sources.values())


def _triple(values: Array) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
