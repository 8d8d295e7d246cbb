# SPDX-License-Identifier: Apache-2.0
"""
The exact round: a pose that was found is aligned once more, with far more pixels and less blur.

What is left of the error after the last round comes from the few pixels drawn (each is off by what
the map does not show) and from the blur (the map's values are sharp, the image's are not: a bias).
One alone is hardly better; both together are. Pixels come in batches, each as large as all before:
first some from everywhere, then those that hold the pose best (`informative_pixels.py`). All
points count, wherever they were rendered. It ends when another batch would hardly make the
covariance smaller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.refinement.aligner import (
    align, AlignConfig, Alignment, ModalityView, PosePrior)
from thermal_nerf_loc.localization.refinement.image_pyramid import ObservedImage
from thermal_nerf_loc.localization.refinement.informative_pixels import (
    draw_by_leverage, information_of_rows, leverage, predict_information)
from thermal_nerf_loc.localization.refinement.pixel_sampling import draw_pixels, everywhere
from thermal_nerf_loc.localization.refinement.rendered_points import RenderedPoints

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

_POOL = 4  # pixels to choose from, for each that may be rendered
_FREEDOM = 6


@dataclass(frozen=True, slots=True)
class ExactConfig:
    """How a pose that was found is made as exact as the map allows."""

    rays: int = setting(0, 'most rays for each image; 0: no such round (the localizer node); '
                        '`localize` takes 20000', 0, 10_000_000)
    first_rays: int = setting(1000, 'rays of the first batch; each further one doubles them', 20,
                              100_000)
    width_px: int = setting(640, 'images are halved while they stay at least so wide', 8, 100_000)
    blur_px: float = setting(0.3, "blur, in the image's own pixels", 0.0, 100.0)
    detail_px: int = setting(320, 'images wider than this are blurred in proportion: maps '
                             'hardly show more detail', 8, 100_000)
    gain: float = setting(0.08, 'end where another batch would shrink the standard deviations by '
                          'a smaller share than this', 0.0, 1.0)

    def own_blur_px(self, width: int) -> float:
        """Blur of an image so wide, in its own pixels."""
        return self.blur_px * max(width / self.detail_px, 1.0)


class FrameRenderer(Protocol):
    """Renders pixels of the images of one frame; `CoarseToFine` does."""

    images: Mapping[str, ObservedImage]
    rng: np.random.Generator

    def render_pixels(self, name: str, T: Array, uv: Array) -> RenderedPoints:
        """Render pixels (n, 2) of one image at a pose."""

    def view(self, name: str, own_px: float, points: RenderedPoints) -> ModalityView:
        """Rendered points beside their image, blurred by so many of its own pixels."""


def align_exactly(refiner: FrameRenderer, config: ExactConfig, aligning: AlignConfig,
                  T_found: Array, prior: PosePrior) -> Alignment:
    """Align with batch after batch of rendered points; `T_found` is nearly right already."""
    pools = {name: draw_pixels(everywhere(image), image, _POOL * config.rays, refiner.rng, True)
             for name, image in refiner.images.items()}
    chosen: dict[str, Indices] = {name: np.arange(min(config.first_rays, config.rays, len(pool)))
                                  for name, pool in pools.items()}
    drawn = {name: np.empty(0, np.intp) for name in pools}
    batches: dict[str, list[RenderedPoints]] = {name: [] for name in pools}
    T = T_found
    while True:
        for name in pools:
            points = refiner.render_pixels(name, T, pools[name][chosen[name]])
            batches[name].append(points.seen_from(se3.inverse(T_found) @ T))
            drawn[name] = np.concatenate([drawn[name], chosen[name]])
        views = [refiner.view(name, config.own_blur_px(image.camera.width), joined(batches[name]))
                 for name, image in refiner.images.items()]
        found = align(views, T_found, T, aligning, prior)
        T = found.T_world_cam
        if found.failed:
            return found
        chosen, gain = _next_batch(refiner, config, aligning, found, pools, drawn)
        if gain <= config.gain:
            return found


def joined(batches: list[RenderedPoints]) -> RenderedPoints:
    """All points of several batches, which are in the same camera."""
    return RenderedPoints(*(np.concatenate([getattr(one, name) for one in batches])
                            for name in ('points_cam', 'values', 'weight')))


def _next_batch(refiner: FrameRenderer, config: ExactConfig, aligning: AlignConfig,
                found: Alignment, pools: Mapping[str, Array], drawn: Mapping[str, Indices],
                ) -> tuple[dict[str, Indices], float]:
    """
    Pixels to render next, and by what share they would shrink the standard deviations.

    That share is the geometric mean over the six directions of the pose.
    """
    pixels = {}
    for (name, image), aligned in zip(refiner.images.items(), found.views):
        pixels[name] = predict_information(image, aligned, aligning.cutoff, aligning.edge_px,
                                           pools[name])
    everything = np.sum([information_of_rows(one.rows) for one in pixels.values()], axis=0)
    before = np.sum([information_of_rows(one.rows[drawn[name]]) for name, one in pixels.items()],
                    axis=0)
    after, chosen = before.copy(), {}
    for name, one in pixels.items():
        left = np.setdiff1d(np.arange(len(one)), drawn[name], assume_unique=True)
        count = min(len(drawn[name]), config.rays - len(drawn[name]), len(left))
        rest = one.taken(left)
        picked = draw_by_leverage(rest, leverage(rest.rows, everything), count,
                                  refiner.images[name].camera.size, refiner.rng)
        chosen[name] = left[picked]
        after += information_of_rows(rest.rows[picked])
    return chosen, 1.0 - math.exp(0.5 * (_log_det(before) - _log_det(after)) / _FREEDOM)


def _log_det(information: Array) -> float:
    """Logarithm of the determinant, finite also where a direction is not held at all."""
    weak = 1e-12 * max(float(np.trace(information)), 1e-30)
    return float(np.linalg.slogdet(information + weak * np.eye(_FREEDOM))[1])
