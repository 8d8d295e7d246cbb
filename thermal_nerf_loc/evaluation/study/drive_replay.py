# SPDX-License-Identifier: Apache-2.0
"""
Replay one bag, offline or through the real ROS node: a request in, a `Drive` out.

Offline the bag's messages go to the same synchronizer and the same tracker that the node has;
through ROS a bag player and the node run as processes (`live_replay`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
import logging
from pathlib import Path
import time
from typing import Any
import warnings

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import check
from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.evaluation.metrics import updates_hz
from thermal_nerf_loc.evaluation.study.comparison import Run, UpdateRecord
from thermal_nerf_loc.evaluation.study.ground_truth import find_truth
from thermal_nerf_loc.evaluation.study.live_replay import LiveRun, ros_is_here, run_live
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.poses import MAX_GAP_S
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.topics import CameraTopics
from thermal_nerf_loc.io.bags.transform_tree import TransformBuffer
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.localization.confidence.verdict import sigmas
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.mapping.tiles.map_loading import load_map
from thermal_nerf_loc.tracking.bag_replay import (find_odometry, find_replay_cameras, Pace,
                                                  Replay, rising_trajectory)
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer
from thermal_nerf_loc.tracking.motion.inertial_motion import IMU_TOPIC
from thermal_nerf_loc.tracking.motion.odometry import ODOMETRY_TOPIC
from thermal_nerf_loc.tracking.node_config import NodeConfig, read_parameter_file
from thermal_nerf_loc.tracking.robot_tracker import RobotTracker, RobotUpdate

Array = NDArray[np.float64]

# Error of the start near the truth: 0.10 m, 5 deg (se3 tangent, m and rad).
_START_ERROR = (0.06, -0.06, 0.05, 0.03, -0.04, 0.07)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What to replay, and how."""

    map: Path
    bag: Path
    out: Path
    modality: str = 'both'
    through_ros: bool = False
    initial_pose: tuple[float, ...] = ()  # x y z qx qy qz qw; empty: see `init`
    topics: Mapping[str, str | None] | None = None  # image topic by modality
    truth: str | None = None  # TUM file, topic or tf:MAP:BASE
    params_file: Path | None = None
    rate: float | None = None  # times real time; None: offline as fast as it goes, live 1
    truth_gap_s: float = MAX_GAP_S  # longer gaps of tf are not bridged
    masks: Mapping[str, Path] = field(default_factory=dict)  # by modality: the robot's own body
    init: str = 'perturb'  # without an initial pose: near the truth, or 'global': anywhere
    device: str | None = None  # None: what the file of parameters says, else auto


class LazyMap:
    """A map file that is read when it is first needed, then kept."""

    def __init__(self, path: Path, device: str | None = None) -> None:
        """Name the file, and where it is rendered."""
        self._path, self._device = path, device or NodeConfig().device
        self._renderer: LocalizationMap | None = None

    def get(self) -> LocalizationMap:
        """The map."""
        if self._renderer is None:
            self._renderer = load_map(self._path, device=self._device)
        return self._renderer


@dataclass(frozen=True, slots=True, eq=False)
class Drive:
    """The outcome of a replay, offline or through ROS."""

    trajectory: Trajectory  # of the base in the map
    truth: Trajectory | None
    cameras: Mapping[str, CameraTopics]
    config: NodeConfig
    lost_share: float
    updates: int
    updates_hz: float
    latencies_s: Array
    records: tuple[UpdateRecord, ...]  # of each update, where known
    details: Mapping[str, Any]  # counts of images, frames, states and searches
    notes: tuple[str, ...] = ()  # for the user


@dataclass(frozen=True, slots=True, eq=False)
class StudiedDrive:
    """One bag with every run on it."""

    name: str
    bag: Path
    folder: Path  # for its files
    runs: tuple[Run, ...]  # the main one first
    drive: Drive  # of the main run
    notes: tuple[str, ...] = ()  # for the user

    @property
    def truth(self) -> Trajectory | None:
        """The base's true poses."""
        return self.drive.truth


