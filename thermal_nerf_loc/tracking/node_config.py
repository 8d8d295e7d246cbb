# SPDX-License-Identifier: Apache-2.0
"""
The parameters of the localizer node, live and in a replay.

The fields of `NodeConfig` are declared as ROS parameters, and read from a parameter file without
ROS. `changed_config` says which of them may change while the node runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import yaml

from thermal_nerf_loc.common.config import from_mapping, setting, to_mapping
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import read_text
from thermal_nerf_loc.io.images import read_mask
from thermal_nerf_loc.localization.localizer import LocalizerConfig
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.thermal import Radiometry, radiometry_from_mapping, RADIOMETRY_KEYS
from thermal_nerf_loc.sensing.thermal_cameras import radiometry_of
from thermal_nerf_loc.tracking.frame_synchronizer import SynchronizerConfig
from thermal_nerf_loc.tracking.motion.inertial_filter import ImuConfig
from thermal_nerf_loc.tracking.motion.inertial_motion import InertialMotion
from thermal_nerf_loc.tracking.tracker_config import TrackerConfig

TRANSPORTS = ('raw', 'compressed')
_LINEAR_KEYS = ('celsius_per_count', 'celsius_offset')
_QUATERNION_TOLERANCE = 0.01  # typed by hand
_LONGEST_TEXT, _LONGEST_LIST = 4096, 100  # of a parameter

_SUBSCRIPTIONS = 'topics are subscribed to when the node is activated'
_FRAMES = 'frames are fixed while the node is configured'
_START = 'it counts at the start only'

# Parameters that cannot change while the node is configured, and why.
FIXED = {
    'rgb_transport': _SUBSCRIPTIONS, 'thermal_transport': _SUBSCRIPTIONS,
    'reliable_images': _SUBSCRIPTIONS, 'odometry': _SUBSCRIPTIONS,
    'map_frame': _FRAMES, 'synchronizer.odom_frame': _FRAMES, 'synchronizer.base_frame': _FRAMES,
    'initial_pose': f'{_START}; publish on `initialpose` instead',
    'rgb_mask': _START, 'thermal_mask': _START, 'pose_file': _START, 'autostart': _START,
    'memory_mb': _START,
    **{f'imu.{field.name}': _START for field in fields(ImuConfig)},
    'path_poses': _START, 'map_points': _START, 'map_points_spacing_m': _START,
    'threads': _START, 'bond_heartbeat_period': _START, 'amcl_names': _START,
    'occupancy_grid': _START, 'grid_resolution_m': _START, 'grid_low_m': _START,
    'grid_high_m': _START,
}


@dataclass(frozen=True, slots=True)
class ThermalScaleConfig:
    """
    What a 16-bit thermal count means, in one of three ways; hundredths of a kelvin by default.

    A camera known by name; a linear scale, deg C = celsius_per_count * count + celsius_offset; or
    FLIR's Planck constants (`PlanckRadiometry`), of which r1, b, f and o are needed.
    """

    radiometric: bool = setting(True, 'counts are temperatures (false: AGC images)')
    camera: str = setting('', 'thermal camera whose scale is known, such as flir-boson, optris-pi '
                          'or seek; empty: the scale is given below')
    celsius_per_count: float = setting(0.01, 'deg C for one count', -100.0, 100.0)
    celsius_offset: float = setting(-273.15, 'deg C at count zero', -10000.0, 10000.0)
    planck_r1: float | None = setting(None, 'PlanckR1 of the camera')
    planck_b: float | None = setting(None, 'PlanckB, kelvin')
    planck_f: float | None = setting(None, 'PlanckF')
    planck_o: float | None = setting(None, 'PlanckO, counts; usually negative')
    planck_r2: float | None = setting(None, 'PlanckR2 (1 where not given)')
    emissivity: float | None = setting(None, 'of what is seen, for Planck constants (1)')
    reflected_celsius: float | None = setting(None, 'temperature that is reflected (20)')
    transmission: float | None = setting(None, 'of the air (1)')
    atmosphere_celsius: float | None = setting(None, 'temperature of the air (20)')

    def __post_init__(self) -> None:
        """Refuse a mixture of scales, half a scale and impossible constants."""
        self.radiometry()

    def radiometry(self) -> Radiometry | None:
        """The scale; None where counts are no temperatures."""
        linear = {key: getattr(self, key) for key in _LINEAR_KEYS}
        planck = {key: getattr(self, key) for key in RADIOMETRY_KEYS
                  if key not in linear and getattr(self, key) is not None}
        is_linear_given = any(f.name in linear and linear[f.name] != f.default
                              for f in fields(self))
        given = [way for way, is_given in (
            ('camera', self.camera), (' and '.join(linear), is_linear_given),
            (', '.join(planck), planck)) if is_given]
        if len(given) > 1:
            raise InputError('thermal scale is given twice', where='thermal_scale',
                             expected='a camera, celsius_per_count and celsius_offset, or '
                                      'planck_*',
                             got='; '.join(given))
        if self.camera:
            radiometry: Radiometry | None = radiometry_of(self.camera)
        else:
            radiometry = radiometry_from_mapping(planck or linear, 'thermal_scale')
        return radiometry if self.radiometric else None


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Parameters of `localizer_node`."""

    map: str = setting('', 'map to localize in: a file, a folder of tiles, or its address')
    memory_mb: float = setting(400.0, 'memory for loaded tiles of such a folder', 1.0, 1e6)
    device: str = setting('auto', 'where the map is rendered; auto: on the GPU where torch sees '
                          'one', choices=('auto', 'cpu', 'cuda'))
    modality: str = setting('both', 'cameras to use', choices=('both', RGB, THERMAL))
    rgb_transport: str = setting('raw', 'image topic to use', choices=TRANSPORTS)
    thermal_transport: str = setting('raw', 'image topic to use', choices=TRANSPORTS)
    reliable_images: bool = setting(
        False, 'ask for reliable delivery of images (best effort works with every driver)')
    thermal_scale: ThermalScaleConfig = setting(ThermalScaleConfig(), 'thermal counts to deg C')
    rgb_mask: str = setting(
        '', 'image file that is 0 where the RGB camera sees the robot itself; empty: none')
    thermal_mask: str = setting('', 'the same for the thermal camera')
    rgb_time_offset_s: float = setting(
        0.0, 'seconds added to the stamps of RGB images; of a camera that stamps late: negative',
        -10.0, 10.0)
    thermal_time_offset_s: float = setting(0.0, 'the same for thermal images', -10.0, 10.0)
    max_rate_hz: float = setting(0.0, 'most frames tracked in a second; 0: all', 0.0, 1000.0)
    threads: int = setting(0, 'most threads that compute; 0: one for each core', 0, 1024)
    adaptive_effort: bool = setting(
        True, 'render fewer rays for each frame before frames have to be dropped')
    map_frame: str = setting('map', 'frame of the map')
    odometry: str = setting(
        'tf', 'where odometry comes from: tf, the topic `odom`, or nowhere; imu: none, but an '
        'IMU on the topic `imu/data`', choices=('tf', 'topic', 'imu', 'none'))
    imu: ImuConfig = setting(ImuConfig(), 'the IMU, for odometry: imu')
    initial_pose: tuple[float, ...] = setting(
        (), 'pose of the base in the map at the start: x y z qx qy qz qw; empty: unknown')
    planar: bool = setting(
        False, 'the robot stays on a level floor: z, roll and pitch are held to it')
    planar_z_m: float = setting(0.0, 'height of base_frame in the map then', -1e4, 1e4)
    publish_tf: bool = setting(True, 'broadcast map -> odom (or map -> base)')
    transform_tolerance_s: float = setting(
        0.2, 'how far ahead map -> odom is stamped, as in AMCL', 0.0, 10.0)
    pose_file: str = setting(
        '', 'file that keeps the last pose over a restart; it goes before initial_pose; '
        'empty: none')
    pose_save_period_s: float = setting(2.0, 'between two writes of pose_file', 0.1, 3600.0)
    path_poses: int = setting(2000, 'length of ~/path, in poses', 1, 100_000)
    overlay_period_s: float = setting(
        1.0, 'between two pictures on ~/debug/overlay, while it is subscribed to', 0.05, 60.0)
    map_points: bool = setting(True, 'publish the surface of the map on ~/map_points')
    map_points_spacing_m: float = setting(0.05, 'edge of a cell that holds one point', 0.005, 10.)
    occupancy_grid: bool = setting(False, 'publish the occupancy grid of the map on `map`')
    grid_resolution_m: float = setting(0.05, 'edge of a cell of the grid', 0.005, 10.0)
    grid_low_m: float = setting(0.1, 'obstacles begin so high above the floor', -100.0, 1000.0)
    grid_high_m: float = setting(1.8, 'and end so high above it', -100.0, 1000.0)
    diagnostics_period_s: float = setting(1.0, 'between two diagnostics', 0.05, 60.0)
    autostart: bool = setting(True, 'configure and activate without a lifecycle manager')
    bond_heartbeat_period: float = setting(
        0.25, 'seconds between heartbeats for a lifecycle manager, where bond_core is installed; '
        '0: none', 0.0, 3600.0)
    amcl_names: bool = setting(
        False, "also have AMCL's services at its own names, in the node's namespace, and publish "
        'the pose on amcl_pose')
    synchronizer: SynchronizerConfig = setting(
        SynchronizerConfig(), 'pairing of images and transforms', formerly='intake')
    localizer: LocalizerConfig = setting(LocalizerConfig(), 'alignment of a frame with the map')
    tracker: TrackerConfig = setting(TrackerConfig(), 'filtering of poses over time')

    def __post_init__(self) -> None:
        """Check length and quaternion of the initial pose."""
        if len(self.initial_pose) not in (0, 7):
            raise InputError('initial pose has the wrong length', where='initial_pose',
                             expected='x y z qx qy qz qw', got=f'{len(self.initial_pose)} numbers')
        norm = math.hypot(*self.initial_pose[3:])
        if self.initial_pose and not abs(norm - 1.0) < _QUATERNION_TOLERANCE:
            raise InputError('initial pose has no unit quaternion', where='initial_pose',
                             expected='qx qy qz qw of norm 1', got=f'norm {norm:.4g}')

    def time_offsets_s(self) -> dict[str, float]:
        """Seconds added to the stamps of each camera."""
        return {RGB: self.rgb_time_offset_s, THERMAL: self.thermal_time_offset_s}

    @property
    def floor_z_m(self) -> float | None:
        """Height of the base in the map; None: the robot is not held to a floor."""
        return self.planar_z_m if self.planar else None

    def inertial(self) -> InertialMotion | None:
        """The motion by the IMU, where one is used."""
        return InertialMotion(self.imu) if self.odometry == 'imu' else None

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Pixels that count, of the cameras that see the robot's own body."""
        files = {RGB: self.rgb_mask, THERMAL: self.thermal_mask}
        return {name: read_mask(Path(file)) for name, file in files.items() if file}

    def chosen_modalities(self, available: tuple[str, ...]) -> tuple[str, ...]:
        """The cameras to use with a map of these modalities."""
        wanted = available if self.modality == 'both' else (self.modality,)
        missing = [name for name in wanted if name not in available]
        if missing:
            raise InputError(f'the map has no {missing[0]}', where='parameter modality',
                             expected='one of ' + ', '.join(available), got=self.modality)
        return tuple(name for name in wanted if name in (RGB, THERMAL))


