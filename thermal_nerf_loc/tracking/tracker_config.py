# SPDX-License-Identifier: Apache-2.0
"""Settings and states of the tracker."""

from dataclasses import dataclass

from thermal_nerf_loc.common.config import setting

INITIALIZING, TRACKING, DEGRADED, LOST = 'initializing', 'tracking', 'degraded', 'lost'
CONFIRMED = (TRACKING, DEGRADED)  # states in which the pose was confirmed by agreeing fixes


@dataclass(frozen=True, slots=True)
class TrackerConfig:
    """How poses are filtered over time."""

    initial_sigma_m: float = setting(0.2, 'how far off a given start may be', 0.001, 10.0)
    initial_sigma_deg: float = setting(10.0, 'how far turned it may be', 0.1, 180.0)
    odometry_drift: float = setting(0.05, 'error of odometry, share of the motion', 0.0, 1.0)
    odometry_sigma_m: float = setting(0.005, 'its least error in one step', 0.0, 1.0)
    odometry_sigma_deg: float = setting(0.2, 'its least error in one step', 0.0, 45.0)
    acceleration_m_s2: float = setting(1.0, 'without odometry: typical acceleration', 0.0, 100.0)
    acceleration_deg_s2: float = setting(90.0, 'without odometry: typical turn', 0.0, 3600.0)
    unknown_speed_m_s: float = setting(0.5, 'speed of a robot whose motion is not known', 0., 100.)
    unknown_turn_deg_s: float = setting(45.0, 'the same for its rotation', 0.0, 3600.0)
    fix_sigma_m: float = setting(0.005, 'no single fix is trusted beyond this', 1e-5, 1.0)
    fix_sigma_deg: float = setting(0.1, 'no single fix is trusted beyond this', 1e-4, 45.0)
    gate: float = setting(22.5, 'largest squared Mahalanobis distance of a fix (6 degrees of '
                          'freedom; 22.5: one in a thousand)', 1.0, 1e6)
    confirmations: int = setting(2, 'agreeing fixes that make a start or a find count', 1, 100)
    takeover: int = setting(5, 'agreeing fixes that overrule the filter', 2, 1000)
    degraded_after: int = setting(2, 'missed fixes in a row until degraded', 1, 1000)
    contradiction_s: float = setting(0.25, 'images that contradict for so long make it ten times '
                                     'as likely that the robot was carried away', 0.01, 60.0)
    carried_sigma_m: float = setting(1.5, 'how far it may have been carried', 0.0, 100.0)
    carried_sigma_deg: float = setting(45.0, 'how far it may have been turned', 0.0, 180.0)
    lost_sigma_m: float = setting(0.5, 'lost when the position is no better known', 0.01, 100.0)
    lost_sigma_deg: float = setting(15.0, 'lost when the heading is no better known', 0.1, 180.0)
    lost_after_s: float = setting(5.0, 'lost after so long without a fix', 0.1, 3600.0)
    search: bool = setting(True, 'search the whole map while no pose is known, or it is lost')
    search_after_s: float = setting(2.0, 'a given start that is not confirmed for so long is '
                                    'searched for in the whole map', 0.0, 3600.0)
    search_pause_s: float = setting(0.3, 'between a search in vain and the next', 0.0, 3600.0)
    check_period_s: float = setting(10.0, 'between two searches that check a tracked pose; '
                                    '0: none', 0.0, 3600.0)
