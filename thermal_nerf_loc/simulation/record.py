# SPDX-License-Identifier: Apache-2.0
"""Drive a simulated robot through a world, and record a data set or a rosbag2."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
import functools
import heapq
from multiprocessing import get_context
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import check, setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel, R_BASE_CAM
from thermal_nerf_loc.io.bags.reader import BagWriter
from thermal_nerf_loc.io.datasets.scene import GL_FROM_CV
from thermal_nerf_loc.io.datasets.scene_writer import SceneWriter
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.thermal import CENTIKELVIN
from thermal_nerf_loc.simulation.imu import (
    IDEAL_IMU, IMU_FRAME, IMU_TOPIC, ImuNoise, simulate_imu, T_BASE_IMU)
from thermal_nerf_loc.simulation.layouts import make_world, WORLD_NAMES
from thermal_nerf_loc.simulation.paths import (
    IDEAL_ODOMETRY, KINDS, make_motion, Motion, OdometryNoise, simulate_odometry, Stations, survey)
from thermal_nerf_loc.simulation.perturbations import (
    lacks_pose, PerturbationConfig, perturbed_pose, rig_error)
from thermal_nerf_loc.simulation.plant import make_plant, PLANT, PlantConfig
from thermal_nerf_loc.simulation.scene_changes import changed_world, CHANGES, SceneChange
from thermal_nerf_loc.simulation.sensors import (
    IDEAL_RGB, IDEAL_THERMAL, RgbCamera, RgbSensor, ThermalCamera, ThermalSensor)
from thermal_nerf_loc.simulation.world import World

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

RADIOMETRY = CENTIKELVIN
START_NS = 1_700_000_000_000_000_000  # simulated clocks start here
BASE, ODOM, MAP = 'base_link', 'odom', 'map'
OPTICAL = {RGB: 'rgb_optical_frame', THERMAL: 'thermal_optical_frame'}

_FORWARD_M = 0.08  # of the RGB camera before the body's centre
_MAST_M = {'drone': 0.04, 'planar': 0.55}  # of the RGB camera above the body's centre
_PIECE, _MANY_FRAMES = 16, 200  # frames of a process at a time; that several processes take
_DISTORTION = (-0.18, 0.05, 0.0008, -0.0005)  # k1 k2 p1 p2 of a `distorted` RGB camera


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """Settings of a simulation."""

    scene: str = setting('room', 'the world', choices=(*WORLD_NAMES, PLANT))
    plant: PlantConfig = setting(PlantConfig(), 'size of the scene plant')
    seed: int = setting(0, 'of paths and sensors; the world itself never changes', 0, 2**31)
    frames: int = setting(80, 'training frames of a data set, besides the held-out ones', 2,
                          100_000)
    size: tuple[int, int] = setting((160, 120), 'width and height of RGB images')
    thermal_size: tuple[int, int] | None = setting(
        None, 'width and height of thermal images; 3/4 of RGB unless given')
    rgb_fov_deg: float = setting(70.0, 'horizontal field of view', 10, 150)
    thermal_fov_deg: float = setting(57.0, 'horizontal field of view', 10, 150)
    distorted: bool = setting(False, 'give the RGB camera a lens with distortion')
    trajectory: str = setting('drone', 'how the robot moves', choices=KINDS)
    survey: bool = setting(False, 'train on views from everywhere in free space, in all '
                           'directions, instead of those of a drive')
    speed_m_per_s: float | None = setting(
        None, 'mean speed; what suits the scene unless given', 0.01, 10)
    laps: float = setting(3.0, 'laps of a data set', 0.1, 1000)
    seconds: float = setting(20.0, 'length of a bag', 0.1, 36_000)
    storage: str = setting('mcap', 'of a bag', choices=('mcap', 'sqlite3'))
    rgb_hz: float = setting(15.0, 'RGB images a second in a bag', 0.1, 200)
    thermal_hz: float = setting(30.0, 'thermal images a second in a bag', 0.1, 200)
    odometry_hz: float = setting(50.0, 'odometry and ground truth a second in a bag', 0.1, 1000)
    imu_hz: float = setting(0.0, 'IMU samples a second in a bag; 0: no IMU', 0, 2000)
    supersampling: int = setting(2, 'rays along each side of a pixel', 1, 8)
    clean: bool = setting(False, 'perfect cameras and odometry; darkness still holds')
    rgb: RgbSensor = setting(RgbSensor(), 'the RGB camera')
    thermal: ThermalSensor = setting(ThermalSensor(), 'the thermal camera')
    odometry: OdometryNoise = setting(OdometryNoise(), 'drift of the odometry in a bag')
    later: tuple[str, ...] = setting((), 'what has changed since another set with the same seed: '
                                     'heat, light, furniture, people')
    imu: ImuNoise = setting(ImuNoise(), 'errors of the IMU in a bag')
    spoil: PerturbationConfig = setting(PerturbationConfig(), 'errors of the poses and the rig '
                                        'in a data set')
    thermal_offset_m: tuple[float, ...] = setting(
        (0.046, 0.012, -0.006), 'position of the thermal camera in the RGB camera (x right, '
        'y down, z forward)')
    thermal_tilt_deg: tuple[float, ...] = setting(
        (0.6, -1.0, 0.4), 'rotation vector of the thermal camera in the RGB camera')
    held_out_share: float = setting(0.2, 'held-out frames for each training frame', 0, 10)
    processes: int = setting(0, 'that take images of a data set; 0: one a core for many images',
                             0, 1000)

    def __post_init__(self) -> None:
        """Check what the ranges of single fields cannot say."""
        check(self, 'simulation')
        for name in ('size', 'thermal_size'):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or not all(8 <= n <= 8192 for n in size)):
                raise InputError('image size is impossible', where=f'simulation.{name}',
                                 expected='two numbers from 8 to 8192', got=size)
        if unknown := sorted(set(self.later).difference(CHANGES)):
            raise InputError('no such change of the scene', where='simulation.later',
                             expected='some of ' + ', '.join(CHANGES), got=', '.join(unknown))
        if self.scene == PLANT and self.trajectory == 'planar' and self.plant.floors > 1:
            raise InputError('a ground robot climbs no stairs', where='simulation.trajectory',
                             expected='drone, or plant.floors: 1', got=self.trajectory)
        for name in ('thermal_offset_m', 'thermal_tilt_deg'):
            if len(getattr(self, name)) != 3:
                raise InputError('mounting of the thermal camera is impossible',
                                 where=f'simulation.{name}', expected='three numbers',
                                 got=getattr(self, name))


@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """Both cameras on the robot."""

    cameras: dict[str, Camera]
    T_base_sensor: dict[str, Array]

    @property
    def T_rgb_thermal(self) -> Array:
        """Pose of the thermal camera in the RGB camera."""
        return se3.inverse(self.T_base_sensor[RGB]) @ self.T_base_sensor[THERMAL]


def make_rig(settings: SimulationConfig) -> Rig:
    """Mount the cameras; the thermal one has another direction and another lens."""
    width, height = settings.size
    small = settings.thermal_size or (max(8, 3 * width // 4), max(8, 3 * height // 4))
    lens = ({'model': CameraModel.OPENCV, 'distortion': _DISTORTION} if settings.distorted else {})
    T_base_rgb = se3.from_parts(R_BASE_CAM, (_FORWARD_M, 0.0, _MAST_M[settings.trajectory]))
    T_rgb_thermal = se3.from_parts(se3.so3_exp(np.deg2rad(settings.thermal_tilt_deg)),
                                   settings.thermal_offset_m)
    return Rig({RGB: Camera.from_fov(width, height, settings.rgb_fov_deg, **lens),
                THERMAL: Camera.from_fov(*small, settings.thermal_fov_deg)},
               {RGB: T_base_rgb, THERMAL: T_base_rgb @ T_rgb_thermal})


def render_image(world: World, modality: str, camera: Camera, T_world_sensor: Array,
                 supersampling: int = 1) -> Array32:
    """Exact image (height, width, channels), each pixel the mean over its area."""
    n = supersampling
    fine = _rays(camera.resized(n * camera.width, n * camera.height))
    directions = _rotated(T_world_sensor, fine)
    origins = np.broadcast_to(T_world_sensor[:3, 3], directions.shape)
    values = world.render_rays(modality, origins, directions).values
    pixels = values.reshape(camera.height, n, camera.width, n, -1)
    return np.asarray(pixels.mean(axis=(1, 3)), dtype=np.float32)


def render_depth(world: World, camera: Camera, T_world_sensor: Array) -> Array32:
    """Exact depth along z at the pixel centres, (height, width); 0: no surface."""
    rays = _rays(camera)
    directions = _rotated(T_world_sensor, rays)
    hits = world.cast(np.broadcast_to(T_world_sensor[:3, 3], directions.shape), directions)
    depth = np.where(hits.face >= 0, hits.distance_m, 0.0) * rays[:, 2]
    return depth.reshape(camera.height, camera.width).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _rays(camera: Camera) -> Array:
    return camera.rays()


def _rotated(T: Array, directions: Array) -> Array:
    """Rotate without BLAS, whose threads keep spinning for a while and would slow ray casting."""
    return np.asarray(np.einsum('nj,ij->ni', directions, T[:3, :3]))


def _world_of(settings: SimulationConfig) -> World:
    return make_plant(settings.plant) if settings.scene == PLANT else make_world(settings.scene)


class Robot:
    """A robot with its cameras on a path; images are taken in the order of time."""

    def __init__(self, settings: SimulationConfig, held_out: bool, seed: int) -> None:
        """Build world, rig, motion and sensors."""
        self.settings, before = settings, _world_of(settings)
        self.world, self.changes = (changed_world(before, settings.later, settings.seed)
                                    if settings.later else (before, ()))
        self.rig = make_rig(settings)
        self.motion: Motion = make_motion(
            before, settings.trajectory, settings.seed, held_out=held_out,
            speed_m_per_s=settings.speed_m_per_s, mast_m=_MAST_M[settings.trajectory])
        self.path: Motion | Stations = self.motion
        rgb = RgbSensor(**{**_fields(IDEAL_RGB), 'darkness': settings.rgb.darkness})
        self._rgb = RgbCamera(rgb if settings.clean else settings.rgb, seed)
        self.thermal = ThermalCamera(self.rig.cameras[THERMAL], IDEAL_THERMAL if settings.clean
                                     else settings.thermal, seed)

    def T_world_base(self, elapsed_ns: int) -> Array:
        """Pose of the body."""
        T: Array = self.path.poses(elapsed_ns * 1e-9)[0]
        return T

    def take_image(self, modality: str, elapsed_ns: int, with_depth: bool = False) -> SensorImage:
        """Take one image."""
        camera, stamp_ns = self.rig.cameras[modality], START_NS + elapsed_ns
        if modality == THERMAL:
            elapsed_ns += round(1e9 * self.settings.spoil.thermal_delay_s)
        T_world_sensor = self.T_world_base(elapsed_ns) @ self.rig.T_base_sensor[modality]
        exact = render_image(self.world, modality, camera, T_world_sensor,
                             self.settings.supersampling)
        if modality == RGB:
            values, T_cam_sensor = self._rgb.expose(exact, elapsed_ns), np.eye(4)
        else:
            values = self.thermal.expose(exact[..., 0], elapsed_ns).celsius[..., None]
            T_cam_sensor = self.rig.T_rgb_thermal
        depth = render_depth(self.world, camera, T_world_sensor) if with_depth else None
        return SensorImage(camera, values, stamp_ns, T_cam_sensor, depth_m=depth)

    def frame(self, elapsed_ns: int, name: str = '') -> Frame:
        """Take both images at once, with depth and the true pose."""
        images = {modality: self.take_image(modality, elapsed_ns, with_depth=True)
                  for modality in (RGB, THERMAL)}
        return Frame(START_NS + elapsed_ns, images,
                     self.T_world_base(elapsed_ns) @ self.rig.T_base_sensor[RGB], name)


def scene_changes(settings: SimulationConfig) -> tuple[SceneChange, ...]:
    """What has changed in the scene, where it is simulated `later`."""
    if not settings.later:
        return ()
    return changed_world(_world_of(settings), settings.later, settings.seed)[1]


def simulate_dataset(out: Path, settings: SimulationConfig = SimulationConfig(),
                     progress: Progress = silent) -> None:
    """Write a posed image set: a mapping drive to train on, another path held out."""
    held_out = held_out_frames(settings)
    total, done = settings.frames + held_out, 0
    rig, errors = make_rig(settings), settings.spoil
    T_rgb_thermal = rig.T_rgb_thermal @ rig_error(errors, settings.seed)
    truth: dict[str, Any] = {'transform_rgb_thermal': rig.T_rgb_thermal.tolist(), 'poses': {}}
    remarks: dict[str, Any] = {'depth_is_truth': True}
    if settings.later:
        remarks['changes'] = [asdict(change) for change in scene_changes(settings)]
    if errors.is_active:
        remarks['ground_truth'] = truth
    with SceneWriter(out, rig.cameras, T_rgb_thermal, RADIOMETRY,
                     poses_may_lack=errors.unposed > 0.0, remarks=remarks) as writer:
        for split, count in (('train', settings.frames), ('test', held_out)):
            for frame in _drive(settings, split, count):
                assert frame.T_world_cam is not None
                stated = _perturbed_frame(frame, errors, T_rgb_thermal, (settings.seed, done))
                if split == 'train' and lacks_pose(done, errors.unposed):
                    stated = replace(stated, T_world_cam=None)
                name = writer.add(stated, split)
                truth['poses'][f'rgb/{name}.png'] = (frame.T_world_cam @ GL_FROM_CV).tolist()
                done += 1
                progress(done, total, f'{split} frame {frame.name}')


def _perturbed_frame(frame: Frame, errors: PerturbationConfig, T_rgb_thermal: Array,
                     seed: tuple[int, int]) -> Frame:
    """The frame with the pose and the rig that the data set states."""
    assert frame.T_world_cam is not None
    images = {name: replace(image, T_cam_sensor=T_rgb_thermal) if name == THERMAL else image
              for name, image in frame.images.items()}
    return replace(frame, images=images,
                   T_world_cam=perturbed_pose(frame.T_world_cam, errors, seed))


def held_out_frames(settings: SimulationConfig) -> int:
    """Number of held-out frames of a data set."""
    return max(1, round(settings.held_out_share * settings.frames))


def _drive(settings: SimulationConfig, split: str, count: int) -> Iterator[Frame]:
    """Frames at equal steps of time; with many, taken by several processes."""
    pieces = [(begin, min(begin + _PIECE, count)) for begin in range(0, count, _PIECE)]
    processes = settings.processes or (
        len(os.sched_getaffinity(0)) if count >= _MANY_FRAMES else 1)
    _robot_of.cache_clear()  # a camera does not go back in time
    if min(processes, len(pieces)) < 2:
        for piece in pieces:
            yield from (Frame(*parts) for parts in _taken(settings, split, count, *piece))
        return
    first, *pieces = pieces  # taken here: kernels are compiled once
    yield from (Frame(*parts) for parts in _taken(settings, split, count, *first))
    with ProcessPoolExecutor(processes, get_context('spawn')) as pool:
        waiting = deque(pool.submit(_taken, settings, split, count, *piece)
                        for piece in pieces[:2 * processes])
        for following in [*pieces[2 * processes:], *[None] * len(waiting)]:
            yield from (Frame(*parts) for parts in waiting.popleft().result())
            if following is not None:  # few are under way: frames wait in memory
                waiting.append(pool.submit(_taken, settings, split, count, *following))


def _taken(settings: SimulationConfig, split: str, count: int, begin: int, end: int,
           ) -> list[tuple[int, dict[str, SensorImage], Array | None, str]]:
    """Members of some frames, to be sent; while the shutter is closed, at its opening."""
    robot = _robot_of(settings, split, count)
    span_ns = settings.laps * robot.motion.lap_s * 1e9
    stamps_ns = [robot.thermal.next_open_ns(round((i + 0.5) / count * span_ns))
                 for i in range(begin, end)]
    frames = (robot.frame(elapsed_ns, f'{split}_{i:05d}')
              for i, elapsed_ns in enumerate(stamps_ns, begin))
    return [(frame.stamp_ns, dict(frame.images), frame.T_world_cam, frame.name)
            for frame in frames]


@functools.lru_cache(maxsize=2)
def _robot_of(settings: SimulationConfig, split: str, count: int) -> Robot:
    """The robot of a split, kept while its frames are taken in pieces."""
    robot = Robot(settings, held_out=split == 'test', seed=2 * settings.seed + (split == 'test'))
    if settings.survey and split == 'train':
        span_s = settings.laps * robot.motion.lap_s
        robot.path = survey(robot.world, count, span_s, settings.trajectory, settings.seed)
    return robot


def simulate_bag(out: Path, settings: SimulationConfig = SimulationConfig(),
                 progress: Progress = silent) -> None:
    """Record a drive, on the held-out path, as a robot would."""
    robot = Robot(settings, held_out=True, seed=2 * settings.seed + 1)
    end_ns = round(settings.seconds * 1e9)
    ticks = {'odometry': _ticks(settings.odometry_hz, end_ns),
             RGB: _ticks(settings.rgb_hz, end_ns), THERMAL: _ticks(settings.thermal_hz, end_ns)}
    noise = IDEAL_ODOMETRY if settings.clean else settings.odometry
    odometry = simulate_odometry(robot.motion, np.asarray(ticks['odometry'] * 1e-9),
                                 settings.seed, settings.trajectory, noise)
    imu = None
    if settings.imu_hz:
        ticks['imu'] = _ticks(settings.imu_hz, end_ns)
        imu = simulate_imu(robot.motion, np.asarray(ticks['imu'] * 1e-9), T_BASE_IMU,
                           settings.seed, IDEAL_IMU if settings.clean else settings.imu)
    streams = [[(int(t), order, i) for i, t in enumerate(ticks[name])]
               for order, name in enumerate(ticks)]
    with BagWriter(out, settings.storage) as bag:
        bag.transforms(START_NS, [(BASE, OPTICAL[name], T)
                                  for name, T in robot.rig.T_base_sensor.items()]
                       + [(BASE, IMU_FRAME, T_BASE_IMU)] * (imu is not None), static=True)
        for elapsed_ns, order, i in heapq.merge(*streams):
            stamp = START_NS + elapsed_ns
            if order == 0:
                T = odometry.T_odom_base[i]
                bag.odometry('/odom', stamp, ODOM, BASE, T, odometry.twists[i])
                bag.transforms(stamp, [(ODOM, BASE, T)])
                bag.pose('/ground_truth/pose', stamp, MAP, robot.T_world_base(elapsed_ns))
            elif order == 3:
                assert imu is not None
                bag.imu(IMU_TOPIC, stamp, IMU_FRAME, imu.gyro[i], imu.accel[i])
            else:
                _write_image(bag, RGB if order == 1 else THERMAL, robot, elapsed_ns)
            progress(elapsed_ns * 1e-9, settings.seconds, 'seconds recorded')


def _ticks(rate_hz: float, end_ns: int) -> NDArray[np.int64]:
    """Times (ns) at a rate, from 0 up to the end."""
    count = int(end_ns * 1e-9 * rate_hz + 1e-9) + 1
    return np.asarray(np.rint(np.arange(count) * (1e9 / rate_hz)), dtype=np.int64)


def _write_image(bag: BagWriter, modality: str, robot: Robot, elapsed_ns: int) -> None:
    image, frame_id = robot.take_image(modality, elapsed_ns), OPTICAL[modality]
    stamp, topic = image.stamp_ns, f'/{modality}/image_raw'
    if modality == RGB:
        pixels = np.rint(image.values * 255.0).astype(np.uint8)
        bag.image(topic, stamp, frame_id, pixels, 'rgb8')
        bag.compressed_image(f'{topic}/compressed', stamp, frame_id, pixels, 'jpeg')
    else:
        counts = RADIOMETRY.to_counts(image.values[..., 0])
        bag.image(topic, stamp, frame_id, counts, '16UC1')
        bag.compressed_image(f'{topic}/compressed', stamp, frame_id, counts, 'png')
    bag.camera_info(f'/{modality}/camera_info', stamp, frame_id, image.camera)


def _fields(config: RgbSensor) -> dict[str, float]:
    return {name: getattr(config, name) for name in RgbSensor.__slots__}
