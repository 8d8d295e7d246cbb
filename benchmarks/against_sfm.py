# SPDX-License-Identifier: Apache-2.0
"""
The localizer beside SIFT and PnP, on the same training poses and the same held-out images.

    python benchmarks/against_sfm.py --data DIR [--map FILE --modality both]
    python benchmarks/against_sfm.py --data arco --marks benchmarks/arco_marks.json

The peer (`_sfm.py`) is what a user would pick: SIFT points triangulated by COLMAP on the given
poses, with the lens of the data set, then retrieval, matches and PnP. It needs no start. Thermal
images are stretched for it. Ours is localized from starts 10 deg and a tenth of the scene's scale
off, and by search, each with the map's landmarks and by rendering alone. Both get the images at
their full size, one modality at a time. Images of heat alone count as well (posed by
`import-images`). A thermal camera beside a colour one needs its rig, else by --marks.

The scale is that of the space round the cameras. Success: within 1.25 % of it (5 cm in a room of
4 m), or --success-m, and 5 deg; a pose that is not found counts as infinitely wrong.

Needs pycolmap (pip install 'thermal-nerf-loc[sfm]').
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
import math
from pathlib import Path
import statistics
import sys
import tempfile
import time
from typing import Any

from _bench import add_seed, finish, guarded, KEPT, parser, prepare, room, show
from _sfm import build, grey, module, stretched

START_DEG, START_SHARE = 10.0, 0.1
SUCCESS_SHARE, SUCCESS_DEG = 0.0125, 5.0
PEER, TRACKED, SEARCHED = 'SIFT + PnP', 'ours, a start', 'ours, search'
RENDERED = ', rendering alone'  # without landmarks


def main() -> int:
    """Build both maps, localize in both, print them beside each other."""
    args = options().parse_args()
    prepare(args)
    module()  # a missing one is said before the long work
    args.data = args.data or (room(24, (160, 120)) if args.quick else room())
    scene = scene_of(args)
    wanted = [name for name in ('rgb', 'thermal')
              if args.modality in ('both', name) and name in scene.modalities]
    scene.require(*wanted or [args.modality])
    size = scale_of(scene)
    within = args.success_m or SUCCESS_SHARE * size
    radiance_map, path = our_map(args, scene)
    figures: dict[str, Any] = {
        'data': str(args.data), 'train': len(scene.train), 'test': len(scene.test), 'scale': size,
        'success_m': within, 'success_deg': SUCCESS_DEG, 'map': str(path), 'modalities': {}}
    for modality in wanted:
        rows = {PEER: peer(args, scene, modality)}
        if modality in radiance_map.modalities:
            rows |= ours(args, scene, modality, radiance_map, path, size)
        figures['modalities'][modality] = {
            name: {**summary(row['frames'], size, within), **row} for name, row in rows.items()}
        report(args.data.name, modality, figures)
    return finish(args, figures)


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    made = parser(__doc__)
    made.add_argument('--data', type=Path, metavar='DIR',
                      help='data set, or its transforms.json (default: the simulated room)')
    made.add_argument('--map', type=Path, metavar='FILE',
                      help='trained on the same images (default: one trained now)')
    made.add_argument('--modality', choices=('both', 'rgb', 'thermal'), default='both',
                      help='(default: both, one after the other)')
    made.add_argument('--train-seconds', type=float, metavar='S',
                      help='of a map trained now (default: as long as `train` takes)')
    made.add_argument('--hold-out', type=int, metavar='N',
                      help='hold every Nth image out (default: as the data set says)')
    made.add_argument('--new-landmarks', action='store_true',
                      help="find the map's landmarks anew, where it has some")
    made.add_argument('--marks', type=Path, metavar='FILE',
                      help='marked targets that give the rig, as for real_rig.py')
    made.add_argument('--success-m', type=float, metavar='M',
                      help='(default: 1.25 %% of the scale)')
    made.add_argument('--keep', type=Path, metavar='FILE', help='save the map trained now there')
    add_seed(made)
    return made


def scene_of(args: argparse.Namespace) -> Any:
    """The data set, with the split and the rig that were asked for."""
    from real_rig import marked_points, reference_rig

    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene

    scene = load_scene(args.data)
    if args.hold_out is not None:
        test = tuple(range(0, len(scene.frames), args.hold_out))
        scene = replace(scene, test=test, train=tuple(
            k for k in range(len(scene.frames)) if k not in test))
    if args.quick:
        scene = replace(scene, train=scene.train[:24], test=scene.test[:3])
    if not scene.test or len(scene.train) < 2:
        raise InputError('there is nothing to compare', where=args.data,
                         expected='two training images and a held-out one, or more',
                         got=f'{len(scene.train)} and {len(scene.test)}')
    if args.marks is not None:
        scene = with_rig(scene, reference_rig(marked_points(scene, args.marks)))
    return scene


def with_rig(scene: Any, T_cam_thermal: Any) -> Any:
    """The scene with its thermal cameras there."""
    frames = []
    for frame in scene.frames:
        records = dict(frame.records)
        if 'thermal' in records:
            records['thermal'] = replace(records['thermal'], T_cam_sensor=T_cam_thermal)
        frames.append(replace(frame, records=records))
    return replace(scene, frames=tuple(frames))


def scale_of(scene: Any) -> float:
    """One length for the scene; the poses of structure from motion have no metres."""
    from real_rig import scale_of as scale
    return float(scale(scene))


def our_map(args: argparse.Namespace, scene: Any) -> tuple[Any, Path]:
    """The map that was given, else one trained now; and its file."""
    from thermal_nerf_loc.localization.build_map import build_map
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    from thermal_nerf_loc.mapping.training.config import TrainConfig

    if args.map is not None:
        return with_landmarks(RadianceMap.load(args.map), scene, args.new_landmarks), args.map
    seconds = 8.0 if args.quick else args.train_seconds
    config = TrainConfig(modality=args.modality, seed=args.seed, checkpoint_seconds=0.0,
                         **({} if seconds is None else {'max_seconds': seconds}))
    path = args.keep or KEPT / f'{args.data.name}-against-sfm.safetensors'
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    built = build_map(scene, config, progress_printer('training')).map
    print(f'training took {time.perf_counter() - started:.0f} s in all', file=sys.stderr)
    built.save(path)
    return built, path


def with_landmarks(radiance_map: Any, scene: Any, anew: bool = False) -> Any:
    """The map, with landmarks of the scene's training images if it has none, or `anew`."""
    from thermal_nerf_loc.common.progress import silent
    from thermal_nerf_loc.mapping.camera_poses.landmark_points import find_landmarks
    from thermal_nerf_loc.mapping.map.landmarks import LandmarkConfig

    if radiance_map.landmarks and not anew:
        return radiance_map
    found = {name: find_landmarks(scene, name, LandmarkConfig(), silent)
             for name in radiance_map.modalities}
    return replace(radiance_map, landmarks={name: part for name, part in found.items() if part})


