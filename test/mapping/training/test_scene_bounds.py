# SPDX-License-Identifier: Apache-2.0
"""How far cameras see: a coarse look finds the walls, whatever way the cameras went."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.field.contraction import space_around_cameras
from thermal_nerf_loc.field.density_grid import DensityGrid, SamplingConfig
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.training import scene_bounds
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
from thermal_nerf_loc.mapping.training.ray_sampler import PixelSource
from thermal_nerf_loc.mapping.training.scene_bounds import (
    find_bounds, fit_bounds, fuse_depth, known_rays, SceneBounds)
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

HALL_M = np.array([[0.0, 0.0, 0.0], [16.0, 2.4, 2.6]])


@pytest.fixture(scope='module')
def hall(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Small views along a corridor of 16 x 2.4 x 2.6 m."""
    out = tmp_path_factory.mktemp('data') / 'hall'
    simulate_dataset(out, SimulationConfig(scene='hall', frames=40, size=(64, 48)))
    return load_scene(out)


def positions_of(scene: Scene) -> np.ndarray:
    """Where the training cameras were."""
    return np.array([scene.frames[i].T_world_cam[:3, 3] for i in scene.train])


def sources_of(scene: Scene) -> dict[str, PixelSource]:
    """The training pixels, without depth."""
    return load_sources(scene, TrainConfig(depth_weight=0.0))[0]


def test_a_corridor_is_found_to_be_narrow(hall: Scene) -> None:
    """The box ends near the walls, where the guess from the path is wider by many times."""
    positions = positions_of(hall)
    bounds = find_bounds(sources_of(hall), positions, TrainConfig())
    guess = space_around_cameras(positions)
    off = np.abs(bounds.space.bounds - HALL_M)
    assert off.max() < 2.5
    assert (np.abs(guess.bounds - HALL_M).max(axis=0) > 3.0 * off.max(axis=0)).all()
    low, high = bounds.space.bounds
    assert (positions > low).all() and (positions < high).all()
    assert bounds.pixel_m is not None and 0.005 < bounds.pixel_m < 0.1


def test_the_same_seed_finds_the_same_box(hall: Scene) -> None:
    """So that an interrupted training goes on where it was."""
    config = TrainConfig(seed=5, scene_bounds_steps=50)
    found = [find_bounds(sources_of(hall), positions_of(hall), config) for _ in range(2)]
    assert found[0] == found[1]


def test_what_is_set_stays(hall: Scene) -> None:
    """Steps and resolution are chosen only where nobody has."""
    fine = FieldConfig(encoding=EncodingConfig(finest=77))
    config, _ = fit_bounds(TrainConfig(steps=600, field=fine), sources_of(hall),
                           positions_of(hall))
    assert config.steps == 600 and config.field.encoding.finest == 77
    config, space = fit_bounds(TrainConfig(scene_bounds_steps=0), sources_of(hall),
                               positions_of(hall))
    assert config.steps == 3000
    assert config.field.encoding.finest == EncodingConfig().finest_points
    assert space == space_around_cameras(positions_of(hall))


@pytest.mark.parametrize('short', [TrainConfig(steps=400), TrainConfig(max_seconds=20.0)])
def test_short_runs_guess_from_the_path(hall: Scene, short: TrainConfig) -> None:
    """A tenth of few steps would tell nothing, and take what little time there is."""
    bounds = find_bounds(sources_of(hall), positions_of(hall), short)
    assert bounds == SceneBounds(space_around_cameras(positions_of(hall)))


@pytest.mark.parametrize(('images', 'steps'), [(10, 3000), (80, 3000), (160, 6000),
                                               (100_000, 12000)])
def test_more_views_take_more_steps(images: int, steps: int) -> None:
    """Within limits."""
    assert TrainConfig().filled(images, 512).steps == steps


def test_cells_are_as_small_as_what_pixels_cover() -> None:
    """Twice the room for the same images makes the same cells, up to a limit."""
    space = space_around_cameras(np.array([[0.0, 0.0, 0.0], [2.0, 1.0, 0.5]]))
    wide = replace(space, half_extent_m=tuple(2 * half for half in space.half_extent_m))
    points = [SceneBounds(box, 0.02).finest() for box in (space, wide)]
    assert points[1] == pytest.approx(2 * points[0], abs=2)
    assert SceneBounds(wide, 1e-5).finest() == 1024


def test_known_depth_gives_the_box_without_a_coarse_field(hall: Scene,
                                                          monkeypatch: pytest.MonkeyPatch,
                                                          ) -> None:
    """Nearer to the walls, in no time; and the stages that find surfaces get short."""
    def no_field(*_: object) -> None:
        raise AssertionError('a coarse field was trained')

    monkeypatch.setattr(scene_bounds, '_coarse_field', no_field)
    config = TrainConfig(depth_weight=0.1)
    sources = load_sources(hall, config)[0]
    fitted, space = fit_bounds(config, sources, positions_of(hall))
    assert (np.abs(space.bounds - HALL_M).max(axis=0) < (2.5, 0.3, 0.3)).all()
    assert fitted.schedule.known_depth > 0.9
    grid = DensityGrid(SamplingConfig(grid_cells=64), space)
    grid.hold(fuse_depth(grid, known_rays(sources, 50_000)))
    batch = sources['rgb'].draw(500, np.random.default_rng(0))
    distances, _ = grid.sample(batch.origins, batch.directions, 16, 0.0)
    depth_m = batch.depth_m.numpy()[:, None]
    near = np.abs(distances - depth_m) < 0.2 * depth_m
    assert near[batch.confidence.numpy() > 0.0].mean() > 0.7
