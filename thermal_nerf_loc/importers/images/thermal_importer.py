# SPDX-License-Identifier: Apache-2.0
"""
Import thermal images alone: poses, lens and scale from heat.

COLMAP gets copies of the images with even contrast, without the pattern that all of them share;
the data set gets the values as they were recorded.
"""

import math
from pathlib import Path
import tempfile
from typing import Any, NamedTuple

import numpy as np

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.importers.images import metric_scale
from thermal_nerf_loc.importers.images.dataset import ImageFolder, write_image_set
from thermal_nerf_loc.importers.images.folders import check_sizes
from thermal_nerf_loc.importers.images.metric_scale import Metric
from thermal_nerf_loc.importers.images.poses import from_model, ImagePoses, read_poses
from thermal_nerf_loc.importers.images.structure_from_motion import reconstruct
from thermal_nerf_loc.importers.images.thermal_series import open_series, ThermalSeries
from thermal_nerf_loc.importers.options import ImportOptions, ImportResult, some_of
from thermal_nerf_loc.io.atomic_files import read_bytes
from thermal_nerf_loc.io.datasets.camera_file import read_rig
from thermal_nerf_loc.io.geotags import read_geotag
from thermal_nerf_loc.io.images import read_counts, write_png
from thermal_nerf_loc.io.radiometric_jpeg import camera_of, DJI, maker_of
from thermal_nerf_loc.sensing.contrast import learn_pattern, stretched
from thermal_nerf_loc.sensing.frame import THERMAL
from thermal_nerf_loc.sensing.thermal_cameras import choose_scale, ChosenScale

_FOR_PATTERN = 60  # images from which the common pattern is learned
_USUAL_FOCAL = 1.15  # of the width: 47 degrees, between a Lepton's 57 and a drone's 46 or 32
# Of the width, by data sheets: focal length over pixel pitch and columns.
_FOCAL = {'MAVIC2-ENTERPRISE-ADVANCED': 9.0 / (0.012 * 640)}
_FOR_TWO_TERMS = 30  # images from which a second term of distortion is found
_READ, _STRETCHED, _POSED = 0.05, 0.1, 0.9  # shares of the work that are done after each stage


class _Lens(NamedTuple):
    """A lens that is known, or a guess to start from."""

    known: Camera | None
    guess_px: float
    source: str


def import_thermal(source: Path, out: Path, config: Any, progress: Progress) -> ImportResult:
    """Read thermal images of one camera and write a data set."""
    with tempfile.TemporaryDirectory(prefix='thermal-') as scratch:
        return _ThermalImport(source, out, config, progress, Path(scratch)).run()


