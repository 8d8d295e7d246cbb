# SPDX-License-Identifier: Apache-2.0
"""
Sensor models: noise, drift, shutter and exposure, from exact values to the pixels of a camera.

Random numbers depend on seed, camera and time alone, not on how often or in which order images are
taken. Times are nanoseconds since the camera was switched on.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_NS = 1e-9
_EYE_GAMMA = 2.2  # a darkness of 0.5 appears half as bright


@dataclass(frozen=True, slots=True)
class ThermalSensor:
    """An uncooled microbolometer; the defaults are those of a good one that is warming up."""

    netd_celsius: float = setting(0.05, 'temporal noise of a pixel (standard deviation)', 0, 10)
    pixel_pattern_celsius: float = setting(
        0.08, 'fixed pattern of the pixels, one period after a shutter event', 0, 10)
    column_pattern_celsius: float = setting(0.10, 'the same for whole columns', 0, 10)
    column_noise_celsius: float = setting(0.03, 'noise of the columns in each image', 0, 10)
    vignetting_celsius: float = setting(0.6, 'how much colder the corners seem', 0, 20)
    drift_celsius_per_s: float = setting(0.03, 'typical drift between shutter events', 0, 10)
    nuc_period_s: float = setting(15.0, 'mean time between shutter events; 0: none', 0, 3600)
    nuc_shortest_s: float = setting(0.25, 'shortest freeze at a shutter event', 0, 5)
    nuc_longest_s: float = setting(1.0, 'longest freeze at a shutter event', 0, 5)
    lag_s: float = setting(0.0, 'thermal time constant of a pixel', 0, 1)

    def __post_init__(self) -> None:
        """Check the times of the shutter."""
        if self.nuc_shortest_s > self.nuc_longest_s:
            raise InputError('shutter freeze is impossible', expected='shortest <= longest',
                             got=f'{self.nuc_shortest_s} and {self.nuc_longest_s}')
        if 0.0 < self.nuc_period_s <= 2.0 * self.nuc_longest_s:
            raise InputError('the shutter would hardly ever open', where='nuc_period_s',
                             expected='0, or above twice nuc_longest_s', got=self.nuc_period_s)


IDEAL_THERMAL = ThermalSensor(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class RgbSensor:
    """A small colour camera with automatic exposure."""

    darkness: float = setting(0.0, '0: lit as designed, 1: pitch black', 0, 1)
    exposure_swing: float = setting(0.12, 'how far the exposure wanders (log scale)', 0, 2)
    exposure_period_s: float = setting(20.0, 'how slowly it does', 0.1, 3600)
    shot_noise: float = setting(0.02, 'noise of white in linear light', 0, 1)
    read_noise: float = setting(0.0006, 'noise of black in linear light', 0, 1)


IDEAL_RGB = RgbSensor(exposure_swing=0.0, shot_noise=0.0, read_noise=0.0)


class ShutterState(NamedTuple):
    """State of the shutter (NUC) of a thermal camera."""

    event: int  # how many events have begun
    frozen: bool
    since_s: float  # since the last event ended (or the camera was switched on, calibrated)


class ThermalImage(NamedTuple):
    """One image of a thermal camera."""

    celsius: Array32  # (height, width)
    frozen: bool  # a repetition of the last image before the shutter closed


class ThermalCamera:
    """Adds the errors of a microbolometer to exact temperatures; images in the order of time."""

    def __init__(self, camera: Camera, sensor: ThermalSensor, seed: int) -> None:
        """Switch it on, calibrated."""
        self._camera, self._sensor, self._seed = camera, sensor, seed
        self._events: list[tuple[float, float]] = []  # begin, end
        self._schedule = np.random.default_rng([seed, 1])
        centred = camera.pixel_centers() - (0.5 * camera.width, 0.5 * camera.height)
        share = (centred**2).sum(axis=-1) / (0.25 * (camera.width**2 + camera.height**2))
        self._vignette = -sensor.vignetting_celsius * share.reshape(camera.height, camera.width)
        self._response: Array | None = None  # of the pixels, to the last image
        self._last_image: Array32 | None = None
        self._last_ns = -1

    def shutter(self, elapsed_ns: int) -> ShutterState:
        """State of the shutter at a time."""
        if self._sensor.nuc_period_s == 0.0:
            return ShutterState(0, False, elapsed_ns * _NS)
        time_s = elapsed_ns * _NS
        while not self._events or self._events[-1][0] <= time_s:
            begin = (self._events[-1][1] if self._events else 0.0) + (
                self._sensor.nuc_period_s * self._schedule.uniform(0.7, 1.3))
            freeze = self._schedule.uniform(self._sensor.nuc_shortest_s,
                                            self._sensor.nuc_longest_s)
            self._events.append((begin, begin + freeze))
        begun = sum(begin <= time_s for begin, _ in self._events)
        end = self._events[begun - 1][1] if begun else 0.0
        return ShutterState(begun, time_s < end, max(time_s - end, 0.0))

    def next_open_ns(self, elapsed_ns: int) -> int:
        """This time, or, if the shutter is closed, the time when it opens."""
        state = self.shutter(elapsed_ns)
        return round(self._events[state.event - 1][1] / _NS) + 1 if state.frozen else elapsed_ns

    def error_celsius(self, elapsed_ns: int) -> Array:
        """Errors (height, width) but the noise of a single image: pattern, vignetting, drift."""
        state, sensor = self.shutter(elapsed_ns), self._sensor
        rng = np.random.default_rng([self._seed, 2, state.event])
        pixels = rng.normal(0.0, sensor.pixel_pattern_celsius, self._vignette.shape)
        columns = rng.normal(0.0, sensor.column_pattern_celsius, self._camera.width)
        drift = sensor.drift_celsius_per_s * rng.uniform(0.5, 1.5) * rng.choice((-1.0, 1.0))
        age = min(state.since_s / (sensor.nuc_period_s or np.inf), 1.5)
        return np.asarray(self._vignette + (0.2 + 0.8 * age) * (pixels + columns)
                          + drift * state.since_s)

    def expose(self, celsius: Array32, elapsed_ns: int) -> ThermalImage:
        """Take an image of true temperatures (height, width)."""
        if celsius.shape != self._vignette.shape:
            raise InputError('image does not fit its camera', expected=self._vignette.shape,
                             got=celsius.shape)
        if elapsed_ns < self._last_ns:
            raise InputError('a thermal camera cannot go back in time',
                             expected=f'{self._last_ns} ns or later', got=elapsed_ns)
        frozen = self.shutter(elapsed_ns).frozen
        if frozen and self._last_image is not None:
            return ThermalImage(self._last_image, True)
        response = celsius.astype(np.float64)
        if self._sensor.lag_s > 0.0 and self._response is not None:
            keep = np.exp(-(elapsed_ns - self._last_ns) * _NS / self._sensor.lag_s)
            response = keep * self._response + (1.0 - keep) * response
        self._response, self._last_ns = response, elapsed_ns
        rng = np.random.default_rng([self._seed, 3, elapsed_ns])
        noise = (rng.normal(0.0, self._sensor.netd_celsius, response.shape)
                 + rng.normal(0.0, self._sensor.column_noise_celsius, response.shape[1]))
        self._last_image = (response + self.error_celsius(elapsed_ns) + noise).astype(np.float32)
        self._last_image.flags.writeable = False
        return ThermalImage(self._last_image, frozen)


class RgbCamera:
    """Adds exposure changes, darkness, shot and read noise to exact colours."""

    def __init__(self, sensor: RgbSensor, seed: int) -> None:
        """Draw the phases of the exposure."""
        self._sensor, self._seed = sensor, seed
        self._phases = np.random.default_rng([seed, 4]).uniform(0.0, 2.0 * np.pi, 2)

    def exposure(self, elapsed_ns: int) -> float:
        """Gain of the automatic exposure, around 1."""
        turn = 2.0 * np.pi * elapsed_ns * _NS / self._sensor.exposure_period_s
        wave = (np.sin(turn + self._phases[0]) + 0.5 * np.sin(2.7 * turn + self._phases[1])) / 1.5
        return float(np.exp(self._sensor.exposure_swing * wave))

    def expose(self, colours: Array32, elapsed_ns: int) -> Array32:
        """Take an image of true sRGB (height, width, 3)."""
        sensor = self._sensor
        gain = (1.0 - sensor.darkness)**_EYE_GAMMA * self.exposure(elapsed_ns)
        light = linear_from_srgb(colours) * np.float32(gain)
        spread = np.sqrt(np.float32(sensor.read_noise**2)
                         + np.float32(sensor.shot_noise**2) * light)
        rng = np.random.default_rng([self._seed, 5, elapsed_ns])
        light += spread * rng.standard_normal(light.shape, dtype=np.float32)
        return srgb_from_linear(np.clip(light, 0.0, 1.0))


def linear_from_srgb(srgb: Array32) -> Array32:
    """IEC 61966-2-1, display value to light."""
    curve = ((np.maximum(srgb, 0.04045) + 0.055) / 1.055)**2.4
    return np.where(srgb <= 0.04045, srgb / 12.92, curve).astype(np.float32)


def srgb_from_linear(light: Array32) -> Array32:
    """IEC 61966-2-1, light to display value."""
    curve = 1.055 * np.maximum(light, 0.0031308)**(1.0 / 2.4) - 0.055
    return np.where(light <= 0.0031308, 12.92 * light, curve).astype(np.float32)
