# SPDX-License-Identifier: Apache-2.0
"""
Thermal counts to deg C and back, and deg C to the [0, 1] that a radiance field learns.

Only the counts of a radiometric camera are temperatures. Automatic gain control (AGC, nearly
every 8-bit thermal image) stretches the contrast of each image: shapes are left, degrees are not,
and the image is marked as not radiometric.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.errors import InputError

Array32 = NDArray[np.float32]

ZERO_CELSIUS_KELVIN = 273.15
_MAX_COUNT = 65535
# nerfstudio's `thermal` block may name Planck's constants like this
_PLANCK_KEYS = {'planck_r1': 'R', 'planck_b': 'B', 'planck_f': 'F', 'planck_o': 'O',
                'planck_r2': 'R2', 'emissivity': 'emissivity',
                'reflected_celsius': 'reflected_celsius', 'transmission': 'transmission',
                'atmosphere_celsius': 'atmosphere_celsius'}
RADIOMETRY_KEYS = ('celsius_per_count', 'celsius_offset', *_PLANCK_KEYS)


class Radiometry(Protocol):
    """What a radiometric camera's counts mean."""

    def to_celsius(self, counts: ArrayLike) -> Array32:
        """Counts to deg C; NaN where no temperature gives such a count."""

    def to_counts(self, celsius: ArrayLike) -> NDArray[np.uint16]:
        """Deg C to the nearest 16-bit count, clipped to what fits; NaN becomes 0."""


def _require_finite(constants: Any) -> None:
    for f in fields(constants):
        if not np.isfinite(getattr(constants, f.name)):
            raise InputError(f'{f.name} is not finite', got=getattr(constants, f.name))


@dataclass(frozen=True, slots=True)
class LinearRadiometry:
    """`deg C = celsius_per_count * counts + celsius_offset` (FLIR TLinear, Seek, Optris, ...)."""

    celsius_per_count: float
    celsius_offset: float

    def __post_init__(self) -> None:
        """Refuse scales that are zero or not finite."""
        _require_finite(self)
        if self.celsius_per_count == 0.0:
            raise InputError('thermal scale is zero', expected='celsius_per_count != 0', got=0.0)

    def to_celsius(self, counts: ArrayLike) -> Array32:
        """Counts to deg C."""
        celsius = np.asarray(counts, dtype=np.float64) * self.celsius_per_count
        return (celsius + self.celsius_offset).astype(np.float32)

    def to_counts(self, celsius: ArrayLike) -> NDArray[np.uint16]:
        """Deg C to the nearest 16-bit count."""
        celsius = np.asarray(celsius, dtype=np.float64)
        return _as_counts((celsius - self.celsius_offset) / self.celsius_per_count)


# Hundredths of a kelvin: FLIR's TLinear, and what most radiometric drivers publish.
CENTIKELVIN = LinearRadiometry(0.01, -ZERO_CELSIUS_KELVIN)


@dataclass(frozen=True, slots=True)
class PlanckRadiometry:
    """
    FLIR's calibration: `T = B / ln(R / (R2 (S + O)) + F)` kelvin for a black body of signal S.

    Constants as FLIR stores them in its files (PlanckR1, B, F, O, R2): O is usually negative.
    The GenICam form `S = J1 R / (exp(B / T) - F) + J0` is `R2 = 1 / J1`, `O = -J0`; a Lepton's
    `S = R / (exp(B / T) - F) + O` has the other sign of O. A grey body seen through air sends
    `S = e t S(object) + (1 - e) t S(reflected) + (1 - t) S(atmosphere)`, e the emissivity and
    t the transmission; solved here for the object.
    """

    R: float
    B: float
    F: float
    O: float  # noqa: E741 - FLIR's name
    R2: float = 1.0
    emissivity: float = 1.0
    reflected_celsius: float = 20.0
    transmission: float = 1.0
    atmosphere_celsius: float = 20.0

    def __post_init__(self) -> None:
        """Refuse constants that are physically impossible."""
        _require_finite(self)
        if min(self.R, self.B, self.R2) <= 0.0:
            raise InputError('Planck constants are impossible', expected='R, B and R2 > 0',
                             got=f'R {self.R}, B {self.B}, R2 {self.R2}')
        for name in ('emissivity', 'transmission'):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise InputError(f'{name} is out of range', expected='above 0, at most 1',
                                 got=getattr(self, name))

    def to_celsius(self, counts: ArrayLike) -> Array32:
        """Counts to the object's deg C."""
        share = self.emissivity * self.transmission
        power = (np.asarray(counts, dtype=np.float64) + self.O - self._background()) / share
        with np.errstate(divide='ignore', invalid='ignore'):
            inner = np.where(power > 0.0, self.R / (self.R2 * power) + self.F, np.nan)
            kelvin = np.where(inner > 1.0, self.B / np.log(inner), np.nan)
        return (kelvin - ZERO_CELSIUS_KELVIN).astype(np.float32)

    def to_counts(self, celsius: ArrayLike) -> NDArray[np.uint16]:
        """The object's deg C to the nearest 16-bit count."""
        share = self.emissivity * self.transmission
        signal = share * self._power(np.asarray(celsius, dtype=np.float64)) + self._background()
        return _as_counts(signal - self.O)

    def _power(self, celsius: NDArray[np.float64]) -> NDArray[np.float64]:
        """A black body's signal without the offset."""
        kelvin = celsius + ZERO_CELSIUS_KELVIN
        return np.asarray(self.R / (self.R2 * (np.exp(self.B / kelvin) - self.F)))

    def _background(self) -> float:
        """Signal of reflected radiation and of the air, which the object did not send."""
        reflected = self._power(np.array(self.reflected_celsius))
        atmosphere = self._power(np.array(self.atmosphere_celsius))
        return float((1.0 - self.emissivity) * self.transmission * reflected
                     + (1.0 - self.transmission) * atmosphere)


