# SPDX-License-Identifier: Apache-2.0
"""Both ways to replay a bag: one drive in, its trajectory and what is known of it out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.cli.live import LiveRun, ros_is_here, run_live
from thermal_nerf_loc.cli.output import show_note
from thermal_nerf_loc.cli.replay import Request
from thermal_nerf_loc.common.config import check
from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.evaluation.metrics import updates_hz
from thermal_nerf_loc.evaluation.study.comparison import UpdateRecord
from thermal_nerf_loc.evaluation.study.ground_truth import find_truth
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.topics import CameraTopics
from thermal_nerf_loc.io.bags.transform_tree import TransformBuffer
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.localization.confidence.verdict import sigmas
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.tracking.bag_replay import (find_odometry, find_replay_cameras, Pace,
                                                  Replay, rising_trajectory)
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer
from thermal_nerf_loc.tracking.node_config import NodeConfig, read_parameter_file
from thermal_nerf_loc.tracking.robot_tracker import RobotTracker, RobotUpdate

Array = NDArray[np.float64]

_DISTURBANCE = (0.06, -0.06, 0.05, 0.03, -0.04, 0.07)  # 0.10 m, 5 deg off the truth


class LazyMap:
    """A map file that is read when it is first needed, then kept."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self._path = path
        self._renderer: RadianceMap | None = None

    def get(self) -> RadianceMap:
        """The map."""
        if self._renderer is None:
            self._renderer = RadianceMap.load(self._path)
        return self._renderer


@dataclass(frozen=True, slots=True, eq=False)
class Drive:
    """What came out of a replay, whichever way."""

    trajectory: Trajectory  # of the base in the map
    truth: Trajectory | None
    cameras: Mapping[str, CameraTopics]
    config: NodeConfig
    lost_share: float
    updates: int
    updates_hz: float
    latencies_s: Array
    moments: tuple[UpdateRecord, ...]  # of each update, where known
    details: Mapping[str, Any]


def replay_drive(request: Request, a_map: LazyMap, progress: Progress) -> Drive:
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
        odometry = find_odometry(reader, config.odometry, topics.get('odometry'))
        truth = find_truth(reader, request.truth, request.truth_gap_s)
        config = replace(config, initial_pose=_start(config, truth, request.init))
        if request.through_ros:
            drive = _through_ros(request, config, cameras, odometry, reader.duration_ns / 1e9,
                                 progress)
        else:
            drive = _offline(request, config, cameras, odometry, reader, a_map.get(), progress)
    return replace(drive, truth=truth)


def modalities_of(choice: str) -> tuple[str, ...]:
    """The cameras behind 'both', 'rgb' or 'thermal'."""
    return ('rgb', 'thermal') if choice == 'both' else (choice,)


def _configure(request: Request) -> NodeConfig:
    config = read_parameter_file(request.params_file) if request.params_file else NodeConfig()
    config = replace(config, map=str(request.map), modality=request.modality,
                     initial_pose=request.initial_pose or config.initial_pose,
                     rgb_mask=str(request.masks.get('rgb', config.rgb_mask)),
                     thermal_mask=str(request.masks.get('thermal', config.thermal_mask)))
    check(config, 'option')
    return config


def _start(config: NodeConfig, truth: Trajectory | None, init: str) -> tuple[float, ...]:
    """The pose given, else none, or the truth somewhat off: said aloud, as it is a help."""
    if config.initial_pose or init == 'global':
        return config.initial_pose
    if truth is None or not len(truth):
        raise InputError('no initial pose', expected='--initial-pose X Y Z QX QY QZ QW',
                         hint='The bag has no /ground_truth/pose to start near. With --init '
                              'global the whole map is searched.')
    T = se3.plus(truth.poses[0], _DISTURBANCE)
    metres, degrees = se3.distance(T, truth.poses[0])
    show_note(f'initial pose: the truth of the first moment, {metres:.2f} m and {degrees:.1f} '
              'deg off')
    return (*T[:3, 3].tolist(), *se3.quaternion_from_matrix(T[:3, :3]).tolist())


