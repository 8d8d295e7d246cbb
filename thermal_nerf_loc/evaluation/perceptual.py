# SPDX-License-Identifier: Apache-2.0
"""
LPIPS (Zhang et al. 2018), where the package `lpips` and its weights are on the machine.

It is no dependency, and nothing is ever downloaded: without either the score is left out, and
the reason is said.
"""

from dataclasses import dataclass
import importlib
import importlib.util
from pathlib import Path

import numpy as np
import torch

from thermal_nerf_loc.evaluation.map_quality import Array32, Perceptual

_BACKBONE = 'alexnet-owt-7be5be79.pth'  # torchvision's name for what LPIPS (alex) builds on


@dataclass(frozen=True, slots=True)
class LpipsSearch:
    """The score, or why there is none."""

    score: Perceptual | None
    reason: str = ''


def find_lpips() -> LpipsSearch:
    """Load LPIPS (alex) from what is installed."""
    missing = [name for name in ('lpips', 'torchvision')
               if importlib.util.find_spec(name) is None]
    if missing:
        return LpipsSearch(None, f'not installed: {" and ".join(missing)}')
    weights = Path(torch.hub.get_dir()) / 'checkpoints' / _BACKBONE
    if not weights.is_file():
        return LpipsSearch(None, f'no backbone weights at {weights}')
    try:
        network = importlib.import_module('lpips').LPIPS(net='alex', verbose=False).eval()
    except (ImportError, OSError, RuntimeError) as error:  # torchvision of another torch
        return LpipsSearch(None, f'lpips does not load: {" ".join(str(error).split())}')

    @torch.no_grad()
    def score(a: Array32, b: Array32) -> float:
        pair = [torch.from_numpy(np.clip(image, 0.0, 1.0).astype(np.float32) * 2.0 - 1.0)
                .permute(2, 0, 1)[None] for image in (a, b)]
        return float(network(*pair))

    return LpipsSearch(score)
