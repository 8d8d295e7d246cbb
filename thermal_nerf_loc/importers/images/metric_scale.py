# SPDX-License-Identifier: Apache-2.0
"""The metric scale of a reconstruction: from known camera positions, distances or tags."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.floor import find_floor
from thermal_nerf_loc.geometry.geodesy import GeoAnchor
from thermal_nerf_loc.geometry.similarity import IDENTITY, Similarity, umeyama, upright_similarity
from thermal_nerf_loc.io.atomic_files import read_text
from thermal_nerf_loc.io.geotags import GeoTag, RTK

Array = NDArray[np.float64]
Poses = Mapping[str, Array]

_USUAL_DEPTH = 3.0  # median, in the units of a map whose scale is arbitrary
_GEOTAG_MISFIT = 0.2  # rms over extent: beyond, a receiver's noise would make the scale
_MAX_POINTS = 4000  # of which the median depth is taken


class Metric(NamedTuple):
    """From poses to metres, by `source`; `is_metric` None: unknown, for poses that were given."""

    similarity: Similarity
    is_metric: bool | None
    source: str
    figures: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    geo_anchor: GeoAnchor | None = None  # of the frame that the similarity leads to


class Distance(NamedTuple):
    """Metres between the cameras of two images."""

    first: str
    second: str
    metres: float


def from_measurements(poses: Poses, positions: Path | None, distances: Sequence[Distance],
                      upright: bool) -> Metric | None:
    """By positions or distances that were given; None where none were."""
    if positions is not None:
        return from_positions(poses, positions)
    return from_distances(poses, distances, upright) if distances else None


def from_positions(poses: Poses, path: Path) -> Metric:
    """Fit camera positions to known ones: lines `name x y z`; they orient the map as well."""
    known = _read_positions(path)
    named = {_find(poses, name): position for name, position in known.items()
             if _find(poses, name) is not None}
    if len(named) < 3:
        raise InputError('too few known positions', where=path,
                         expected='three or more of images that have a pose',
                         got=f'{len(named)} of {len(known)} names, the images are '
                             f'{", ".join(list(poses)[:3])}, ...')
    return _fitted(poses, {name: position for name, position in named.items() if name}, path)


def from_geotags(poses: Poses, tags: Mapping[str, GeoTag]) -> tuple[Metric | None, str]:
    """
    Fit camera positions to those in the images' headers: metres, and a geo-anchor.

    The frame is east, north, up from the first image's position. Where plain GPS is too coarse for
    the path, or the path is a line, there is none; then a note says why.
    """
    if len(tags) < 3:
        return None, ''
    first = next(iter(tags.values()))
    anchor = GeoAnchor(*first[:3])
    positions = anchor.enu([tag[:3] for tag in tags.values()])
    extent = float(np.linalg.norm(positions - positions.mean(axis=0), axis=1).max())
    try:
        metric = _fitted(poses, dict(zip(tags, positions)), 'positions in the images')
    except InputError as error:
        return None, f'positions in the images are not used: they lie on a line ({error.got})'
    rms = metric.figures['positions_rms_m']
    if rms > _GEOTAG_MISFIT * extent:
        return None, (f'positions in the images are not used: they are met to {rms:.2f} m only, '
                      f'on a path that reaches {extent:.1f} m from its middle')
    kind = RTK if all(tag.source == RTK for tag in tags.values()) else first.source
    return metric._replace(source=f'{len(tags)} positions in the images ({kind})',
                           geo_anchor=anchor,
                           notes=(*metric.notes, _written(anchor))), ''


def _written(anchor: GeoAnchor) -> str:
    return (f'the world is east, north, up from {anchor.latitude_deg:.7f} deg north, '
            f'{anchor.longitude_deg:.7f} deg east, {anchor.height_m:.2f} m')


def _fitted(poses: Poses, named: Mapping[str, Array], path: object) -> Metric:
    names = list(named)
    x, y = np.stack([poses[name][:3, 3] for name in names]), np.stack(list(named.values()))
    try:
        similarity = umeyama(x, y, with_scale=True)
    except InputError as error:
        raise InputError('known positions do not orient the map', where=path,
                         expected=error.expected, got=error.got) from None
    residuals = np.linalg.norm(se3.transform(similarity.T, similarity.scale * x) - y, axis=1)
    worst = int(residuals.argmax())
    return Metric(similarity, True, f'{len(names)} known camera positions', {
        'positions_used': len(names), 'positions_rms_m': float(np.sqrt((residuals**2).mean())),
        'positions_max_m': float(residuals[worst]), 'positions_worst': names[worst],
        'position_residuals_m': [{'image': name, 'metres': float(value)}
                                 for name, value in zip(names, residuals)]},
        (f'known positions are met to {np.sqrt((residuals**2).mean()):.3f} m RMS; the worst is '
         f'{names[worst]}, {residuals[worst]:.3f} m',))


def from_distances(poses: Poses, distances: Sequence[Distance], upright: bool) -> Metric:
    """Scale by measured distances between cameras; of several, by least squares."""
    lengths = []
    for distance in distances:
        ends = []
        for name in (distance.first, distance.second):
            found = _find(poses, name)
            if found is None:
                raise InputError('image has no pose', where='--distance', got=name,
                                 expected=f'one of {", ".join(list(poses)[:5])}, ...')
            ends.append(poses[found][:3, 3])
        lengths.append(float(np.linalg.norm(ends[0] - ends[1])))
    if not all(np.isfinite(d.metres) and d.metres > 0.0 for d in distances):
        raise InputError('distance is out of range', where='--distance',
                         expected='metres above 0', got=[d.metres for d in distances])
    length, metres = np.array(lengths), np.array([d.metres for d in distances])
    if not (length > 1e-9).all():
        raise InputError('images were taken at one place', where='--distance',
                         got=distances[int(length.argmin())][:2])
    scale = float((length @ metres) / (length @ length))
    residuals = scale * length - metres
    return Metric(_scaled(poses, scale, upright), True,
                  f'{len(distances)} measured distances between cameras',
                  {'distance_errors_m': residuals.tolist(),
                   'distance_max_error_m': float(np.abs(residuals).max())},
                  () if len(residuals) == 1 else (f'measured distances are met to '
                                                  f'{np.abs(residuals).max():.3f} m',))


def from_edges(poses: Poses, edges: Array, metres: float, source: str, upright: bool) -> Metric:
    """Scale by lengths that are all `metres`, such as the edges of tags."""
    scale = metres / float(np.median(edges))
    spread = float(np.abs(edges * scale / metres - 1.0).max())
    return Metric(_scaled(poses, scale, upright), True, source,
                  {'tag_edges': len(edges), 'tag_spread': spread},
                  (f'scale from {source}; edges differ by up to {100 * spread:.1f} %',))


def arbitrary(poses: Poses, points: Array, camera: Camera) -> Metric:
    """No metric scale: the median depth of the points becomes 3 units, as in a room."""
    depth = _median_depth(poses, points, camera)
    scale = 1.0 if depth is None else _USUAL_DEPTH / depth
    return Metric(_scaled(poses, scale, True), False, 'arbitrary', {}, (
        'the scale is ARBITRARY: nothing says what a metre is, so every length of this data set '
        'and of its maps is in units of its own; give --camera-positions, --distance or '
        '--tag-size for metres',))


def as_given(is_metric: bool | None) -> Metric:
    """Leave poses from a file as they are."""
    notes = () if is_metric else (
        'the scale is that of the poses given; a COLMAP model has an arbitrary one, unless it '
        'was aligned',)
    return Metric(IDENTITY, is_metric, 'the poses given', {}, notes)


def on_the_floor(metric: Metric, poses: Poses, points: Array) -> Metric:
    """
    Lower and level the frame onto the floor among `points` (n, 3), where one is seen.

    Only for frames that are arbitrary, as those of structure from motion are.
    """
    similarity = metric.similarity
    moved = similarity.apply(np.stack(list(poses.values())))
    floor = find_floor(se3.transform(similarity.T, similarity.scale * points), moved[:, :3, 3])
    if floor is None:
        return metric._replace(notes=(*metric.notes, 'no floor is seen among the points: z = 0 '
                                      'is at the mean height of the cameras'))
    return metric._replace(
        similarity=Similarity(similarity.scale, floor.levelling() @ similarity.T),
        figures={**metric.figures, 'floor_share': floor.share},
        notes=(*metric.notes, f'z = 0 is on the floor: the frame was turned by '
               f'{np.rad2deg(floor.tilt_rad):.1f} deg and moved up by {floor.offset:.2f} '
               f'({100 * floor.share:.0f} % of the points lie on it; --keep-frame leaves it)'))


def _scaled(poses: Poses, scale: float, upright: bool) -> Similarity:
    """The scale alone, or with the cameras centred and turned upright."""
    if not upright:
        return Similarity(scale, np.eye(4))
    return upright_similarity(np.stack(list(poses.values())), scale)


def _median_depth(poses: Poses, points: Array, camera: Camera) -> float | None:
    """Median depth of the points that project into each image; occlusion is ignored."""
    points = points[::max(1, len(points) // _MAX_POINTS)]
    depths = []
    for T in poses.values():
        points_cam = se3.transform(se3.inverse(T), points) if len(points) else points
        _, visible = camera.project(points_cam)
        depths.append(points_cam[visible, 2])
    all_depths = np.concatenate(depths)
    return float(np.median(all_depths)) if len(all_depths) else None


def _read_positions(path: Path) -> dict[str, Array]:
    known: dict[str, Array] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split('#')[0].replace(',', ' ').split()
        if not words:
            continue
        where = f'{path} line {number}'
        try:
            position = np.array([float(word) for word in words[-3:]])
        except ValueError:
            position = np.full(3, np.nan)
        if len(words) < 4 or not np.isfinite(position).all():
            raise InputError('is no camera position', where=where, expected='name x y z',
                             got=line.strip()[:60])
        name = ' '.join(words[:-3])
        if name in known:
            raise InputError('camera has two positions', where=where, got=name)
        known[name] = position
    return known


def _find(poses: Poses, name: str) -> str | None:
    """The image of this file name, with or without its ending; None unless there is just one."""
    if name in poses:
        return name
    wanted = Path(name).name
    found = [key for key in poses if wanted in (key, Path(key).stem)]
    return found[0] if len(found) == 1 else None