def read_parameter_file(path: Path) -> NodeConfig:
    """Read a ROS parameter file as the node does, without ROS: `NODE: ros__parameters: ...`."""
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError('is no YAML', where=path, got=' '.join(str(error).split())) from None
    blocks = list(content.values()) if isinstance(content, dict) else []
    if len(blocks) != 1 or not isinstance(blocks[0], dict) or 'ros__parameters' not in blocks[0]:
        raise InputError('is no ROS parameter file for one node', where=path,
                         expected="'/**:' with 'ros__parameters:' below it")
    values = _unfold(blocks[0]['ros__parameters'] or {})
    values.pop('use_sim_time', None)  # rclpy's own
    return from_mapping(NodeConfig, values, str(path))


def _unfold(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`a.b: 1` means `a: {b: 1}`."""
    out: dict[str, Any] = {}
    for key, value in parameters.items():
        value = _unfold(value) if isinstance(value, dict) else value
        for part in reversed(str(key).split('.')):
            value = {part: value}
        _merge(out, value)
    return out


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def changed_config(config: NodeConfig, parameters: Iterable[Any], configured: bool) -> NodeConfig:
    """
    The config after a change of some parameters (each with `name` and `value`).

    Refuses wrong values and, while the node is configured, a change of `FIXED` parameters.
    """
    values = to_mapping(config)
    for parameter in parameters:
        *groups, key = parameter.name.split('.')
        group = values
        for name in groups:
            group = group.get(name, {})
        if key not in group:
            continue  # rclpy's own, such as use_sim_time
        value = _plain(parameter.value, group[key], parameter.name)
        if configured and parameter.name in FIXED and value != group[key]:
            reason = FIXED[parameter.name]
            raise InputError('cannot change while the node runs',
                             where=f'parameter {parameter.name}',
                             hint=f'{reason[0].upper()}{reason[1:]}. '
                                  f'Clean the node up first, or restart it.')
        group[key] = value
    return from_mapping(NodeConfig, values, 'parameter')


def _plain(value: Any, current: Any, name: str) -> Any:
    """Arrays, and YAML's empty list, as tuples; what would only cost memory is refused."""
    longest = _LONGEST_TEXT if isinstance(current, str) else _LONGEST_LIST
    if hasattr(value, '__len__') and len(value) > longest:
        raise InputError('value is too long', where=f'parameter {name}',
                         expected=f'at most {longest}', got=len(value))
    if isinstance(current, tuple):
        return () if value is None else tuple(value)
    return value
