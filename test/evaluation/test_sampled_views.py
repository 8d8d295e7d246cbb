# SPDX-License-Identifier: Apache-2.0
"""Scores of a share of the pixels, against those of all pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from stand_in_map import StandInMap

from thermal_nerf_loc.evaluation.map_quality import score_sample
from thermal_nerf_loc.evaluation.sampled_views import (
    choose_pixels, PATCH_PX, sample_view, shrunk)
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.frame import SensorImage
from thermal_nerf_loc.sensing.rendering import RayRendering

CAMERA = Camera.from_fov(400, 300, 60.0)
rng = np.random.default_rng(0)
TRUTH = gaussian_filter(rng.random((300, 400, 3)), (2.0, 2.0, 0.0))
TRUTH = ((TRUTH - TRUTH.min()) / np.ptp(TRUTH)).astype(np.float32)
RENDERED = (TRUTH + gaussian_filter(rng.normal(0.0, 0.3, TRUTH.shape), (1.0, 1.0, 0.0))
            * np.linspace(0.2, 1.0, 400)[:, None]).astype(np.float32)


class Picture(StandInMap):
    """A map that shows one image, 2 m away along z."""

    def render_rays(self, modality: str, origins: np.ndarray, directions: np.ndarray,
                    ) -> RayRendering:
        uv, inside = CAMERA.project(directions)
        assert inside.all()
        x, y = np.floor(uv).astype(int).T
        nothing = np.zeros(len(x), np.float32)
        return RayRendering(RENDERED[y, x], (2.0 / directions[:, 2]).astype(np.float32), nothing,
                            nothing + 1.0)


def score(most_rays: int | None, order: int = 0, **image: object) -> SimpleNamespace:
    """What `score_sample` says of one view."""
    seen = SensorImage(CAMERA, TRUTH, 0, **image)
    return score_sample(sample_view(Picture(), 'a', 'rgb', seen, np.eye(4), order, most_rays), 1.0)


def test_a_share_of_the_pixels_scores_as_all_do() -> None:
    """Mean over views: PSNR to 0.1 dB, SSIM to 0.01, at a quarter of the rays."""
    every = score(None)
    some = [score(30_000, order) for order in range(8)]
    assert every.pixel_share == 1.0 and every.rays == 120_000
    assert all(27_000 < view.rays < 33_000 and view.pixel_share < 0.15 for view in some)
    assert np.mean([view.psnr for view in some]) == pytest.approx(every.psnr, abs=0.1)
    assert np.mean([view.ssim for view in some]) == pytest.approx(every.ssim, abs=0.01)


def test_depth_and_masks_are_sampled_with_the_pixels() -> None:
    """Errors of 5 mm on the left half and 1 m on the right, which is masked out of the image."""
    depth = np.full((300, 400), 2.005, np.float32)
    depth[:, 200:] = 3.0
    valid = np.ones((300, 400), bool)
    valid[:, 200:] = False
    found, left = (score(15_000, depth_m=depth, valid=part) for part in (None, valid))
    assert found.depth_within_5cm == pytest.approx(0.5, abs=0.02)
    assert found.depth_mean_error_m == pytest.approx(0.5025, abs=0.02)
    assert left.psnr > found.psnr + 1.0  # errors grow to the right


def test_small_images_are_rendered_whole_and_large_ones_evenly() -> None:
    """One pixel a cell, none twice, patches inside; the same again for the next map."""
    pixels, corners = choose_pixels((160, 120), 3, 20_000)
    assert len(np.unique(pixels, axis=0)) == 160 * 120 and not len(corners)
    pixels, corners = choose_pixels((1920, 1080), 3, 20_000)
    assert len(np.unique(pixels, axis=0)) == len(pixels) < 20_000
    assert (pixels < (1920, 1080)).all() and (corners + PATCH_PX <= (1920, 1080)).all()
    counts, *_ = np.histogram2d(*pixels.T, bins=(8, 8), range=((0, 1920), (0, 1080)))
    assert counts.max() < 1.3 * counts.min()
    again, _ = choose_pixels((1920, 1080), 3, 20_000)
    other, _ = choose_pixels((1920, 1080), 4, 20_000)
    assert (again == pixels).all() and not np.array_equal(other, pixels)


def test_progress_is_reported_within_a_large_view() -> None:
    """After each chunk of rays."""
    done: list[float] = []
    sample_view(Picture(), 'a', 'rgb', SensorImage(CAMERA, TRUTH, 0), np.eye(4), 0, None,
                done.append)
    assert len(done) == 2 and done[-1] == 1.0


def test_a_shrunk_image_has_the_same_lens_and_field_of_view() -> None:
    """Corners of the image keep their rays; a wide image only gets smaller."""
    seen = SensorImage(CAMERA, TRUTH, 0, depth_m=np.full((300, 400), 2.0, np.float32),
                       valid=np.ones((300, 400), bool))
    small = shrunk(seen, 100)
    assert small.values.shape == (75, 100, 3) and small.valid.all()
    np.testing.assert_allclose(small.camera.unproject((0.0, 0.0)), CAMERA.unproject((0.0, 0.0)))
    assert small.values.mean() == pytest.approx(TRUTH.mean(), abs=1e-3)
    assert shrunk(seen, 400) is seen