def replay_drive(request: ReplayRequest, a_map: LazyMap, progress: Progress) -> Drive:
    """Run one bag through the tracker."""
    if request.through_ros and not ros_is_here():
        raise InputError('--through-ros needs rclpy and tf2_msgs, which do not import here',
                         hint='Source a ROS 2, or leave the option out for the offline replay.')
    if request.rate is not None and not 0.0 < request.rate < np.inf:
        raise InputError('rate is out of range', where='--rate', expected='above 0',
                         got=request.rate)
    config = _configure(request)
    with BagReader(request.bag) as reader:
        topics = request.topics or {}
        cameras = find_replay_cameras(reader, request.bag, modalities_of(config.modality), topics)
        odometry = find_odometry(reader, config.odometry, topics.get(
            'imu' if config.odometry == 'imu' else 'odometry'))
        truth = find_truth(reader, request.truth, request.truth_gap_s)
        initial_pose, notes = _start(config, truth, request.init)
        config = replace(config, initial_pose=initial_pose)
        if request.through_ros:
            drive = _through_ros(request, config, cameras, odometry, reader.duration_ns / 1e9,
                                 progress)
        else:
            drive = _offline(request, config, cameras, odometry, reader, a_map.get(), progress)
    return replace(drive, truth=truth, notes=notes)


def modalities_of(choice: str) -> tuple[str, ...]:
    """The modalities that 'both', 'rgb' or 'thermal' stand for."""
    return ('rgb', 'thermal') if choice == 'both' else (choice,)


def _configure(request: ReplayRequest) -> NodeConfig:
    config = read_parameter_file(request.params_file) if request.params_file else NodeConfig()
    config = replace(config, map=str(request.map), modality=request.modality,
                     initial_pose=request.initial_pose or config.initial_pose,
                     device=request.device or config.device,
                     rgb_mask=str(request.masks.get('rgb', config.rgb_mask)),
                     thermal_mask=str(request.masks.get('thermal', config.thermal_mask)))
    check(config, 'option')
    return config


def _start(config: NodeConfig, truth: Trajectory | None, init: str,
           ) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """
    The initial pose that was given, none, or the first true pose with an error; and notes.

    A start near the truth helps the localizer, so a note tells the user.
    """
    if config.initial_pose or init == 'global':
        return config.initial_pose, ()
    if truth is None or not len(truth):
        raise InputError('no initial pose', expected='--initial-pose X Y Z QX QY QZ QW',
                         hint='The bag has no /ground_truth/pose to start near. With --init '
                              'global the whole map is searched.')
    T = se3.plus(truth.poses[0], _START_ERROR)
    metres, degrees = se3.distance(T, truth.poses[0])
    note = f'initial pose: the first true pose, {metres:.2f} m and {degrees:.1f} deg off'
    return (*T[:3, 3].tolist(), *se3.quaternion_from_matrix(T[:3, :3]).tolist()), (note,)


def _offline(request: ReplayRequest, config: NodeConfig, cameras: Mapping[str, CameraTopics],
             odometry: str, reader: BagReader, renderer: LocalizationMap,
             progress: Progress) -> Drive:
    from thermal_nerf_loc.localization.localizer import Localizer
    from thermal_nerf_loc.localization.warm_up import render_from_middle, warm_up_localizer
    from thermal_nerf_loc.tracking.background_search import (
        BackgroundSearch, InlineRunner, ThreadRunner)
    from thermal_nerf_loc.tracking.tracker import Tracker

    chosen = tuple(m for m in config.chosen_modalities(renderer.modalities) if m in cameras)
    localizer = Localizer(renderer, config.localizer)
    warm_up_localizer(localizer, render_from_middle(renderer, chosen))
    pace = None if request.rate is None else Pace(request.rate)
    runner = InlineRunner() if pace is None else ThreadRunner(
        lambda error: _LOG.warning('a search failed: %r', error))
    inertial = config.inertial()
    robot = RobotTracker(Tracker(localizer, config.tracker, BackgroundSearch(runner), inertial),
                         floor_z_m=config.floor_z_m, inertial=inertial)
    if config.initial_pose:
        robot.set_initial_pose(se3.from_quaternion(config.initial_pose[:3],
                                                   config.initial_pose[3:]))
    synchronizer = FrameSynchronizer(config.synchronizer, TransformBuffer(), chosen,
                                     config.thermal_scale.radiometry(), masks=config.masks(),
                                     time_offsets_s=config.time_offsets_s(),
                                     max_rate_hz=config.max_rate_hz)
    cameras = {m: cameras[m] for m in chosen}
    task = Replay(reader, cameras, synchronizer, robot, [], pace, config.odometry, odometry,
                  inertial)
    started = time.monotonic()
    updates = list(task.updates(config.map_frame, progress))
    seconds = time.monotonic() - started
    _check_updates(updates, task.problems, request.bag)
    posed = [(u.stamp_ns, u.T_map_base) for u in updates if u.T_map_base is not None]
    return Drive(rising_trajectory(posed), None, cameras, config,
                 1.0 - len(posed) / len(updates), len(updates), len(updates) / seconds,
                 np.array([u.seconds for u in updates] if pace is None else pace.latencies_s),
                 tuple(map(_record, updates)),
                 {**_counts('updates', (u.state for u in updates)),
                  **_counts('searches', (u.searched for u in updates)), 'frames_dropped': 0,
                  **synchronizer.counts, 'images_left_out': len(task.problems),
                  'rate': request.rate})


