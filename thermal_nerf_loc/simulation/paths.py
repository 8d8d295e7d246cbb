# SPDX-License-Identifier: Apache-2.0
"""
Paths of a simulated robot through free space, survey poses, and odometry that drifts.

Paths are twice differentiable. The body frame `base` is that of ROS: x forward, y left, z up.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline
from scipy.stats import qmc

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.simulation.world import World

Array = NDArray[np.float64]

KINDS = ('drone', 'planar')
CLEARANCE_M = 0.30  # between a path and every surface
PLANAR_HEIGHT_M = 0.35  # of a ground robot's body centre

_CHECKED_LAPS = 8  # for clearance
_CHECKS_PER_LAP = 200
_TWIST_STEP_S = 1e-4  # of the central difference
_WAVES = 6  # x, y, z, yaw, pitch, roll
_SURVEY_REACH_M = 0.3  # above and below the loop
_SURVEY_PITCH_RAD = 0.35  # up and down
_SURVEY_DRAWS = 20  # poses drawn for each one that is kept: most may be inside of furniture


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Pose of the body as a function of time, without end; every lap differs."""

    position: CubicSpline  # by distance along the loop, periodic
    yaw: CubicSpline  # the heading without its full turns, by distance along the loop
    turns: int  # full turns a lap
    lap_s: float
    swing: Array  # (6,) amplitude of the waves in x, y, z (m), yaw, pitch, roll (rad)
    cycles: Array  # (6,) of the waves in a lap
    phases: Array  # (6,)

    def poses(self, times_s: ArrayLike) -> Array:
        """T_world_base at times (n,): (n, 4, 4)."""
        laps = np.atleast_1d(np.asarray(times_s, dtype=np.float64)) / self.lap_s
        along = laps * self.position.x[-1]
        waves = self.swing * np.sin(2.0 * np.pi * laps[:, None] * self.cycles + self.phases)
        yaw = self.yaw(along) + 2.0 * np.pi * self.turns * laps + waves[:, 3]
        zero = np.zeros_like(yaw)
        R = (se3.so3_exp(np.stack([zero, zero, yaw], axis=-1))
             @ se3.so3_exp(np.stack([zero, waves[:, 4], zero], axis=-1))
             @ se3.so3_exp(np.stack([waves[:, 5], zero, zero], axis=-1)))
        return se3.from_parts(R, self.position(along) + waves[:, :3])

    def twists(self, times_s: ArrayLike) -> Array:
        """Velocity (v, w) in the body frame at times (n,): (n, 6)."""
        times = np.atleast_1d(np.asarray(times_s, dtype=np.float64))
        ahead, behind = self.poses(times + _TWIST_STEP_S), self.poses(times - _TWIST_STEP_S)
        return se3.minus(ahead, behind) / (2.0 * _TWIST_STEP_S)


def make_motion(world: World, kind: str = 'drone', seed: int = 0, *, held_out: bool = False,
                speed_m_per_s: float | None = None, mast_m: float = 0.0) -> Motion:
    """
    Build a motion around the world's loop; the camera, `mast_m` above the body, is clear as well.

    The `held_out` motion of a seed deviates to the other side of the loop than the one for
    training, so that it sees the same scene from other positions.
    """
    if kind not in KINDS:
        raise InputError('unknown trajectory', expected=' or '.join(KINDS), got=repr(kind))
    loop = np.array(world.layout.waypoints)
    speed = world.layout.speed_m_per_s if speed_m_per_s is None else speed_m_per_s
    if kind == 'planar':
        loop[:, 2] = PLANAR_HEIGHT_M
    for share in (1.0, 0.7, 0.5, 0.3, 0.15, 0.0):
        motion = _around(loop, world.layout.gaze_rad, kind, seed, held_out, speed, share)
        if _is_clear(world, motion, mast_m):
            return motion
    raise RunError('no free path', where=world.name,
                   expected=f'{CLEARANCE_M} m of clearance along the loop')


def _around(loop: Array, gaze_rad: float, kind: str, seed: int, held_out: bool,
            speed: float, share: float) -> Motion:
    """A motion along the loop that swings by `share` of the full amplitude."""
    rng = np.random.default_rng([seed, 21])
    phases = rng.uniform(0.0, 2.0 * np.pi, _WAVES)
    phases[:3] += np.pi * held_out
    phases[3:] += rng.uniform(1.0, 2.0 * np.pi - 1.0, _WAVES - 3) * held_out
    # irrational numbers of cycles: no lap repeats another
    cycles = np.array([0.618, 0.732, 1.414, 0.551, 1.303, 1.732])
    drone = np.array([0.20, 0.20, 0.30, 1.1, 0.28, 0.08])
    planar = np.array([0.20, 0.20, 0.0, 0.8, 0.0, 0.0])
    swing = (drone if kind == 'drone' else planar) * np.array([share] * 3 + [1.0] * 3)
    closed = np.concatenate([loop, loop[:1]])
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    path = CubicSpline(knots, closed, bc_type='periodic')
    ahead = path(knots, 1)
    heading = np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))
    turns = round(float(heading[-1] - heading[0]) / (2.0 * np.pi))
    rest = heading + gaze_rad - 2.0 * np.pi * turns * knots / knots[-1]
    rest[-1] = rest[0]
    return Motion(path, CubicSpline(knots, rest, bc_type='periodic'), turns,
                  float(knots[-1] / speed), swing, cycles, phases)


