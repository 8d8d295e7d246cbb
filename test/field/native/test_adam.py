# SPDX-License-Identifier: Apache-2.0
"""Adam on touched rows of a table against torch's own, which updates all rows at every step."""

from copy import deepcopy

import pytest
import torch

from thermal_nerf_loc.field.native.adam import LINE, serves, TableAdam
from thermal_nerf_loc.field.native.library import library

pytestmark = pytest.mark.skipif(library() is None, reason='the compiled kernels are not built')

BETAS = 0.9, 0.99


def both(rows=24, features=4, seed=0):
    """A table and a network in each of two optimizers."""
    torch.manual_seed(seed)
    start, weight = torch.randn(rows, features), torch.randn(3, 5)
    made = []
    for kind in ('ours', 'torch'):
        table, net = (torch.nn.Parameter(part.clone()) for part in (start, weight))
        groups = [{'params': [table], 'lr': 0.02, 'eps': 1e-15, 'tables': True},
                  {'params': [net], 'lr': 0.005}]
        made.append((table, net, TableAdam(groups, BETAS) if kind == 'ours' else
                     torch.optim.Adam(groups, betas=BETAS)))
    return made


def take_steps(made, steps, touched, seed=1):
    """The same gradients for both; rows that are not `touched(step)` get none."""
    rng = torch.Generator().manual_seed(seed)
    for step in range(steps):
        of_table = torch.randn(made[0][0].shape, generator=rng) * touched(step)[:, None]
        of_net = torch.randn(made[0][1].shape, generator=rng)
        for table, net, optimizer in made:
            optimizer.zero_grad(set_to_none=False)
            for parameter, gradient in ((table, of_table), (net, of_net)):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad += gradient  # as a backward pass adds it
            optimizer.step()


def test_rows_that_are_touched_at_every_step():
    made = both()
    take_steps(made, 40, lambda step: torch.ones(24))
    for a, b in zip(made[0][:2], made[1][:2]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_idle_rows_catch_up_with_their_momentum():
    """A line of four rows of four features goes by itself; bias corrections have settled."""
    made, lines = both(), torch.arange(24) * 4 // LINE
    take_steps(made, 600, lambda step: torch.ones(24))
    before = made[0][0].detach().clone()
    take_steps(made, 31, lambda step: ((lines + step) % 6 == 0).float(), seed=2)
    ours, theirs = made[0][0].detach(), made[1][0].detach()
    behind = float((ours - theirs).abs().max())
    made[0][2].settle()
    assert float((ours - theirs).abs().max()) < min(0.1 * behind, 2e-4)
    assert float((theirs - before).abs().max()) > 0.02


def test_idle_rows_are_not_written():
    made = both()
    take_steps(made, 5, lambda step: (torch.arange(24) >= 4).float())
    torch.manual_seed(0)
    assert torch.equal(made[0][0][:4], torch.randn(24, 4)[:4])
    assert not made[0][0].grad.any()


def test_goes_on_where_a_checkpoint_ends():
    """Its own, or one of torch's optimizer on a machine without the kernels."""
    made = both()
    take_steps(made, 7, lambda step: torch.ones(24))
    for source in made:
        table, net, optimizer = both()[0]
        with torch.no_grad():
            table.copy_(source[0])
            net.copy_(source[1])
        optimizer.load_state_dict({'state': deepcopy(source[2].state_dict()['state']),
                                   'param_groups': optimizer.state_dict()['param_groups']})
        again = both()[1]
        with torch.no_grad():
            again[0].copy_(made[1][0])
            again[1].copy_(made[1][1])
        again[2].load_state_dict(deepcopy(made[1][2].state_dict()))
        take_steps([(table, net, optimizer), again], 5, lambda step: torch.ones(24), seed=3)
        torch.testing.assert_close(table, again[0], rtol=1e-5, atol=1e-6)


def test_other_tables_are_left_to_torch():
    assert serves([torch.zeros(8, 4)])
    assert not serves([torch.zeros(8, 4, dtype=torch.float64)])
    assert not serves([torch.zeros(3, 1)])