@dataclass(frozen=True, slots=True)
class TemperatureRange:
    """The temperatures that the values 0 and 1 of a radiance field stand for."""

    low_celsius: float
    high_celsius: float

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        _require_finite(self)
        if self.high_celsius <= self.low_celsius:
            raise InputError('temperature range is empty', expected='low_celsius < high_celsius',
                             got=f'{self.low_celsius} to {self.high_celsius}')

    @classmethod
    def covering(cls, celsius: ArrayLike, margin_celsius: float = 1.0) -> 'TemperatureRange':
        """The range of the finite values, widened by the margin."""
        values = np.asarray(celsius, dtype=np.float64)
        values = values[np.isfinite(values)]
        if values.size == 0:
            raise InputError('no temperature to take a range from', expected='finite values')
        return cls(float(values.min()) - margin_celsius, float(values.max()) + margin_celsius)

    @property
    def span_celsius(self) -> float:
        """Deg C between the values 0 and 1 of the field."""
        return self.high_celsius - self.low_celsius

    def moved(self, celsius: float) -> 'TemperatureRange':
        """The range shifted by so many deg C: the same field stands for warmer surfaces."""
        return TemperatureRange(self.low_celsius + celsius, self.high_celsius + celsius)

    def to_field(self, celsius: ArrayLike) -> Array32:
        """Deg C to [0, 1], clipped."""
        share = (np.asarray(celsius, dtype=np.float64) - self.low_celsius) / self.span_celsius
        return np.clip(share, 0.0, 1.0).astype(np.float32)

    def to_celsius(self, field: ArrayLike) -> Array32:
        """[0, 1] to deg C."""
        celsius = self.low_celsius + np.asarray(field, dtype=np.float64) * self.span_celsius
        return celsius.astype(np.float32)


def decode_thermal(counts: NDArray[Any], radiometry: Radiometry | None,
                   where: object = None) -> tuple[Array32, bool]:
    """
    Decode pixels as the camera stored them to (values, radiometric).

    With a radiometry, values are deg C. Without, they are counts divided by the largest count of
    the data type, in [0, 1]: they order the pixels of one image, but are no temperatures.
    """
    if counts.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise InputError('thermal pixels are no counts', where=where,
                         expected='uint8 or uint16', got=counts.dtype)
    if radiometry is None:
        return (counts / np.float32(np.iinfo(counts.dtype).max)).astype(np.float32), False
    if counts.dtype == np.uint8:
        raise InputError('8-bit thermal image called radiometric', where=where,
                         expected='16-bit counts', got='uint8, an AGC image',
                         hint='Drop the temperature scale to use it as a plain image.')
    return radiometry.to_celsius(counts), True


def radiometry_from_mapping(values: Mapping[str, Any], where: object = None) -> Radiometry | None:
    """Read a `thermal` block's scale: linear, Planck, or None where it has neither."""
    linear = {key: values[key] for key in ('celsius_per_count', 'celsius_offset')
              if key in values}
    planck = {name: values[key] for key, name in _PLANCK_KEYS.items() if key in values}
    if linear and planck:
        raise InputError('thermal block has two temperature scales', where=where,
                         expected='celsius_per_count or planck_*, not both')
    for name, value in {**linear, **planck}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f'thermal scale {name} is no number', where=where, got=repr(value))
    try:
        if linear:
            return LinearRadiometry(**linear)
        return PlanckRadiometry(**planck) if planck else None
    except TypeError:
        raise InputError('thermal block has half a temperature scale', where=where,
                         expected='celsius_per_count and celsius_offset, or planck_r1, planck_b, '
                                  'planck_f and planck_o',
                         got=', '.join([*linear, *planck])) from None


def radiometry_to_mapping(radiometry: Radiometry | None) -> dict[str, float]:
    """Write a scale as `radiometry_from_mapping` reads it."""
    if isinstance(radiometry, LinearRadiometry):
        return {'celsius_per_count': radiometry.celsius_per_count,
                'celsius_offset': radiometry.celsius_offset}
    if isinstance(radiometry, PlanckRadiometry):
        return {key: getattr(radiometry, name) for key, name in _PLANCK_KEYS.items()}
    if radiometry is None:
        return {}
    raise InputError('this radiometry cannot be written', got=type(radiometry).__name__)


def _as_counts(exact: NDArray[np.float64]) -> NDArray[np.uint16]:
    nearest = np.rint(np.nan_to_num(exact, nan=0.0))
    return np.clip(nearest, 0, _MAX_COUNT).astype(np.uint16)
