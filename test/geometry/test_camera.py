# SPDX-License-Identifier: Apache-2.0
"""Camera models against OpenCV (whose pixel centres lie half a pixel lower) and differences."""

import cv2
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.geometry.undistort import undistort_image

HALF = 0.5
CAMERAS = {
    'pinhole': Camera(640, 480, 500.0, 510.0, 322.3, 238.1),
    'opencv4': Camera(640, 480, 500.0, 510.0, 322.3, 238.1, CameraModel.OPENCV,
                      (-0.28, 0.09, 0.001, -0.0007)),
    'opencv5': Camera(640, 480, 450.0, 452.0, 318.0, 242.0, CameraModel.OPENCV,
                      (0.12, -0.2, -0.0005, 0.0009, 0.08)),
    'opencv8': Camera(640, 480, 420.0, 421.0, 320.0, 240.0, CameraModel.OPENCV,
                      (0.6, 0.1, 0.0003, 0.0002, 0.01, 0.9, 0.25, 0.02)),
    'fisheye': Camera(640, 480, 230.0, 231.0, 321.0, 239.0, CameraModel.OPENCV_FISHEYE,
                      (0.03, -0.008, 0.002, -0.0004)),
}
DISTORTED = [name for name in CAMERAS if name != 'pinhole']


@pytest.fixture(params=CAMERAS)
def camera(request):
    return CAMERAS[request.param]


def cv_matrix(camera):
    return camera.matrix - np.array([[0, 0, HALF], [0, 0, HALF], [0, 0, 0]])


def cv_project(camera, points):
    if camera.model is CameraModel.OPENCV_FISHEYE:
        uv, _ = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3),
                                          cv_matrix(camera), np.array(camera.distortion))
    else:
        uv, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), cv_matrix(camera),
                                  np.array(camera.distortion or (0.0,) * 4))
    return uv.reshape(-1, 2) + HALF


def points_in_view(camera, n=500, seed=0):
    rng = np.random.default_rng(seed)
    uv = rng.uniform(0.0, 1.0, (n, 2)) * camera.size
    return camera.unproject(uv) * rng.uniform(0.3, 20.0, (n, 1))


def test_project_agrees_with_opencv(camera):
    points = points_in_view(camera)
    uv, visible = camera.project(points)
    assert visible.all()
    ahead = points[:, 2] > 0.0  # behind its image plane OpenCV's fisheye mirrors points
    points, uv = points[ahead], uv[ahead]
    assert len(points) > 450
    np.testing.assert_allclose(uv, cv_project(camera, points), atol=1e-9)


def test_unproject_undoes_project_on_every_pixel(camera):
    small = camera.resized(160, 120)
    rays = small.rays()
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1.0, atol=1e-14)
    uv, _ = small.project(rays)
    np.testing.assert_allclose(uv, small.pixel_centers(), atol=1e-9)
    assert small.reached(small.pixel_centers()).all()


def test_unproject_agrees_with_opencv(camera):
    uv = camera.pixel_centers()[::997]
    cv_uv, D = (uv - HALF)[:, None], np.array(camera.distortion or (0.0,) * 4)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-14)
    if camera.model is CameraModel.OPENCV_FISHEYE:
        flat = cv2.fisheye.undistortPoints(cv_uv, cv_matrix(camera), D, criteria=stop)
        # OpenCV gives x / z, which says nothing behind the camera
        ahead = camera.unproject(uv)[:, 2] > 0.2
    else:
        flat = cv2.undistortPoints(cv_uv, cv_matrix(camera), D, criteria=stop)
        ahead = np.ones(len(uv), dtype=bool)
    rays = camera.unproject(uv)
    ours = rays[:, :2] / rays[:, 2:]
    np.testing.assert_allclose(ours[ahead], flat.reshape(-1, 2)[ahead], rtol=1e-6, atol=1e-7)


def test_jacobian_by_finite_differences(camera):
    points, step = points_in_view(camera, 60), 1e-6
    uv, J, _ = camera.project_with_jacobian(points)
    np.testing.assert_array_equal(uv, camera.project(points)[0])
    for i, e in enumerate(np.eye(3)):
        slope = (camera.project(points + step * e)[0]
                 - camera.project(points - step * e)[0]) / (2 * step)
        np.testing.assert_allclose(J[..., i], slope, rtol=1e-6, atol=1e-4)


