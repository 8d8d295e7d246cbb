# SPDX-License-Identifier: Apache-2.0
"""Analytic worlds: casting against closed forms and sphere tracing, plausible looks."""

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.simulation.layouts import make_world, WORLD_NAMES
from thermal_nerf_loc.simulation.paths import make_motion
from thermal_nerf_loc.simulation.record import (
    make_rig, render_depth, render_image, SimulationConfig)
from thermal_nerf_loc.simulation.world import box, cylinder, Layout, Material, room, sphere, World

PAINT = Material((0.5, 0.5, 0.5))
WALLS = room((0.0, 0.0, 0.0), (4.0, 4.0, 2.0), PAINT)


@pytest.fixture(scope='module', params=WORLD_NAMES)
def world(request):
    return make_world(request.param)


def one_body(*solids):
    return World(Layout('test', (WALLS, *solids), (), (), 1.0, ()))


def random_rays(world, n=4000, seed=0):
    rng = np.random.default_rng(seed)
    low, high = world.bounds
    origins = rng.uniform(low, high, (2 * n, 3))
    origins = origins[world.is_free(origins, 0.02)][:n]
    directions = rng.normal(size=(n, 3))
    directions[:3] = np.eye(3)
    directions[3:6] = -np.eye(3)  # along the axes, where slab tests divide by zero
    return origins, directions / np.linalg.norm(directions, axis=1, keepdims=True)


def test_a_bare_room_has_its_walls_where_they_are():
    rays = np.concatenate([np.eye(3), -np.eye(3), [[0.6, 0.8, 0.0]]])
    hits = one_body().cast(np.tile([1.0, 1.5, 0.5], (7, 1)), rays)
    np.testing.assert_allclose(hits.distance_m, [3.0, 2.5, 1.5, 1.0, 1.5, 0.5, 2.5 / 0.8],
                               atol=1e-12)
    np.testing.assert_allclose(hits.normal[:6], -rays[:6], atol=1e-12)


@pytest.mark.parametrize('body, distance_m, normal', [
    (box((2.0, 1.0, 0.5), (3.0, 3.0, 1.5), PAINT), 1.0, (-1.0, 0.0, 0.0)),
    (sphere((2.5, 2.0, 1.0), 0.5, PAINT), 1.0, (-1.0, 0.0, 0.0)),
    (sphere((2.5, 2.3, 1.0), 0.5, PAINT), 1.1, (-0.8, -0.6, 0.0)),
    (cylinder('z', (2.5, 2.0), 0.5, 0.0, 1.5, PAINT), 1.0, (-1.0, 0.0, 0.0)),
    (cylinder('x', (2.0, 1.0), 0.3, 2.2, 3.0, PAINT), 1.2, (-1.0, 0.0, 0.0)),
    (cylinder('y', (1.0, 2.5), 0.5, 1.0, 3.0, PAINT), 1.0, (-1.0, 0.0, 0.0)),
    (cylinder('z', (2.5, 2.0), 0.5, 0.0, 0.9, PAINT), 3.0, (-1.0, 0.0, 0.0)),  # above it
    (box((0.2, 1.0, 0.5), (0.8, 3.0, 1.5), PAINT), 3.0, (-1.0, 0.0, 0.0)),  # behind
])
def test_bodies_in_closed_form(body, distance_m, normal):
    hits = one_body(body).cast([[1.0, 2.0, 1.0]], [[1.0, 0.0, 0.0]])
    np.testing.assert_allclose(hits.distance_m, [distance_m], atol=1e-12)
    np.testing.assert_allclose(hits.normal, [normal], atol=1e-12)


@pytest.mark.parametrize('body, point, expected', [
    (box((1.0, 1.0, 0.5), (2.0, 2.0, 1.5), PAINT), (2.3, 2.4, 1.0), 0.5),
    (box((1.0, 1.0, 0.5), (2.0, 2.0, 1.5), PAINT), (1.5, 1.5, 0.6), -0.1),
    (sphere((2.0, 2.0, 1.0), 0.5, PAINT), (2.0, 2.6, 1.0), 0.1),
    (cylinder('z', (2.0, 2.0), 0.4, 0.0, 1.0, PAINT), (2.7, 2.0, 1.4), 0.5),
    (cylinder('x', (1.0, 1.0), 0.4, 1.0, 3.0, PAINT), (2.0, 1.0, 1.0), -0.4),
])
def test_clearance_in_closed_form(body, point, expected):
    np.testing.assert_allclose(one_body(body).clearance_m([point]), [expected], atol=1e-12)


