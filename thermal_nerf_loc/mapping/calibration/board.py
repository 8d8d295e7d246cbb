# SPDX-License-Identifier: Apache-2.0
"""
Lens and rig from images of a board: a chessboard or a grid of circles, heated or in the sun.

In a thermal image either colour of the board may be the warmer one, contrast is low and corners
are soft: images are stretched and enlarged, and circles are looked for in the inverted image too.
Lenses are fitted by OpenCV (Zhang 2000); images that fit badly are left out, once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.images import opencv

Array = NDArray[np.float64]
cv2 = opencv()

CHESSBOARD, CIRCLES, ASYMMETRIC = 'chessboard', 'circles', 'asymmetric-circles'
KINDS = CHESSBOARD, CIRCLES, ASYMMETRIC

_DETECTION_WIDTH_PX = 400  # smaller images are enlarged
_FEWEST, _FOR_TANGENTIAL = 6, 15  # images for a lens; for two more terms of it
_OUTLIER = 3.0  # times the median of the images' errors
_GRID = 8  # cells a side, of which the corners should fill most


class Board(NamedTuple):
    """Inner corners of a chessboard, or circles: columns, rows, and metres between them."""

    kind: str
    columns: int
    rows: int
    spacing_m: float

    def points(self) -> Array:
        """(n, 3) in the plane z = 0 of the board."""
        x, y = np.meshgrid(np.arange(self.columns), np.arange(self.rows))
        flat = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1).astype(np.float64)
        if self.kind == ASYMMETRIC:  # odd rows are shifted by half a step
            flat[:, 0] = 2.0 * flat[:, 0] + flat[:, 1] % 2
        return flat * self.spacing_m


class LensFit(NamedTuple):
    """A lens, and the residuals by which it is judged."""

    camera: Camera
    rms_px: float
    sigma_focal_px: float  # one standard deviation
    corners: Mapping[str, Array]  # (n, 2) by image
    residuals: Mapping[str, Array]  # (n, 2) pixels
    poses: Mapping[str, Array]  # T_camera_board
    left_out: tuple[str, ...]
    coverage: float  # share of the cells of the image that hold a corner


class RigFit(NamedTuple):
    """Pose of the thermal camera in the RGB camera, from boards that both saw."""

    T_rgb_thermal: Array
    rms_px: float
    spread_m: float  # rms over the pairs
    spread_deg: float
    pairs: int


def find_board(grey: NDArray[np.uint8], board: Board) -> Array | None:
    """Corners or centres (n, 2), in pixels with centres at +0.5; None where there is no board."""
    scale = max(1, round(_DETECTION_WIDTH_PX / grey.shape[1]))
    large = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    size = board.columns, board.rows
    images = [large] if board.kind == CHESSBOARD else [large, np.asarray(255 - large, np.uint8)]
    for image in images:
        found, corners = _detectors()[board.kind](image, size)
        if found:
            points = np.asarray(corners, np.float32).reshape(-1, 1, 2)
            if board.kind == CHESSBOARD:
                points = _sharpened(image, points, board)
            return np.asarray((points.reshape(-1, 2).astype(np.float64) + 0.5) / scale)
    return None


def _sharpened(image: NDArray[np.uint8], corners: Any, board: Board) -> Any:
    """Corners where the gradients around meet: the detector's stray by pixels now and then."""
    grid = corners.reshape(board.rows, board.columns, 2)
    steps = [np.linalg.norm(np.diff(grid, axis=axis), axis=-1).min() for axis in (0, 1)]
    reach = int(np.clip(0.35 * min(steps), 2, 15))
    criteria = cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 40, 1e-3
    return cv2.cornerSubPix(image, np.array(corners), (reach, reach), (-1, -1), criteria)


def fit_lens(corners: Mapping[str, Array], size: tuple[int, int], board: Board) -> LensFit:
    """Fit a lens to the boards (n, 2) found in images of `size` (width, height)."""
    if len(corners) < _FEWEST:
        raise RunError('board was found in too few images', expected=f'{_FEWEST} or more, better '
                       '20, at all distances and tilts', got=len(corners),
                       hint='Is --size the number of inner corners (or circles), as in 9x6? Heat '
                            'the board with a lamp, or let the sun do it.')
    names = list(corners)
    first = _calibrated([corners[name] for name in names], size, board)
    limit = _OUTLIER * float(np.median(first.errors))
    kept = [name for name, error in zip(names, first.errors) if error <= limit]
    found = first if len(kept) in (len(names), *range(_FEWEST)) else _calibrated(
        [corners[name] for name in kept], size, board)
    kept = names if found is first else kept
    model = board.points()
    residuals = {name: corners[name] - cv2.projectPoints(
        model, found.rvecs[k], found.tvecs[k], found.K, found.distortion)[0][:, 0]
        for k, name in enumerate(kept)}
    every = np.concatenate(list(residuals.values()))
    return LensFit(
        _camera(found, size), float(np.sqrt((every**2).sum(axis=1).mean())),
        found.sigma_focal_px, {name: corners[name] for name in kept}, residuals,
        {name: se3.from_parts(cv2.Rodrigues(found.rvecs[k])[0], found.tvecs[k].ravel())
         for k, name in enumerate(kept)},
        tuple(name for name in names if name not in kept),
        _coverage(np.concatenate([corners[name] for name in kept]), size))


