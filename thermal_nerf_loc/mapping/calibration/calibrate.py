# SPDX-License-Identifier: Apache-2.0
"""
Calibrate a thermal camera, and its place beside an RGB camera, from what there is.

Images of a board give lens and rig, a bag in which the rig is turned gives the time offset, and a
data set with poses gives all of it, from points that its images share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.importers.bags.image_stream import (
    camera_topics, grey, grey_images, lens_of)
from thermal_nerf_loc.importers.images.folders import find_folders, list_images, pair_images
from thermal_nerf_loc.importers.images.thermal_series import open_series
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.datasets.camera_file import RigCamera
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.io.images import read_image
from thermal_nerf_loc.mapping.calibration.board import (
    Board, find_board, fit_lens, fit_rig, LensFit, RigFit)
from thermal_nerf_loc.mapping.calibration.data_set import calibrate_by_images
from thermal_nerf_loc.mapping.calibration.time_offset import (
    correlate, rates_of_images, TurnRates)
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

Array = NDArray[np.float64]
Grey = NDArray[np.uint8]

_MAX_IMAGES = 150  # in which a board is looked for, spread over the recording
_BAG_STEP_S = 0.5
_MAX_SKEW_NS = 30_000_000  # between images of a board that both cameras saw
_GOOD_COVERAGE, _GOOD_RMS_PX = 0.5, 0.7


@dataclass(slots=True, eq=False)
class Calibration:
    """What was found: cameras as for a camera file, figures, notes; residuals of a board."""

    rig: dict[str, RigCamera]
    figures: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    fits: dict[str, LensFit] = field(default_factory=dict)
    scene: Scene | None = None


def by_board(source: Path, board: Board, rig: Mapping[str, RigCamera], rgb: Path | None,
             topics: Mapping[str, str], progress: Progress = silent) -> Calibration:
    """Lens of the thermal camera, and of the RGB camera and the rig, where that saw it too."""
    found = (_boards_of_bag(source, board, topics, progress) if is_bag(source) else
             _boards_of_folders(source, board, rgb, progress))
    fits = {name: fit_lens(each.corners, each.size, board) for name, each in found.items()}
    out = Calibration(dict(rig), {}, fits=fits)
    for name, fit in fits.items():
        out.rig[name] = rig[name]._replace(camera=fit.camera)
        out.figures |= {f'{name}_{key}': value for key, value in _figures(
            fit, found[name].looked_at).items()}
        out.notes += _doubts(name, fit)
    if len(fits) == 2:
        pair = fit_rig(fits[RGB], fits[THERMAL], found[RGB].partner, board)
        out.rig[THERMAL] = out.rig[THERMAL]._replace(T_rgb_sensor=pair.T_rgb_thermal)
        out.figures |= _rig_figures(pair)
    return out


def by_turning(bag: Path, rig: Mapping[str, RigCamera], topics: Mapping[str, str],
               max_offset_s: float, progress: Progress = silent) -> Calibration:
    """The time offset of the thermal camera by how fast both cameras turn."""
    rates: dict[str, TurnRates] = {}
    with BagReader(bag) as reader:
        names = camera_topics(reader, bag, topics)
        if len(names) < 2:
            raise InputError('bag has one camera only', where=bag,
                             expected='an RGB and a thermal topic', got=', '.join(names))
        for done, (name, topic) in enumerate(names.items()):
            lens = rig[name].camera or lens_of(reader, topic)
            if lens is None:
                raise InputError(f'{name} camera has no lens', where=bag,
                                 expected='camera_info, or --cameras FILE')
            progress(done, len(names), f'how {name} turns')
            rates[name] = rates_of_images(grey_images(reader, topic, name), lens)
    found = correlate(rates[RGB], rates[THERMAL], max_offset_s)
    out = dict(rig)
    total_ns = round(1e9 * found.seconds)
    out[THERMAL] = out[THERMAL]._replace(time_offset_ns=rig[RGB].time_offset_ns + total_ns)
    return Calibration(out, {'thermal_time_offset_s': found.seconds,
                             'correlation': found.correlation, 'overlap_s': found.overlap_s})


def by_data_set(scene: Scene, what: Sequence[str], rig: Mapping[str, RigCamera],
                progress: Progress = silent) -> Calibration:
    """Adjust the cameras of a data set by points of its own images."""
    found = calibrate_by_images(scene, what, progress)
    out = dict(rig)
    figures: dict[str, Any] = {}
    for name in scene.modalities:
        records = [frame.records[name] for frame in found.scene.frames if name in frame.records]
        out[name] = out[name]._replace(camera=records[0].camera)
        if name == THERMAL:
            out[name] = out[name]._replace(radiometry=records[0].radiometry,
                                           T_rgb_sensor=records[0].T_cam_sensor
                                           if RGB in scene.modalities else None)
        figures |= {f'{name}_residual_px': found.residual_px.get(name),
                    f'{name}_observations': found.observations.get(name, 0),
                    f'{name}_focal_px': records[0].camera.fx}
    out[THERMAL] = out[THERMAL]._replace(time_offset_ns=rig[THERMAL].time_offset_ns
                                         + round(1e9 * found.delay_s))
    figures |= {'rig_moved_m': found.moved_m, 'rig_turned_deg': found.turned_deg,
                'thermal_time_offset_s': found.delay_s}
    return Calibration(out, figures, scene=found.scene)


def is_bag(path: Path) -> bool:
    """Whether a path is a bag rather than images."""
    return (path.suffix in ('.mcap', '.db3', '.bag')
            or (path.is_dir() and (path / 'metadata.yaml').is_file()))


@dataclass(slots=True, eq=False)
class _Boards:
    """Boards of one camera by image; for RGB images their thermal ones."""

    size: tuple[int, int] = (0, 0)
    corners: dict[str, Array] = field(default_factory=dict)
    looked_at: int = 0
    partner: dict[str, str] = field(default_factory=dict)

    def look(self, name: str, image: Grey, board: Board) -> None:
        """Look for the board in one image."""
        size = image.shape[1], image.shape[0]
        if self.looked_at and size != self.size:
            raise InputError('images are not all of one size', where=name,
                             expected=f'{self.size[0]}x{self.size[1]}', got=f'{size[0]}x{size[1]}')
        self.size, self.looked_at = size, self.looked_at + 1
        corners = find_board(image, board)
        if corners is not None:
            self.corners[name] = corners


def _boards_of_folders(source: Path, board: Board, rgb: Path | None, progress: Progress,
                       ) -> dict[str, _Boards]:
    colour, heat = find_folders(source, rgb, None)
    if heat is None:  # the folder itself: here it is the thermal camera's
        colour, heat = rgb, source
    found = {THERMAL: _Boards()}
    with tempfile.TemporaryDirectory(prefix='board-') as scratch:
        series = open_series(heat, Path(scratch), _BAG_STEP_S, _MAX_IMAGES)
        names = list(series.names)
        for index, name in enumerate(names):
            found[THERMAL].look(name, grey(series.counts(name), THERMAL, name), board)
            progress(index + 1, len(names), f'{len(found[THERMAL].corners)} thermal boards')
    if colour is not None:
        found[RGB] = _Boards(partner=dict(pair_images(list_images(colour), names).partner))
        for index, name in enumerate(found[RGB].partner):
            found[RGB].look(name, grey(read_image(colour / name), RGB, name), board)
            progress(index + 1, len(found[RGB].partner), f'{len(found[RGB].corners)} RGB boards')
    return {name: found[name] for name in (RGB, THERMAL) if name in found}


def _boards_of_bag(bag: Path, board: Board, topics: Mapping[str, str], progress: Progress,
                   ) -> dict[str, _Boards]:
    found: dict[str, _Boards] = {}
    with BagReader(bag) as reader:
        step = max(_BAG_STEP_S, reader.duration_ns / 1e9 / _MAX_IMAGES)
        names = camera_topics(reader, bag, topics)
        wanted: list[int] = []  # stamps of thermal images, for which RGB ones are looked for
        for name in sorted(names, reverse=True):  # thermal first
            found[name] = _Boards()
            for stamp, image in grey_images(reader, names[name], name,
                                            step if name == THERMAL or not wanted else 0.0):
                near = [t for t in wanted if abs(t - stamp) <= _MAX_SKEW_NS]
                if name == RGB and wanted and not near:
                    continue
                found[name].look(str(stamp), image, board)
                if near:
                    found[name].partner[str(stamp)] = str(min(near, key=lambda t: abs(t - stamp)))
                progress((stamp - reader.first_ns) / 1e9, max(reader.duration_ns / 1e9, 1e-9),
                         f'{len(found[name].corners)} {name} boards')
            if name == THERMAL:
                wanted = [int(stamp) for stamp in found[name].corners]
    return {name: found[name] for name in (RGB, THERMAL) if name in found}


def _figures(fit: LensFit, looked_at: int) -> dict[str, Any]:
    camera = fit.camera
    return {'images': looked_at, 'boards': len(fit.corners) + len(fit.left_out),
            'left_out': list(fit.left_out), 'rms_px': fit.rms_px, 'focal_px': camera.fx,
            'focal_sigma_px': fit.sigma_focal_px, 'centre_px': [camera.cx, camera.cy],
            'distortion': list(camera.distortion), 'coverage': fit.coverage}


def _rig_figures(pair: RigFit) -> dict[str, Any]:
    return {'rig_pairs': pair.pairs, 'rig_rms_px': pair.rms_px, 'rig_spread_m': pair.spread_m,
            'rig_spread_deg': pair.spread_deg,
            'rig_baseline_m': float(np.linalg.norm(pair.T_rgb_thermal[:3, 3]))}


def _doubts(name: str, fit: LensFit) -> list[str]:
    notes = []
    if fit.coverage < _GOOD_COVERAGE:
        notes.append(f'boards cover {100.0 * fit.coverage:.0f} % of the {name} image only: the '
                     'distortion towards its rim is a guess; add images with the board there')
    if fit.rms_px > _GOOD_RMS_PX:
        notes.append(f'{name} residuals are large ({fit.rms_px:.2f} px): was the board flat, '
                     'still and evenly heated?')
    return notes
