# SPDX-License-Identifier: Apache-2.0
"""
Localize a scene's images that have no pose, and accept only poses that pass further checks.

A map that learns from a wrong pose gets worse, so a pose has to pass more checks than in tracking
(`AcceptanceConfig`): a smaller covariance; a second localization, from another start and with
other pixels, that ends at the same pose; and no single camera that contradicts it. Frames near in
time to posed ones come first, and start from the poses of their neighbours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
import math

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_gaussian import diagonal, PoseGaussian
from thermal_nerf_loc.io.datasets.scene import Scene, UnposedFrame
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.localization.confidence.verdict import VERDICT_OK
from thermal_nerf_loc.localization.localizer import Localization, Localizer, LocalizerConfig
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import Frame

Array = NDArray[np.float64]

NEIGHBOURS, SEARCH = 'neighbours', 'search'  # what a localization started from
_RECHECK_START = (0.03, 2.0)  # m, deg: how far off the second localization starts
_MIN_START_SIGMA = (0.02, 1.0)  # m, deg: of a start, besides what grows with the gap in time
_CHI_SQUARE_999 = 22.46  # of 6 degrees of freedom
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class AcceptanceConfig:
    """When a pose is accepted for training."""

    max_sigma_m: float = setting(0.02, 'looser positions are refused', 0.0, 100.0)
    max_sigma_deg: float = setting(0.8, 'looser orientations are refused', 0.0, 180.0)
    recheck_m: float = setting(0.02, 'how far from the first a second localization may end',
                               0.0, 100.0, formerly='second_look_m')
    recheck_deg: float = setting(0.8, 'the same of the orientation', 0.0, 180.0,
                                 formerly='second_look_deg')
    max_gap_s: float = setting(3.0, 'neighbours further away in time give no start', 0.0, 1e4,
                               formerly='longest_gap_s')
    speed_m_per_s: float = setting(0.5, 'by how much the sigma of a start grows with each second '
                                   'to its neighbour', 0.0, 100.0)
    speed_deg_per_s: float = setting(45.0, 'the same of the orientation', 0.0, 1000.0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pose is not accepted."""

    kind: str  # 'lost', 'ambiguous', 'unstable' or 'contradicted'
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """The result for one frame."""

    frame: UnposedFrame
    localization: Localization
    start: str  # 'neighbours' or 'search'
    refusal: Refusal | None  # None: the pose is accepted


def find_unposed(renderer: LocalizationMap, scene: Scene,
                 config: AcceptanceConfig = AcceptanceConfig(),
                 localizer: LocalizerConfig = LocalizerConfig(), progress: Progress = silent,
                 ) -> list[Finding]:
    """Localize every frame without a pose, the one nearest in time to a known pose next."""
    finder = _Finder(renderer, config, localizer)
    posed = [scene.frames[i] for i in scene.train]  # held-out frames may be of another drive
    stamped = {frame.stamp_ns: frame.T_world_cam for frame in posed if frame.stamp_ns}
    waiting, findings = list(scene.unposed), []
    while waiting:
        chosen = min(waiting, key=lambda frame: _gap_ns(frame.stamp_ns, stamped))
        waiting.remove(chosen)
        findings.append(finder.find(chosen, stamped))
        if findings[-1].refusal is None and chosen.stamp_ns:
            stamped[chosen.stamp_ns] = findings[-1].localization.T_world_cam
        progress(len(findings), len(scene.unposed),
                 f'{sum(f.refusal is None for f in findings)} of {len(findings)} accepted')
    return findings


def _gap_ns(stamp_ns: int, known: Mapping[int, Array]) -> float:
    """Time to the nearest known pose; infinite for frames without a stamp."""
    if not stamp_ns or not known:
        return math.inf
    return min(abs(stamp_ns - other_ns) for other_ns in known)


class _Finder:
    """Two localizers: the first finds a pose, the second checks it with other pixels."""

    def __init__(self, renderer: LocalizationMap, config: AcceptanceConfig,
                 localizer: LocalizerConfig) -> None:
        strict = replace(localizer.confidence, max_sigma_m=config.max_sigma_m,
                         max_sigma_deg=config.max_sigma_deg)
        self._config = config
        self._first = Localizer(renderer, replace(localizer, confidence=strict))
        self._second = Localizer(renderer, replace(localizer, seed=localizer.seed + 1))

    def find(self, unposed: UnposedFrame, known: Mapping[int, Array]) -> Finding:
        """Localize from the neighbours; if that is not accepted, search the whole map."""
        frame, start = unposed.load(), self._between_neighbours(unposed.stamp_ns, known)
        if start is not None:
            found = self._first.localize(frame, start.T, start.P)
            if self._refusal(frame, found) is None:
                return Finding(unposed, found, NEIGHBOURS, None)
        found = self._first.localize_anywhere(frame, () if start is None else (start.T,))
        return Finding(unposed, found, SEARCH, self._refusal(frame, found))

    def _between_neighbours(self, stamp_ns: int, known: Mapping[int, Array],
                            ) -> PoseGaussian | None:
        """A start from the neighbours in time; None if there are none near."""
        gap_s = _gap_ns(stamp_ns, known) * _NS
        if gap_s > self._config.max_gap_s:
            return None
        stamps = sorted(known)
        path = Trajectory(np.array(stamps), np.array([known[stamp] for stamp in stamps]))
        T = path.at(stamp_ns, round(self._config.max_gap_s / _NS))
        if T is None:  # before the first, after the last, or at the edge of a gap
            T = known[min(known, key=lambda stamp: abs(stamp - stamp_ns))]
        return PoseGaussian(T, diagonal(
            _MIN_START_SIGMA[0] + self._config.speed_m_per_s * gap_s,
            _MIN_START_SIGMA[1] + self._config.speed_deg_per_s * gap_s))

    def _refusal(self, frame: Frame, found: Localization) -> Refusal | None:
        """Why not to accept this pose; None if it passes all checks."""
        if found.verdict != VERDICT_OK:
            return Refusal(found.verdict, found.reason)
        P = diagonal(*_RECHECK_START)
        signs = np.random.default_rng(self._second.config.seed).choice((-1.0, 1.0), 6)
        start = se3.plus(found.T_world_cam, signs * np.sqrt(np.diag(P) / 3.0))
        again = self._second.localize(frame, start, P)
        metres, degrees = se3.distance(found.T_world_cam, again.T_world_cam)
        if metres > self._config.recheck_m or degrees > self._config.recheck_deg:
            return Refusal('unstable', f'a second localization ends {metres:.2g} m, '
                                       f'{degrees:.2g} deg elsewhere')
        return self._contradiction(frame, found, P)

    def _contradiction(self, frame: Frame, found: Localization, P: Array,
                       ) -> Refusal | None:
        """Which camera alone, started from this pose, ends at another one."""
        estimate = PoseGaussian(found.T_world_cam, found.covariance)
        for name in found.fits if len(found.fits) > 1 else ():
            alone = self._second.localize(frame.only(name), found.T_world_cam, P)
            if alone.verdict != VERDICT_OK and not alone.partial:
                continue
            if estimate.disagreement(PoseGaussian(alone.T_world_cam,
                                                  alone.covariance)) > _CHI_SQUARE_999:
                metres, degrees = se3.distance(found.T_world_cam, alone.T_world_cam)
                return Refusal('contradicted', f'{name} alone ends {metres:.2g} m, '
                                               f'{degrees:.2g} deg elsewhere')
        return None
