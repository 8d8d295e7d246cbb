# SPDX-License-Identifier: Apache-2.0
"""
Import a phone's recording: poses, images and LiDAR depth, and a thermal camera's images by time.

Keyframes are chosen as those of a bag. A thermal image gets the phone's pose at its own stamp,
moved by the rig of the camera file.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.importers.bags.keyframe_selection import (
    choose_windows, KeyframeRule, sharpness)
from thermal_nerf_loc.importers.images.dataset import ImageFolder
from thermal_nerf_loc.importers.images.folders import check_sizes, list_images
from thermal_nerf_loc.importers.images.poses import stamp_of
from thermal_nerf_loc.importers.options import ImportResult
from thermal_nerf_loc.importers.phones.polycam import (
    find_polycam, open_nerfstudio, open_polycam)
from thermal_nerf_loc.importers.phones.record3d import open_record3d
from thermal_nerf_loc.importers.phones.recording import PhoneFrame, PhoneRecording
from thermal_nerf_loc.io.datasets.camera_file import read_rig
from thermal_nerf_loc.io.datasets.scene import load_image
from thermal_nerf_loc.io.datasets.scene_writer import SceneWriter
from thermal_nerf_loc.io.datasets.splits import split_of, SPLITS
from thermal_nerf_loc.io.images import read_counts
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.thermal_cameras import choose_scale

Array = NDArray[np.float64]

_MAX_SKEW_NS = 50_000_000  # between an image and its thermal one; both have their own pose
_MAX_GAP_NS = 500_000_000  # between poses that are interpolated
_CANDIDATES = 5  # images of a window of which the sharpest is kept


def open_phone(root: Path) -> PhoneRecording | None:
    """The recording at a path; None where it is none."""
    if root.suffix.lower() == '.r3d':
        return open_record3d(root)
    if root.is_file():
        return open_nerfstudio(root) if root.name == 'transforms.json' else None
    polycam = find_polycam(root) if root.is_dir() else None
    return None if polycam is None else open_polycam(polycam)


def import_phone(recording: PhoneRecording, out: Path, config: Any,
                 progress: Progress) -> ImportResult:
    """Choose keyframes, pair, write."""
    return _PhoneImport(recording, out, config, progress).run()


class _PhoneImport:
    """An import; `run` has its steps."""

    def __init__(self, recording: PhoneRecording, out: Path, config: Any,
                 progress: Progress) -> None:
        self._recording, self._out, self._config = recording, out, config
        self._progress, self._notes = progress, list(recording.notes)
        self._rig = read_rig(config.cameras)
        self._path: Trajectory | None = None
        self._thermal: dict[int, str] = {}  # file names by stamp in the phone's time
        self._folder: ImageFolder | None = None

    def run(self) -> ImportResult:
        """Import."""
        if self._config.thermal is not None:
            self._find_thermal()
        poses = np.stack([frame.T_world_cam for frame in self._recording.frames])
        windows = choose_windows(poses, KeyframeRule(max_frames=self._config.max_images))
        cameras = {RGB: self._recording.frames[0].camera}
        if self._folder is not None:
            cameras[THERMAL] = self._folder.camera
        counts = {f'{split}_frames': 0 for split in SPLITS} | {'thermal_frames': 0,
                                                              'depth_frames': 0}
        scale = self._folder.scale if self._folder is not None else None
        with SceneWriter(self._out, cameras,
                         self._folder.T_rgb_sensor if self._folder is not None else None,
                         scale.radiometry if scale is not None else None, rgb_format='jpg',
                         rig_per_frame=True, camera_per_frame=True,
                         remarks={'scale': {'metric': self._recording.kind != 'nerfstudio',
                                            'from': self._recording.kind}}) as writer:
            for index, frame in enumerate(self._frames(windows)):
                split = split_of(index, self._config.hold_out)
                writer.add(frame, split)
                counts[f'{split}_frames'] += 1
                counts['thermal_frames'] += THERMAL in frame.images
                counts['depth_frames'] += frame.images[RGB].depth_m is not None
        return ImportResult({
            'data': str(self._out), 'rgb': str(self._recording.path),
            'thermal': None if self._config.thermal is None else str(self._config.thermal),
            'poses': f'{self._recording.kind} (ARKit)', 'received': len(self._recording.frames),
            'keyframes': len(windows), 'metric': self._recording.kind != 'nerfstudio',
            'thermal_scale': scale.description if scale is not None else None} | counts,
            tuple(self._notes))

    def _frames(self, windows: list[range]) -> Iterator[Frame]:
        """The sharpest image of each window, with its depth and its thermal image."""
        for done, window in enumerate(windows):
            step = max(1, len(window) // _CANDIDATES)
            best: tuple[float, PhoneFrame, NDArray[np.float32]] | None = None
            for k in window[::step]:
                frame = self._recording.frames[k]
                values = frame.read_rgb()
                score = sharpness(np.rint(255.0 * values).astype(np.uint8))
                if best is None or score > best[0]:
                    best = score, frame, values
            assert best is not None
            _, frame, values = best
            images = {RGB: SensorImage(frame.camera, values, frame.stamp_ns, np.eye(4),
                                       depth_m=frame.read_depth() if frame.read_depth else None)}
            thermal = self._thermal_image(frame)
            if thermal is not None:
                images[THERMAL] = thermal
            yield Frame(frame.stamp_ns, images, frame.T_world_cam, frame.name)
            self._progress(done + 1, len(windows), 'keyframes')

    def _find_thermal(self) -> None:
        """Stamps, lens and scale of the thermal images."""
        folder, frames = self._config.thermal, self._recording.frames
        if not self._recording.has_stamps:
            raise InputError('recording has no times', where=self._recording.path,
                             expected='stamps, to find thermal images by')
        lens = self._rig[THERMAL].camera
        if lens is None:
            raise InputError('thermal camera has no lens', where=folder,
                             expected='--cameras FILE with a block "thermal": w, h, fl_x, ...',
                             hint='The command calibrate-thermal measures it.')
        names = list_images(folder, thermal=True)
        if check_sizes(folder, names, lambda path: read_counts(path).counts,
                       lambda count: None) != lens.size:
            raise InputError('thermal images do not have the size of their camera', where=folder,
                             expected=f'{lens.width}x{lens.height} pixels')
        shift = (self._rig[THERMAL].time_offset_ns - self._rig[RGB].time_offset_ns)
        stamps = {name: stamp_of(name) for name in names}
        self._thermal = {stamp + shift: name for name, stamp in stamps.items()
                         if stamp is not None}
        first, last = frames[0].stamp_ns, frames[-1].stamp_ns
        if not any(first <= stamp <= last for stamp in self._thermal):
            known = sorted(self._thermal)
            raise InputError(
                'thermal images and the recording share no time', where=folder,
                expected=f'stamps as file names, from {first / 1e9:.3f} to {last / 1e9:.3f} s',
                got=f'{known[0] / 1e9:.3f} to {known[-1] / 1e9:.3f} s' if known else
                    f'names such as {names[0]}',
                hint='thermal_time_offset_s of the camera file is added to thermal stamps.')
        self._path = Trajectory(np.array([frame.stamp_ns for frame in frames]),
                                np.stack([frame.T_world_cam for frame in frames]))
        T = self._rig[THERMAL].T_rgb_sensor
        if T is None:
            self._notes.append('the pose of the thermal camera is unknown: it is taken to be '
                               "where the phone's camera is (see --cameras, "
                               'transform_rgb_thermal)')
        scale = choose_scale(read_counts(folder / names[0]).counts,
                             self._config.thermal_scale(self._rig), self._config.radiometric,
                             str(folder / names[0]))
        self._notes += [scale.note] if scale.note else []
        self._folder = ImageFolder(folder, lens, np.eye(4) if T is None else T,
                                   self._rig[THERMAL].mask_path, scale)

    def _thermal_image(self, frame: PhoneFrame) -> SensorImage | None:
        """The thermal image nearest in time, where it stood relative to this frame's camera."""
        if self._folder is None or self._path is None:
            return None
        stamp = min(self._thermal, key=lambda other: abs(other - frame.stamp_ns))
        T = self._path.at(stamp, _MAX_GAP_NS)
        if abs(stamp - frame.stamp_ns) > _MAX_SKEW_NS or T is None:
            return None
        image = load_image(THERMAL, self._folder.record(self._thermal[stamp], stamp))
        return replace(image, T_cam_sensor=se3.inverse(frame.T_world_cam) @ T
                       @ self._folder.T_rgb_sensor)