def test_jacobian_on_the_axis(camera):
    ahead = np.array([[0.0, 0.0, 2.0]])
    _, J, _ = camera.project_with_jacobian(ahead)
    np.testing.assert_allclose(
        J[0], [[camera.fx / 2, 0.0, 0.0], [0.0, camera.fy / 2, 0.0]], atol=1e-9)


@pytest.mark.parametrize('name', ['pinhole', 'opencv4', 'opencv8'])
def test_points_behind_are_not_visible(name):
    points = points_in_view(CAMERAS[name], 50)
    assert not CAMERAS[name].project(-points)[1].any()
    assert not CAMERAS[name].project(np.zeros((1, 3)))[1].any()


def test_fisheye_sees_behind_its_image_plane():
    wide = Camera(800, 800, 200.0, 200.0, 400.0, 400.0, CameraModel.OPENCV_FISHEYE, (0.0,) * 4)
    behind = np.array([[np.sin(1.7), 0.0, np.cos(1.7)]])
    uv, visible = wide.project(behind)
    assert visible.all()
    np.testing.assert_allclose(uv, [[400.0 + 200.0 * 1.7, 400.0]], atol=1e-9)
    np.testing.assert_allclose(wide.unproject(uv), behind, atol=1e-12)


@pytest.mark.parametrize('lens', [
    {'model': CameraModel.OPENCV, 'distortion': (-0.30, 0.0, 0.0, 0.0)},
    {'model': CameraModel.OPENCV, 'distortion': (-0.40, 0.02, 0.0, 0.0)},
    {'model': CameraModel.OPENCV_FISHEYE, 'distortion': (-0.15, 0.0, 0.0, 0.0)}])
def test_what_the_polynomial_folds_back_is_not_visible(lens):
    """Far off the axis these lenses' formulas return into the image; real light does not."""
    camera = Camera(640, 480, 300.0, 300.0, 320.0, 240.0, **lens)
    angles = np.linspace(0.01, 3.1 if lens['model'] is CameraModel.OPENCV_FISHEYE else 1.56, 2000)
    uv, visible = camera.project(
        np.stack([np.sin(angles), 0.0 * angles, np.cos(angles)], axis=-1))
    last = np.flatnonzero(visible)[-1]
    assert visible[:last].all()
    assert (np.diff(uv[:last + 1, 0]) > 0.0).all()
    assert ((uv[last + 1:, 0] > 320.0) & (uv[last + 1:, 0] < 640.0)).any()


def test_pixels_without_a_ray_are_told_and_stay_finite():
    camera = Camera(160, 120, 50.0, 50.0, 80.0, 60.0, CameraModel.OPENCV, (-0.3, 0, 0, 0))
    reached = camera.reached(camera.pixel_centers()).reshape(120, 160)
    assert reached[60, 80]
    assert not reached[0, 0]
    rays = camera.rays()
    assert np.isfinite(rays).all()
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1.0, atol=1e-12)


coefficients = st.tuples(st.floats(-0.35, 0.35), st.floats(-0.1, 0.1), st.floats(-0.003, 0.003),
                         st.floats(-0.003, 0.003))


@settings(max_examples=60)
@given(coefficients, hnp.arrays(float, (20, 2), elements=st.floats(0.0, 1.0)))
def test_newton_inverts_any_mild_lens(distortion, share):
    camera = Camera(320, 240, 250.0, 250.0, 160.0, 120.0, CameraModel.OPENCV, distortion)
    uv = share * (320, 240)
    reached = camera.reached(uv)
    again = camera.project(camera.unproject(uv))[0]
    np.testing.assert_allclose(again[reached], uv[reached], atol=1e-6)
    # whatever lies within the lens' real field is reached
    seen = camera.project(np.c_[share - 0.5, np.ones(len(share))])
    assert camera.reached(seen[0])[seen[1]].all()


@settings(max_examples=40)
@given(st.floats(-0.05, 0.05), st.floats(-0.01, 0.01), st.floats(0.0, 1.4))
def test_fisheye_inverse_over_its_field(k1, k2, angle):
    camera = Camera(640, 640, 200.0, 200.0, 320.0, 320.0, CameraModel.OPENCV_FISHEYE,
                    (k1, k2, 0.0, 0.0))
    ray = np.array([np.sin(angle) * 0.6, -np.sin(angle) * 0.8, np.cos(angle)])
    np.testing.assert_allclose(camera.unproject(camera.project(ray)[0]), ray, atol=1e-9)


