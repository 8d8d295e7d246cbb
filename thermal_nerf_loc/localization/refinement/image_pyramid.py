# SPDX-License-Identifier: Apache-2.0
"""
Observed images prepared for alignment, and the levels of their blur pyramid.

`observe` rejects images without content (black, saturated, flat) with the reason, removes a
thermal sensor's stripes and measures the pixel noise. `make_level` blurs an image to one level and
takes its gradients; gradients that noise alone could have made are shrunk towards zero, and what
is left decides how much a channel counts (`PyramidLevel.signal`).
"""

from dataclasses import dataclass, replace
import functools
import math

import cv2
from numba import njit
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage

Array32 = NDArray[np.float32]
Array = NDArray[np.float64]

NOMINAL_WIDTH_PX = 160  # settings give blurs for images of this width
_WORKING_WIDTH_PX = 320  # larger images are halved first: even the sharpest level is no larger
_EMPTY_CHECK_PX = 60  # across the shorter side, enough to see whether an image is empty
_MAX_NOISE_PIXELS = 20_000  # about so many are enough to measure the noise
_LEVEL_SIGMA_PX = 1.0  # a level is halved in size while its own blur stays above
_MIN_SIGNAL = 0.8  # share of the gradients' energy; below, the level is blurred more
_MAX_DENOISING_PX = 3.0  # blur added for that, at most
_SHRINKAGE = 1.5  # gradients with less than this share of noise's energy are taken for noise


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Which images are used, and what is a sensor's pattern in them."""

    black: float = setting(0.02, 'an RGB image is black if 99 % of its pixels are below (sRGB)',
                           0.0, 1.0)
    saturated: float = setting(0.98, 'RGB pixels above in all channels are clipped', 0.0, 1.0)
    saturated_share: float = setting(0.7, 'an RGB image with more clipped pixels is not used',
                                     0.0, 1.0)
    min_valid_share: float = setting(0.1, 'an image with fewer unmasked pixels is not used',
                                     0.0, 1.0)
    stripe_limit: float = setting(2.0, 'columns and rows of a thermal sensor are corrected by at '
                                  'most so many sigmas of its noise; 0: not', 0.0, 100.0)


@dataclass(frozen=True, slots=True, eq=False)
class ObservedImage:
    """One usable image, at working resolution."""

    camera: Camera
    values: Array32  # (height, width, channels), stripes removed, invalid pixels filled
    valid: NDArray[np.bool_] | None
    T_cam_sensor: Array
    noise: Array  # (channels,) standard deviation of the pixel noise
    radiometric: bool


@dataclass(frozen=True, slots=True, eq=False)
class PyramidLevel:
    """An observed image, blurred, with its gradients, at a matching resolution."""

    camera: Camera
    samples: Array32  # (height, width, channels, 3): value, d/du, d/dv; NaN where masked;
    #                   gradients are shrunk towards zero where noise alone could have made them
    noise: Array  # (channels,) pixel noise that the blur leaves
    gradient_noise: Array  # (channels,) in each component of the gradient, before shrinking
    signal: Array  # (channels,) in [0, 1]: share of the gradients' energy that is no noise


def observe(frame: Frame, modalities: tuple[str, ...], config: ImageConfig = ImageConfig(),
            width_px: int = _WORKING_WIDTH_PX) -> tuple[dict[str, ObservedImage], dict[str, str]]:
    """
    Usable images of the wanted modalities, and why the others are not.

    Images are halved while they stay at least `width_px` wide.
    """
    usable: dict[str, ObservedImage] = {}
    ignored: dict[str, str] = {}
    for name in modalities:
        if name in frame.images:
            image = _working_size(frame.images[name], _finite(frame.images[name], name), width_px)
            reason = _empty_reason(image, name, config)
            if reason:
                ignored[name] = reason
            else:
                usable[name] = _prepare(image, name, config)
    return usable, ignored


def make_level(image: ObservedImage, sigma_px: float) -> PyramidLevel:
    """
    Blur by at least `sigma_px` (pixels of the image) and shrink as far as that allows.

    Where noise outweighs the gradients, blur more.
    """
    level = _level(image, sigma_px)
    limit = max(sigma_px, _MAX_DENOISING_PX)
    while level.signal.max() < _MIN_SIGNAL and sigma_px < limit:
        sigma_px = min(max(1.6 * sigma_px, 0.6), limit)
        level = _level(image, sigma_px)
    return level


