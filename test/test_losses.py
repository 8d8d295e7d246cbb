# SPDX-License-Identifier: Apache-2.0
"""How modalities are weighed against each other, and what cameras add to the scene."""

import numpy as np
import pytest
import torch

from thermal_nerf_loc.mapping.formation import Formation
from thermal_nerf_loc.mapping.losses import Balance, bounded, photometric
from thermal_nerf_loc.mapping.pixels import RayBatch
from thermal_nerf_loc.sensing.vignetting import falloff


@pytest.mark.parametrize('kind', ['fixed', 'learned'])
def test_a_dull_scene_counts_like_a_colourful_one(kind):
    """Images with a fifth of the contrast, rendered as well, cost and pull the same."""
    rng = np.random.default_rng(0)
    bright = {'rgb': torch.tensor(rng.random((500, 3))), 'thermal': torch.tensor(
        rng.random((500, 1)))}
    terms = []
    for scale in (1.0, 0.2):
        truth = {name: scale * values for name, values in bright.items()}
        balance = Balance(kind, {}, {name: float(values.var()) for name, values in truth.items()})
        row = []
        for name, values in truth.items():
            loss = photometric(values + 0.1 * scale * (values / scale - 0.5), values, 'l2')
            row.append(balance.weight(name, loss) * float(loss))
        terms.append(row)
    assert terms[1] == pytest.approx(terms[0], rel=1e-6)


@pytest.mark.parametrize('knee', [0.05, 0.5])
def test_hot_edges_pull_no_harder_than_at_one_contrast(knee):
    """Slopes: 2 e / knee where errors are small, and 2 contrasts for all that lie beyond."""
    contrast, errors = 0.2, torch.tensor([0.1 * knee, knee, 1.5, 4.0], dtype=torch.float64) * 0.2
    truth = torch.zeros(4, 1, dtype=torch.float64)
    rendered = errors[:, None].clone().requires_grad_()
    bounded(rendered, truth, knee, contrast).backward()
    expected = [0.2 * contrast, 2 * contrast, 2 * contrast, 2 * contrast]
    np.testing.assert_allclose(4 * rendered.grad[:, 0], expected, rtol=1e-12)


def test_an_edge_half_seen_stays_sharp():
    """Of pixels that show hot or cold, squares want the mean; the bounded loss the majority."""
    truth = torch.tensor([[1.0]] * 3 + [[0.0]] * 7)
    best = {}
    values = torch.linspace(0.0, 1.0, 1001)
    for name, loss in (('squares', lambda v: photometric(v.expand(10, 1), truth, 'l2')),
                       ('bounded', lambda v: bounded(v.expand(10, 1), truth, 0.05, 0.4))):
        best[name] = float(values[int(torch.stack([loss(v) for v in values]).argmin())])
    assert best['squares'] == pytest.approx(0.3, abs=1e-3)
    assert best['bounded'] < 0.03


def test_noise_alone_is_not_blown_up():
    """Flat images have next to no variance; their weight stays bounded."""
    balance = Balance('fixed', {}, {'rgb': 0.0})
    assert balance.weight('rgb', torch.tensor(1.0)) <= 100.0


def test_the_learned_weight_is_the_inverse_of_the_residuals_variance():
    balance = Balance('learned', {}, {'rgb': 0.04, 'thermal': 0.04})
    assert balance.weight('rgb', torch.tensor(0.01)) == pytest.approx(1.0)
    assert balance.weight('thermal', torch.tensor(0.0025)) == pytest.approx(4.0)


def test_huber_is_not_drawn_to_what_passes_by():
    """One pixel in six shows somebody else; the small residuals count as in l2."""
    truth = torch.tensor([0.3] * 50 + [0.9] * 10)[:, None]
    places = torch.linspace(0.2, 1.0, 801)
    best = {kind: float(places[min(range(len(places)), key=lambda k: float(
        photometric(places[k].expand_as(truth), truth, kind)))]) for kind in ('l2', 'huber')}
    assert best['l2'] == pytest.approx(0.4, abs=2e-3)  # the mean
    assert best['huber'] == pytest.approx(0.32, abs=2e-3)  # 50 (x - 0.3) = 10 * 0.1
    near = torch.tensor([[0.31], [0.35]])
    assert float(photometric(near, torch.full_like(near, 0.3), 'huber')) == pytest.approx(
        float(photometric(near, torch.full_like(near, 0.3), 'l2')))


def batch(images, pixels_per_image, seed=0):
    rng = np.random.default_rng(seed)
    count = images * pixels_per_image
    zeros = np.zeros((count, 3), np.float32)
    return RayBatch(zeros, zeros, torch.zeros(count, 1), torch.zeros(count), torch.zeros(count),
                    torch.arange(images).repeat_interleave(pixels_per_image),
                    torch.tensor(rng.random(count), dtype=torch.float32), zeros)


def test_drift_and_vignetting_are_found():
    """A camera of known faults before a flat scene: least squares must find them again."""
    drawn, k2, k4 = batch(7, 300), -0.06, 0.02
    offsets = torch.tensor(np.random.default_rng(2).normal(0.0, 0.03, 7), dtype=torch.float32)
    vignetting = falloff((k2, k4), drawn.radius_squared.numpy())[:, None]
    seen = 0.5 + offsets[drawn.image][:, None] + torch.from_numpy(vignetting)
    scene, formation = torch.tensor([0.4], requires_grad=True), Formation('thermal', 7)
    optimizer = torch.optim.LBFGS([scene, *formation.parameters()], max_iter=200,
                                  tolerance_grad=1e-10, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss = 1e4 * ((formation(scene.expand(len(seen), 1), drawn) - seen)**2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert formation.vignetting(10.0) == pytest.approx((10 * k2, 10 * k4), abs=1e-2)
    found = formation.level - formation.level.mean()
    torch.testing.assert_close(found.detach(), offsets - offsets.mean(), atol=1e-4, rtol=0.0)
    assert float(scene.detach()) == pytest.approx(0.5 + float(offsets.mean()), abs=1e-4)


def test_colour_has_gains_and_no_vignetting():
    formation, drawn = Formation('rgb', 2), batch(2, 5)
    with torch.no_grad():
        formation.level[:] = torch.tensor([0.1, -0.3])
    seen = formation(torch.ones(10, 3), drawn)
    np.testing.assert_allclose(seen.detach(), np.exp([[0.2]] * 5 + [[-0.2]] * 5) @ np.ones((1, 3)),
                               rtol=1e-6)
    assert formation.vignetting(1.0) == (0.0, 0.0)
