# SPDX-License-Identifier: Apache-2.0
"""
Bundle adjustment by Ceres through pycolmap, where it is installed: poses and lens of one camera.

It replaces the Levenberg-Marquardt of a round of `bundle_adjustment.py`; triangulation, outliers
and rounds stay. It knows neither a time offset nor one correction for several cameras, and no
prior: a thermal camera with its rig and delay, several cameras at once, rational lenses and a lens
of its own for each image are left to our own solver; frames with few observations stay.
"""

from dataclasses import replace
import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.mapping.camera_poses.lens import LENS_SIZE
from thermal_nerf_loc.mapping.camera_poses.reprojection import CameraEstimate, Reprojection

Array = NDArray[np.float64]

_MOST_STEPS = 30
_FEWEST_OBSERVATIONS = 8  # of a frame, for its pose to move
_LARGEST_RADIUS = 1e4  # of the trust region: the gauge is held by damping alone


def is_installed() -> bool:
    """Whether pycolmap can be imported."""
    return importlib.util.find_spec('pycolmap') is not None


def can_minimize(problem: Reprojection) -> bool:
    """One camera, the same in all images, fixed in its rig, with at most four coefficients."""
    obs = problem.observations
    lenses = obs.lenses
    return bool(len(problem.names) == 1 and not obs.movable.any() and len(obs.frame)
                and (obs.focal == obs.focal[0]).all() and (obs.rig == obs.rig[0]).all()
                and (lenses.coefficients == lenses.coefficients[0]).all()
                and (lenses.fisheye == lenses.fisheye[0]).all()
                and not lenses.coefficients[0, 4:].any())


def frames_that_move(problem: Reprojection, inliers: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Frames with observations enough."""
    count = np.bincount(problem.observations.frame[inliers])
    return np.flatnonzero(count >= _FEWEST_OBSERVATIONS)


def minimized(problem: Reprojection, cameras: CameraEstimate, points: Array,
              inliers: NDArray[np.bool_], scale_px: float, free_poses: bool, free_lens: bool,
              threads: int = -1) -> CameraEstimate:
    """Cameras that minimise the robust residuals of the inliers; points move along."""
    import pycolmap

    obs, name = problem.observations, problem.names[0]
    rig, focal, lens = obs.rig[0], float(obs.focal[0]), cameras.lenses[name]
    made = pycolmap.Reconstruction()
    made.add_camera_with_trivial_rig(_camera(focal, obs.lenses, lens))
    frames = np.unique(obs.frame[inliers])
    index = np.full(len(points), -1)
    names = np.unique(obs.point[inliers])
    index[names] = np.arange(len(names))
    tracks: list[list[tuple[int, int]]] = [[] for _ in names]
    for k in frames:
        chosen = np.flatnonzero(inliers & (obs.frame == k))
        seen = pycolmap.Point2DList([pycolmap.Point2D(focal * q) for q in obs.q[chosen]])
        image = pycolmap.Image(f'{k}', points2D=seen, camera_id=1, image_id=int(k) + 1)
        T = se3.inverse(cameras.poses[k] @ rig)
        made.add_image_with_trivial_frame(image, pycolmap.Rigid3d(T[:3]))
        for place, point in enumerate(index[obs.point[chosen]]):
            tracks[point].append((int(k) + 1, place))
    for point, track in zip(names, tracks):
        made.add_point3D(points[point], pycolmap.Track(
            [pycolmap.TrackElement(*element) for element in track]), np.zeros(3, np.uint8))
    moving = frames_that_move(problem, inliers) if free_poses else np.empty(0, np.int64)
    _solve(made, moving, scale_px, free_lens, threads)
    poses = cameras.poses.copy()
    for k in moving:
        T = np.eye(4)
        T[:3] = made.images[int(k) + 1].cam_from_world().matrix()
        poses[k] = se3.inverse(T) @ se3.inverse(rig)
    if free_lens:
        lens = _lens(made.cameras[1].params, focal, obs.lenses)
    return replace(cameras, poses=poses, lenses={name: lens})


def _solve(made: Any, moving: NDArray[np.int64], scale_px: float, free_lens: bool, threads: int,
           ) -> None:
    """Adjust the points, the poses of some frames, and the lens."""
    import pycolmap

    pycolmap.logging.minloglevel = pycolmap.logging.ERROR  # steps that it takes back are no news
    config = pycolmap.BundleAdjustmentConfig()
    for name, image in made.images.items():
        config.add_image(name)
        if name - 1 not in moving:
            config.set_constant_rig_from_world_pose(image.frame_id)
    if not free_lens:
        config.set_constant_cam_intrinsics(1)
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = options.refine_extra_params = free_lens
    options.refine_principal_point = free_lens
    options.refine_rig_from_world, options.refine_sensor_from_rig = bool(len(moving)), False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = scale_px
    solver = options.ceres.solver_options
    solver.max_num_iterations, solver.function_tolerance = _MOST_STEPS, 1e-4
    solver.num_threads, solver.max_trust_region_radius = threads, _LARGEST_RADIUS
    pycolmap.create_default_bundle_adjuster(options, config, made).solve()


def _camera(focal: float, lenses: Any, lens: Array) -> Any:
    """The camera at a width of 160, its centre at the given one."""
    import pycolmap

    f = focal * float(np.exp(lens[0]))
    k = lenses.coefficients[0, :4] + lens[3:]
    model = 'OPENCV_FISHEYE' if lenses.fisheye[0] else 'OPENCV'
    return pycolmap.Camera(camera_id=1, model=model, width=160, height=160,
                           params=[f, f, focal * lens[1], focal * lens[2], *k])


def _lens(params: Array, focal: float, lenses: Any) -> Array:
    """The correction; COLMAP has two focal lengths, ours is their geometric mean."""
    out = np.zeros(LENS_SIZE)
    out[0] = 0.5 * np.log(params[0] * params[1] / focal**2)
    out[1:3] = params[2:4] / focal
    out[3:] = np.asarray(params[4:8]) - lenses.coefficients[0, :4]
    return out
