# SPDX-License-Identifier: Apache-2.0
"""
Confidence of stereo depth: the probability that it is right to 2 %.

A logistic model of what was seen when the depth was found. Its coefficients were fitted to
simulated rooms, where depth is known: `benchmarks/stereo.py --fit` prints them, and how often
depths of each confidence are wrong.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.sensing.frame import RGB

Array32 = NDArray[np.float32]

RIGHT = 0.02  # relative error up to which a depth is right
_WINDOW = 9  # pixels across, of the larger window that correlates
_FEWEST_AGREEING = 1  # other views, for a depth to be kept
_SURFACE_ENDS = 0.08  # logarithm of a step in depth, which no slanted surface makes in a window
_LEAST = 0.1  # lower confidence is none
_SPREAD, _LARGEST_SPREAD = 0.01, 3.0  # unit of the spread, and where it ends
_MARGIN, _STEP = 0.3, 0.5  # where the margin and the logarithm of a step in depth end
COEFFICIENTS = {
    'constant': -1.1, 'agreeing': 0.74, 'conflicting': -0.31, 'spread': -0.32, 'margin': 2.42,
    'step_behind': -3.84, 'step_before': -2.5, 'known_around': 1.66, 'heat': -0.62,
    'heat_margin': -0.76}


class Evidence(NamedTuple):
    """What speaks for the depths (h, w) of a view."""

    depth: Array32  # 0 where nothing matched
    agreeing: NDArray[np.int32]  # other views, see `consistency`
    conflicting: NDArray[np.int32]
    spread: Array32  # relative, of those that agree
    margin: Array32  # see `semi_global.select`


def confidence_of(evidence: Evidence, modality: str) -> Array32:
    """
    Probability that each depth is right to 2 %; 0 where none is kept.

    None is kept on the near side of a step: windows that hold two surfaces match by the nearer
    one, which has the stronger edge, so that it grows by their radius, in all views alike.
    """
    found = features(evidence, modality)
    score = sum(COEFFICIENTS[name] * value for name, value in found.items())
    kept = ((evidence.agreeing >= _FEWEST_AGREEING) & (evidence.depth > 0.0)
            & (found['step_behind'] < _SURFACE_ENDS))
    probability = np.where(kept, 1.0 / (1.0 + np.exp(-np.asarray(score))), 0.0)
    return np.where(probability > _LEAST, probability, 0.0).astype(np.float32)


def features(evidence: Evidence, modality: str) -> dict[str, NDArray[np.floating]]:
    """
    What the model reads, by the names of its coefficients.

    Beside a step in depth windows hold two surfaces, and the nearer one grows beyond its edge.
    """
    depth = evidence.depth
    around = np.ones((_WINDOW, _WINDOW), np.uint8)
    farthest = cv2.dilate(depth, around)
    nearest = cv2.erode(np.where(depth > 0.0, depth, np.float32(np.inf)), around)
    known = depth > 0.0
    safe = np.where(known, depth, 1.0)
    heat = np.full(depth.shape, np.float32(modality != RGB))
    margin = np.clip(evidence.margin, 0.0, _MARGIN)
    behind, before = (np.clip(np.log(np.maximum(ratio, 1.0)), 0.0, _STEP) for ratio in (
        farthest / safe, safe / np.where(np.isfinite(nearest), nearest, safe)))
    return {
        'constant': np.ones_like(depth), 'agreeing': np.log1p(evidence.agreeing),
        'conflicting': np.log1p(evidence.conflicting),
        'spread': np.minimum(evidence.spread / _SPREAD, _LARGEST_SPREAD), 'margin': margin,
        'step_behind': behind, 'step_before': before,
        'known_around': cv2.blur((evidence.agreeing >= 1).astype(np.float32), (_WINDOW, _WINDOW)),
        'heat': heat, 'heat_margin': heat * margin}
