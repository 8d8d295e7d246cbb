# SPDX-License-Identifier: Apache-2.0
"""
How confident wrong poses get on a map, found on views that were held out of it.

Each view is localized from starts that are wrong on purpose: at another view's pose, and turned
and shifted from its own. The answers that end elsewhere are the sample. (An inexact one at the
right place is no alias: its covariance tells.) They are too few to count rare ones, so their upper
tail is taken for exponential in logits (peaks over a threshold):
`P(logit confidence > x) = exp(-(x - offset) / scale)`, and a threshold for any rate is

    x = offset + scale log(1 / rate)
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.confidence import logit
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig, set_name
from thermal_nerf_loc.sensing.frame import Frame

Array = NDArray[np.float64]

MIN_VIEWS = 8
MIN_WRONG = 16  # fewer wrong answers have no tail to speak of
_ELSEWHERE_M, _ELSEWHERE_DEG = 0.3, 10.0  # nearer misses are the covariance's to tell
_TAIL_SHARE = 0.25  # of the wrong answers
_LEAST_SCALE = 0.1  # logits: a tail is never steeper
_TURNED_RAD, _SHIFTED_M = np.deg2rad(30.0), 0.5
_SIGMAS = ((0.05, 3.0), (0.1, 10.0))  # m, deg that the starts claim: without and with a search


def measure(renderer: Any, frames: Sequence[Frame], config: LocalizerConfig | None = None,
            seed: int = 0) -> dict[str, tuple[float, float]]:
    """
    Find (offset, scale) and leave them in `renderer.false_confidence`.

    For each modality by itself and for all together. {}: too few views or wrong answers.
    """
    names = [name for name in renderer.modalities
             if all(name in frame.images for frame in frames)]
    renderer.false_confidence = {}
    localizer = Localizer(renderer, config)
    sets = [(name,) for name in names] + ([tuple(names)] if len(names) > 1 else [])
    for modalities in sets if len(frames) >= MIN_VIEWS else []:
        wrong = [confidence for k in range(len(frames))
                 for confidence in _wrong_answers(localizer, frames, k, modalities, seed)]
        if len(wrong) >= MIN_WRONG:
            renderer.false_confidence[set_name(modalities)] = fitted(np.array(wrong))
    return dict(renderer.false_confidence)


def fitted(confidences: Array) -> tuple[float, float]:
    """Offset and scale of the tail of wrong answers' confidences."""
    x = np.sort(logit(confidences))
    count = max(round(_TAIL_SHARE * len(x)), 2)
    base = float(x[-count])
    scale = max(float((x[-count + 1:] - base).mean()), _LEAST_SCALE)
    return base + scale * float(np.log(count / len(x))), scale


def _wrong_answers(localizer: Localizer, frames: Sequence[Frame], k: int,
                   modalities: tuple[str, ...], seed: int) -> Iterator[float]:
    """Confidences of one view's answers that are wrong."""
    frame = frames[k].only(*modalities)
    assert frame.T_world_cam is not None
    for start in _wrong_starts(frames, k, seed):
        for sigma_m, sigma_deg in _SIGMAS:
            sigmas = np.repeat((sigma_m, np.deg2rad(sigma_deg)), 3)
            found = localizer.localize(frame, start, np.diag(sigmas**2))
            metres, degrees = se3.distance(found.T_world_cam, frame.T_world_cam)
            if metres > _ELSEWHERE_M or degrees > _ELSEWHERE_DEG:
                yield found.confidence


def _wrong_starts(frames: Sequence[Frame], k: int, seed: int) -> Iterator[Array]:
    """At another view's pose, and far from its own."""
    rng = np.random.default_rng((seed, k))
    other = frames[(k + int(rng.integers(1, len(frames)))) % len(frames)].T_world_cam
    own = frames[k].T_world_cam
    assert own is not None and other is not None
    yield np.asarray(other)
    v, w = rng.normal(size=(2, 3))
    yield se3.plus(own, np.concatenate([_SHIFTED_M * v / np.linalg.norm(v),
                                        _TURNED_RAD * w / np.linalg.norm(w)]))
