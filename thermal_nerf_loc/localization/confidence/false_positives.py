# SPDX-License-Identifier: Apache-2.0
"""
How confident wrong poses get on a map, measured on views that were held out of it.

Each view is localized from starts that are wrong on purpose: at other views' poses, and turned
and shifted from its own. The answers that end elsewhere are the sample. (An inexact answer at the
right place is no false positive: its covariance covers it.) They are too few to count rare ones,
so the upper tail of their logits is fitted by a generalised Pareto distribution (peaks over a
threshold), and the value that a share `rate` of wrong answers exceeds is

    x = offset + scale (rate^-shape - 1) / shape        shape < 0

Correlation ends at 1, and so confidence has a bound: the tail ends there at the latest (without
a bound, few samples would often ask for more than any pose could have).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.batches import in_batches
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.confidence.covariance_calibration import MIN_VIEWS
from thermal_nerf_loc.localization.confidence.verdict import highest_logit, logit
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig, set_name
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap, Tail, WrappedMap
from thermal_nerf_loc.sensing.frame import Frame

Array = NDArray[np.float64]

MIN_WRONG = 16  # fewer wrong answers have no tail
_ELSEWHERE_M, _ELSEWHERE_DEG = 0.3, 10.0  # nearer misses are left to the covariance
_TAIL_SHARE = 0.25  # of the wrong answers, the most confident ones
_STARTS = 2  # of each kind
_FEWEST_VIEWS = 6  # where time is short: just enough for `MIN_WRONG`
LOCALIZED_A_VIEW = 2 * _STARTS  # and set of modalities
_MIN_SCALE = 0.1  # logits: a tail is never steeper
_MIN_SHAPE, _MAX_SHAPE = -0.5, -1e-3  # what few samples can support; next to exponential
_TURNED_RAD, _SHIFTED_M = np.deg2rad(30.0), 0.5
# m, deg: what the localizer is given as sigmas of a start. The first needs no search around it.
_SIGMAS = ((0.05, 3.0), (0.1, 10.0))


def measure_tails(localization_map: LocalizationMap, frames: Sequence[Frame],
                  config: LocalizerConfig | None = None, seed: int = 0,
                  progress: Progress = silent, seconds: float | None = None) -> dict[str, Tail]:
    """
    Find the tails for each modality alone and for all together ('rgb+thermal').

    Views are localized in parallel, in their order; with `seconds` as many as there is time for.

    {}: too few views or wrong answers. Tails that the map has already are not used, nor changed.
    """
    names = [name for name in localization_map.modalities
             if all(name in frame.images for frame in frames)]
    localizer = Localizer(WrappedMap(localization_map, false_positive_tails={}), config)
    highest = highest_logit(localizer.config.confidence)
    sets = [(name,) for name in names] + ([tuple(names)] if len(names) > 1 else [])
    tails = {}
    for modalities in sets if len(frames) >= MIN_VIEWS else []:
        by_view = in_batches(
            lambda k, modalities=modalities: list(  # type: ignore[misc]
                _wrong_answers(localizer, frames, k, modalities, seed)),
            len(frames), progress, f'confidence of wrong poses, {" and ".join(modalities)}',
            None if seconds is None else seconds / len(sets), _FEWEST_VIEWS)
        wrong = [confidence for answers in by_view for confidence in answers]
        if len(wrong) >= MIN_WRONG:
            tails[set_name(modalities)] = fit_tail(np.array(wrong), highest)
    return tails


def fit_tail(confidences: Array, highest: float) -> Tail:
    """Offset, scale and shape of the tail of wrong answers' confidences, up to a logit."""
    x = np.sort(logit(confidences))
    count = max(round(_TAIL_SHARE * len(x)), 2)
    base, share = float(x[-count]), count / len(x)
    scale, shape = _pareto(x[-count + 1:] - base, highest - base)
    # The fit is relative to the share above `base`; these are relative to all.
    return base + scale * (share**shape - 1.0) / shape, scale * share**shape, shape


def _pareto(excesses: Array, end: float) -> tuple[float, float]:
    """
    Scale and shape of sorted excesses, none above `end`, by probability-weighted moments.

    Hosking and Wallis, "Parameter and quantile estimation for the generalized Pareto
    distribution" (1987); the shape within its limits, the scale then from the mean. The tail
    ends at -scale / shape, with scale = mean (1 - shape).
    """
    n = len(excesses)
    above = 1.0 - (np.arange(1, n + 1) - 0.35) / n
    mean, weighted = float(excesses.mean()), float((above * excesses).mean())
    shape = 2.0 - mean / max(mean - 2.0 * weighted, 1e-9)
    highest_shape = -mean / max(end - mean, mean)
    shape = min(max(shape, _MIN_SHAPE), highest_shape, _MAX_SHAPE)
    return max(mean * (1.0 - shape), _MIN_SCALE), shape


def _wrong_answers(localizer: Localizer, frames: Sequence[Frame], k: int,
                   modalities: tuple[str, ...], seed: int) -> Iterator[float]:
    """Confidences of one view's answers that are wrong."""
    frame = frames[k].only(*modalities)
    assert frame.T_world_cam is not None
    for i, start in enumerate(_wrong_starts(frames, k, seed)):
        # each kind of start once with each; both with every start tell no more of a view
        sigma_m, sigma_deg = _SIGMAS[(i // 2 + k) % len(_SIGMAS)]
        sigmas = np.repeat((sigma_m, np.deg2rad(sigma_deg)), 3)
        found = localizer.localize(frame, start, np.diag(sigmas**2))
        metres, degrees = se3.distance(found.T_world_cam, frame.T_world_cam)
        if metres > _ELSEWHERE_M or degrees > _ELSEWHERE_DEG:
            yield found.confidence


def _wrong_starts(frames: Sequence[Frame], k: int, seed: int) -> Iterator[Array]:
    """Other views' poses, and poses far from its own."""
    rng = np.random.default_rng((seed, k))
    own = frames[k].T_world_cam
    assert own is not None
    for _ in range(_STARTS):
        other = frames[(k + int(rng.integers(1, len(frames)))) % len(frames)].T_world_cam
        assert other is not None
        yield np.asarray(other)
        v, w = rng.normal(size=(2, 3))
        yield se3.plus(own, np.concatenate([_SHIFTED_M * v / np.linalg.norm(v),
                                            _TURNED_RAD * w / np.linalg.norm(w)]))
