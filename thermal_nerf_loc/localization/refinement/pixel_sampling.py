# SPDX-License-Identifier: Apache-2.0
"""
Draw the pixels that are rendered: the samplers of iNeRF and `edges`, on request spread evenly.

`interest_points` are a detector's keypoints on the observed image; grown by rounds of 5x5
dilation they are `interest_regions` (Yen-Chen et al., "iNeRF", 2021). Where they are too few, the
rest is drawn at random. Corners that the sensor's noise alone would make do not count.
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.localization.refinement.image_pyramid import ObservedImage

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

_DETECTOR_SIGMA_PX = 1.0
_QUALITY = 0.01  # share of the strongest corner's response (Shi and Tomasi)
_NOISE_SIGMAS = 3.0  # weaker gradients are taken for noise
_BUCKETS = 8  # cells across the longer side
_OVERDRAW = 8  # pixels drawn for each one wanted, so that every cell has some


def sample_pixels(sampler: str, image: ObservedImage, count: int, rng: np.random.Generator,
                  dilations: int = 3, balanced: bool = False) -> Array:
    """Centres (count, 2) of distinct pixels; all of them where the image has fewer."""
    return draw_pixels(preferred_pixels(sampler, image, dilations), image, count, rng, balanced)


def draw_pixels(preferred: Flags, image: ObservedImage, count: int, rng: np.random.Generator,
                balanced: bool = False) -> Array:
    """Draw among the preferred pixels; filled up from the others where they are too few."""
    usable = np.zeros(preferred.shape, np.bool_)  # the outermost pixels have no whole gradient
    usable[1:-1, 1:-1] = True if image.valid is None else image.valid[1:-1, 1:-1]
    draw = _draw_balanced if balanced else _draw
    pixels = draw(preferred & usable, count, rng)
    if len(pixels) < count:
        rest = usable.copy()
        rest.ravel()[pixels] = False
        pixels = np.concatenate([pixels, draw(rest, count - len(pixels), rng)])
    width = image.camera.width
    return np.stack([pixels % width + 0.5, pixels // width + 0.5], axis=-1)


def preferred_pixels(sampler: str, image: ObservedImage, dilations: int = 3) -> Flags:
    """The pixels that a sampler prefers (height, width)."""
    if sampler not in SAMPLERS:
        raise InputError('no such pixel sampler', expected=', '.join(SAMPLERS), got=repr(sampler))
    return _PREFERRED[sampler](image, dilations)


def everywhere(image: ObservedImage) -> Flags:
    """Every pixel."""
    return np.ones(image.values.shape[:2], dtype=np.bool_)


def regions(image: ObservedImage, dilations: int) -> Flags:
    """Keypoints, grown by rounds of 5x5 dilation."""
    mask = keypoints(image)
    if dilations > 0:
        mask = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8),
                          iterations=dilations) > 0
    return np.asarray(mask)


def keypoints(image: ObservedImage) -> Flags:
    """Shi-Tomasi corners over all channels, each measured in its own noise and contrast."""
    response = np.zeros(image.values.shape[:2], dtype=np.float32)
    for channel, noise in zip(np.moveaxis(image.values, -1, 0), image.noise):
        contrast = float(np.subtract(*np.quantile(channel, (0.98, 0.02))))
        if contrast <= 0.0:
            continue
        smooth = cv2.GaussianBlur(channel, (0, 0), _DETECTOR_SIGMA_PX)
        corners = cv2.cornerMinEigenVal(smooth, 3, ksize=3) * _eigenvalue_to_gradient()
        floor = _NOISE_SIGMAS * noise / (_DETECTOR_SIGMA_PX**2 * np.sqrt(8 * np.pi))
        corners[corners < floor**2] = 0.0
        response += corners / contrast**2
    peak = response == cv2.dilate(response, np.ones((3, 3), np.uint8))
    strong = response > _QUALITY * response.max(initial=0.0)
    return np.asarray(peak & strong & (response > 0.0))


def edges(image: ObservedImage) -> Flags:
    """Pixels at or near a gradient among the image's steepest third."""
    steep = np.zeros(image.values.shape[:2], dtype=np.float32)
    for channel, noise in zip(np.moveaxis(image.values, -1, 0), image.noise):
        smooth = cv2.GaussianBlur(channel, (0, 0), _DETECTOR_SIGMA_PX)
        slope = np.hypot(cv2.Scharr(smooth, cv2.CV_32F, 1, 0, scale=1 / 32),
                         cv2.Scharr(smooth, cv2.CV_32F, 0, 1, scale=1 / 32))
        floor = _NOISE_SIGMAS * noise / (_DETECTOR_SIGMA_PX**2 * np.sqrt(8 * np.pi))
        steep += np.where(slope > floor, slope, 0.0) / max(float(slope.mean()), 1e-9)
    limit = max(float(np.quantile(steep, 0.67)), 0.05 * float(steep.max()))
    mask = (steep > limit).astype(np.uint8)
    return np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8)) > 0)


# The pixels (height, width) that each sampler prefers, by image and number of dilations.
_PREFERRED: Mapping[str, Callable[[ObservedImage, int], Flags]] = {
    'random': lambda image, _: everywhere(image),
    'interest_points': lambda image, _: keypoints(image),
    'interest_regions': regions,
    'edges': lambda image, _: edges(image),
}
SAMPLERS = tuple(_PREFERRED)


def _eigenvalue_to_gradient() -> float:
    """OpenCV scales its Sobel by 1 / (2^(ksize-1) block), for 8 bit also by 1/255: undo it."""
    return float((4 * 3 / 8)**2 / 9)


def _draw(mask: Flags, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    pixels = np.flatnonzero(mask)
    return rng.choice(pixels, min(count, len(pixels)), replace=False)


def _draw_balanced(mask: Flags, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw from the cells of a grid in turn, so that the pixels cover the whole image."""
    pixels = np.flatnonzero(mask)
    pixels = rng.choice(pixels, min(_OVERDRAW * count, len(pixels)), replace=False)
    height, width = mask.shape
    size = -(-max(height, width) // _BUCKETS)
    cell = pixels // width // size * _BUCKETS + pixels % width // size
    order = np.argsort(cell, kind='stable')
    _, first, counts = np.unique(cell[order], return_index=True, return_counts=True)
    turn = np.empty(len(pixels), dtype=np.intp)
    turn[order] = np.arange(len(pixels)) - np.repeat(first, counts)
    return np.asarray(pixels[np.argsort(turn, kind='stable')[:count]], dtype=np.intp)
