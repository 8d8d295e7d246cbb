# SPDX-License-Identifier: Apache-2.0
"""
The aligner's inner loops, compiled; tests compare them with plain numpy (`kernels_reference`).

Points are given in the reference camera at the pose they were rendered at. `T_cam_point` takes
them to the reference camera at the pose under test, `T_sensor_cam` from there to the sensor.
"""

import math

from numba import njit
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera, CameraModel

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Flags = NDArray[np.bool_]

_MODELS = {CameraModel.PINHOLE: 0, CameraModel.OPENCV: 1, CameraModel.OPENCV_FISHEYE: 2}
_MIN_DEPTH_M = 1e-6


def lens(camera: Camera) -> Array:
    """Pack a camera for the kernels: fx fy cx cy, model, eight coefficients, fold."""
    out = np.zeros(14)
    out[13] = camera.fold
    out[:5] = camera.fx, camera.fy, camera.cx, camera.cy, _MODELS[camera.model]
    out[5:5 + len(camera.distortion)] = camera.distortion
    return out


@njit(cache=True)
def _project(c, x, y, z):  # type: ignore[no-untyped-def]
    """Pixel, the six entries of d(uv)/d(xyz), and whether the point is in front of the lens."""
    if c[4] == 2.0:
        radius = math.sqrt(x * x + y * y)
        square = radius * radius + z * z
        theta = math.atan2(radius, z)
        t2 = theta * theta
        d = theta * (1 + t2 * (c[5] + t2 * (c[6] + t2 * (c[7] + t2 * c[8]))))
        slope = 1 + t2 * (3 * c[5] + t2 * (5 * c[6] + t2 * (7 * c[7] + t2 * 9 * c[8])))
        if radius < 1e-9:
            depth = z if abs(z) > _MIN_DEPTH_M else _MIN_DEPTH_M
            scale, ex, ey = 1.0 / depth, 0.0, 0.0
        else:
            scale, ex, ey = d / radius, x / radius, y / radius
        square = max(square, 1e-24)
        dr, dz = slope * z / square - scale, -slope * radius / square
        return (c[0] * x * scale + c[2], c[1] * y * scale + c[3],
                c[0] * (scale + ex * ex * dr), c[0] * ex * ey * dr, c[0] * ex * dz,
                c[1] * ex * ey * dr, c[1] * (scale + ey * ey * dr), c[1] * ey * dz,
                math.sqrt(square) > _MIN_DEPTH_M and theta < c[13])
    front = z > _MIN_DEPTH_M
    if not front:
        z = _MIN_DEPTH_M
    a, b, i = x / z, y / z, 1.0 / z
    if c[4] == 0.0:
        return (c[0] * a + c[2], c[1] * b + c[3], c[0] * i, 0.0, -c[0] * a * i,
                0.0, c[1] * i, -c[1] * b * i, front)
    r2 = a * a + b * b
    bottom = 1 + r2 * (c[10] + r2 * (c[11] + r2 * c[12]))
    radial = (1 + r2 * (c[5] + r2 * (c[6] + r2 * c[9]))) / bottom
    slope = ((c[5] + r2 * (2 * c[6] + 3 * c[9] * r2))
             - radial * (c[10] + r2 * (2 * c[11] + 3 * c[12] * r2))) / bottom
    p1, p2 = c[7], c[8]
    u = a * radial + 2 * p1 * a * b + p2 * (r2 + 2 * a * a)
    v = b * radial + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b
    cross = 2 * a * b * slope + 2 * p1 * a + 2 * p2 * b
    ua = radial + 2 * a * a * slope + 2 * p1 * b + 6 * p2 * a
    vb = radial + 2 * b * b * slope + 6 * p1 * b + 2 * p2 * a
    return (c[0] * u + c[2], c[1] * v + c[3],
            c[0] * ua * i, c[0] * cross * i, -c[0] * (ua * a + cross * b) * i,
            c[1] * cross * i, c[1] * vb * i, -c[1] * (cross * a + vb * b) * i,
            front and r2 < c[13])