def fit_rig(rgb: LensFit, thermal: LensFit, partner: Mapping[str, str], board: Board) -> RigFit:
    """
    Fit the thermal camera's pose in the RGB camera; `partner`: thermal name by RGB name.

    A board looks the same turned by half: of the two orders of its corners that is taken in which
    most pairs agree.
    """
    pairs = [(a, b) for a, b in partner.items() if a in rgb.poses and b in thermal.poses]
    if len(pairs) < 3:
        raise RunError('both cameras saw the board together too rarely', expected='3 pairs',
                       got=len(pairs))
    model = board.points()
    middle = model.mean(axis=0)
    half = se3.from_parts(np.diag([-1.0, -1.0, 1.0]), 2.0 * middle * [1.0, 1.0, 0.0])
    candidates = np.stack([[rgb.poses[a] @ turn @ se3.inverse(thermal.poses[b])
                            for turn in (np.eye(4), half)] for a, b in pairs])  # (n, 2, 4, 4)
    chosen, spread = _agreeing(candidates)
    objects, seen_rgb, seen_thermal = [], [], []
    for (a, b), turned in zip(pairs, chosen):
        objects.append(model.astype(np.float32))
        seen_rgb.append(rgb.corners[a].astype(np.float32))
        order = thermal.corners[b][::-1] if turned else thermal.corners[b]
        seen_thermal.append(np.ascontiguousarray(order, np.float32))
    lenses = [_opencv_lens(fit.camera) for fit in (thermal, rgb)]
    rms, *_, R, t, _, _ = cv2.stereoCalibrate(
        objects, seen_thermal, seen_rgb, *lenses[0], *lenses[1], thermal.camera.size,
        flags=cv2.CALIB_FIX_INTRINSIC)
    return RigFit(se3.from_parts(R, np.ravel(t)), float(rms), *spread, len(pairs))


class _Calibration(NamedTuple):
    K: Array
    distortion: Array
    rvecs: Sequence[Array]
    tvecs: Sequence[Array]
    errors: Array
    sigma_focal_px: float


def _calibrated(corners: Sequence[Array], size: tuple[int, int], board: Board) -> _Calibration:
    flags = cv2.CALIB_FIX_K3
    if len(corners) < _FOR_TANGENTIAL:
        flags |= cv2.CALIB_ZERO_TANGENT_DIST
    model = board.points().astype(np.float32)
    guess: Any = None
    _, K, distortion, rvecs, tvecs, sigmas, _, errors = cv2.calibrateCameraExtended(
        [model] * len(corners), [c.astype(np.float32) for c in corners], size, guess, guess,
        flags=flags)
    return _Calibration(K, np.ravel(distortion)[:4], rvecs, tvecs, np.ravel(errors),
                        float(np.ravel(sigmas)[0]))


def _camera(found: _Calibration, size: tuple[int, int]) -> Camera:
    K = found.K
    return Camera(size[0], size[1], K[0, 0], K[1, 1], K[0, 2], K[1, 2], CameraModel.OPENCV,
                  tuple(float(k) for k in found.distortion))


def _opencv_lens(camera: Camera) -> tuple[Array, Array]:
    return camera.matrix, np.array(camera.distortion or (0.0,) * 4)


def _coverage(corners: Array, size: tuple[int, int]) -> float:
    cells = np.clip((corners / size * _GRID).astype(int), 0, _GRID - 1)
    return len(np.unique(cells, axis=0)) / _GRID**2


def _agreeing(candidates: Array) -> tuple[list[int], tuple[float, float]]:
    """For each pair which of two poses agrees with most others; their spread (m, deg)."""
    count = len(candidates)
    best: tuple[float, list[int], Array] | None = None
    for start in candidates.reshape(-1, 4, 4):
        off = np.array([[se3.distance(start, T) for T in pair] for pair in candidates])
        cost = off[..., 1] + 100.0 * off[..., 0]  # a degree weighs as much as a centimetre
        choice = cost.argmin(axis=1)
        total = float(np.median(cost[np.arange(count), choice]))
        if best is None or total < best[0]:
            best = total, choice.tolist(), start
    assert best is not None
    _, choice, centre = best
    off = np.array([se3.distance(centre, candidates[k, c]) for k, c in enumerate(choice)])
    metres, degrees = np.sqrt((off**2).mean(axis=0))
    return choice, (float(metres), float(degrees))


def _detectors() -> Mapping[str, Callable[[Any, tuple[int, int]], Any]]:
    return {
        CHESSBOARD: lambda image, size: cv2.findChessboardCornersSB(
            image, size, flags=cv2.CALIB_CB_EXHAUSTIVE | cv2.CALIB_CB_NORMALIZE_IMAGE
            | cv2.CALIB_CB_ACCURACY),
        CIRCLES: lambda image, size: cv2.findCirclesGrid(
            image, size, flags=cv2.CALIB_CB_SYMMETRIC_GRID),
        ASYMMETRIC: lambda image, size: cv2.findCirclesGrid(
            image, size, flags=cv2.CALIB_CB_ASYMMETRIC_GRID)}


def check_board(board: Board) -> None:
    """Refuse impossible boards."""
    if min(board.columns, board.rows) < 3 or not 0.0 < board.spacing_m < 10.0:
        raise InputError('is no board', expected='3 or more columns and rows, spacing in metres',
                         got=f'{board.columns}x{board.rows}, {board.spacing_m} m')
