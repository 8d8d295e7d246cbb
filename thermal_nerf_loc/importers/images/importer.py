# SPDX-License-Identifier: Apache-2.0
"""
Import folders of images as a data set: poses, metric scale, and pairs of RGB and thermal images.

Poses are those of the RGB camera, given or found by structure from motion; the pose of the thermal
camera in it comes from a camera file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.importers.images import metric_scale
from thermal_nerf_loc.importers.images.dataset import ImageFolder, write_image_set
from thermal_nerf_loc.importers.images.fiducials import detect_tags, FAMILIES, tag_edges
from thermal_nerf_loc.importers.images.folders import (
    check_sizes, find_folders, list_images, pair_images, Pairing, PAIRINGS)
from thermal_nerf_loc.importers.images.metric_scale import Distance, Metric
from thermal_nerf_loc.importers.images.poses import from_model, ImagePoses, read_poses
from thermal_nerf_loc.importers.images.structure_from_motion import (
    LENSES, reconstruct, require_pycolmap)
from thermal_nerf_loc.importers.images.thermal_importer import import_thermal
from thermal_nerf_loc.importers.options import ImportOptions, ImportResult, some_of
from thermal_nerf_loc.importers.phones.importer import import_phone, open_phone
from thermal_nerf_loc.io.atomic_files import check_vacant
from thermal_nerf_loc.io.datasets.camera_file import read_rig
from thermal_nerf_loc.io.images import read_counts, read_image, read_rgb
from thermal_nerf_loc.sensing.false_colour import is_false_colour
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.thermal_cameras import choose_scale, ChosenScale

Array = NDArray[np.float64]

_NAMES_IN_NOTES = 10  # of images that were left out
_COLOUR_SAMPLE, _FALSE_SHARE = 12, 0.6  # images that are looked at, and how many are too many
# Shares of the work that are done after each stage, for progress reports.
_CHECKED, _POSED, _SCALED = 0.05, 0.85, 0.9


@dataclass(frozen=True, slots=True)
class ImageImportConfig(ImportOptions):
    """What to import; folders that are not given are found."""

    rgb: Path | None = None
    thermal: Path | None = None
    pair: str = setting('auto', 'how thermal images find their RGB ones', choices=PAIRINGS)
    poses: Path | None = None
    max_gap_s: float = setting(0.5, 'between two given poses that are interpolated', 1e-3, 3600.0)
    lens: str = setting('auto', 'lens model to find (auto: OPENCV for RGB images; for '
                        'thermal ones RADIAL, for few of them SIMPLE_RADIAL)',
                        choices=('auto', *LENSES))
    matching: str = setting('auto', 'which images are compared',
                            choices=('auto', 'all', 'neighbours'))
    feature_px: int = setting(1600, 'longer side of the images in which features are detected',
                              64, 100_000)
    every_s: float = setting(0.2, 'of a thermal video: one image in so many seconds, the sharpest',
                             1e-3, 3600.0)
    max_images: int = setting(400, 'of thermal images alone, or of a phone: at most so many', 2,
                              1_000_000)
    positions: Path | None = None
    distances: tuple[Distance, ...] = ()
    tag_size_m: float | None = None
    tag_family: str = setting('apriltag-36h11', 'kind of tag', choices=tuple(FAMILIES))
    keep_frame: bool = False  # True: do not put z = 0 on the floor

    def __post_init__(self) -> None:
        """Check the ranges, and that the scale comes from one source."""
        ImportOptions.__post_init__(self)
        sources = [self.positions is not None, bool(self.distances), self.tag_size_m is not None]
        if sum(sources) > 1:
            raise InputError('the scale is given twice', expected='one of --camera-positions, '
                             '--distance, --tag-size')
        if self.tag_size_m is not None and not 0.0 < self.tag_size_m < np.inf:
            raise InputError('tag size is out of range', where='--tag-size',
                             expected='metres above 0', got=self.tag_size_m)

    @property
    def has_own_frame(self) -> bool:
        """Whether the frame of the poses is arbitrary, and may be put on the floor."""
        return self.poses is None and self.positions is None and not self.keep_frame


def import_images(root: Path, out: Path, config: ImageImportConfig = ImageImportConfig(),
                  progress: Progress = silent) -> ImportResult:
    """Read folders of images, or a phone's recording, and write a data set."""
    check_vacant(out)
    if config.poses is None and config.rgb is None:
        recording = open_phone(root)
        if recording is not None:
            return import_phone(recording, out, config, progress)
    rgb, thermal = find_folders(root, config.rgb, config.thermal)
    job = None if rgb is None else _ImageImport(rgb, thermal, out, config, progress)
    if config.poses is None:
        require_pycolmap()
    if job is not None:
        return job.run()
    assert thermal is not None
    return import_thermal(thermal, out, config, progress)


