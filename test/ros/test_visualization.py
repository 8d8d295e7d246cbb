# SPDX-License-Identifier: Apache-2.0
"""What the node shows: surface, point cloud, overlay."""

import dataclasses
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from stand_in_map import StandInMap

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.localizer import LocalizerConfig
from thermal_nerf_loc.sensing.frame import Frame
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.record import Robot, SimulationConfig
from thermal_nerf_loc.tracking.session import SharedMap
from thermal_nerf_loc.visualization.pose_overlay import draw_overlay
from thermal_nerf_loc.visualization.surface import SurfaceBuilder, SurfacePoints


@pytest.fixture(scope='module')
def world():
    return make_world('room')


@pytest.fixture(scope='module')
def seen():
    robot = Robot(SimulationConfig(size=(64, 48), supersampling=1, clean=True), True, 1)
    return robot.frame(0)


def build(renderer, spacing_m=0.1):
    builder = SurfaceBuilder(renderer, spacing_m)
    shares = list(builder.steps())
    assert shares == sorted(shares) and shares[-1] == 1.0
    return builder.surface()


def test_points_lie_on_the_worlds_surfaces_once_for_each_cell(world):
    surface = build(world)
    assert len(surface) > 2000
    assert np.abs(world.clearance_m(surface.points_m)).max() < 1e-3
    cells = np.floor(surface.points_m / np.float32(0.1)).astype(int)
    assert len(np.unique(cells, axis=0)) == len(surface)
    # Their looks are those that a ray straight at them finds.
    some = slice(0, len(surface), 50)
    origins = np.tile(world.bounds.mean(axis=0), (len(surface.points_m[some]), 1))
    directions = surface.points_m[some] - origins
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for modality, looks in (('rgb', surface.colours), ('thermal', surface.celsius)):
        expected = world.render_rays(modality, origins, directions).values
        difference = np.abs(looks[some].reshape(expected.shape) - expected).max(axis=1)
        assert np.median(difference) < 1e-3, modality


def test_a_maps_keyframes_say_where_to_look_from(world):
    T = se3.from_parts(np.eye(3), world.bounds.mean(axis=0))
    with_keyframes = StandInMap(
        modalities=('thermal',), render_rays=world.render_rays,
        keyframes=type('Keyframes', (), {'poses': T[None], '__len__': lambda self: 1})())
    surface = build(with_keyframes)
    assert surface.colours is None
    ahead = surface.points_m - T[:3, 3]
    assert (ahead[:, 2] > 0.0).all()  # the camera looks along +z
    assert len(surface) > 100


def test_fog_is_no_surface():
    def render_rays(modality, origins, directions):
        n = len(origins)
        return SimpleNamespace(values=np.zeros((n, 1), np.float32), distance_m=np.ones(n),
                               spread_m=np.full(n, 0.5), opacity=np.ones(n))
    foggy = StandInMap(modalities=('thermal',), render_rays=render_rays)
    assert len(build(foggy)) == 0


def test_threads_take_turns_at_a_shared_map():
    inside, most = [0], [0]

    def render_rays(modality, origins, directions):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.002)
        inside[0] -= 1
    shared = SharedMap(StandInMap(render_rays=render_rays, modalities=('rgb',), bounds=7))
    assert shared.bounds == 7
    assert shared.keyframes is None
    threads = [threading.Thread(target=lambda: [shared.render_rays('rgb', None, None)
                                                for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_the_overlay_shows_a_good_pose_by_sameness(world, seen):
    def difference(T):
        picture = draw_overlay(world, LocalizerConfig(), seen, T)
        assert picture.dtype == np.uint8 and picture.shape[1] == 960
        shown, drawn = (picture[30:210, k * 320:(k + 1) * 320].astype(float) for k in (0, 1))
        return np.abs(shown - drawn).mean()
    right = seen.T_world_cam
    wrong = right @ se3.exp([0.1, 0.0, 0.0, 0.0, 0.3, 0.0])
    assert difference(right) < 0.7 * difference(wrong)


def test_the_overlay_marks_what_the_sampler_looks_at_and_what_is_of_no_use(world, seen):
    rgb = seen.images['rgb']
    dark = Frame(0, {'rgb': dataclasses.replace(rgb, values=np.zeros_like(rgb.values))},
                 seen.T_world_cam)
    green = (60, 255, 60)
    few = LocalizerConfig()
    marked = draw_overlay(world, few, seen, seen.T_world_cam)
    assert (marked[:240, :320] == green).all(axis=-1).sum() > 50
    assert not (marked[:240, 320:] == green).all(axis=-1).any()
    unmarked = draw_overlay(world, few, dark, seen.T_world_cam)
    assert not (unmarked == green).all(axis=-1).any()
    assert draw_overlay(world, few, Frame(0, {}), seen.T_world_cam, 'lost').shape[1] == 960


@pytest.mark.ros
def test_a_point_cloud_holds_the_surface():
    pytest.importorskip('sensor_msgs')
    from thermal_nerf_loc.ros.visualization import cloud_message
    points = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]], np.float32)
    colours = np.array([[1.0, 0.0, 0.0], [0.2, 0.4, 0.6]], np.float32)
    celsius = np.array([20.5, 80.0], np.float32)
    message = cloud_message(SurfacePoints(points, colours, celsius), 'map', 5)
    assert [f.name for f in message.fields] == ['x', 'y', 'z', 'rgb', 'temperature']
    rows = np.frombuffer(bytes(message.data), np.dtype(
        {'names': [f.name for f in message.fields], 'formats': ['<f4'] * 3 + ['<u4', '<f4'],
         'offsets': [f.offset for f in message.fields], 'itemsize': message.point_step}))
    assert (message.width, message.height, len(rows)) == (2, 1, 2)
    assert message.row_step == len(bytes(message.data))
    np.testing.assert_array_equal(np.stack([rows['x'], rows['y'], rows['z']], -1), points)
    np.testing.assert_array_equal(rows['temperature'], celsius)
    assert rows['rgb'].tolist() == [0xff0000, 0x336699]
    bare = cloud_message(SurfacePoints(points, None, None), 'map', 5)
    assert [f.name for f in bare.fields] == ['x', 'y', 'z']
