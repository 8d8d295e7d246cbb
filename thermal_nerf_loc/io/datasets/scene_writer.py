# SPDX-License-Identifier: Apache-2.0
"""Write posed frames as a data set that `nerfstudio.py` reads: images, masks, depth and a rig."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
import re
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.se3 import check_pose
from thermal_nerf_loc.io.atomic_files import directory_beside, write_inside, write_json
from thermal_nerf_loc.io.datasets.intrinsics import keys_from_camera
from thermal_nerf_loc.io.datasets.scene import GL_FROM_CV
from thermal_nerf_loc.io.datasets.splits import SPLITS
from thermal_nerf_loc.io.images import DEPTH_UNIT_M, encode
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.thermal import CENTIKELVIN, Radiometry, radiometry_to_mapping

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_MAX_COUNT = np.iinfo(np.uint16).max
_NAME_KEYS = ('file_path', 'thermal_file_path')  # splits list a frame by the first that it has
_PREFIX = {RGB: '', THERMAL: 'thermal_'}  # of the keys of a frame
_RIG_TOLERANCE = 1e-6  # metres, or entries of a rotation
_NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]*')


class SceneWriter:
    """
    Writes a data set, which appears at `root` when the `with` block ends well.

    `cameras` by modality ('rgb', 'thermal'); `T_cam_thermal` is the thermal camera's pose in the
    frame's reference camera, None that of the first thermal image. `radiometry` turns deg C into
    16-bit counts, None: 0.01 kelvin a count; images that are not radiometric are stored as 16-bit
    fractions of 1. With `rig_per_frame` a thermal image may have a pose other than
    `T_cam_thermal`, because the robot moved between the RGB image and it; with `camera_per_frame`
    RGB images may have lenses of their own (autofocus); with `poses_may_lack` a frame may have no
    pose. `remarks` are further keys of the file.
    """

    def __init__(self, root: Path, cameras: Mapping[str, Camera],
                 T_cam_thermal: ArrayLike | None = None, radiometry: Radiometry | None = None, *,
                 rgb_format: str = 'png', rig_per_frame: bool = False,
                 camera_per_frame: bool = False, poses_may_lack: bool = False,
                 remarks: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Check the arguments; nothing is written yet."""
        if not cameras or set(cameras) - set(_PREFIX):
            raise InputError('cannot write these modalities', where=root,
                             expected='rgb, thermal or both', got=', '.join(cameras) or 'none')
        if rgb_format not in ('png', 'jpg'):
            raise InputError('unknown image format', expected='png or jpg', got=rgb_format)
        self._root, self._cameras = root, dict(cameras)
        self._radiometry, self._rgb_format = radiometry, rgb_format
        self._rig_per_frame, self._remarks = rig_per_frame, dict(remarks)
        self._camera_per_frame, self._poses_may_lack = camera_per_frame, poses_may_lack
        self._T_cam_sensor = {RGB: np.eye(4)}
        if T_cam_thermal is not None:
            self._T_cam_sensor[THERMAL] = check_pose(T_cam_thermal, 'T_cam_thermal')
        self._radiometric: bool | None = None
        self._frames: list[dict[str, Any]] = []
        self._splits: dict[str, list[str]] = {split: [] for split in SPLITS}
        self._names: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> 'SceneWriter':
        """Open the folder beside the final one."""
        self._folder = self._stack.enter_context(directory_beside(self._root))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Write `transforms.json` and rename, or leave nothing after an error."""
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)

    def add(self, frame: Frame, split: str = 'train') -> str:
        """Write one posed frame's images; returns its name in the data set."""
        if split not in SPLITS:
            raise InputError('unknown split', expected=' or '.join(SPLITS), got=repr(split))
        if frame.T_world_cam is None and not self._poses_may_lack:
            raise InputError('frame has no pose', where=frame.name or len(self._frames))
        if not frame.images or set(frame.images) - set(self._cameras):
            raise InputError('frame has images without a camera', where=frame.name,
                             expected=', '.join(self._cameras), got=', '.join(frame.images))
        name = frame.name or f'{len(self._frames):05d}'
        self._check_name(name)
        rows = (None if frame.T_world_cam is None else
                (check_pose(frame.T_world_cam, name) @ GL_FROM_CV).tolist())
        entry: dict[str, Any] = {}
        files: dict[str, Pixels] = {}
        for modality, image in frame.images.items():
            self._describe(name, modality, image, entry, files)
        for path, pixels in files.items():  # after all checks: a refused frame leaves no file
            write_inside(self._folder / path, encode(pixels, Path(path).suffix))
        self._names.add(name)
        entry |= {'stamp_ns': frame.stamp_ns, 'transform_matrix': rows}
        self._frames.append(entry)
        self._splits[split].append(next(entry[key] for key in _NAME_KEYS if key in entry))
        return name

    def _finish(self) -> None:
        if not self._frames:
            raise InputError('no frame was added', where=self._root)
        write_json(self._folder / 'transforms.json', self._content())

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InputError('frame name cannot be a file name', where=self._root,
                             expected='letters, digits, dots, dashes', got=repr(name))
        if name in self._names:
            raise InputError('frame name is taken', where=self._root, got=repr(name))

    def _describe(self, name: str, modality: str, image: SensorImage, entry: dict[str, Any],
                  files: dict[str, Pixels]) -> None:
        """Add one image's keys to `entry` and its pixels, by path, to `files`."""
        camera = self._cameras[modality]
        if modality == RGB and self._camera_per_frame and image.camera != camera:
            entry.update(keys_from_camera(image.camera))
        elif image.camera != camera:
            raise InputError(f'{modality} image has another camera than its data set', where=name,
                             expected=camera, got=image.camera)
        T_cam_sensor = self._T_cam_sensor.setdefault(modality, image.T_cam_sensor)
        moved = np.abs(T_cam_sensor - image.T_cam_sensor).max() > _RIG_TOLERANCE
        if moved and self._rig_per_frame and modality == THERMAL:
            entry['thermal'] = {'transform_rgb_thermal': image.T_cam_sensor.tolist()}
        elif moved:
            raise InputError(f'{modality} image sits elsewhere in the rig than its data set says',
                             where=name, expected=T_cam_sensor.tolist(),
                             got=image.T_cam_sensor.tolist())
        prefix = _PREFIX[modality]
        if modality == RGB:
            path = f'rgb/{name}.{self._rgb_format}'
            files[path] = np.rint(np.clip(image.values, 0.0, 1.0) * 255.0).astype(np.uint8)
        else:
            path = f'thermal/{name}.png'
            files[path] = self._counts(name, image)
        entry[f'{prefix}file_path'] = path
        if image.stamp_ns:
            entry[f'{prefix}image_stamp_ns'] = image.stamp_ns
        if image.valid is not None:
            path = entry[f'{prefix}mask_path'] = f'{prefix}mask/{name}.png'
            files[path] = image.valid.astype(np.uint8) * np.uint8(255)
        if image.depth_m is not None:
            path = entry[f'{prefix}depth_file_path'] = f'{prefix}depth/{name}.png'
            files[path] = depth_counts(image.depth_m)

    def _counts(self, name: str, image: SensorImage) -> NDArray[np.uint16]:
        if self._radiometric not in (None, image.radiometric):
            raise InputError('radiometric and other thermal images are mixed', where=name,
                             expected='all of one kind')
        self._radiometric = image.radiometric
        values = image.values[..., 0]
        if not image.radiometric:
            return np.asarray(np.rint(np.clip(values, 0.0, 1.0) * _MAX_COUNT), dtype=np.uint16)
        counts: NDArray[np.uint16] = (self._radiometry or CENTIKELVIN).to_counts(values)
        return counts

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {}
        if RGB in self._cameras:
            content |= keys_from_camera(self._cameras[RGB])
        if THERMAL in self._cameras:
            T_cam_thermal = self._T_cam_sensor.get(THERMAL, np.eye(4))
            scale = (radiometry_to_mapping(self._radiometry or CENTIKELVIN)
                     if self._radiometric else {})
            content['thermal'] = {**keys_from_camera(self._cameras[THERMAL]), **scale,
                                  'transform_rgb_thermal': T_cam_thermal.tolist()}
        return {**content, **self._remarks, 'depth_unit_scale_factor': DEPTH_UNIT_M,
                **{f'{split}_filenames': self._splits[split] for split in SPLITS},
                'frames': self._frames}


def depth_counts(depth_m: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Metres to 16-bit millimetres; 0 (unknown) for what is not finite or beyond 65.535 m."""
    counts = np.rint(np.nan_to_num(depth_m, nan=0.0, posinf=0.0, neginf=0.0) / DEPTH_UNIT_M)
    return np.asarray(np.where((counts > 0) & (counts <= _MAX_COUNT), counts, 0), dtype=np.uint16)