def _check_updates(updates: list[RobotUpdate], problems: list[str], bag: Path) -> None:
    """Refuse a replay that found nothing, and warn of images that were left out."""
    if not updates:
        raise RunError('bag gave no frame to localize', where=bag,
                       got=problems[0] if problems else 'no image')
    if problems:
        warnings.warn(f'{len(problems)} images were left out, the first: {problems[0]}',
                      stacklevel=2)
    if all(u.T_map_base is None for u in updates):
        raise RunError(f'no pose was found in {len(updates)} frames',
                       got=f'{updates[-1].state}: {updates[-1].reason}',
                       hint='Was the initial pose near, and is it the right map?')


def _record(update: RobotUpdate) -> UpdateRecord:
    sigma_m = None if update.covariance is None else sigmas(update.covariance)[0]
    return UpdateRecord(update.stamp_ns, update.state, update.reason, update.confidence, sigma_m,
                        update.searched)


def _through_ros(request: ReplayRequest, config: NodeConfig, cameras: Mapping[str, CameraTopics],
                 odometry: str, seconds: float, progress: Progress) -> Drive:
    from thermal_nerf_loc.io.atomic_files import write_atomically

    parameters = [f'modality:={config.modality}' if len(cameras) == 2 or
                  config.modality != 'both' else f'modality:={next(iter(cameras))}']
    if config.initial_pose:
        parameters.append('initial_pose:=['
                          + ', '.join(f'{v!r}' for v in config.initial_pose) + ']')
    if request.device:
        parameters.append(f'device:={request.device}')
    parameters += [f'{name}_mask:={path.resolve()}' for name, path in request.masks.items()]
    remapped = {'topic': ODOMETRY_TOPIC, 'imu': IMU_TOPIC}.get(config.odometry)
    remappings = [f'{remapped}:={odometry}'] if remapped else []
    for modality, topics in cameras.items():
        tail = '/compressed' if topics.compressed else ''
        parameters.append(f'{modality}_transport:={"compressed" if tail else "raw"}')
        remappings += [f'{modality}/image_raw{tail}:={topics.image}',
                       f'{modality}/camera_info:={topics.info}']
    recording, log = run_live(LiveRun(
        request.map, request.bag, parameters, remappings, [t.image for t in cameras.values()],
        seconds, request.rate or 1.0, request.params_file), progress)
    write_atomically(request.out / 'node.log', '\n'.join(log) + '\n')
    if not len(recording.tf):
        raise RunError('the node never put a pose on tf', got=_last_state(recording.diagnostics),
                       hint=f'Its log is in {request.out / "node.log"}.')
    diagnostics = recording.diagnostics
    expected = max(recording.odometry_count, len(recording.tf))
    return Drive(recording.tf, None, cameras, config, 1.0 - len(recording.tf) / expected,
                 int(diagnostics.get('updates', 0)), updates_hz(recording.updates.stamps_ns),
                 recording.latencies_s, (), diagnostics)


def _last_state(diagnostics: Mapping[str, str]) -> str:
    """The node's last state, its reason, and its last problem."""
    state = ': '.join(filter(None, (diagnostics.get('state', 'no diagnostics'),
                                    diagnostics.get('reason'))))
    return '; '.join(filter(None, (f'{state} after {diagnostics.get("updates", 0)} updates',
                                   diagnostics.get('last_problem'))))


def _counts(of: str, names: Iterable[str]) -> dict[str, int]:
    return {f'{of}_{name}': count for name, count in sorted(Counter(names).items()) if name}
