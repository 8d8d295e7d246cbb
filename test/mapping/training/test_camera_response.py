# SPDX-License-Identifier: Apache-2.0
"""What cameras add to the scene: found again where it is known."""

import numpy as np
import pytest
import torch

from thermal_nerf_loc.mapping.training.camera_response import (
    CameraResponse, fixed_pattern, zero_offset)
from thermal_nerf_loc.mapping.training.ray_sampler import RayBatch
from thermal_nerf_loc.sensing.flat_field import across, radial, resized

WIDTH, HEIGHT = 24, 16


def batch(images, pixels):
    """Rays through these pixels (n, 2) of every image."""
    count = images * len(pixels)
    zeros = np.zeros((count, 3), np.float32)
    places = torch.from_numpy(across(pixels + 0.5, (WIDTH, HEIGHT)))
    return RayBatch(zeros, zeros, torch.zeros(count, 1), torch.zeros(count), torch.zeros(count),
                    torch.arange(images).repeat_interleave(len(pixels)),
                    places.repeat(images, 1), zeros)


def all_pixels():
    """In the order of an image."""
    y, x = np.indices((HEIGHT, WIDTH))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def test_drift_and_falloff_are_found():
    """A camera of known faults, colder to one side, before a flat scene: least squares."""
    drawn = batch(7, all_pixels())
    offsets = torch.tensor(np.random.default_rng(2).normal(0.0, 0.03, 7), dtype=torch.float32)
    x, y = drawn.across.unbind(1)
    r2 = 0.6 * x**2 + 0.4 * y**2
    added = -0.06 * r2 + 0.02 * r2**2 + 0.03 * x
    seen = (0.5 + offsets[drawn.image] + added)[:, None]
    scene = torch.tensor([0.4], requires_grad=True)
    formation = CameraResponse('thermal', 7, (WIDTH, HEIGHT))
    optimizer = torch.optim.LBFGS([scene, *formation.parameters()], max_iter=300,
                                  tolerance_grad=1e-10, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss = 1e4 * ((formation(scene.expand(len(seen), 1), drawn) - seen)**2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(formation.flat_field(10.0), 10.0 * added[:WIDTH * HEIGHT].reshape(
        HEIGHT, WIDTH), atol=5e-3)
    np.testing.assert_allclose(formation.offsets(10.0), 10.0 * (offsets - offsets.mean()),
                               atol=1e-3)
    assert float(scene.detach()) == pytest.approx(0.5 + float(offsets.mean()), abs=1e-4)


@pytest.mark.parametrize('stretched', [False, True])
def test_images_stretched_for_the_eye_have_gains(stretched):
    """Two halves of a scene, seen with a contrast of its own each time; else the gains stay 0."""
    drawn = batch(5, all_pixels())
    rng = np.random.default_rng(3)
    gains, offsets = (torch.tensor(rng.normal(0.0, 0.2, 5), dtype=torch.float32) for _ in 'go')
    left = (drawn.across[:, :1] < 0.0).float()
    truth = 0.3 + 0.4 * left
    seen = truth * torch.exp(gains - gains.mean())[drawn.image][:, None] + (
        offsets - offsets.mean())[drawn.image][:, None]
    scene = torch.tensor([0.4, 0.1], requires_grad=True)
    formation = CameraResponse('thermal', 5, (WIDTH, HEIGHT), stretched)
    free = [scene, *(p for p in formation.parameters() if p.requires_grad)]
    optimizer = torch.optim.LBFGS(free, max_iter=300, tolerance_grad=1e-10,
                                  tolerance_change=1e-14, line_search_fn='strong_wolfe')

    def closure():
        optimizer.zero_grad()
        loss = 1e4 * ((formation(scene[0] + scene[1] * left, drawn) - seen)**2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = (formation.gain - formation.gain.mean()).detach()
    expected = gains - gains.mean() if stretched else torch.zeros(5)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0.0)


def test_colour_has_gains_and_no_flat_field():
    formation, drawn = CameraResponse('rgb', 2, (WIDTH, HEIGHT)), batch(2, all_pixels()[:5])
    with torch.no_grad():
        formation.gain[:] = torch.tensor([0.1, -0.3])
    seen = formation(torch.ones(10, 3), drawn)
    np.testing.assert_allclose(seen.detach(), np.exp([[0.2]] * 5 + [[-0.2]] * 5) @ np.ones((1, 3)),
                               rtol=1e-6)
    formation.add_residuals(torch.ones(10, 1), drawn, 1.0)
    assert not formation.flat_field(1.0).any()


def test_what_stays_at_the_same_pixels_is_the_camera():
    """Columns, rows and pixels of known size out of noise eight times as large as they are."""
    rng = np.random.default_rng(0)
    truth = (rng.normal(0.0, 0.02, WIDTH) + rng.normal(0.0, 0.02, (HEIGHT, 1))
             + rng.normal(0.0, 0.01, (HEIGHT, WIDTH)))
    truth -= truth.mean()
    drawn, formation = batch(1, all_pixels()), CameraResponse('thermal', 1, (WIDTH, HEIGHT))
    for _ in range(400):
        noise = rng.normal(0.0, 0.08, truth.size)
        off = torch.tensor(truth.ravel() + 0.3 + noise, dtype=torch.float32)
        formation.add_residuals(off[:, None], drawn, 10.0)
    left = formation.flat_field(1.0) - truth
    assert left.std() < 0.2 * truth.std()
    # one of the moving things that a map cannot show: bounded
    formation = CameraResponse('thermal', 1, (WIDTH, HEIGHT))
    formation.add_residuals(torch.full((truth.size, 1), 50.0), drawn, 0.1)
    assert formation.residuals[1].max() == pytest.approx(0.1)


def test_noise_alone_makes_no_pattern():
    rng = np.random.default_rng(1)
    count = np.full((HEIGHT, WIDTH), 9.0)
    samples = rng.normal(0.0, 1.0, (9, HEIGHT, WIDTH))
    made = fixed_pattern(np.stack([count, samples.sum(axis=0), (samples**2).sum(axis=0)]))
    assert made.std() < 0.3 * samples.mean(axis=0).std()
    assert not fixed_pattern(np.zeros((3, HEIGHT, WIDTH))).any()


def test_a_flat_field_fits_images_of_another_size():
    """Radial fields by their formula."""
    y, x = np.indices((96, 128)) + 0.5
    r2 = ((x - 64)**2 + (y - 48)**2) / (64**2 + 48**2)
    np.testing.assert_allclose(resized(radial(-2.0, 0.5), (128, 96)), -2.0 * r2 + 0.5 * r2**2,
                               atol=0.05)


def sawtooth(events=(15.2, 31.0, 44.7), rates=(-0.02, 0.03, -0.025, -0.02)):
    """Moments, and what has drifted since the last event."""
    t = np.arange(60) + 0.3
    segment = np.searchsorted(events, t)
    since = t - np.array((0.0, *events))[segment]
    return (t * 1e9).astype(np.int64), np.array(rates)[segment] * since


def test_shutter_events_tell_the_true_level():
    stamps, drift = sawtooth()
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(len(stamps))
    seen = (drift - drift.mean() + rng.normal(0.0, 0.01, len(drift)))[shuffled]
    zero = zero_offset(stamps[shuffled], seen)
    assert zero is not None and zero.events == 3
    assert zero.celsius == pytest.approx(-drift.mean(), abs=0.03)


@pytest.mark.parametrize('case', ['steady', 'one event', 'steps away', 'no stamps', 'few'])
def test_nothing_is_said_where_no_shutter_shows(case):
    stamps, drift = sawtooth()
    if case == 'steady':
        drift = 0.02 * np.sin(stamps * 1e-9)
    elif case == 'one event':
        stamps, drift = stamps[:25], drift[:25]
    elif case == 'steps away':  # the scene warms and cools: leaps do not lead back to one level
        drift = drift + 0.8 * np.searchsorted((15.2, 31.0, 44.7), stamps * 1e-9)
    elif case == 'no stamps':
        stamps = np.zeros_like(stamps)
    else:
        stamps, drift = stamps[:4], drift[:4]
    assert zero_offset(stamps, drift) is None
