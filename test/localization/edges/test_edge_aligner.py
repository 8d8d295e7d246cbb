# SPDX-License-Identifier: Apache-2.0
"""Edges are there, whatever the temperatures; poses are found by them in a changed scene."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.edges.edge_aligner import edge_image, EdgeAligner, EdgeConfig
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig
from thermal_nerf_loc.localization.refinement.coarse_to_fine import CoarseToFine
from thermal_nerf_loc.localization.refinement.image_pyramid import observe
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.record import Robot, SimulationConfig

CONFIG = LocalizerConfig(guess_sigma_deg=3.0, guess_sigma_m=0.05)
FAST = EdgeConfig(when='always', rays=5000, search_rays=3000)


@pytest.fixture(scope='module')
def world():
    return make_world('machine_room')


@pytest.fixture(scope='module')
def frames():
    robot = Robot(SimulationConfig(scene='machine_room', size=(160, 120), supersampling=1,
                                   later=('heat', 'light')), held_out=True, seed=1)
    return [robot.frame(elapsed_ns) for elapsed_ns in (10**10, 3 * 10**10, 6 * 10**10)]


def start_near(frame, seed):
    rng = np.random.default_rng(seed)
    return se3.plus(frame.T_world_cam, np.repeat((0.03, 0.02), 3) * rng.normal(size=6))


def test_edge_images_do_not_depend_on_contrast():
    rng = np.random.default_rng(0)
    image = np.kron(rng.normal(size=(8, 10, 1)), np.ones((6, 6, 1))).astype(np.float32)
    edges = edge_image(image, 0.8, 0.0)
    assert edges.shape == (48, 60, 1)
    np.testing.assert_allclose(edge_image(3.0 * image + 20.0, 0.8, 0.0), edges, atol=1e-4)
    np.testing.assert_allclose(edge_image(-image, 0.8, 0.0), edges, rtol=1e-5)
    assert edges[2:4, 2:4].max() < 0.2 * edges.max()


def test_edges_weaker_than_the_floor_are_none():
    rng = np.random.default_rng(1)
    flat = rng.normal(0.0, 0.01, (40, 50, 1)).astype(np.float32)
    step = flat + np.where(np.arange(50) < 25, 0.0, 5.0)[None, :, None].astype(np.float32)
    edges = edge_image(step, 0.8, 0.1)
    assert edges[:, 24:26].min() > 1.0
    assert edges[:, :15].max() < 0.2


def test_several_channels_make_one_edge_image():
    grey = np.tile(np.where(np.arange(30) < 15, 0.2, 0.8), (20, 1))[..., None]
    colours = np.repeat(grey, 3, axis=-1).astype(np.float32)
    np.testing.assert_allclose(edge_image(colours, 0.8, 0.01),
                               edge_image(grey.astype(np.float32), 0.8, 0.01), rtol=1e-4)


@pytest.mark.parametrize('modalities', [(THERMAL,), (RGB, THERMAL)])
def test_a_pose_is_found_where_machines_are_off(world, frames, modalities):
    errors_m = []
    for k, frame in enumerate(frame.only(*modalities) for frame in frames):
        images, _ = observe(frame, modalities)
        refiner = CoarseToFine(world, CONFIG.refinement, images, 0)
        found, _ = EdgeAligner(refiner, FAST, CONFIG.refinement.align).best_of(
            [start_near(frame, k)])
        errors_m.append(se3.distance(found.T_world_cam, frame.T_world_cam)[0])
        assert refiner.rays > 0
    assert np.median(errors_m) < 0.03


def test_a_guess_is_searched_around(world, frames):
    frame = frames[1]
    images, _ = observe(frame, (RGB, THERMAL))
    T = se3.plus(frame.T_world_cam, (0.05, -0.03, 0.02, 0.05, 0.09, -0.05))  # 6.5 deg
    refiner = CoarseToFine(world, CONFIG.refinement, images, 0)
    found, _ = EdgeAligner(refiner, FAST, CONFIG.refinement.align).best_of(
        [], (T, 0.07, np.deg2rad(6.0)))
    metres, degrees = se3.distance(found.T_world_cam, frame.T_world_cam)
    assert metres < 0.05 and degrees < 1.0


def test_the_localizer_takes_edges_where_values_do_not_fit(world, frames):
    config = replace(CONFIG, edges=FAST)
    by_values = Localizer(world, replace(config, edges=replace(FAST, when='never')))
    by_edges = Localizer(world, config)
    poses = {False: [], True: []}
    for k, frame in enumerate(frame.only(THERMAL) for frame in frames):
        start = start_near(frame, k)
        for edges, localizer in ((False, by_values), (True, by_edges)):
            found = localizer.localize(frame, start)
            poses[edges].append(se3.distance(found.T_world_cam, frame.T_world_cam)[0])
            if found.verdict == 'ok':
                assert poses[edges][-1] < 0.1
    assert np.median(poses[True]) <= np.median(poses[False])


def test_nothing_changes_where_values_fit(world):
    robot = Robot(SimulationConfig(scene='machine_room', size=(96, 72), supersampling=1),
                  held_out=True, seed=1)
    frame = robot.frame(10**10)
    results = [Localizer(world, replace(CONFIG, edges=edges)).localize(frame, start_near(frame, 0))
               for edges in (FAST, replace(FAST, when='never'))]
    np.testing.assert_array_equal(results[0].T_world_cam, results[1].T_world_cam)
    assert results[0].verdict == 'ok' and results[0].rays == results[1].rays