def _is_clear(world: World, motion: Motion, mast_m: float) -> bool:
    times = np.linspace(0.0, _CHECKED_LAPS * motion.lap_s, _CHECKED_LAPS * _CHECKS_PER_LAP)
    body = motion.poses(times)
    eye = body[:, :3, 3] + mast_m * body[:, :3, 2]
    both = np.concatenate([body[:, :3, 3], eye])
    return bool(world.is_free(both, CLEARANCE_M).all())


@dataclass(frozen=True, slots=True, eq=False)
class Stations:
    """Poses at which a surveyor holds the cameras, one after the other."""

    T_world_base: Array  # (n, 4, 4)
    lap_s: float

    def poses(self, times_s: ArrayLike) -> Array:
        """T_world_base at times (n,): (n, 4, 4); all stations in a lap, each as long."""
        laps = np.atleast_1d(np.asarray(times_s, dtype=np.float64)) / self.lap_s
        station = (laps * len(self.T_world_base)).astype(int) % len(self.T_world_base)
        return np.asarray(self.T_world_base[station])


def survey(world: World, count: int, lap_s: float, kind: str = 'drone', seed: int = 0,
           ) -> Stations:
    """
    Draw survey poses evenly in free space, with headings in every direction.

    Positions, headings and pitches follow one low-discrepancy (Halton) sequence; heights are those
    of the robots.
    """
    low, high = (np.append(bound, (0.0, 0.0)) for bound in world.bounds)
    heights = np.array(world.layout.waypoints)[:, 2]
    low[2], high[2] = heights.min() - _SURVEY_REACH_M, heights.max() + _SURVEY_REACH_M
    low[3:], high[3:] = (-np.pi, -_SURVEY_PITCH_RAD), (np.pi, _SURVEY_PITCH_RAD)
    drawn = qmc.Halton(5, rng=np.random.default_rng([seed, 23])).random(_SURVEY_DRAWS * count)
    poses = low + drawn * (high - low)
    if kind == 'planar':
        poses[:, 2], poses[:, 4] = PLANAR_HEIGHT_M, 0.0
    poses = poses[world.is_free(poses[:, :3], CLEARANCE_M)][:count]
    if len(poses) < count:
        raise RunError('too little free space to stand in', where=world.name,
                       expected=f'{count} poses', got=len(poses))
    zero = np.zeros(count)
    R = (se3.so3_exp(np.stack([zero, zero, poses[:, 3]], axis=-1))
         @ se3.so3_exp(np.stack([zero, poses[:, 4], zero], axis=-1)))
    return Stations(se3.from_parts(R, poses[:, :3]), lap_s)


class Odometry(NamedTuple):
    """Odometry of wheels or an inertial unit: starts at the identity and drifts."""

    T_odom_base: Array  # (n, 4, 4)
    twists: Array  # (n, 6) in the body frame


@dataclass(frozen=True, slots=True)
class OdometryNoise:
    """Drift of odometry; the defaults are those of a small robot: 1 %, 1 to 2 deg a metre."""

    scale: float = setting(0.01, 'error of all distances (drawn once)', 0, 1)
    turn_scale: float = setting(0.01, 'error of all angles (drawn once)', 0, 1)
    slip_m: float = setting(0.006, 'random walk, metres each square root of a metre', 0, 1)
    slip_rad: float = setting(0.008, 'random walk, rad each square root of a metre or rad', 0, 1)


IDEAL_ODOMETRY = OdometryNoise(0.0, 0.0, 0.0, 0.0)


def simulate_odometry(motion: Motion, times_s: Array, seed: int, kind: str = 'drone',
                      noise: OdometryNoise = OdometryNoise()) -> Odometry:
    """Integrate the true steps with noise; that of a planar robot stays in its plane."""
    poses = motion.poses(times_s)
    steps = se3.minus(poses[1:], poses[:-1])
    rng = np.random.default_rng([seed, 22])
    moved = np.linalg.norm(steps[:, :3], axis=1, keepdims=True)
    turned = np.linalg.norm(steps[:, 3:], axis=1, keepdims=True)
    scales = 1.0 + rng.normal(0.0, [noise.scale] * 3 + [noise.turn_scale] * 3)
    slips = np.concatenate([noise.slip_m * np.sqrt(moved) * rng.standard_normal((len(steps), 3)),
                            noise.slip_rad * np.sqrt(moved + turned)
                            * rng.standard_normal((len(steps), 3))], axis=1)
    measured = steps * scales + slips
    if kind == 'planar':
        measured[:, 2:5] = 0.0
    out = [np.eye(4)]
    for T_step in se3.exp(measured):
        out.append(out[-1] @ T_step)
    gaps = np.diff(times_s)[:, None]
    twists = measured / gaps
    return Odometry(np.array(out), np.concatenate([twists, twists[-1:]]))