def progress_printer(name: str) -> Any:
    """Prints progress on stderr at most every 5 s."""
    last = [time.monotonic()]

    def progress(done: float, total: float, status: str) -> None:
        if time.monotonic() - last[0] > 5.0:
            last[0] = time.monotonic()
            print(f'{name}: {done / total:.0%} {status}', file=sys.stderr, flush=True)

    return progress


def picture(frame: Any, modality: str) -> Any:
    """The image of a frame as 8-bit grey, as SIFT gets it."""
    image = frame.images[modality]
    return grey(image.values) if modality == 'rgb' else stretched(image.values[..., 0])


def peer(args: argparse.Namespace, scene: Any, modality: str) -> dict[str, Any]:
    """Build the SIFT map, localize the held-out images."""
    from thermal_nerf_loc.geometry import se3

    images = []
    for index in scene.train:
        if modality in scene.frames[index].records:
            frame = scene.load(index)
            image = frame.images[modality]
            images.append((picture(frame, modality), image.camera,
                           frame.T_world_cam @ image.T_cam_sensor))
    with tempfile.TemporaryDirectory(prefix='sfm-') as scratch:
        found = build(Path(scratch), images, progress_printer(f'{modality}, {PEER}'))
    rows = []
    for frame in held_out(scene, modality):
        image = frame.images[modality]
        T, seconds = found.localize(picture(frame, modality), image.camera)
        rows.append(one_row(frame, None if T is None else T @ se3.inverse(image.T_cam_sensor),
                            seconds))
    return {'frames': rows, 'build_seconds': found.seconds, 'size_bytes': found.size_bytes,
            'points': found.points, 'error_px': found.error_px}


