# SPDX-License-Identifier: Apache-2.0
"""Informative pixels: leverage, draws by it, and what is predicted for pixels not rendered."""

from localization_room import make_poses, PaintedRoom, take_frame
import numpy as np
import pytest

from thermal_nerf_loc.localization.refinement.aligner import align, AlignConfig, normal_equations
from thermal_nerf_loc.localization.refinement.coarse_to_fine import CoarseToFine, RefinementConfig
from thermal_nerf_loc.localization.refinement.image_pyramid import observe
from thermal_nerf_loc.localization.refinement.informative_pixels import (
    draw_by_leverage, information_of_rows, leverage, PixelInformation, predict_information)
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

CONFIG = AlignConfig(iterations=0)


def aligned_points(modality, uv, seed=0):
    """Rendered pixels of one image at its true pose, linearized there, and the image."""
    T = make_poses(1, seed=3)[0]
    images, _ = observe(take_frame(PaintedRoom(), T, seed=seed, modalities=(modality,)),
                        (modality,))
    refiner = CoarseToFine(PaintedRoom(), RefinementConfig(), images, 0)
    view = refiner.view(modality, 0.5, refiner.render_pixels(modality, T, uv))
    return images[modality], align([view], T, T, CONFIG).views[0]


def grid(size, step):
    u, v = np.meshgrid(np.arange(4.5, size[0] - 4, step), np.arange(4.5, size[1] - 4, step))
    return np.stack([u.ravel(), v.ravel()], axis=-1)


def test_leverages_add_up_to_the_degrees_of_freedom():
    rows = np.random.default_rng(0).normal(size=(200, 3, 6))
    found = leverage(rows, information_of_rows(rows))
    assert found.sum() == pytest.approx(6.0, rel=1e-6)
    assert (found > 0.0).all()


def test_a_pixel_that_alone_holds_a_direction_has_all_its_leverage():
    rows = np.zeros((100, 1, 6))
    rows[:, 0, :5] = np.random.default_rng(0).normal(size=(100, 5))
    rows[7, 0] = (0, 0, 0, 0, 0, 0.1)
    found = leverage(rows, information_of_rows(rows))
    assert found[7] == pytest.approx(1.0, abs=1e-3)
    assert found.argmax() == 7


@pytest.mark.parametrize('modality, size', [(RGB, (160, 120)), (THERMAL, (80, 64))])
def test_what_is_predicted_is_what_rendering_finds(modality, size):
    """The information of every pixel, from the depth of a few others."""
    image, few = aligned_points(modality, grid(size, 5.0))
    uv = grid(size, 3.0) + 1.0
    predicted = information_of_rows(predict_information(
        image, few, CONFIG.cutoff, CONFIG.edge_px, uv).rows)
    rendered = aligned_points(modality, uv)[1]
    H, *_ = normal_equations(rendered, CONFIG, rendered.view.level.signal * few.view.trust)
    centre = np.sqrt(np.diag(H))
    assert np.diag(predicted) == pytest.approx(np.diag(H), rel=0.35)  # H lacks gain and offset
    assert np.abs((predicted - H) / np.outer(centre, centre)).max() < 0.35


def test_draws_are_distinct_follow_leverage_and_reach_everywhere():
    uv = grid((168, 128), 1.0)
    wanted = 1.0 + 9.0 * (uv[:, 0] < 40.0)
    pixels = PixelInformation(uv, np.zeros((len(uv), 1, 6)))
    draws = [draw_by_leverage(pixels, wanted, 1000, (168, 128), np.random.default_rng(seed))
             for seed in (0, 0, 1)]
    assert (draws[0] == draws[1]).all() and set(draws[0]) != set(draws[2])
    assert len(np.unique(draws[0])) == len(draws[0]) == pytest.approx(1000, abs=5)
    left = (uv[draws[0], 0] < 40.0).mean()
    expected = 0.8 * wanted[uv[:, 0] < 40.0].sum() / wanted.sum() + 0.2 * (uv[:, 0] < 40.0).mean()
    assert left == pytest.approx(expected, abs=0.03)
    cells = {(int(u // 21), int(v // 21)) for u, v in uv[draws[0]]}
    assert len(cells) == 8 * 6


def test_few_pixels_are_all_drawn():
    pixels = PixelInformation(grid((40, 30), 2.0), np.zeros((len(grid((40, 30), 2.0)), 1, 6)))
    found = draw_by_leverage(pixels, np.ones(len(pixels)), 10_000, (40, 30),
                             np.random.default_rng(0))
    assert (found == np.arange(len(pixels))).all()


def test_no_pixel_is_drawn_twice_even_where_one_holds_all():
    pixels = PixelInformation(grid((40, 30), 1.0), np.zeros((len(grid((40, 30), 1.0)), 1, 6)))
    leverages = np.full(len(pixels), 1e-6)
    leverages[5] = 6.0
    found = draw_by_leverage(pixels, leverages, 100, (40, 30), np.random.default_rng(0))
    assert 5 in found and len(np.unique(found)) == len(found)
    assert len(found) > 90
