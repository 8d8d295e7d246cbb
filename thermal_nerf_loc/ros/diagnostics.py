# SPDX-License-Identifier: Apache-2.0
"""TODO."""

from collections.abc import Mapping
from typing import Any


from thermal_nerf_loc.localization.confidence.verdict import sigmas
from thermal_nerf_loc.tracking.robot_tracker import RobotUpdate


def diagnostics_message(name: str, figures: Mapping[str, str], stamp: Any) -> Any:
    """diagnostic_msgs/DiagnosticArray with one status."""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    levels = {'tracking': DiagnosticStatus.OK, 'degraded': DiagnosticStatus.WARN,
              'lost': DiagnosticStatus.ERROR}
    status = DiagnosticStatus(
        level=levels.get(figures['state'], DiagnosticStatus.WARN), name=name,
        message=': '.join(filter(None, (figures['state'], figures['reason']))),
        values=[KeyValue(key=key, value=value) for key, value in figures.items()])
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message


def _carried_by(last: RobotUpdate | None) -> str:
    """Modalities by what they told of the pose, the strongest first."""
    if last is None:
        return ''
    ordered = sorted(last.carried_by.items(), key=lambda item: -item[1])
    return ' '.join([*(f'{name} {share:.0%}' for name, share in ordered),
                     *(f'({name}: {why})' for name, why in last.ignored.items())])


def _told_sigmas(last: RobotUpdate | None) -> dict[str, str]:
    """Worst standard deviations of the last pose; they grow while the images contradict it."""
    if last is None or last.covariance is None:
        return {'sigma_m': '', 'sigma_deg': ''}
    sigma_m, sigma_deg = sigmas(last.covariance)
    return {'sigma_m': f'{sigma_m:.4f}', 'sigma_deg': f'{sigma_deg:.3f}'}
