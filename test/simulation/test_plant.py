# SPDX-License-Identifier: Apache-2.0
"""A plant: the grid against brute force, paths through doors and stairs, frames by processes."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.simulation.paths import CLEARANCE_M, make_motion
from thermal_nerf_loc.simulation.plant import make_plant, PlantConfig
from thermal_nerf_loc.simulation.record import Robot, SimulationConfig
from thermal_nerf_loc.simulation.world import World

SMALL = PlantConfig((16.0, 10.0))
STAIRS = PlantConfig((20.0, 24.0), floors=2, outdoors=True)


@pytest.fixture(scope='module', params=[PlantConfig((5.0, 5.0)), SMALL, STAIRS],
                ids=['hall', 'corridor', 'stairs'])
def plant(request):
    return make_plant(request.param)


def rays(world, n=3000):
    rng = np.random.default_rng(0)
    points = np.array(world.layout.waypoints)
    directions = rng.normal(size=(n, 3))
    directions[:3] = np.eye(3)
    return (points[rng.integers(len(points), size=n)],
            directions / np.linalg.norm(directions, axis=1, keepdims=True))


def test_rays_meet_in_the_grid_what_they_meet_without(plant):
    origins, directions = rays(plant)
    found = plant.cast(origins, directions)
    expected = World(plant.layout).cast(origins, directions)
    np.testing.assert_allclose(found.distance_m, expected.distance_m, rtol=1e-12)
    np.testing.assert_allclose(found.normal, expected.normal, atol=1e-12)
    assert (found.face == expected.face).mean() > 0.99  # coplanar faces may swap


def test_the_path_keeps_its_distance_on_all_floors(plant):
    motion = make_motion(plant, 'drone', 3)
    points = motion.poses(np.linspace(0.0, motion.lap_s, 400))[:, :3, 3]
    near = World(plant.layout).clearance_m(points)
    np.testing.assert_allclose(plant.clearance_m(points)[near < 1.0], near[near < 1.0], atol=1e-9)
    assert near.min() > 0.95 * CLEARANCE_M
    low, high = plant.bounds
    assert np.ptp(points[:, 0]) > 0.45 * (high[0] - low[0])
    assert np.ptp(points[:, 1]) > 0.45 * (high[1] - low[1])
    if high[2] > 4.0:
        assert points[:, 2].max() > 4.0 and points[:, 2].min() < 2.0


def test_a_seed_draws_one_plant():
    one, same, other = (make_plant(replace(SMALL, seed=seed)).layout for seed in (1, 1, 2))
    assert one.solids == same.solids
    assert one.solids != other.solids


def test_lamps_do_not_shine_through_walls():
    plant = make_plant(SMALL)
    origins, directions = rays(plant, 500)
    lit = plant.render_rays(RGB, origins, directions).values
    everywhere = World(plant.layout).render_rays(RGB, origins, directions).values
    assert (lit <= everywhere + 1e-6).all() and lit.mean() < 0.9 * everywhere.mean()
    celsius = plant.render_rays(THERMAL, origins, directions).values
    assert celsius.min() > 0.0 and celsius.max() < 100.0


@pytest.mark.parametrize('bad', [{'area': (2.0, 9.0)}, {'area': (9.0, 9.0), 'floors': 2},
                                 {'area': (5.0, 5.0), 'outdoors': True}, {'floors': 0}])
def test_an_impossible_plant_is_refused(bad):
    with pytest.raises(InputError):
        PlantConfig(**bad)


def test_a_ground_robot_climbs_no_stairs():
    with pytest.raises(InputError, match='stairs'):
        SimulationConfig(scene='plant', trajectory='planar', plant=STAIRS)


def test_several_processes_take_the_same_frames(tmp_path):
    frames = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        assert main(['simulate', str(out), '--scene', 'plant', '--area', '5x5', '--frames', '20',
                     '--size', '32x24', '--processes', str(processes)]) == 0
        frames[processes] = load_scene(out)
    assert len(frames[1].train) == 20
    for index in (0, 17, 21):
        one, two = (scene.load(index) for scene in frames.values())
        np.testing.assert_array_equal(one.T_world_cam, two.T_world_cam)
        for name in (RGB, THERMAL):
            np.testing.assert_array_equal(one.images[name].values, two.images[name].values)


def test_a_size_without_a_plant_is_refused(tmp_path, capsys):
    assert main(['simulate', str(tmp_path / 'x'), '--area', '30x30']) == 2
    assert '--scene plant' in capsys.readouterr().err


def test_a_plant_some_time_later_keeps_its_rooms():
    settings = SimulationConfig(scene='plant', plant=PlantConfig(area=(16.0, 12.0)), frames=4,
                                later=('light', 'heat'))
    before, after = Robot(replace(settings, later=()), False, 0), Robot(settings, False, 0)
    assert after.changes
    assert type(after.world) is type(before.world)
    T = before.path.poses(np.array([0.0]))[0]
    assert np.allclose(T, after.path.poses(np.array([0.0]))[0])