@njit(cache=True)
def sample_image(points: Array, R_cam_point: Array, t_cam_point: Array, R_sensor_cam: Array,
                 t_sensor_cam: Array, camera: Array, image: Array32,
                 ) -> tuple[Array, Array, Array, Flags]:
    """
    Sample an image at projected points, bilinearly.

    Returns values (n, c), d(value)/d(xi) (n, c, 6), |gradient|^2 (n, c) and in view or not (n,).
    xi is the right tangent of T_world_cam: p_cam(xi) = exp(-xi) p_cam.
    """
    n, (height, width, channels) = len(points), image.shape[:3]
    values, J = np.zeros((n, channels)), np.zeros((n, channels, 6))
    gradient_energy = np.zeros((n, channels))
    seen = np.zeros(n, dtype=np.bool_)
    R, t, S, s = R_cam_point, t_cam_point, R_sensor_cam, t_sensor_cam
    for k in range(n):
        a, b, c = points[k, 0], points[k, 1], points[k, 2]
        px = R[0, 0] * a + R[0, 1] * b + R[0, 2] * c + t[0]
        py = R[1, 0] * a + R[1, 1] * b + R[1, 2] * c + t[1]
        pz = R[2, 0] * a + R[2, 1] * b + R[2, 2] * c + t[2]
        u, v, ux, uy, uz, vx, vy, vz, front = _project(
            camera, S[0, 0] * px + S[0, 1] * py + S[0, 2] * pz + s[0],
            S[1, 0] * px + S[1, 1] * py + S[1, 2] * pz + s[1],
            S[2, 0] * px + S[2, 1] * py + S[2, 2] * pz + s[2])
        u, v = u - 0.5, v - 0.5  # pixel centres lie at +0.5
        if not front or not (0.0 <= u < width - 1) or not (0.0 <= v < height - 1):
            continue
        i, j = int(u), int(v)
        du, dv = u - i, v - j
        w00, w01, w10, w11 = (1 - du) * (1 - dv), du * (1 - dv), (1 - du) * dv, du * dv
        seen[k] = True
        for m in range(channels):
            value = (w00 * image[j, i, m, 0] + w01 * image[j, i + 1, m, 0]
                     + w10 * image[j + 1, i, m, 0] + w11 * image[j + 1, i + 1, m, 0])
            gu = (w00 * image[j, i, m, 1] + w01 * image[j, i + 1, m, 1]
                  + w10 * image[j + 1, i, m, 1] + w11 * image[j + 1, i + 1, m, 1])
            gv = (w00 * image[j, i, m, 2] + w01 * image[j, i + 1, m, 2]
                  + w10 * image[j + 1, i, m, 2] + w11 * image[j + 1, i + 1, m, 2])
            if not math.isfinite(value + gu + gv):
                seen[k] = False
                break
            sx, sy, sz = gu * ux + gv * vx, gu * uy + gv * vy, gu * uz + gv * vz
            hx = S[0, 0] * sx + S[1, 0] * sy + S[2, 0] * sz
            hy = S[0, 1] * sx + S[1, 1] * sy + S[2, 1] * sz
            hz = S[0, 2] * sx + S[1, 2] * sy + S[2, 2] * sz
            values[k, m], gradient_energy[k, m] = value, gu * gu + gv * gv
            J[k, m, 0], J[k, m, 1], J[k, m, 2] = -hx, -hy, -hz
            J[k, m, 3] = hy * pz - hz * py
            J[k, m, 4] = hz * px - hx * pz
            J[k, m, 5] = hx * py - hy * px
    return values, J, gradient_energy, seen


@njit(cache=True)
def accumulate(values: Array, J: Array, seen: Flags, rendered: Array, weight: Array,
               variance: Array, nuisance: Array, nuisance_prior: Array, signal: Array,
               cutoff: float) -> tuple[Array, Array, Array, float, float, float]:
    """
    Normal equations over xi, (6, 6) and (6,); gain and offset of each channel are eliminated.

    Residual r = observed - gain rendered - offset, with gain and offset in `nuisance` (c, 2) and
    the variances (n, c); Geman-McClure weight w / (1 + e^2)^2 / variance with
    e^2 = r^2 / (cutoff^2 variance). `nuisance_prior` (c, 2, 2): weight and centre of the priors
    of gain and offset. Returned besides: coefficients (c, 2, 7) of the step of gain and offset
    that goes with xi, [:, :, 0] - [:, :, 1:] xi; the robust cost, sum of w e^2 / (1 + e^2); the
    cost of the priors; and the weight in view.
    """
    n, channels = values.shape
    H, g, nuisance_step = np.zeros((6, 6)), np.zeros(6), np.zeros((channels, 2, 7))
    robust, priors, total = 0.0, 0.0, 0.0
    for k in range(n):
        if seen[k]:
            total += weight[k]
    for m in range(channels):
        A, b, row, cost = np.zeros((8, 8)), np.zeros(8), np.zeros(8), 0.0
        for k in range(n):
            if not seen[k]:
                continue
            r = values[k, m] - nuisance[m, 0] * rendered[k, m] - nuisance[m, 1]
            e2 = r * r / (cutoff * cutoff * variance[k, m])
            w = weight[k] / ((1.0 + e2) * (1.0 + e2) * variance[k, m])
            cost += weight[k] * e2 / (1.0 + e2)
            for i in range(6):
                row[i] = J[k, m, i]
            row[6], row[7] = -rendered[k, m], -1.0
            for i in range(8):
                wi = w * row[i]
                b[i] -= wi * r
                for j in range(i + 1):
                    A[i, j] += wi * row[j]
        for i in range(2):
            off = nuisance_prior[m, i, 1] - nuisance[m, i]
            A[6 + i, 6 + i] += nuisance_prior[m, i, 0] + 1e-9
            b[6 + i] += nuisance_prior[m, i, 0] * off
            priors += signal[m] * nuisance_prior[m, i, 0] * off * off
        robust += signal[m] * cost
        a, c, d = A[6, 6], A[7, 6], A[7, 7]
        scale = 1.0 / (a * d - c * c)
        for j in range(7):
            p, q = (b[6], b[7]) if j == 0 else (A[6, j - 1], A[7, j - 1])
            nuisance_step[m, 0, j] = (d * p - c * q) * scale
            nuisance_step[m, 1, j] = (a * q - c * p) * scale
        for i in range(6):
            g[i] += signal[m] * (b[i] - A[6, i] * nuisance_step[m, 0, 0]
                                 - A[7, i] * nuisance_step[m, 1, 0])
            for j in range(i + 1):
                H[i, j] += signal[m] * (A[i, j] - A[6, i] * nuisance_step[m, 0, j + 1]
                                        - A[7, i] * nuisance_step[m, 1, j + 1])
                H[j, i] = H[i, j]
    return H, g, nuisance_step, robust, priors, total


