# SPDX-License-Identifier: Apache-2.0
"""Write posed image files as a data set."""

from collections.abc import Callable, Mapping
from pathlib import Path
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.data.scene import ImageRecord, load_image
from thermal_nerf_loc.data.scene_writer import SceneWriter, split_of
from thermal_nerf_loc.sensing.frame import Frame, RGB, THERMAL
from thermal_nerf_loc.sensing.thermal_cameras import ThermalScale

Array = NDArray[np.float64]
Records = Mapping[str, Mapping[str, ImageRecord]]

_JPEG = ('.jpg', '.jpeg')


def write_image_set(out: Path, poses: Mapping[str, Array], records: Records,
                    stamps_ns: Mapping[str, int], scale: ThermalScale | None, hold_out: int,
                    told_scale: Mapping[str, Any], tell: Callable[[int], None],
                    ) -> dict[str, int]:
    """Decode, check and write each image; frames by split. JPEGs stay JPEGs."""
    cameras, mounting = {}, None
    for frame in records.values():
        for modality, record in frame.items():
            cameras[modality] = record.camera
            mounting = record.T_cam_sensor if modality == THERMAL else mounting
    lossy = all(Path(name).suffix.lower() in _JPEG for name in poses)
    counts = {'train': 0, 'test': 0}
    with SceneWriter(out, cameras, mounting, scale.radiometry if scale is not None else None,
                     rgb_format='jpg' if lossy else 'png',
                     remarks={'scale': told_scale}) as writer:
        for index, (name, frame_name) in enumerate(zip(poses, _frame_names(list(poses)))):
            images = {modality: load_image(modality, record)
                      for modality, record in records[name].items()}
            split = split_of(index, hold_out)
            writer.add(Frame(stamps_ns.get(name, 0), images, poses[name], frame_name), split)
            counts[split] += 1
            tell(index + 1)
    return {f'{split}_frames': count for split, count in counts.items()} | {
        f'{modality}_frames': sum(modality in frame for frame in records.values())
        for modality in (RGB, THERMAL)}


def _frame_names(files: list[str]) -> list[str]:
    """The files' own names where they can be names of frames, else numbers."""
    stems = [re.sub(r'[^A-Za-z0-9_.-]', '_', Path(file).stem) for file in files]
    good = len(set(stems)) == len(stems) and all(
        re.fullmatch(r'[A-Za-z0-9_]', stem[:1]) for stem in stems)
    return stems if good else [f'{index:05d}' for index in range(len(files))]
