# SPDX-License-Identifier: Apache-2.0
"""Write a data set of image files with known poses, lenses and scale."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.scene import ImageRecord, load_image
from thermal_nerf_loc.io.datasets.scene_writer import SceneWriter
from thermal_nerf_loc.io.datasets.splits import split_of, SPLITS
from thermal_nerf_loc.sensing.frame import Frame, RGB, THERMAL
from thermal_nerf_loc.sensing.thermal import LinearRadiometry
from thermal_nerf_loc.sensing.thermal_cameras import ChosenScale

Array = NDArray[np.float64]

_JPEG = ('.jpg', '.jpeg')
_CELSIUS = LinearRadiometry(1.0, 0.0)  # of floating-point files that hold deg C


@dataclass(frozen=True, slots=True, eq=False)
class ImageFolder:
    """Image files of one camera."""

    folder: Path
    camera: Camera
    T_rgb_sensor: Array
    mask_path: Path | None = None
    scale: ChosenScale | None = None  # of thermal images

    def record(self, name: str, stamp_ns: int) -> ImageRecord:
        """One of the files."""
        radiometry = None
        if self.scale is not None and self.scale.radiometric:
            radiometry = self.scale.radiometry or _CELSIUS
        return ImageRecord(self.folder / name, self.camera, self.T_rgb_sensor,
                           radiometry=radiometry, stamp_ns=stamp_ns,
                           camera_mask_path=self.mask_path)


def write_image_set(out: Path, rgb: ImageFolder | None, thermal: ImageFolder | None,
                    partner: Mapping[str, str], poses: Mapping[str, Array],
                    stamps_ns: Mapping[str, int], hold_out: int, remarks: Mapping[str, Any],
                    report_count: Callable[[int], None]) -> dict[str, int]:
    """
    Decode, check and write each image that has a pose; returns counts of frames.

    `poses` and `stamps_ns` are by RGB file name; `partner` is the thermal file name by RGB file
    name. JPEGs stay JPEGs. `remarks` are further keys of the file. Without RGB images all names
    are those of thermal ones.
    """
    is_jpeg = all(Path(name).suffix.lower() in _JPEG for name in poses)
    folders = {modality: folder for modality, folder in ((RGB, rgb), (THERMAL, thermal))
               if folder is not None}
    files = {name: {RGB: name, **({THERMAL: partner[name]} if thermal and name in partner else {})}
             if rgb is not None else {THERMAL: name} for name in poses}
    used = {modality for modalities in files.values() for modality in modalities}
    cameras = {modality: folder.camera for modality, folder in folders.items()
               if modality in used}
    counts = {f'{split}_frames': 0 for split in SPLITS}
    with SceneWriter(out, cameras,
                     thermal.T_rgb_sensor if thermal and THERMAL in used else None,
                     thermal.scale.radiometry if thermal and thermal.scale else None,
                     rgb_format='jpg' if is_jpeg else 'png', remarks=remarks) as writer:
        for index, (name, frame_name) in enumerate(zip(poses, _frame_names(list(poses)))):
            stamp_ns = stamps_ns.get(name, 0)
            images = {modality: load_image(modality, folders[modality].record(file, stamp_ns))
                      for modality, file in files[name].items()}
            split = split_of(index, hold_out)
            writer.add(Frame(stamp_ns, images, poses[name], frame_name), split)
            counts[f'{split}_frames'] += 1
            report_count(index + 1)
    return counts | {f'{modality}_frames': sum(modality in images for images in files.values())
                     for modality in (RGB, THERMAL)}


def _frame_names(files: list[str]) -> list[str]:
    """The files' own names where all can be names of frames, else numbers."""
    stems = [re.sub(r'[^A-Za-z0-9_.-]', '_', Path(file).stem) for file in files]
    good = len(set(stems)) == len(stems) and all(
        re.fullmatch(r'[A-Za-z0-9_]', stem[:1]) for stem in stems)
    return stems if good else [f'{index:05d}' for index in range(len(files))]