def _level(image: ObservedImage, sigma_px: float) -> PyramidLevel:
    factor = 1
    while sigma_px / (2 * factor) >= _LEVEL_SIGMA_PX:
        factor *= 2
    width = max(image.camera.width // factor, 8)
    height = max(image.camera.height // factor, 8)
    camera = image.camera.resized(width, height)
    small = image.values if factor == 1 else _shrunk(image.values, width, height)
    remaining_px = math.sqrt(max((sigma_px / factor)**2 - (1 - factor**-2) / 12, 0.01))
    blurred = cv2.GaussianBlur(small, (0, 0), remaining_px).reshape(height, width, -1)
    noise, gradient_noise = _remaining_noise(image.noise, factor, remaining_px)
    samples, energy = shrunk_gradients(blurred, gradient_noise, _SHRINKAGE)
    signal = np.clip(1.0 - 2.0 * gradient_noise**2 / np.maximum(energy, 1e-30), 0.0, 1.0)
    if image.valid is not None:
        samples[_near_invalid(image.valid, width, height, remaining_px)] = np.nan
    return PyramidLevel(camera, samples, noise, gradient_noise, signal)


def noise_sigma(values: Array32, valid: NDArray[np.bool_] | None = None) -> Array:
    """
    Pixel noise of each channel, from the median of a high-pass that lines and edges cancel in.

    Immerkaer, "Fast noise variance estimation" (1996), made robust.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
    step = max(round(math.sqrt(values.shape[0] * values.shape[1] / _MAX_NOISE_PIXELS)), 1)
    sampled = slice(1, -1, step), slice(1, -1, step)
    detail = np.abs(cv2.filter2D(values, cv2.CV_32F, kernel).reshape(values.shape)[sampled])
    chosen = detail.reshape(-1, values.shape[2]) if valid is None else detail[valid[sampled]]
    if chosen.size == 0:
        return np.zeros(values.shape[2])
    return np.asarray(np.median(chosen.T.copy(), axis=1) * 1.4826 / 6.0, dtype=np.float64)


def without_stripes(values: Array32, limit_sigmas: float = ImageConfig().stripe_limit) -> Array32:
    """
    Remove a thermal sensor's pattern of columns and rows: the offsets of whole lines.

    No more than `limit_sigmas` of the pixel noise: stronger stripes, as upright pipes, are scene.
    """
    limit = limit_sigmas * noise_sigma(values)
    detail = values - cv2.medianBlur(values, 5).reshape(values.shape)
    out = values
    for axis in (0, 1):
        stripes = np.median(detail, axis=axis, keepdims=True)
        out = out - np.clip(stripes, -limit, limit).astype(np.float32)
    return out


def _finite(image: SensorImage, name: str) -> NDArray[np.bool_] | None:
    """Mask of the usable pixels; None where all are."""
    if math.isfinite(float(image.values.sum())):  # fast: one NaN or inf spoils the sum
        return None if image.valid is None or image.valid.all() else image.valid
    finite = np.isfinite(image.values).all(axis=-1)
    if not finite.any():
        raise InputError(f'{name} image holds no finite value', got='NaN everywhere',
                         hint='Check the temperature scale of the camera.')
    valid = finite if image.valid is None else finite & image.valid
    return None if valid.all() else np.asarray(valid)


def _working_size(image: SensorImage, valid: NDArray[np.bool_] | None, least_px: int,
                  ) -> SensorImage:
    """Halve a large image until no level needs more; masked pixels do not count."""
    factor = 1
    while image.camera.width // (2 * factor) >= least_px:
        factor *= 2
    if factor == 1:
        return replace(image, valid=valid, depth_m=None)
    width, height = image.camera.width // factor, image.camera.height // factor
    values: Array32 = image.values
    mask = None
    if valid is not None:
        share = _shrunk(valid.astype(np.float32), width, height)
        mask, values = share > 0.5, np.where(valid[..., None], values, np.float32(0.0))
    values = _shrunk(values, width, height).reshape(height, width, -1)
    if valid is not None:
        values = np.divide(values, np.maximum(share, 1e-6)[..., None], dtype=np.float32)
    return replace(image, camera=image.camera.resized(width, height), values=values, valid=mask,
                   depth_m=None)


def _empty_reason(image: SensorImage, name: str, config: ImageConfig) -> str:
    step = max(min(image.camera.size) // _EMPTY_CHECK_PX, 1)
    if image.valid is None:
        values = image.values[::step, ::step]
        pixels = values.reshape(-1, values.shape[2])
    elif image.valid.mean() < config.min_valid_share:
        return f'{name} image is masked nearly everywhere'
    else:
        pixels = image.values[image.valid][::step]
    if name == RGB:
        if np.quantile(pixels, 0.99) < config.black:
            return 'rgb image is black'
        if (pixels.min(axis=1) > config.saturated).mean() > config.saturated_share:
            return 'rgb image is saturated'
    low, middle, high = np.quantile(pixels.T.copy(), (0.02, 0.5, 0.98), axis=1)
    if not (high > low).any():
        top = middle >= pixels.max(axis=0)
        return f'{name} image is flat' + (' (saturated?)' if top.all() else '')
    return ''


def _prepare(image: SensorImage, name: str, config: ImageConfig) -> ObservedImage:
    values, valid = image.values, image.valid
    if valid is not None:
        values = np.where(valid[..., None], values, np.median(values[valid], axis=0))
    values = np.ascontiguousarray(values, dtype=np.float32)
    if name != RGB:
        values = without_stripes(values, config.stripe_limit)
    return ObservedImage(image.camera, values, valid, image.T_cam_sensor,
                         noise_sigma(values, valid), image.radiometric)


def _shrunk(values: Array32, width: int, height: int) -> Array32:
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA),
                      dtype=np.float32)


def _remaining_noise(noise: Array, factor: int, sigma_px: float) -> tuple[Array, Array]:
    """White noise after shrinking and blur: in the values, and in each gradient component."""
    radius = max(round(4.0 * sigma_px), 1)  # as wide as OpenCV makes it for floats
    blur = cv2.getGaussianKernel(2 * radius + 1, sigma_px)[:, 0]
    across, along = np.convolve(blur, (3 / 16, 10 / 16, 3 / 16)), np.convolve(blur, (.5, 0, -.5))
    return (noise / factor * float(blur @ blur),
            noise / factor * float(np.sqrt((across @ across) * (along @ along))))


def noise_in_gradients(gradient_energy: Array, gradient_noise: Array) -> Array:
    """
    Variance of the noise in each component of shrunk gradients, (n, channels).

    From the squares (n, channels) of these gradients. Noise along an edge is not shrunk, and some
    pure noise passes for a gradient.
    """
    noise = np.maximum(gradient_noise**2, 0.5e-12)
    y = (gradient_energy / (2.0 * noise)).mean(axis=-1) + 2.0 * _SHRINKAGE
    # (x - k)^2 / x = y - 2 k
    x = 0.5 * (y + np.sqrt(np.maximum(y**2 - 4.0 * _SHRINKAGE**2, 0.0)))
    kept = (1.0 - _SHRINKAGE / x)**2 + _noise_passed(gradient_energy.shape[1])
    return np.asarray(kept[:, None] * noise)


@functools.lru_cache(maxsize=8)
def _noise_passed(channels: int) -> float:
    """Share of pure noise's energy left after shrinking: E[x (1 - k / x)^2], x ~ Gamma."""
    x = np.linspace(_SHRINKAGE, 30.0, 20000)
    density = x**(channels - 1) * np.exp(-channels * x) * channels**channels
    density /= math.factorial(channels - 1)
    return float(np.sum(density * (x - _SHRINKAGE)**2 / x) * (x[1] - x[0]))


def _near_invalid(valid: NDArray[np.bool_], width: int, height: int, sigma_px: float,
                  ) -> NDArray[np.bool_]:
    """Pixels of a level that the blur mixes with masked ones."""
    bad = cv2.resize((~valid).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    reach = 2 * math.ceil(1.5 * sigma_px + 1) + 1
    return np.asarray(cv2.dilate(bad, np.ones((reach, reach), np.uint8)) > 0.0)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def shrunk_gradients(image: Array32, gradient_noise: Array, shrinkage: float,
                     ) -> tuple[Array32, Array]:
    """
    Values with Scharr's derivatives (h, w, c, 3), and each channel's mean gradient energy (c,).

    The derivatives are shrunk as by James and Stein, by 1 - k / x, with x their energy over the
    noise's, averaged over channels. The mean energies are those before shrinking.
    """
    height, width, channels = image.shape
    out = np.empty((height, width, channels, 3), dtype=np.float32)
    energy = np.zeros(channels)
    weight = np.empty(channels, dtype=np.float32)
    for m in range(channels):
        weight[m] = 1.0 / (max(2.0 * gradient_noise[m]**2, 1e-12) * channels)
    one, middle, corner = np.float32(1.0), np.float32(10 / 32), np.float32(3 / 32)
    least, k = np.float32(1e-6), np.float32(shrinkage)
    for j in range(height):
        above = j - 1 if j > 0 else 1  # mirrored at the border, whose pixel counts once
        below = j + 1 if j + 1 < height else height - 2
        line = np.zeros(channels)
        for i in range(width):
            left = i - 1 if i > 0 else 1
            right = i + 1 if i + 1 < width else width - 2
            x = np.float32(0.0)
            for m in range(channels):
                du = (middle * (image[j, right, m] - image[j, left, m])
                      + corner * (image[above, right, m] - image[above, left, m]
                                  + image[below, right, m] - image[below, left, m]))
                dv = (middle * (image[below, i, m] - image[above, i, m])
                      + corner * (image[below, left, m] - image[above, left, m]
                                  + image[below, right, m] - image[above, right, m]))
                out[j, i, m, 0], out[j, i, m, 1], out[j, i, m, 2] = image[j, i, m], du, dv
                e = du * du + dv * dv
                line[m] += e
                x += e * weight[m]
            share = max(one - k / max(x, least), np.float32(0.0))
            for m in range(channels):
                out[j, i, m, 1] *= share
                out[j, i, m, 2] *= share
        energy += line
    return out, energy / (height * width)
