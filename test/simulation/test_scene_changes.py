# SPDX-License-Identifier: Apache-2.0
"""A scene that has changed: what is said to have changed has, and paths stay free."""

import json

import numpy as np
import pytest

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.simulation.layouts import make_world, WORLD_NAMES
from thermal_nerf_loc.simulation.paths import CLEARANCE_M, make_motion
from thermal_nerf_loc.simulation.record import Robot, SimulationConfig
from thermal_nerf_loc.simulation.scene_changes import changed_world, CHANGES
from thermal_nerf_loc.simulation.world import box, cylinder, Material, sphere

MATERIAL = Material((0.5, 0.5, 0.5))


def seen(world, modality, poses):
    """Values along the optical axes of poses."""
    return world.render_rays(modality, poses[:, :3, 3], poses[:, :3, 2]).values


@pytest.fixture(scope='module')
def before():
    return make_world('machine_room')


@pytest.fixture(scope='module')
def poses(before):
    return before.viewpoints


@pytest.mark.parametrize('kind, changed, same', [('heat', THERMAL, RGB), ('light', RGB, THERMAL)])
def test_heat_and_light_change_what_they_should(before, poses, kind, changed, same):
    after, changes = changed_world(before, [kind], 0)
    assert {change.kind for change in changes} == {kind}
    steps = np.abs(seen(after, changed, poses) - seen(before, changed, poses)).max(axis=1)
    assert np.median(steps) > (1.0 if changed == THERMAL else 0.02)
    if kind == 'light':  # a heater is new among the heat: it is seen in colours, too
        np.testing.assert_array_equal(seen(after, same, poses), seen(before, same, poses))


def test_furniture_is_moved_and_people_come(before):
    after, changes = changed_world(before, ['furniture', 'people'], 0)
    moved = {change.what for change in changes if change.change.startswith('moved')}
    assert moved <= set(before.layout.loose) and len(moved) >= 2
    for old, new in zip(before.layout.solids, after.layout.solids):
        assert (old.shape != new.shape) == (old.name in moved)
    assert sum(change.kind == 'people' for change in changes) == 2
    assert len(after.layout.solids) >= len(before.layout.solids) + 4


@pytest.mark.parametrize('name', WORLD_NAMES)
@pytest.mark.parametrize('seed', [0, 1])
def test_every_scene_changes_and_stays_passable(name, seed):
    world = make_world(name)
    after, changes = changed_world(world, CHANGES, seed)
    assert {change.kind for change in changes} == set(CHANGES)
    for held_out in (False, True):
        path = make_motion(world, 'drone', seed, held_out=held_out).poses(
            np.linspace(0.0, 100.0, 300))
        assert after.is_free(path[:, :3, 3], 0.8 * CLEARANCE_M).all()


def test_the_same_seed_changes_the_same(before):
    first, again, other = (changed_world(before, CHANGES, seed) for seed in (3, 3, 4))
    assert first[1] == again[1]
    assert first[0].layout == again[0].layout
    assert first[1] != other[1]


def test_solids_know_their_corners_and_can_be_moved():
    for solid, low, high in (
            (box((0., 1., 2.), (3., 4., 5.), MATERIAL), (0, 1, 2), (3, 4, 5)),
            (sphere((1., 2., 3.), 0.5, MATERIAL), (0.5, 1.5, 2.5), (1.5, 2.5, 3.5)),
            (cylinder('z', (1., 2.), 0.5, 0., 4., MATERIAL), (0.5, 1.5, 0), (1.5, 2.5, 4))):
        np.testing.assert_allclose(solid.corners, (low, high))
        shift = np.array([0.3, -0.2, 0.0])
        np.testing.assert_allclose(solid.moved(0.3, -0.2).corners, (low + shift, high + shift))
    np.testing.assert_allclose(cylinder('x', (1., 2.), 0.5, 0., 4., MATERIAL).corners,
                               ((0, 0.5, 1.5), (4, 1.5, 2.5)))


def test_the_robot_drives_as_before():
    settings = SimulationConfig(scene='machine_room', size=(32, 24), clean=True)
    first, later = (Robot(SimulationConfig(scene='machine_room', size=(32, 24), clean=True,
                                           later=kinds), held_out=True, seed=1)
                    for kinds in ((), CHANGES))
    assert settings.later == () and not first.changes and later.changes
    for elapsed_ns in (0, 10**10):
        a, b = first.frame(elapsed_ns), later.frame(elapsed_ns)
        np.testing.assert_array_equal(a.T_world_cam, b.T_world_cam)
        assert np.abs(a.images[THERMAL].values - b.images[THERMAL].values).mean() > 0.5


@pytest.mark.parametrize('kinds', [('weather',), ()])
def test_unknown_changes_are_refused(before, kinds):
    with pytest.raises(InputError, match='heat, light, furniture, people'):
        changed_world(before, kinds, 0)


def test_the_command_says_what_has_changed(tmp_path, capsys):
    out, figures = tmp_path / 'later', tmp_path / 'figures.json'
    code = main(['simulate', str(out), '--frames', '2', '--size', '32x24', '--later',
                 'heat,people', '--json', str(figures)])
    assert code == 0, capsys.readouterr().err
    changes = json.loads(figures.read_text())['changes']
    assert {change['kind'] for change in changes} == {'heat', 'people'}
    assert all(change['what'] and change['change'] for change in changes)
    assert json.loads((out / 'transforms.json').read_text())['changes'] == changes
    assert load_scene(out).test
    assert main(['simulate', str(tmp_path / 'no'), '--later', 'weather']) == 2
    assert 'heat, light, furniture, people' in ' '.join(capsys.readouterr().err.split())
    assert not (tmp_path / 'no').exists()
