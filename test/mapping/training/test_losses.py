# SPDX-License-Identifier: Apache-2.0
"""How modalities and their errors are weighed against each other."""

import numpy as np
import pytest
import torch

from thermal_nerf_loc.mapping.training.losses import Balance, bounded, photometric


def test_a_dull_scene_counts_like_a_colourful_one():
    """Images with a fifth of the contrast, rendered as well, cost and pull the same."""
    rng = np.random.default_rng(0)
    bright = {'rgb': torch.tensor(rng.random((500, 3))), 'thermal': torch.tensor(
        rng.random((500, 1)))}
    terms = []
    for scale in (1.0, 0.2):
        truth = {name: scale * values for name, values in bright.items()}
        balance = Balance({}, {name: float(values.var()) for name, values in truth.items()})
        row = []
        for name, values in truth.items():
            loss = photometric(values + 0.1 * scale * (values / scale - 0.5), values, 'l2')
            row.append(balance.weight(name) * float(loss))
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
    balance = Balance({}, {'rgb': 0.0})
    assert balance.weight('rgb') <= 100.0


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