@njit(cache=True)
def smallest(values: Array, k: int) -> float:
    """
    Find the k-th smallest value (from 0) by quickselect; reorders.

    Compiles much faster than what numba makes of `np.partition`.
    """
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return float(values[k])


@njit(cache=True)
def residual_scale(values: Array, gradient_energy: Array, seen: Flags, rendered: Array,
                   weight: Array, nuisance: Array, floor: Array, edge_px: float,
                   ) -> tuple[Array, Array]:
    """
    Robust standard deviation of each channel's residuals (c,), and the variances (n, c).

    variance = scale^2 + edge_px^2 |gradient|^2: the scale is measured without the part that a
    misplacement by `edge_px` explains, so that strong edges are no outliers.
    """
    n, channels = values.shape
    scale, variance, rest = floor.copy(), np.empty((n, channels)), np.empty(n)
    for m in range(channels):
        count = 0
        for k in range(n):
            if seen[k] and weight[k] > 0.0:
                r = values[k, m] - nuisance[m, 0] * rendered[k, m] - nuisance[m, 1]
                rest[count] = max(r * r - edge_px * edge_px * gradient_energy[k, m], 0.0)
                count += 1
        if count > 0:
            middle = smallest(rest[:count], count // 2)
            scale[m] = max(1.4826 * math.sqrt(middle), floor[m])
        for k in range(n):
            variance[k, m] = scale[m] * scale[m] + edge_px * edge_px * gradient_energy[k, m]
    return scale, variance


@njit(cache=True)
def similarity(points: Array, T_sensor_point: Array, camera: Array, image: Array32,
               rendered: Array, weight: Array) -> tuple[Array, Array]:
    """Zero-normalised correlation (h, c) and weight in view (h,) for poses (h, 3, 4)."""
    poses, channels = len(T_sensor_point), image.shape[2]
    height, width = image.shape[:2]
    out, visible = np.zeros((poses, channels)), np.zeros(poses)
    for h in range(poses):
        T = T_sensor_point[h]
        total = 0.0
        sums = np.zeros((channels, 5))  # of a, b, aa, bb, ab
        for k in range(len(points)):
            x, y, z = points[k, 0], points[k, 1], points[k, 2]
            u, v, _, _, _, _, _, _, front = _project(
                camera, T[0, 0] * x + T[0, 1] * y + T[0, 2] * z + T[0, 3],
                T[1, 0] * x + T[1, 1] * y + T[1, 2] * z + T[1, 3],
                T[2, 0] * x + T[2, 1] * y + T[2, 2] * z + T[2, 3])
            i, j = int(math.floor(u)), int(math.floor(v))
            if not front or not (0 <= i < width) or not (0 <= j < height):
                continue
            if not math.isfinite(image[j, i, 0, 0]):
                continue
            total += weight[k]
            for m in range(channels):
                a, b, w = image[j, i, m, 0], rendered[k, m], weight[k]
                sums[m, 0] += w * a
                sums[m, 1] += w * b
                sums[m, 2] += w * a * a
                sums[m, 3] += w * b * b
                sums[m, 4] += w * a * b
        visible[h] = total
        for m in range(channels):
            if total > 0.0:
                a, b = sums[m, 0] / total, sums[m, 1] / total
                va, vb = sums[m, 2] / total - a * a, sums[m, 3] / total - b * b
                if va > 0.0 and vb > 0.0:
                    out[h, m] = (sums[m, 4] / total - a * b) / math.sqrt(va * vb)
    return out, visible
