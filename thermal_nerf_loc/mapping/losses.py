# SPDX-License-Identifier: Apache-2.0
"""What training minimises: image differences, their balance, and tidy weights along rays."""

import torch
from torch import Tensor
from torch.nn import functional

from thermal_nerf_loc.field.render import Samples


def photometric(rendered: Tensor, truth: Tensor, kind: str) -> Tensor:
    """L2 as published, or Huber (against moving things) with a knee at 0.1."""
    if kind == 'huber':
        return 2.0 * functional.huber_loss(rendered, truth, delta=0.1)
    return functional.mse_loss(rendered, truth)


def distortion(weights: Tensor, samples: Samples, scale_m: float) -> Tensor:
    """
    Spread of the weight along each ray (mip-NeRF 360), in O(samples) by prefix sums.

    Distances are bounded as s = t / (t + scale), so that far fog costs no more than near fog:
    sum_ij w_i w_j |s_i - s_j| + 1/3 sum_i w_i^2 ds_i.
    """
    t = samples.distance_m
    s = t / (t + scale_m)
    ds = samples.width_m * scale_m / (t + scale_m)**2
    mass = torch.cumsum(weights, dim=1) - weights
    moment = torch.cumsum(weights * s, dim=1) - weights * s
    between = 2.0 * (weights * (s * mass - moment)).sum(dim=1)
    within = (weights**2 * ds).sum(dim=1) / 3.0
    return (between + within).mean()


def depth_error(weights: Tensor, samples: Samples, depth_m: Tensor, confidence: Tensor,
                reach_m: float) -> Tensor:
    """
    Mean distance of the weight from a measured surface, beyond `reach_m` flat.

    Rays with unknown depth have confidence 0.
    """
    off = (samples.distance_m - depth_m[:, None]).abs().clamp(max=reach_m) / reach_m
    return ((weights * off).sum(dim=1) * confidence).sum() / confidence.sum().clamp(min=1.0)


class Balance:
    """Weights of the modalities' losses: fixed, or each divided by its own residual variance."""

    def __init__(self, kind: str, fixed: dict[str, float]) -> None:
        """`kind` is 'fixed' or 'learned'."""
        self.kind, self.fixed = kind, fixed
        self.variance: dict[str, float] = {}

    def weight(self, modality: str, loss: Tensor) -> float:
        """
        Factor for this step's loss of a modality.

        The maximum of a Gaussian likelihood in its variance is the mean squared residual, so the
        learned weight is its running inverse, scaled to leave RGB at one.
        """
        fixed = self.fixed.get(modality, 1.0)
        if self.kind == 'fixed':
            return fixed
        now = float(loss.detach())
        self.variance[modality] = 0.98 * self.variance.get(modality, now) + 0.02 * now
        anchor = self.variance.get('rgb', self.variance[modality])
        ratio = anchor / max(self.variance[modality], 1e-8)
        return fixed * min(max(ratio, 0.1), 10.0)
