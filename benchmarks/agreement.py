# SPDX-License-Identifier: Apache-2.0
"""
Largest differences of SE(3), cameras and thermal scales from reference implementations.

    python benchmarks/agreement.py

References: scipy (matrix exponential, rotations), transforms3d, OpenCV's projections, and the
formulas of thermal cameras written out. Limit: 1e-9; beyond it the exit code is 1.
"""

from collections.abc import Iterator
import sys

from _bench import finish, guarded, parser, show
import cv2
import numpy as np
from scipy.linalg import expm
from scipy.spatial.transform import Rotation
import transforms3d

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.sensing.thermal import LinearRadiometry, PlanckRadiometry

LIMIT = 1e-9
_HALF_PX = 0.5  # OpenCV's pixel centres lie at whole numbers
_LENSES = {CameraModel.PINHOLE: (), CameraModel.OPENCV: (-0.2, 0.05, 0.001, -0.002, 0.003),
           CameraModel.OPENCV_FISHEYE: (0.05, -0.01, 0.002, -0.0005)}


def main() -> int:
    """Print the table; 1 where a reference is missed by more than 1e-9."""
    args = parser(__doc__).parse_args()
    rng = np.random.default_rng(0)
    rows = [row for part in (_motions, _cameras, _temperatures) for row in part(rng)]
    show(f'Largest differences, limit {LIMIT:g}', ('what', 'against', 'difference'),
         [(what, against, f'{error:.1e}') for what, against, error in rows])
    code = finish(args, {f'{what}: {against}': error for what, against, error in rows})
    return code or int(max(error for *_, error in rows) > LIMIT)


def _motions(rng: np.random.Generator) -> Iterator[tuple[str, str, float]]:
    """Random tangents with angles from nothing to pi."""
    direction = rng.normal(size=(400, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    angle = np.concatenate([np.logspace(-12, np.log10(np.pi - 1e-9), 300),
                            np.pi - np.logspace(-9, -1, 100)])
    xi = np.hstack([rng.normal(size=(400, 3)), direction * angle[:, None]])
    T = se3.exp(xi)
    wedge = np.zeros((400, 4, 4))
    wedge[:, :3, :3], wedge[:, :3, 3] = se3.hat(xi[:, 3:]), xi[:, :3]
    yield 'SE(3) exp', 'scipy expm', _worst(T, np.stack([expm(w) for w in wedge]))
    yield 'SE(3) log', 'the tangent it came from', _worst(se3.log(T), xi)
    rotations = np.stack([transforms3d.axangles.axangle2mat(d, a)
                          for d, a in zip(direction, angle, strict=True)])
    yield 'rotation', 'transforms3d', _worst(T[:, :3, :3], rotations)
    q, theirs = se3.quaternion_from_matrix(rotations), Rotation.from_matrix(rotations).as_quat()
    yield 'quaternion', 'scipy', _worst(q * np.sign(q[:, 3:]), theirs * np.sign(theirs[:, 3:]))


def _cameras(rng: np.random.Generator) -> Iterator[tuple[str, str, float]]:
    """Points in view, in pixels."""
    points = rng.uniform((-0.6, -0.5, 1.0), (0.6, 0.5, 1.5), (500, 3))
    for model, lens in _LENSES.items():
        camera = Camera(640, 480, 500.0, 505.0, 321.0, 239.0, model, lens)
        K = camera.matrix - np.array([[0, 0, _HALF_PX], [0, 0, _HALF_PX], [0, 0, 0]])
        zero = np.zeros(3)
        if model is CameraModel.OPENCV_FISHEYE:
            theirs, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, K, np.array(lens))
        else:
            theirs, _ = cv2.projectPoints(points, zero, zero, K, np.array(lens))
        uv, _ = camera.project(points)
        yield f'{model.value} project', 'cv2', _worst(uv, theirs[:, 0] + _HALF_PX)
        rays = points / np.linalg.norm(points, axis=1, keepdims=True)
        yield f'{model.value} unproject', 'the points it came from', _worst(
            camera.unproject(uv), rays)


def _temperatures(rng: np.random.Generator) -> Iterator[tuple[str, str, float]]:
    """Counts, against the formulas in double precision; answers are single precision."""
    counts = rng.integers(5000, 60000, 1000)
    kelvin = 1435.0 / np.log(16556.0 / (0.046 * (counts - 6000.0 + 12000.0)) + 1.0)
    planck = PlanckRadiometry(16556.0, 1435.0, 1.0, 6000.0, R2=0.046).to_celsius(counts)
    exact = (kelvin - 273.15).astype(np.float32)
    yield 'Planck', "FLIR's formula, in float32", _worst(planck, exact)
    linear = LinearRadiometry(0.04, -273.15).to_celsius(counts)
    yield 'linear', 'its formula, in float32', _worst(
        linear, (counts * 0.04 - 273.15).astype(np.float32))


def _worst(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max())


if __name__ == '__main__':
    sys.exit(guarded(main))
