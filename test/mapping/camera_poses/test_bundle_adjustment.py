# SPDX-License-Identifier: Apache-2.0
"""Bundle adjustment on made-up sightings, where every unknown is known."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.evaluation.refined_poses import aligned_rmse
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.mapping.camera_poses import ceres_bundle
from thermal_nerf_loc.mapping.camera_poses.bundle_adjustment import (
    BundleAdjustment, BundleSolution, FreeParameters)
from thermal_nerf_loc.mapping.camera_poses.feature_tracks import candidate_pairs, Tracks
from thermal_nerf_loc.mapping.camera_poses.lens import adjusted_camera, image_points, Lenses
from thermal_nerf_loc.mapping.camera_poses.reprojection import (
    CameraEstimate, Reprojection, Sensor)

FOCAL_PX, FRAMES, POINTS = 114.0, 24, 300
RIG = se3.exp([0.05, 0.02, -0.01, 0.01, -0.02, 0.01])
LENS, DELAY_S = np.array([0.02, 0.004, -0.006]), 0.03
LENS7 = np.array([*LENS, 0.01, -0.02, 0.001, 0.002])


def world(count: int = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses of a walk round a room, looking outwards; velocities; points on its walls."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0.0, 2 * np.pi, FRAMES, endpoint=False)
    tilt = 0.3 * np.sin(3 * angle)
    ahead = np.stack([np.cos(angle), np.sin(angle), tilt], axis=-1)
    ahead /= np.linalg.norm(ahead, axis=1)[:, None]
    right = np.cross(ahead, [0.1, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=1)[:, None]
    R = np.stack([right, np.cross(ahead, right), ahead], axis=-1)
    place = np.stack([-np.cos(angle), -np.sin(angle), 0.3 * np.cos(2 * angle)], axis=-1)
    direction = rng.normal(size=(count, 3))
    points = 3.0 * direction / np.abs(direction).max(axis=1)[:, None]
    return se3.from_parts(R, place), 0.4 * rng.normal(size=(FRAMES, 6)), points


def observations(sensors: np.ndarray, points: np.ndarray, lens: np.ndarray, noise_px: float,
              seed: int) -> Tracks:
    """Where each image shows which point; some are mistaken for another."""
    rng = np.random.default_rng(seed)
    p = np.einsum('nij,pj->npi', se3.inverse(sensors)[:, :3, :3], points)
    p += se3.inverse(sensors)[:, None, :3, 3]
    xy = p[..., :2] / np.maximum(p[..., 2:], 0.01)
    image, point = np.nonzero((p[..., 2] > 0.1) & (np.abs(xy) < 0.7).all(axis=-1))
    seen = xy[image, point] * np.exp(lens[0]) + lens[1:]
    seen += rng.normal(0.0, noise_px / FOCAL_PX, seen.shape)
    wrong = rng.random(len(seen)) < 0.05
    seen[wrong] = rng.uniform(-0.7, 0.7, (wrong.sum(), 2))
    return Tracks(image, point, seen, len(points))


@pytest.fixture(params=('own', 'ceres'))
def solver(request: pytest.FixtureRequest) -> str:
    """The solvers, which keep the same contract."""
    if request.param == 'ceres' and not ceres_bundle.is_installed():
        pytest.skip('pycolmap is not installed')
    return str(request.param)


def solved(free: FreeParameters, pose_deg: float = 0.0, pose_m: float = 0.0,
           ) -> tuple[BundleSolution, np.ndarray, np.ndarray]:
    """What is found from spoiled poses and no knowledge of rig, lens and delay; truth; start."""
    truth, twists, points = world()
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(FRAMES, 6)) / 3**0.5
    start = se3.plus(truth, noise * np.repeat((pose_m, np.deg2rad(pose_deg)), 3))
    rig, lens, delay_s = (value if asked else nothing for asked, value, nothing in zip(
        (free.rig, free.lenses, free.delay), (RIG, LENS, DELAY_S),
        (np.eye(4), np.zeros(3), 0.0)))
    thermal = truth @ se3.exp(twists * delay_s) @ rig
    given, here = np.tile(np.eye(4), (FRAMES, 1, 1)), np.arange(FRAMES)
    focal = np.full(FRAMES, FOCAL_PX)
    sensors = {'rgb': Sensor(observations(truth, points, np.zeros(3), 0.1, 2), here, given, focal),
               'thermal': Sensor(observations(thermal, points + 0.01, lens, 0.1, 3), here, given,
                                 focal, movable=True)}
    return BundleAdjustment(sensors, start, twists, 2.0, free).solve(), truth, start


def test_poses_come_back() -> None:
    """From 3 deg and 5 cm off, one sighting in twenty wrong."""
    found, truth, start = solved(FreeParameters(poses=True), 3.0, 0.05)
    before, after = (aligned_rmse(poses, truth) for poses in (start, found.cameras.poses))
    assert before['rmse_deg'] > 2.0
    assert after['rmse_deg'] < 0.3 and after['rmse_m'] < 0.01  # few points, little parallax
    assert after['scale'] == pytest.approx(1.0, abs=0.03)  # as large as it was given
    assert found.residual_px['rgb'] < 0.2 and found.observations['thermal'] > 500
    np.testing.assert_array_equal(found.cameras.rig, np.eye(4))


def test_rig_lens_and_delay_come_back() -> None:
    """All three at once, beside poses that are known."""
    found, truth, _ = solved(FreeParameters(rig=True, lenses=('thermal',), delay=True))
    np.testing.assert_array_equal(found.cameras.poses, truth)
    metres, degrees = se3.distance(found.cameras.rig, RIG)
    assert metres < 0.015 and degrees < 0.15
    np.testing.assert_allclose(found.cameras.lenses['thermal'][:3], LENS, atol=3e-3)
    np.testing.assert_array_equal(found.cameras.lenses['rgb'], np.zeros(7))
    assert found.cameras.delay_s == pytest.approx(DELAY_S, abs=0.003)


@pytest.mark.parametrize('fisheye', [False, True])
def test_a_wrong_lens_and_wrong_poses_come_back(fisheye: bool, solver: str) -> None:
    """Focal length a tenth off, distortion not stated, poses 2 deg and 3 cm off, all at once."""
    truth, twists, points = world(1200)
    camera = Camera(160, 120, FOCAL_PX, FOCAL_PX, 80.0, 60.0,
                    CameraModel.OPENCV_FISHEYE if fisheye else CameraModel.OPENCV,
                    (0.03, -0.01, 0.0, 0.0) if fisheye else (-0.18, 0.05, 0.0008, -0.0005))
    given = replace(camera, fx=1.1 * FOCAL_PX, fy=1.1 * FOCAL_PX, distortion=(0.0,) * 4)
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(FRAMES, 6)) / 3**0.5
    start = se3.plus(truth, noise * np.repeat((0.03, np.deg2rad(2.0)), 3))
    image, point, q = [], [], []
    for k, T in enumerate(truth):
        uv, seen = camera.project(se3.transform(se3.inverse(T), points))
        shown = np.flatnonzero(seen)
        image += [k] * len(shown)
        point += list(shown)
        q.append(image_points(given, uv[shown] + rng.normal(0.0, 0.05, (len(shown), 2))))
    tracks = Tracks(np.array(image), np.array(point), np.concatenate(q), len(points))
    sensor = Sensor(tracks, np.arange(FRAMES), np.tile(np.eye(4), (FRAMES, 1, 1)),
                    np.full(FRAMES, given.fx), lenses=Lenses.of([given] * FRAMES))
    problem = BundleAdjustment({'rgb': sensor}, start, twists, 2.0,
                               FreeParameters(poses=True, lenses=('rgb',)), solver=solver)
    assert problem.by_ceres == (solver == 'ceres')
    found = problem.solve()
    lens = adjusted_camera(given, found.cameras.lenses['rgb'])
    assert lens.fx == pytest.approx(camera.fx, rel=5e-3)
    assert abs(lens.cx - 80.0) < 1.0 and abs(lens.cy - 60.0) < 1.0
    assert lens.distortion[0] == pytest.approx(camera.distortion[0], abs=0.02)
    after = aligned_rmse(found.cameras.poses, truth)
    assert after['rmse_deg'] < 0.3 and after['rmse_m'] < 0.01
    assert found.residual_px['rgb'] < 0.1


def test_a_lens_beside_true_poses_leaves_them_alone(solver: str) -> None:
    """And poses beside a true lens leave it; few observations move no frame far."""
    truth, twists, points = world()
    sensor = Sensor(observations(truth, points, LENS, 0.1, 2), np.arange(FRAMES),
                    np.tile(RIG, (FRAMES, 1, 1)), np.full(FRAMES, FOCAL_PX))
    given = truth @ se3.inverse(RIG)
    found = BundleAdjustment({'rgb': sensor}, given, twists, 2.0, FreeParameters(lenses=('rgb',)),
                             solver=solver).solve()
    np.testing.assert_array_equal(found.cameras.poses, given)
    np.testing.assert_allclose(found.cameras.lenses['rgb'][:3], LENS, atol=5e-3)
    true = Sensor(observations(truth, points, np.zeros(3), 0.1, 2), np.arange(FRAMES),
                  np.tile(RIG, (FRAMES, 1, 1)), np.full(FRAMES, FOCAL_PX))
    found = BundleAdjustment({'rgb': true}, given, twists, 2.0, FreeParameters(poses=True),
                             solver=solver).solve()
    np.testing.assert_array_equal(found.cameras.lenses['rgb'], np.zeros(7))
    after = aligned_rmse(found.cameras.poses, given)
    assert after['rmse_deg'] < 0.3 and after['rmse_m'] < 0.015
    assert after['scale'] == pytest.approx(1.0, abs=0.03)


def test_what_ceres_cannot_do_is_ours() -> None:
    """A rig, two cameras, or different lenses."""
    truth, twists, points = world()
    sensor = Sensor(observations(truth, points, np.zeros(3), 0.1, 2), np.arange(FRAMES),
                    np.tile(np.eye(4), (FRAMES, 1, 1)), np.full(FRAMES, FOCAL_PX))
    rigs = np.tile(np.eye(4), (FRAMES, 1, 1))
    rigs[3, 0, 3] = 0.1
    for sensors in ({'thermal': replace(sensor, movable=True)}, {'rgb': sensor, 'thermal': sensor},
                    {'rgb': replace(sensor, T_cam_sensor=rigs)},
                    {'rgb': replace(sensor, focal_px=np.linspace(100.0, 120.0, FRAMES))}):
        problem = BundleAdjustment(sensors, truth, twists, 2.0, FreeParameters(poses=True))
        assert not problem.by_ceres


def test_slopes_are_differences() -> None:
    """Of residuals in every camera parameter and point."""
    truth, twists, points = world()
    track = observations(truth, points, np.zeros(3), 0.1, 2)
    chosen = slice(0, 200)
    track = Tracks(track.image[chosen], track.point[chosen], track.xy[chosen], track.points)
    lenses = Lenses(np.arange(FRAMES) % 3 == 0, np.tile((
        -0.1, 0.03, 0.001, -0.002, 0.01, 0.02, 0.0, 0.0), (FRAMES, 1)))
    sensor = Sensor(track, np.arange(FRAMES), np.tile(RIG, (FRAMES, 1, 1)),
                    np.full(FRAMES, FOCAL_PX), movable=True, lenses=lenses)
    problem = Reprojection({'thermal': sensor}, twists, 2.0)
    cameras = CameraEstimate(truth, RIG, {'thermal': LENS7}, DELAY_S)
    everything = np.ones(200, np.bool_)
    r, *by = problem.residuals(cameras, points, everything)
    J, J_points = problem.jacobians(cameras, points, everything, *by)
    rng, h = np.random.default_rng(0), 1e-6
    step, n = rng.normal(size=J.shape[1]), 6 * FRAMES

    def moved(size: float) -> CameraEstimate:
        xi = size * step
        return CameraEstimate(se3.plus(truth, xi[:n].reshape(-1, 6)),
                              se3.plus(RIG, xi[n:n + 6]), {'thermal': LENS7 + xi[n + 6:-1]},
                              DELAY_S + xi[-1])

    sides = [problem.residuals(moved(sign * h), points)[0] for sign in (1.0, -1.0)]
    ahead = np.abs(r).max(axis=1) < 500.0
    slope = ((sides[0] - sides[1]) / (2 * h))[ahead]
    np.testing.assert_allclose((J @ step).reshape(-1, 2)[ahead], slope, rtol=2e-2, atol=0.5)
    shift = rng.normal(size=points.shape)
    sides = [problem.residuals(cameras, points + sign * h * shift)[0] for sign in (1.0, -1.0)]
    np.testing.assert_allclose(np.einsum('nij,nj->ni', J_points, shift[track.point])[ahead],
                               ((sides[0] - sides[1]) / (2 * h))[ahead], rtol=1e-4, atol=1e-4)


def test_pairs_look_the_same_way() -> None:
    """Neighbours on the walk, not the opposite wall."""
    pairs = candidate_pairs(world()[0], 16)
    assert (0, 1) in pairs and (0, FRAMES - 1) in pairs
    assert (0, FRAMES // 2) not in pairs