def ours(args: argparse.Namespace, scene: Any, modality: str, radiance_map: Any, path: Path,
         size: float) -> dict[str, dict[str, Any]]:
    """Localize the held-out images in the radiance map, from starts and by search."""
    from _poses import configured, disturbed, warm_up

    from thermal_nerf_loc.cli.poses.localize import EXACT_RAYS
    from thermal_nerf_loc.common.progress import silent
    from thermal_nerf_loc.localization.localizer import Localizer
    from thermal_nerf_loc.mapping.map.localization_map import with_panoramas

    start = START_DEG, START_SHARE * size
    if radiance_map.panoramas is None:
        radiance_map = with_panoramas(radiance_map, silent)
    exact = configured(start, seed=args.seed)
    exact = replace(exact, refinement=replace(exact.refinement, exact=replace(
        exact.refinement.exact, rays=EXACT_RAYS)))
    by_way = {way: Localizer(radiance_map, replace(exact, landmarks=when))
              for way, when in (('', 'always'), (RENDERED, 'never'))}
    frames = [frame.only(modality) for frame in held_out(scene, modality)]
    warm_up(list(by_way.values()), frames[0])
    rows: dict[str, list[dict[str, Any]]] = {}
    for way, localizer in by_way.items():
        localizer.localize_anywhere(frames[0])
        for k, frame in enumerate(frames):
            guess = disturbed(frame.T_world_cam, start, (args.seed, k))
            for name, found in ((TRACKED, localizer.localize(frame, guess)),
                                (SEARCHED, localizer.localize_anywhere(frame))):
                rows.setdefault(name + way, []).append(
                    {**one_row(frame, found.T_world_cam, found.seconds),
                     'verdict': found.verdict, 'carried_by': found.carried_by})
    facts = {'build_seconds': radiance_map.info.seconds, 'size_bytes': path.stat().st_size}
    return {name: {'frames': part, **facts} for name, part in rows.items()}


def held_out(scene: Any, modality: str) -> list[Any]:
    """Held-out frames that have an image of this modality."""
    return [scene.load(index) for index in scene.test
            if modality in scene.frames[index].records]


def one_row(frame: Any, T_world_cam: Any, seconds: float) -> dict[str, Any]:
    """Errors of one pose; None where there is no pose."""
    from thermal_nerf_loc.geometry import se3
    metres, degrees = ((None, None) if T_world_cam is None
                       else se3.distance(T_world_cam, frame.T_world_cam))
    return {'name': frame.name, 'error_m': metres, 'error_deg': degrees, 'seconds': seconds}


def summary(rows: Sequence[dict[str, Any]], size: float, within: float) -> dict[str, Any]:
    """Medians, 90 % and success of one method; None: so many poses were not found."""
    good = [row['error_m'] is not None and row['error_m'] < within
            and row['error_deg'] < SUCCESS_DEG for row in rows]
    made: dict[str, Any] = {'trials': len(rows), 'success': sum(good) / len(rows),
                            'median_seconds': statistics.median(r['seconds'] for r in rows)}
    for name, share in (('median', 0.5), ('p90', 0.9)):
        for unit in ('m', 'deg'):
            made[f'{name}_{unit}'] = quantile([row[f'error_{unit}'] for row in rows], share)
        position = made[f'{name}_m']
        made[f'{name}_share'] = None if position is None else position / size
    return made


def quantile(errors: Sequence[float | None], share: float) -> float | None:
    """A quantile, by lines between the errors; None (not found) is larger than all others."""
    ordered = sorted(math.inf if error is None else error for error in errors)
    at = share * (len(ordered) - 1)
    below, above = ordered[math.floor(at)], ordered[math.ceil(at)]
    value = below if below == above else below + (at - math.floor(at)) * (above - below)
    return value if math.isfinite(value) else None


def report(name: str, modality: str, figures: dict[str, Any]) -> None:
    """One table for each modality."""
    rows = figures['modalities'][modality]

    def short(value: float | None, factor: float = 1.0) -> str | None:
        return None if value is None else f'{factor * value:.3g}'

    show(f'{name}, {modality}: {figures["train"]} images, {figures["test"]} held out; scale '
         f'{figures["scale"]:.3g}; good: within {figures["success_m"]:.3g} and '
         f'{SUCCESS_DEG:g} deg',
         ('', 'median', '% scale', 'deg', '90 %', '% scale', 'deg', 'good', 'build s',
          'query s', 'MB'),
         [(method, short(row['median_m']), short(row['median_share'], 100.0),
           short(row['median_deg']), short(row['p90_m']), short(row['p90_share'], 100.0),
           short(row['p90_deg']), f'{round(row["success"] * row["trials"])}/{row["trials"]}',
           short(row['build_seconds']), short(row['median_seconds']),
           short(row['size_bytes'], 1e-6)) for method, row in rows.items()])
    if 'points' in rows[PEER]:
        print(f'{PEER}: {rows[PEER]["points"]} points, reprojected to '
              f'{rows[PEER]["error_px"]:.2f} px')


if __name__ == '__main__':
    sys.exit(guarded(main))