def test_casting_agrees_with_sphere_tracing(world):
    """March by the signed distance, which shares no line with the caster."""
    origins, directions = random_rays(world, 400)
    travelled = np.zeros(len(origins))
    for _ in range(3000):
        step = world.clearance_m(origins + travelled[:, None] * directions)
        travelled += np.maximum(step, 0.0)
        if step.max() < 1e-7:
            break
    hits = world.cast(origins, directions)
    error = np.abs(travelled - hits.distance_m)
    # at grazing incidence the march stops a little early
    grazing = np.abs((directions * hits.normal).sum(axis=1)) < 0.02
    assert grazing.mean() < 0.1
    assert error[~grazing].max() < 1e-4


def test_hits_lie_on_surfaces_whose_normals_are_the_slope_of_the_distance(world):
    origins, directions = random_rays(world, 2000, seed=1)
    hits = world.cast(origins, directions)
    points = origins + hits.distance_m[:, None] * directions
    assert np.abs(world.clearance_m(points)).max() < 1e-9
    assert ((directions * hits.normal).sum(axis=1) < 1e-12).all()
    np.testing.assert_allclose(np.linalg.norm(hits.normal, axis=1), 1.0, atol=1e-12)
    step = 1e-6
    outside = points + 3 * step * hits.normal
    slope = np.stack([(world.clearance_m(outside + step * e)
                       - world.clearance_m(outside - step * e)) / (2 * step)
                      for e in np.eye(3)], axis=1)
    agree = np.linalg.norm(slope - hits.normal, axis=1) < 1e-3
    assert agree.mean() > 0.999  # the rest sits on edges


def test_renderings_are_exact_and_in_sensor_units(world):
    origins, directions = (a.astype(np.float32) for a in random_rays(world, 500))
    low, high = (15.0, 42.0) if world.name != 'machine_room' else (17.0, 92.0)
    for modality, channels in ((RGB, 3), (THERMAL, 1)):
        seen = world.render_rays(modality, origins, directions)
        assert seen.values.shape == (500, channels)
        assert all(a.dtype == np.float32 for a in
                   (seen.values, seen.distance_m, seen.spread_m, seen.opacity))
        assert (seen.opacity == 1.0).all()
        assert (seen.spread_m == 0.0).all()
        limits = (0.0, 1.0) if modality == RGB else (low, high)
        assert seen.values.min() >= limits[0]
        assert seen.values.max() <= limits[1]


def test_rays_past_everything_are_transparent():
    seen = one_body().render_rays(THERMAL, [[-1.0, 1.0, 1.0]], [[-1.0, 0.0, 0.0]])
    assert seen.opacity == 0.0
    assert seen.distance_m == 0.0


def test_many_rays_are_the_same_as_one_at_a_time(world):
    """Work is split among threads; nobody may notice."""
    origins, directions = random_rays(world, 20_000)
    n = len(origins)
    whole = world.render_rays(RGB, origins, directions[:n])
    for part in (slice(0, 7), slice(16_380, 16_390), slice(n - 5, n)):
        alone = world.render_rays(RGB, origins[part], directions[:n][part])
        np.testing.assert_array_equal(alone.values, whole.values[part])
        np.testing.assert_array_equal(alone.distance_m, whole.distance_m[part])


