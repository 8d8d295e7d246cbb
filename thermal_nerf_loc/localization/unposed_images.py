# SPDX-License-Identifier: Apache-2.0
"""
Poses for images that came without: found in a map, and believed only where nothing speaks against.

A map that learns from a wrong pose gets worse, so more is asked than of a tracker, which may err
for a moment (`AcceptanceConfig`): a firmer hold, a second look from elsewhere at other pixels that
ends at the same pose, and no camera that by itself says otherwise. Frames near in time to posed
ones come first; their neighbours' poses are where the search begins.
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
from thermal_nerf_loc.localization.confidence.verdict import OK
from thermal_nerf_loc.localization.localizer import Localization, Localizer, LocalizerConfig
from thermal_nerf_loc.sensing.frame import Frame
from thermal_nerf_loc.sensing.rendering import Renderer

Array = NDArray[np.float64]

NEIGHBOURS, SEARCH = 'neighbours', 'search'  # where a pose was begun with
_SECOND_START = (0.03, 2.0)  # m, deg that the second look begins off
_NEAREST = (0.02, 1.0)  # m, deg: no start is better known
_CHI_SQUARE_999 = 22.46  # of 6 degrees of freedom
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class AcceptanceConfig:
    """When a pose that was found may be learned from."""

    max_sigma_m: float = setting(0.02, 'looser positions are refused', 0.0, 100.0)
    max_sigma_deg: float = setting(0.8, 'looser orientations are refused', 0.0, 180.0)
    second_look_m: float = setting(0.02, 'how far a second look may end elsewhere', 0.0, 100.0)
    second_look_deg: float = setting(0.8, 'how far it may end turned', 0.0, 180.0)
    longest_gap_s: float = setting(3.0, 'neighbours further apart in time give no start', 0.0, 1e4)
    speed_m_per_s: float = setting(0.5, 'how much less is known of a pose each second after a '
                                   'neighbour', 0.0, 100.0)
    speed_deg_per_s: float = setting(45.0, 'the same of the orientation', 0.0, 1000.0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pose is not learned from."""

    kind: str  # 'lost', 'ambiguous', 'unstable' or 'contradicted'
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """What came of one frame."""

    frame: UnposedFrame
    localization: Localization
    began: str  # 'neighbours' or 'search'
    refusal: Refusal | None  # None: the pose may be learned from


def find_unposed(renderer: Renderer, scene: Scene, config: AcceptanceConfig = AcceptanceConfig(),
                 localizer: LocalizerConfig = LocalizerConfig(), progress: Progress = silent,
                 ) -> list[Finding]:
    """Look for every frame without a pose; those next in time to what is known come first."""
    finder = _Finder(renderer, config, localizer)
    posed = [scene.frames[i] for i in scene.train]  # what is held out may be of another drive
    stamped = {frame.stamp_ns: frame.T_world_cam for frame in posed if frame.stamp_ns}
    waiting, findings = list(scene.unposed), []
    while waiting:
        chosen = min(waiting, key=lambda frame: _gap_ns(frame.stamp_ns, stamped))
        waiting.remove(chosen)
        findings.append(finder.find(chosen, stamped))
        if findings[-1].refusal is None and chosen.stamp_ns:
            stamped[chosen.stamp_ns] = findings[-1].localization.T_world_cam
        progress(len(findings), len(scene.unposed),
                 f'{sum(f.refusal is None for f in findings)} of {len(findings)} believed')
    return findings


def _gap_ns(stamp_ns: int, known: Mapping[int, Array]) -> float:
    """Time to the nearest pose; frames without a stamp come last."""
    if not stamp_ns or not known:
        return math.inf
    return min(abs(stamp_ns - other_ns) for other_ns in known)


class _Finder:
    """The localizer with its two looks."""

    def __init__(self, renderer: Renderer, config: AcceptanceConfig, localizer: LocalizerConfig,
                 ) -> None:
        strict = replace(localizer.confidence, max_sigma_m=config.max_sigma_m,
                         max_sigma_deg=config.max_sigma_deg)
        self._config = config
        self._first = Localizer(renderer, replace(localizer, confidence=strict))
        self._second = Localizer(renderer, replace(localizer, seed=localizer.seed + 1))

    def find(self, unposed: UnposedFrame, known: Mapping[int, Array]) -> Finding:
        """From its neighbours, and if that does not convince, anywhere."""
        frame, start = unposed.load(), self._between_neighbours(unposed.stamp_ns, known)
        if start is not None:
            found = self._first.localize(frame, start.T, start.P)
            if self._refusal(frame, found) is None:
                return Finding(unposed, found, NEIGHBOURS, None)
        found = self._first.localize_anywhere(frame, () if start is None else (start.T,))
        return Finding(unposed, found, SEARCH, self._refusal(frame, found))

    def _between_neighbours(self, stamp_ns: int, known: Mapping[int, Array],
                            ) -> PoseGaussian | None:
        """Where the frame must about be; None: nothing near in time."""
        gap_s = _gap_ns(stamp_ns, known) * _NS
        if gap_s > self._config.longest_gap_s:
            return None
        moments = sorted(known)
        path = Trajectory(np.array(moments), np.array([known[moment] for moment in moments]))
        T = path.at(stamp_ns, round(self._config.longest_gap_s / _NS))
        if T is None:  # before the first, after the last, or on the rim of a gap
            T = known[min(known, key=lambda moment: abs(moment - stamp_ns))]
        return PoseGaussian(T, diagonal(_NEAREST[0] + self._config.speed_m_per_s * gap_s,
                                  _NEAREST[1] + self._config.speed_deg_per_s * gap_s))

    def _refusal(self, frame: Frame, found: Localization) -> Refusal | None:
        """Why not to learn from this pose."""
        if found.verdict != OK:
            return Refusal(found.verdict, found.reason)
        P = diagonal(*_SECOND_START)
        signs = np.random.default_rng(self._second.config.seed).choice((-1.0, 1.0), 6)
        start = se3.plus(found.T_world_cam, signs * np.sqrt(np.diag(P) / 3.0))
        again = self._second.localize(frame, start, P)
        metres, degrees = se3.distance(found.T_world_cam, again.T_world_cam)
        if metres > self._config.second_look_m or degrees > self._config.second_look_deg:
            return Refusal('unstable', f'a second look ends {metres:.2g} m, {degrees:.2g} deg '
                                       'elsewhere')
        return self._contradiction(frame, found, P)

    def _contradiction(self, frame: Frame, found: Localization, P: Array,
                       ) -> Refusal | None:
        """Which camera says otherwise by itself, from where both together have put it."""
        here = PoseGaussian(found.T_world_cam, found.covariance)
        for name in found.fits if len(found.fits) > 1 else ():
            alone = self._second.localize(frame.only(name), found.T_world_cam, P)
            if alone.verdict != OK and not alone.partial:
                continue
            if here.disagreement(PoseGaussian(alone.T_world_cam,
                                              alone.covariance)) > _CHI_SQUARE_999:
                metres, degrees = se3.distance(found.T_world_cam, alone.T_world_cam)
                return Refusal('contradicted', f'{name} alone ends {metres:.2g} m, '
                                               f'{degrees:.2g} deg elsewhere')
        return None
