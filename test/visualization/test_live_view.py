# SPDX-License-Identifier: Apache-2.0
"""Live rendering: sharper while the camera rests, given up when it moves."""

import threading

import numpy as np
import pytest
from viewed_world import unsure, ViewedWorld

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.visualization.live_view import LiveView, ViewerCamera
from thermal_nerf_loc.visualization.panels import render_kinds, scales_for


@pytest.fixture
def live():
    world = ViewedWorld()
    camera = Camera.from_fov(40, 30, 70.0)
    poses = world.keyframes.poses
    return LiveView(world, scales_for(world, camera, poses, ('temperature', 'depth')))


def test_pictures_get_sharper_while_the_camera_rests(live):
    eye = ViewerCamera(ViewedWorld().keyframes.poses[2], 0.9, 1.6)
    images = list(live.images('temperature', eye, lambda: False))
    widths = [image.picture.shape[1] for image in images]
    assert widths == sorted(widths) and widths[-1] == 640 and len(widths) > 2
    last = images[-1]
    assert last.picture.shape == (400, 640, 3) and last.depth_m.shape == (400, 640)
    images = render_kinds(ViewedWorld(), eye.camera(640), eye.T_world_cam,
                          ('temperature', 'depth'))
    np.testing.assert_array_equal(last.picture,
                                  live.scales['temperature'].paint(images['temperature']))
    np.testing.assert_allclose(last.depth_m, images['depth'])
    up = eye.camera(640).unproject(np.array([320.0, 0.0]))
    assert np.arctan2(-up[1], up[2]) == pytest.approx(0.45)


def test_a_camera_that_moves_gets_quick_pictures_and_no_stale_ones(live):
    eye = ViewerCamera(np.eye(4), 0.9, 1.5)
    assert len(list(live.images('depth', eye, lambda: True))) == 1
    live._rays_per_second = 1e9
    assert live.quick_width(1.5) == 640
    live._rays_per_second = 1.0
    assert live.quick_width(1.5) == 40
    live._rays_per_second = 50_000.0
    width = live.quick_width(1.5)
    assert width * width / 1.5 <= 0.12 * 50_000 < (width + 1)**2 / 1.5


def test_a_place_is_read_where_a_ray_ends(live):
    world = ViewedWorld()
    T = world.keyframes.poses[4]
    found = live.point_on_ray(T[:3, 3], T[:3, 2])
    assert abs(world.world.clearance_m(found.position_m[None])[0]) < 1e-4
    ahead = (found.position_m - T[:3, 3]) @ T[:3, :3]
    assert ahead[2] > 0.5 and np.abs(ahead[:2]).max() < 1e-4
    expected = world.render_rays('thermal', T[None, :3, 3], T[None, :3, 2]).values[0, 0]
    assert found.celsius == pytest.approx(expected)


def test_a_live_view_shows_where_the_map_is_unsure():
    world = unsure(ViewedWorld())
    camera, T = Camera.from_fov(40, 30, 70.0), world.keyframes.poses[1]
    view = LiveView(world, scales_for(world, camera, T[None], ('uncertainty',)))
    image = next(view.images('uncertainty', ViewerCamera(T, 0.9, 4 / 3), lambda: True))
    assert view.scales['uncertainty'].unit == 'log sigma'
    brightness = image.picture.astype(int).sum(axis=-1).mean(axis=1)
    assert brightness[0] > 2.0 * brightness[-1]  # the ceiling above the floor


def test_threads_do_not_get_into_each_others_way(live):
    eye, done = ViewerCamera(ViewedWorld().keyframes.poses[0], 0.9, 1.5), []

    def draw():
        done.append(len(list(live.images('colour', eye, lambda: False))))
    threads = [threading.Thread(target=draw) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 3 and min(done) > 1
