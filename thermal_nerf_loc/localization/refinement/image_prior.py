# SPDX-License-Identifier: Apache-2.0
"""What is known of an image before it is aligned: its gain and offset, and the map's own error."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.sensing.frame import RGB

Array = NDArray[np.float64]

_UNKNOWN_OFFSET = 1e3  # sigma, larger than any offset


@dataclass(frozen=True, slots=True)
class GainOffset:
    """Gaussian prior of `observed = gain rendered + offset`; None: start from the images."""

    gain: float | None
    gain_sigma: float  # relative
    offset: float | None
    offset_sigma: float  # in the image's unit

    def as_row(self) -> Array:
        """Four numbers, NaN for None."""
        return np.array([np.nan if value is None else value for value in (
            self.gain, self.gain_sigma, self.offset, self.offset_sigma)])


@dataclass(frozen=True, slots=True)
class ImagePrior:
    """Prior of one image."""

    gain_offset: GainOffset
    noise_floor: float  # standard deviation of the map's own error, in the image's unit


def image_prior(modality: str, radiometric: bool, relative_floor: float, celsius_floor: float,
                trust_celsius: bool = False) -> ImagePrior:
    """
    Prior of an image of one modality.

    Colours and thermal images that are no temperatures (AGC) may have any gain, and the map is
    never exact to less than `relative_floor`. Temperatures drift, so their offset is free unless
    they are trusted (`trust_celsius`); their gain is about 1, their floor `celsius_floor`.
    """
    if modality == RGB or not radiometric:
        return ImagePrior(GainOffset(None, 0.3, None, _UNKNOWN_OFFSET), relative_floor)
    if trust_celsius:
        return ImagePrior(GainOffset(1.0, 0.02, 0.0, 0.1), celsius_floor)
    return ImagePrior(GainOffset(1.0, 0.1, None, _UNKNOWN_OFFSET), celsius_floor)
