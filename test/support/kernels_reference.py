# SPDX-License-Identifier: Apache-2.0
"""The aligner's inner loops in plain numpy: slow, obvious; the compiled ones must equal them."""

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Flags = NDArray[np.bool_]


def sample_image(points: Array, R_cam_point: Array, t_cam_point: Array, R_sensor_cam: Array,
                 t_sensor_cam: Array, camera: Camera, image: Array32,
            ) -> tuple[Array, Array, Array, Flags]:
    """As `kernels.sample_image`, with the camera itself."""
    p_cam = points @ R_cam_point.T + t_cam_point
    uv, J_lens, seen = camera.project_with_jacobian(p_cam @ R_sensor_cam.T + t_sensor_cam)
    samples, inside = bilinear(image, uv)
    seen = seen & inside & np.isfinite(samples).all(axis=(1, 2))
    samples = np.where(seen[:, None, None], samples, 0.0)
    J_lens = np.where(seen[:, None, None], J_lens, 0.0)
    slope = samples[..., 1:] @ J_lens @ R_sensor_cam  # (n, c, 3): d(value)/d(p_cam)
    turn = -np.cross(p_cam[:, None], slope)  # p_cam(xi) = p - v - w x p
    return (samples[..., 0], np.concatenate([-slope, turn], axis=-1),
            (samples[..., 1:]**2).sum(axis=-1), seen)


def accumulate(values: Array, J: Array, seen: Flags, rendered: Array, weight: Array,
               variance: Array, nuisance: Array, nuisance_prior: Array, signal: Array,
               cutoff: float) -> tuple[Array, Array, Array, float, float, float]:
    """As `kernels.accumulate`."""
    r = values - nuisance[:, 0] * rendered - nuisance[:, 1]
    e2 = r**2 / (cutoff**2 * variance)
    share = (weight * seen)[:, None]
    w = share / ((1.0 + e2)**2 * variance)
    rows = np.concatenate([J, -rendered[..., None], -np.ones_like(rendered)[..., None]], axis=-1)
    A = np.einsum('kc,kci,kcj->cij', w, rows, rows)
    b = -np.einsum('kc,kci,kc->ci', w, rows, r)
    off = nuisance_prior[:, :, 1] - nuisance
    A[:, (6, 7), (6, 7)] += nuisance_prior[:, :, 0] + 1e-9
    b[:, 6:] += nuisance_prior[:, :, 0] * off
    nuisance_step = np.linalg.solve(A[:, 6:, 6:],
                                    np.concatenate([b[:, 6:, None], A[:, 6:, :6]], axis=-1))
    H = np.einsum('c,cij->ij', signal, A[:, :6, :6] - A[:, :6, 6:] @ nuisance_step[:, :, 1:])
    g = signal @ (b[:, :6] - (A[:, :6, 6:] @ nuisance_step[:, :, :1])[..., 0])
    return (H, g, nuisance_step, float(signal @ (share * e2 / (1.0 + e2)).sum(axis=0)),
            float(signal @ (nuisance_prior[:, :, 0] * off**2).sum(axis=1)), float(share.sum()))


def residual_scale(values: Array, gradient_energy: Array, seen: Flags, rendered: Array,
                   weight: Array, nuisance: Array, floor: Array, edge_px: float,
                   ) -> tuple[Array, Array]:
    """As `kernels.residual_scale`; the median is the upper one."""
    edges = edge_px**2 * gradient_energy
    r = values - nuisance[:, 0] * rendered - nuisance[:, 1]
    rest = np.maximum(r**2 - edges, 0.0)[seen & (weight > 0.0)]
    scale = floor.copy()
    if len(rest):
        middle = np.sort(rest, axis=0)[len(rest) // 2]
        scale = np.maximum(1.4826 * np.sqrt(middle), floor)
    return scale, scale**2 + edges


def bilinear(image: Array32, uv: Array) -> tuple[Array, Flags]:
    """Samples (n, ...) at pixels whose centres lie at +0.5; False outside the outer centres."""
    height, width = image.shape[:2]
    xy = uv - 0.5
    inside: Flags = np.asarray(((xy >= 0.0) & (xy < (width - 1, height - 1))).all(axis=-1))
    low = np.where(inside[:, None], np.floor(xy), 0.0).astype(np.intp)
    a, b = np.moveaxis(np.where(inside[:, None], xy - low, 0.0), -1, 0)
    extra = (...,) + (None,) * (image.ndim - 2)
    a, b = a[extra], b[extra]
    i, j = low[:, 0], low[:, 1]
    im = image.astype(np.float64)
    return ((1 - a) * (1 - b) * im[j, i] + a * (1 - b) * im[j, i + 1]
            + (1 - a) * b * im[j + 1, i] + a * b * im[j + 1, i + 1]), inside