def test_two_views_agree_through_depth(world):
    """Lift one view's pixels by its depth; the other sees them there, in the same colours."""
    rig = make_rig(SimulationConfig())
    camera = Camera.from_fov(160, 120, 70.0)
    poses = make_motion(world, 'drone', 3).poses([1.0, 1.25]) @ rig.T_base_sensor[RGB]
    depth = [render_depth(world, camera, T) for T in poses]
    points = camera.rays() * (depth[0].ravel() / camera.rays()[:, 2])[:, None]
    moved = se3.transform(se3.inverse(poses[1]) @ poses[0], points)
    uv, visible = camera.project(moved)
    assert visible.mean() > 0.5
    rays = camera.unproject(uv[visible])
    origins = np.broadcast_to(poses[1][:3, 3], rays.shape)
    hits = world.cast(origins, rays @ poses[1][:3, :3].T)
    error = np.abs(hits.distance_m - np.linalg.norm(moved[visible], axis=1))
    seen_by_both = error < 1e-4
    assert seen_by_both.mean() > 0.9
    for modality in (RGB, THERMAL):
        first = render_image(world, modality, camera, poses[0]).reshape(160 * 120, -1)[visible]
        again = world.render_rays(modality, origins, rays @ poses[1][:3, :3].T).values
        difference = np.abs(first - again)[seen_by_both].max(axis=1)
        assert np.quantile(difference, 0.99) < (0.01 if modality == RGB else 0.05)


def test_supersampling_is_the_mean_over_the_pixel():
    world, camera = make_world('room'), Camera.from_fov(12, 8, 70.0)
    T = make_motion(world).poses(2.0)[0] @ make_rig(SimulationConfig()).T_base_sensor[RGB]
    fine = render_image(world, RGB, camera.resized(36, 24), T)
    mean = fine.reshape(8, 3, 12, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(render_image(world, RGB, camera, T, 3), mean, atol=1e-6)


def views(name, count=10):
    world, rig = make_world(name), make_rig(SimulationConfig())
    motion, camera = make_motion(world), Camera.from_fov(40, 30, 70.0)
    poses = motion.poses(np.linspace(0.0, 2 * motion.lap_s, count)) @ rig.T_base_sensor[RGB]
    return [np.stack([render_image(world, modality, camera, T, 2) for T in poses])
            for modality in (RGB, THERMAL)]


def test_worlds_look_as_they_are_meant_to():
    contrast, saturation, span = {}, {}, {}
    for name in WORLD_NAMES:
        rgb, thermal = views(name)
        contrast[name] = np.abs(np.diff(rgb.mean(axis=3), axis=2)).mean()
        saturation[name] = (rgb.max(axis=3) - rgb.min(axis=3)).mean()
        span[name] = np.subtract(*np.quantile(thermal, (0.99, 0.01)))
    assert contrast['room'] > 2.5 * contrast['hall']
    assert contrast['room'] > 2.5 * contrast['machine_room']
    assert saturation['machine_room'] < 0.03
    assert saturation['room'] > 0.1
    assert span['machine_room'] > 50.0
    assert 8.0 < span['room'] < 25.0
    rgb, _ = views('room')
    assert (rgb.mean(axis=3) < 0.15).mean() > 0.03  # dark walls occur


def test_the_hall_has_places_that_look_alike():
    """Two doors, 4 m apart, differ far less than a door and the wall next to it."""
    world, camera = make_world('hall'), Camera.from_fov(40, 30, 70.0)
    T = np.eye(4)
    T[:3, :3] = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]  # towards y = 2.4

    def at(x):
        T[:3, 3] = (x, 1.0, 1.2)
        return render_image(world, RGB, camera, T, 2)

    twins = np.abs(at(2.0) - at(6.0)).mean()
    others = np.abs(at(2.0) - at(4.0)).mean()
    assert twins < 0.3 * others


def test_worlds_are_the_same_every_time(world):
    origins, directions = random_rays(world, 200)
    again = make_world(world.name)
    for modality in world.modalities:
        np.testing.assert_array_equal(
            world.render_rays(modality, origins, directions).values,
            again.render_rays(modality, origins, directions).values)


def test_bad_questions_are_refused(world):
    with pytest.raises(InputError, match='no such scene'):
        make_world('kitchen')
    with pytest.raises(InputError, match="no 'sonar' images"):
        world.render_rays('sonar', np.zeros((1, 3)), np.ones((1, 3)))
    with pytest.raises(InputError, match='wrong shape'):
        world.cast(np.zeros((2, 3)), np.ones((3, 3)))