class _ImageImport:
    """An import of one folder; `run` has its steps."""

    def __init__(self, rgb: Path, thermal: Path | None, out: Path, config: ImageImportConfig,
                 progress: Progress) -> None:
        self._out, self._config, self._progress = out, config, progress
        self._rig_file = read_rig(config.cameras)
        self._rgb, self._thermal = rgb, thermal
        self._names = list_images(self._rgb)
        if len(self._names) < 2:
            raise InputError('one image is not enough', where=self._rgb,
                             expected='two or more, better dozens', got=self._names[0])
        self._notes: list[str] = []

    def run(self) -> ImportResult:
        """Pair, check, pose, scale, write."""
        pairs, sizes = self._pairs(), self._check_images()
        thermal_lens = self._thermal_lens(sizes[THERMAL]) if THERMAL in sizes else None
        scale = self._thermal_scale(pairs)
        found = self._poses()
        lens = self._lens(found, sizes[RGB])
        names = [name for name in self._names if name in found.poses]
        left_out = [name for name in self._names if name not in found.poses]
        self._note_some(left_out, 'images could not be placed and are left out')
        metric = self._metric(found, lens)
        if self._config.has_own_frame:
            metric = metric_scale.on_the_floor(metric, found.poses, found.points)
        rgb = ImageFolder(self._rgb, lens, np.eye(4), self._rig_file[RGB].mask_path)
        thermal = None
        if self._thermal is not None and thermal_lens is not None:
            thermal = ImageFolder(self._thermal, thermal_lens, self._T_rgb_thermal(metric),
                                  self._rig_file[THERMAL].mask_path, scale)
        poses = metric.similarity.apply(np.stack([found.poses[name] for name in names]))
        counts = write_image_set(
            self._out, rgb, thermal, pairs.partner if pairs else {}, dict(zip(names, poses)),
            found.stamps_ns, self._config.hold_out,
            {'scale': {'metric': metric.is_metric, 'from': metric.source}},
            self._stage(_SCALED, 1.0, 'writing', len(names)))
        self._notes += metric.notes
        return ImportResult(self._figures(found, metric, pairs, scale, left_out) | counts,
                            tuple(self._notes))

    def _pairs(self) -> Pairing | None:
        if self._thermal is None:
            self._notes.append('no folder of thermal images was found: RGB alone '
                               '(see --thermal)')
            return None
        pairs = pair_images(self._names, list_images(self._thermal, thermal=True),
                            self._config.pair)
        self._notes.append(f'thermal images belong to RGB images by {pairs.paired_by}')
        self._note_some(pairs.rgb_unpaired, 'RGB images have no thermal one')
        self._note_some(pairs.thermal_unpaired, 'thermal images have no RGB one and are left out')
        return pairs

    def _check_images(self) -> dict[str, tuple[int, int]]:
        """Decode every image; returns the sizes by modality."""
        thermal = list_images(self._thermal, thermal=True) if self._thermal is not None else []
        report_count = self._stage(0.0, _CHECKED, 'checking', len(self._names) + len(thermal))
        sizes = {RGB: check_sizes(self._rgb, self._names, read_image, report_count)}
        if self._config.rgb is None:
            self._check_colours()
        if self._thermal is not None:
            sizes[THERMAL] = check_sizes(
                self._thermal, thermal, lambda path: read_counts(path).counts,
                lambda count: report_count(len(self._names) + count))
        return sizes

    def _check_colours(self) -> None:
        """Refuse pictures of a thermal camera in a folder that nobody called RGB."""
        step = max(1, len(self._names) // _COLOUR_SAMPLE)
        some = self._names[::step]
        false = [name for name in some if is_false_colour(read_rgb(self._rgb / name).values)]
        if len(false) > _FALSE_SHARE * len(some):
            raise InputError(
                'images look like the false colours of a thermal camera', where=self._rgb,
                expected='photographs, or thermal images in grey or radiometric',
                got=f'{len(false)} of {len(some)} in a palette, such as {false[0]}',
                hint='Take the radiometric JPEGs as the camera wrote them, export 16-bit TIFFs, '
                     'or record in white hot. If they are photographs: --rgb FOLDER.')

    def _thermal_lens(self, size: tuple[int, int]) -> Camera:
        lens = self._rig_file[THERMAL].camera
        if lens is None:
            raise InputError('thermal camera has no lens', where=self._thermal,
                             expected='--cameras FILE with a block "thermal": w, h, fl_x, ...',
                             hint='Structure from motion finds the lens of the RGB camera only.')
        _check_lens(lens, size, THERMAL)
        return lens

    def _thermal_scale(self, pairs: Pairing | None) -> ChosenScale | None:
        """The scale of thermal counts, chosen by the first thermal image of a pair."""
        if pairs is None or self._thermal is None:
            return None
        path = self._thermal / next(iter(pairs.partner.values()))
        scale = choose_scale(read_counts(path).counts,
                             self._config.thermal_scale(self._rig_file),
                             self._config.radiometric, str(path))
        self._notes += [scale.note] if scale.note else []
        return scale

    def _poses(self) -> ImagePoses:
        config = self._config
        if config.poses is not None:
            return read_poses(config.poses, self._names, round(1e9 * config.max_gap_s))
        found = reconstruct(self._rgb, self._names, self._rig_file[RGB].camera,
                            'OPENCV' if config.lens == 'auto' else config.lens,
                            config.matching, config.feature_px,
                            lambda done, total, message='': self._progress(
                                _CHECKED + (_POSED - _CHECKED) * done / total, 1.0, message))
        self._notes.append(found.note)
        if found.models > 1:
            self._notes.append(f'the images fell apart into {found.models} models without '
                               'overlap; the largest is used')
        return from_model(found.model, self._names, self._rgb)._replace(
            source='structure from motion')

    def _lens(self, found: ImagePoses, size: tuple[int, int]) -> Camera:
        lens = self._rig_file[RGB].camera or found.camera
        if lens is None:
            raise InputError('RGB camera has no lens', where=self._rgb,
                             expected='--cameras FILE with a block "rgb": w, h, fl_x, ...',
                             hint='A TUM file holds poses only.')
        _check_lens(lens, size, RGB)
        return lens

    def _metric(self, found: ImagePoses, lens: Camera) -> Metric:
        """The metric scale from what was given; only poses found here are turned upright."""
        config, upright = self._config, self._config.poses is None
        measured = metric_scale.from_measurements(found.poses, config.positions, config.distances,
                                                  upright)
        if measured is not None:
            return measured
        if config.tag_size_m is not None:
            names = list(found.poses)
            tags = detect_tags(self._rgb, names, config.tag_family,
                               self._stage(_POSED, _SCALED, 'tags', len(names)))
            edges, used, notes = tag_edges(tags, found.poses, lens, self._rgb)
            self._notes += notes
            source = (f'{len(used)} tags of {config.tag_size_m:g} m ({config.tag_family} '
                      f'{", ".join(map(str, used))})')
            return metric_scale.from_edges(found.poses, edges, config.tag_size_m, source,
                                           upright)
        if upright:
            return metric_scale.arbitrary(found.poses, found.points, lens)
        return metric_scale.as_given(found.is_metric)

    def _T_rgb_thermal(self, metric: Metric) -> Array:
        """Pose of the thermal camera in the RGB camera; its shift is 0 for an arbitrary scale."""
        T = self._rig_file[THERMAL].T_rgb_sensor
        if T is None:
            self._notes.append('the pose of the thermal camera is unknown: it is taken to be '
                               'where the RGB camera is, looking the same way (see --cameras, '
                               'transform_rgb_thermal)')
            return np.eye(4)
        if metric.is_metric is False and T[:3, 3].any():
            self._notes.append(f'the thermal camera sits {np.linalg.norm(T[:3, 3]):.3f} m from '
                               'the RGB camera, which an arbitrary scale cannot place: only its '
                               'direction is used')
            T = T.copy()
            T[:3, 3] = 0.0
        return T

    def _figures(self, found: ImagePoses, metric: Metric, pairs: Pairing | None,
                 scale: ChosenScale | None, left_out: Sequence[str]) -> dict[str, Any]:
        return {
            'data': str(self._out), 'rgb': str(self._rgb),
            'thermal': None if self._thermal is None else str(self._thermal),
            'rgb_images': len(self._names), 'registered': len(found.poses),
            'poses': found.source, 'reprojection_error_px': found.error_px,
            'points': len(found.points), 'scale': metric.similarity.scale,
            'scale_from': metric.source, 'metric': metric.is_metric, **metric.figures,
            'thermal_pairs': len(pairs.partner) if pairs is not None else 0,
            'paired_by': pairs.paired_by if pairs is not None else None,
            'thermal_scale': scale.description if scale is not None else None,
            'left_out': list(left_out)}

    def _note_some(self, names: Sequence[str], what: str) -> None:
        if names:
            self._notes.append(f'{len(names)} {what}: {some_of(names, _NAMES_IN_NOTES)}')

    def _stage(self, start: float, end: float, text: str, total: int) -> Callable[[int], None]:
        """A function that reports how many of `total` items of a stage of the work are done."""
        def report_count(count: int) -> None:
            self._progress(start + (end - start) * count / max(total, 1), 1.0, text)
        return report_count


def _check_lens(lens: Camera, size: tuple[int, int], modality: str) -> None:
    if lens.size != size:
        raise InputError(f'{modality} images do not have the size of their camera',
                         expected=f'{lens.width}x{lens.height} pixels',
                         got=f'{size[0]}x{size[1]}', hint='Intrinsics belong to one resolution.')
