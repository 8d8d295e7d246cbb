# SPDX-License-Identifier: Apache-2.0
"""Which parameters may change while the node runs, and what a changed set of them means."""

from collections.abc import Iterable
from typing import Any

from thermal_nerf_loc.common.config import from_mapping, to_mapping
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.ros.node_config import NodeConfig

_SUBSCRIPTIONS = 'topics are subscribed to when the node is activated'
_FRAMES = 'frames are fixed while the node is configured'
_START = 'it counts at the start only'

# What a configured node refuses to change, and why.
FIXED = {
    'rgb_transport': _SUBSCRIPTIONS, 'thermal_transport': _SUBSCRIPTIONS,
    'reliable_images': _SUBSCRIPTIONS, 'odometry': _SUBSCRIPTIONS,
    'map_frame': _FRAMES, 'intake.odom_frame': _FRAMES, 'intake.base_frame': _FRAMES,
    'initial_pose': f'{_START}; publish on `initialpose` instead',
    'rgb_mask': _START, 'thermal_mask': _START, 'pose_file': _START, 'autostart': _START,
    'path_poses': _START, 'map_points': _START, 'map_points_spacing_m': _START,
}


def changed_config(config: NodeConfig, parameters: Iterable[Any], configured: bool) -> NodeConfig:
    """The settings after a change; refuses what cannot change now, and wrong values."""
    values = to_mapping(config)
    for parameter in parameters:
        *path, leaf = parameter.name.split('.')
        place = values
        for key in path:
            place = place.get(key, {})
        if leaf not in place:
            continue  # rclpy's own, such as use_sim_time
        value = _plain(parameter.value, place[leaf])
        if configured and parameter.name in FIXED and value != place[leaf]:
            raise InputError('cannot change while the node runs',
                             where=f'parameter {parameter.name}',
                             hint=f'{_sentence(FIXED[parameter.name])} '
                                  f'Clean the node up first, or restart it.')
        place[leaf] = value
    return from_mapping(NodeConfig, values, 'parameter')


def _plain(value: Any, current: Any) -> Any:
    """Arrays and YAML's empty list as tuples."""
    if isinstance(current, tuple):
        return () if value is None else tuple(value)
    return value


def _sentence(text: str) -> str:
    return f'{text[0].upper()}{text[1:]}.'
