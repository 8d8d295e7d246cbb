# SPDX-License-Identifier: Apache-2.0
"""What the importers of bags and of image folders share: options, results and notes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thermal_nerf_loc.common.config import check, setting
from thermal_nerf_loc.io.datasets.camera_file import RigCamera
from thermal_nerf_loc.io.datasets.splits import HOLD_OUT_EVERY
from thermal_nerf_loc.sensing.frame import THERMAL
from thermal_nerf_loc.sensing.thermal import LinearRadiometry, Radiometry


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Options of every import."""

    cameras: Path | None = None  # lenses, mounting, thermal scale and masks in a YAML file
    hold_out: int = setting(HOLD_OUT_EVERY, 'every so many frames one is held out', 2, 1_000_000)
    radiometry: LinearRadiometry | None = None  # instead of that of the camera file
    radiometric: bool = True  # False: thermal images hold no temperatures

    def __post_init__(self) -> None:
        """Check the ranges."""
        check(self, 'import')

    def thermal_scale(self, rig: Mapping[str, RigCamera]) -> Radiometry | None:
        """The scale that was given for thermal counts; None where none was, or none is wanted."""
        return (self.radiometry or rig[THERMAL].radiometry) if self.radiometric else None


@dataclass(frozen=True, slots=True, eq=False)
class ImportResult:
    """Figures of an import, notes for the user, and what a damaged bag lost (may be empty)."""

    figures: dict[str, Any]
    notes: tuple[str, ...]
    loss: str = ''


def some_of(names: Sequence[str], limit: int) -> str:
    """The first names, and how many more there are."""
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more