class _ThermalImport:
    """An import; `run` has its steps."""

    def __init__(self, source: Path, out: Path, config: Any, progress: Progress,
                 scratch: Path) -> None:
        self._source, self._out, self._config, self._progress = source, out, config, progress
        self._scratch, self._notes = scratch, ['no RGB images: poses and lens come from heat']
        self._rig = read_rig(config.cameras)[THERMAL]
        (scratch / 'series').mkdir()
        (scratch / 'contrast').mkdir()

    def run(self) -> ImportResult:
        """Read, choose the scale, pose, scale, write."""
        config = self._config
        series = self._series()
        size = check_sizes(series.folder, series.names,
                           lambda path: read_counts(path).counts, lambda count: None)
        scale, lens = self._scale(series), self._lens(series, size)
        rms = self._write_contrast(series)
        found = self._poses(series, lens)
        camera = lens.known or found.camera
        if camera is None:
            raise InputError('thermal camera has no lens', where=self._source,
                             expected='--cameras FILE with a block "thermal": w, h, fl_x, ...',
                             hint='A TUM file holds poses only.')
        names = [name for name in series.names if name in found.poses]
        left_out = [name for name in series.names if name not in found.poses]
        if left_out:
            self._notes.append(f'{len(left_out)} images could not be placed and are left out: '
                               f'{some_of(left_out, 10)}')
        metric = self._metric(series, found, camera)
        if config.has_own_frame and metric.geo_anchor is None:
            metric = metric_scale.on_the_floor(metric, found.poses, found.points)
        self._notes += metric.notes
        poses = metric.similarity.apply(np.stack([found.poses[name] for name in names]))
        remarks: dict[str, Any] = {'scale': {'metric': metric.is_metric, 'from': metric.source}}
        if metric.geo_anchor is not None:
            remarks['geo_anchor'] = metric.geo_anchor._asdict()
        folder = ImageFolder(series.folder, camera, np.eye(4), self._rig.mask_path, scale)
        counts = write_image_set(
            self._out, None, folder, {}, dict(zip(names, poses)),
            {**series.stamps_ns, **found.stamps_ns}, config.hold_out, remarks,
            lambda count: self._progress(_POSED + (1.0 - _POSED) * count / len(names), 1.0,
                                         'writing'))
        return ImportResult({
            'data': str(self._out), 'thermal': str(self._source), 'rgb': None,
            'thermal_images': series.received, 'frozen': series.frozen,
            'less_sharp': series.blurred, 'registered': len(names), 'poses': found.source,
            'reprojection_error_px': found.error_px, 'points': len(found.points),
            'lens': lens.source, 'focal_px': camera.fx, 'pattern_rms_counts': rms,
            'scale': metric.similarity.scale, 'scale_from': metric.source,
            'metric': metric.is_metric, **metric.figures,
            'geo_anchor': remarks.get('geo_anchor'), 'thermal_scale': scale.description,
            'left_out': left_out} | counts, tuple(self._notes))

    def _series(self) -> ThermalSeries:
        series = open_series(
            self._source, self._scratch / 'series', self._config.every_s, self._config.max_images,
            lambda done, total, text='': self._progress(_READ * done / total, 1.0, text))
        if series.frozen:
            self._notes.append(f'{series.frozen} images repeat the one before (closed shutter) '
                               'and are left out')
        if series.blurred:
            self._notes.append(f'{series.blurred} images are left out, as a sharper one lies near '
                               '(see --every, --max-images)')
        if len(series.names) < 2:
            raise InputError('one image is not enough', where=self._source,
                             expected='two or more, better dozens', got=len(series.names))
        return series

    def _scale(self, series: ThermalSeries) -> ChosenScale:
        options: ImportOptions = self._config
        given, radiometric = options.thermal_scale({THERMAL: self._rig}), options.radiometric
        first = series.folder / series.names[0]
        if given is None and radiometric and maker_of(read_bytes(first)) == DJI:
            radiometric = False
            self._notes.append("DJI's raw counts are not radiometric here, as their scale is not "
                               'documented; --thermal-camera dji-m2ea takes 1/64 K a count '
                               '(plausible, unverified)')
        scale = choose_scale(series.counts(series.names[0]), given, radiometric, str(first))
        self._notes += [scale.note] if scale.note else []
        return scale

    def _lens(self, series: ThermalSeries, size: tuple[int, int]) -> _Lens:
        known = self._rig.camera
        if known is not None:
            if known.size != size:
                raise InputError('thermal images do not have the size of their camera',
                                 expected=f'{known.width}x{known.height} pixels',
                                 got=f'{size[0]}x{size[1]}',
                                 hint='Intrinsics belong to one resolution.')
            return _Lens(known, known.fx, 'given')
        first = series.folder / series.names[0]
        model, view_deg = camera_of(read_bytes(first), first)
        share = _FOCAL.get(model, _USUAL_FOCAL)
        start = f'the data sheet of {model}' if model in _FOCAL else 'a usual one'
        if view_deg:
            share = 0.5 / math.tan(math.radians(0.5 * view_deg))
            start = f'the {view_deg:.1f} deg of view in the file'
        self._notes.append(f'the lens is found, starting from {start} ({share * size[0]:.0f} px); '
                           'a calibrated one by --cameras FILE is safer')
        return _Lens(None, share * size[0], f'found from {start}')

    def _write_contrast(self, series: ThermalSeries) -> float:
        """Write the copies for COLMAP; returns the rms of the common pattern."""
        step = max(1, len(series.names) // _FOR_PATTERN)
        pattern = learn_pattern([series.counts(name) for name in series.names[::step]])
        for index, name in enumerate(series.names):
            write_png(self._scratch / 'contrast' / f'{name}.png',
                      stretched(series.counts(name), pattern.image))
            self._progress(_READ + (_STRETCHED - _READ) * index / len(series.names), 1.0,
                           'contrast')
        return pattern.rms

    def _poses(self, series: ThermalSeries, lens: _Lens) -> ImagePoses:
        config, names = self._config, list(series.names)
        if config.poses is not None:
            return read_poses(config.poses, names, round(1e9 * config.max_gap_s))
        model = config.lens
        if model == 'auto':
            model = 'RADIAL' if len(names) >= _FOR_TWO_TERMS else 'SIMPLE_RADIAL'
        found = reconstruct(
            self._scratch / 'contrast', [f'{name}.png' for name in names], lens.known, model,
            config.matching, config.feature_px,
            lambda done, total, text='': self._progress(
                _STRETCHED + (_POSED - _STRETCHED) * done / total, 1.0, text), lens.guess_px)
        self._notes.append(found.note)
        if found.models > 1:
            self._notes.append(f'the images fell apart into {found.models} models without '
                               'overlap; the largest is used')
        posed = from_model(found.model, [f'{name}.png' for name in names], self._source)
        return posed._replace(poses={name.removesuffix('.png'): T
                                     for name, T in posed.poses.items()},
                              source='structure from motion on thermal images')

    def _metric(self, series: ThermalSeries, found: ImagePoses, camera: Camera) -> Metric:
        config, upright = self._config, self._config.poses is None
        measured = metric_scale.from_measurements(found.poses, config.positions, config.distances,
                                                  upright)
        if measured is not None:
            return measured
        if config.tag_size_m is not None:
            raise InputError('tags are looked for in RGB images only', where='--tag-size',
                             hint='Give --camera-positions or --distance.')
        if not upright:
            return metric_scale.as_given(found.is_metric)
        tags = {name: read_geotag(series.folder / name) for name in found.poses}
        metric, note = metric_scale.from_geotags(
            found.poses, {name: tag for name, tag in tags.items() if tag is not None})
        self._notes += [note] if note else []
        return metric or metric_scale.arbitrary(found.poses, found.points, camera)