def _offline(request: Request, config: NodeConfig, cameras: Mapping[str, CameraTopics],
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
        lambda error: show_note(f'a search failed: {error!r}'))
    robot = RobotTracker(Tracker(localizer, config.tracker, BackgroundSearch(runner)))
    if config.initial_pose:
        robot.set_initial_pose(se3.from_quaternion(config.initial_pose[:3],
                                                   config.initial_pose[3:]))
    synchronizer = FrameSynchronizer(config.synchronizer, TransformBuffer(), chosen,
                                     config.thermal_scale.radiometry(), masks=config.masks())
    cameras = {m: cameras[m] for m in chosen}
    task = Replay(reader, cameras, synchronizer, robot, [], pace, config.odometry, odometry)
    started = time.monotonic()
    updates = list(task.updates(config.map_frame, progress))
    seconds = time.monotonic() - started
    _check_updates(updates, task.problems, request.bag)
    posed = [(u.stamp_ns, u.T_map_base) for u in updates if u.T_map_base is not None]
    return Drive(rising_trajectory(posed), None, cameras, config,
                 1.0 - len(posed) / len(updates), len(updates), len(updates) / seconds,
                 np.array([u.seconds for u in updates] if pace is None else pace.latencies_s),
                 tuple(map(_moment, updates)),
                 {**_counts('updates', (u.state for u in updates)),
                  **_counts('searches', (u.searched for u in updates)), 'frames_dropped': 0,
                  **synchronizer.counts, 'images_left_out': len(task.problems),
                  'rate': request.rate})


def _check_updates(updates: list[RobotUpdate], problems: list[str], bag: Path) -> None:
    """Refuse a replay that found nothing, and tell what was left out of one that did."""
    if not updates:
        raise RunError('bag gave no frame to localize', where=bag,
                       got=problems[0] if problems else 'no image')
    if problems:
        show_note(f'{len(problems)} images were left out, the first: {problems[0]}')
    if all(u.T_map_base is None for u in updates):
        raise RunError(f'no pose was found in {len(updates)} frames',
                       got=f'{updates[-1].state}: {updates[-1].reason}',
                       hint='Was the initial pose near, and is it the right map?')


def _moment(update: RobotUpdate) -> UpdateRecord:
    sigma_m = None if update.covariance is None else sigmas(update.covariance)[0]
    return UpdateRecord(update.stamp_ns, update.state, update.reason, update.confidence, sigma_m,
                  update.searched)


def _through_ros(request: Request, config: NodeConfig, cameras: Mapping[str, CameraTopics],
                 odometry: str, seconds: float, progress: Progress) -> Drive:
    from thermal_nerf_loc.io.atomic_files import write_atomically

    parameters = [f'modality:={config.modality}' if len(cameras) == 2 or
                  config.modality != 'both' else f'modality:={next(iter(cameras))}']
    if config.initial_pose:
        parameters.append('initial_pose:=['
                          + ', '.join(f'{v!r}' for v in config.initial_pose) + ']')
    parameters += [f'{name}_mask:={path.resolve()}' for name, path in request.masks.items()]
    remappings = [f'odom:={odometry}'] if config.odometry == 'topic' else []
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
        raise RunError('the node never put a pose on tf', got=_excuse(recording.diagnostics),
                       hint=f'Its log is in {request.out / "node.log"}.')
    told = recording.diagnostics
    asked = max(recording.odometry_count, len(recording.tf))
    return Drive(recording.tf, None, cameras, config, 1.0 - len(recording.tf) / asked,
                 int(told.get('updates', 0)), updates_hz(recording.updates.stamps_ns),
                 recording.latencies_s, (), told)


def _excuse(told: Mapping[str, str]) -> str:
    """What the node's diagnostics say about having no pose."""
    state = ': '.join(filter(None, (told.get('state', 'no diagnostics'), told.get('reason'))))
    return '; '.join(filter(None, (f'{state} after {told.get("updates", 0)} updates',
                                   told.get('last_problem'))))


def _counts(of: str, names: Iterable[str]) -> dict[str, int]:
    return {f'{of}_{name}': count for name, count in sorted(Counter(names).items()) if name}