def test_resized_keeps_the_view(camera):
    small = camera.resized(320, 240)
    np.testing.assert_allclose(small.unproject(camera.pixel_centers()[::991] / 2),
                               camera.unproject(camera.pixel_centers()[::991]), atol=1e-9)


def test_from_fov():
    camera = Camera.from_fov(160, 120, 70.0)
    left = camera.unproject([0.0, 60.0])
    np.testing.assert_allclose(np.rad2deg(np.arctan2(-left[0], left[2])), 35.0, atol=1e-12)
    assert camera.fx == camera.fy


@pytest.mark.parametrize('name', DISTORTED)
def test_undistortion_agrees_with_opencv(name):
    camera = CAMERAS[name]
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.uniform(0.0, 1.0, (480, 640, 2)), (0, 0), 3.0)
    K, D = cv_matrix(camera), np.array(camera.distortion)
    if camera.model is CameraModel.OPENCV_FISHEYE:
        target = Camera(500, 400, 300.0, 300.0, 250.0, 200.0)
        maps = cv2.fisheye.initUndistortRectifyMap(K, D, np.eye(3), cv_matrix(target),
                                                   target.size, cv2.CV_32FC1)
    else:
        target = camera.undistorted()
        maps = cv2.initUndistortRectifyMap(K, D, None, K, target.size, cv2.CV_32FC1)
    expected = cv2.remap(image.astype(np.float32), *maps, cv2.INTER_LINEAR)
    ours = undistort_image(image, camera, target)
    assert ours.valid.mean() > 0.8
    # OpenCV rounds its maps to 1/32 of a pixel
    difference = np.abs(ours.values - expected)[ours.valid]
    assert difference.max() < 0.05 * np.ptp(image)
    assert difference.mean() < 0.003 * np.ptp(image)


def test_undistorted_pinhole_is_the_image_itself():
    camera, image = CAMERAS['pinhole'], np.random.default_rng(2).random((480, 640, 3))
    out = undistort_image(image, camera)
    assert out.valid.all()
    np.testing.assert_allclose(out.values, image, atol=1e-6)


def test_undistortion_keeps_masks_and_marks_what_was_not_seen():
    camera = CAMERAS['opencv5']
    valid = np.ones((480, 640), dtype=bool)
    valid[200:210, 300:310] = False
    out = undistort_image(np.ones((480, 640, 1)), camera, valid=valid)
    assert not out.valid[205, 305]
    assert out.valid[150, 150]
    wide = Camera(640, 480, 100.0, 100.0, 320.0, 240.0)
    assert not undistort_image(np.ones((480, 640, 1)), camera, wide).valid[0, 0]


def test_undistortion_refuses_another_image():
    with pytest.raises(InputError, match='does not fit'):
        undistort_image(np.ones((4, 4, 3)), CAMERAS['opencv4'])


@pytest.mark.parametrize('arguments, reason', [
    ((0, 4, 1.0, 1.0, 0.0, 0.0), 'no pixels'),
    ((4, 4, 0.0, 1.0, 0.0, 0.0), 'impossible intrinsics'),
    ((4, 4, np.nan, 1.0, 0.0, 0.0), 'impossible intrinsics'),
    ((4, 4, 1.0, 1.0, 0.0, 0.0, CameraModel.PINHOLE, (0.1, 0.0, 0.0, 0.0)), 'coefficients'),
    ((4, 4, 1.0, 1.0, 0.0, 0.0, CameraModel.OPENCV, (0.1, 0.0, 0.0)), 'coefficients'),
    ((4, 4, 1.0, 1.0, 0.0, 0.0, CameraModel.OPENCV_FISHEYE, ()), 'coefficients'),
    ((4, 4, 1.0, 1.0, 0.0, 0.0, CameraModel.OPENCV, (np.inf, 0.0, 0.0, 0.0)), 'impossible'),
])
def test_impossible_cameras(arguments, reason):
    with pytest.raises(InputError, match=reason):
        Camera(*arguments)
