# SPDX-License-Identifier: Apache-2.0
"""
An uncalibrated rig on real images: posed pairs of RGB and thermal images, no transform between.

    python benchmarks/real_rig.py --data DIR [--marks benchmarks/arco_marks.json]

1. Maps with ever more of the corrections that real cameras need, against the map with none of
   them: held-out PSNR and errors in deg C, as they are, and levelled (each image with its own
   exposure or offset), on every 4th row and column; and the median error of their depth at points
   that RGB images share, in per cent.
2. The rig that was found, against targets that were marked by hand in both images (--marks;
   arco_marks.json has some for 40 pairs of a frescoed room): triangulated from RGB, their error in
   thermal pixels.
3. Held-out pairs localized in the last map, from starts 10 deg and a tenth of the scene's scale
   off.
"""

import argparse
from dataclasses import replace
from pathlib import Path
import sys
from typing import Any

from _bench import add_data, finish, guarded, parser, prepare, show, training_data

from thermal_nerf_loc.evaluation.metrics import SUCCESS_DEG

EVERY = 5  # pair is held out
START_DEG, START_SHARE = 10.0, 0.1
SUCCESS_SHARE = 0.0125  # of the scene's size: 5 cm in a room of 4 m
# name of a map: what is refined, whether the camera response is learned, whether matched points
# supervise depth
MAPS: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    'nothing': ((), False, False),
    'formation': ((), True, False),
    'points': ((), True, True),
    'intrinsics': (('rig', 'intrinsics'), True, True),
    'poses': (('poses', 'rig'), True, True),
    'rig': (('rig',), True, True)}


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    made = parser(__doc__)
    add_data(made)
    made.add_argument('--marks', type=Path, metavar='FILE',
                      help='a list of targets, each a list of sightings: frame, x and y in '
                      'colour, x and y in heat')
    made.add_argument('--maps', nargs='+', choices=tuple(MAPS), default=list(MAPS), metavar='MAP',
                      help=f'of {", ".join(MAPS)}; the last is localized in (default: all)')
    made.add_argument('--steps', type=int, default=2000, metavar='N', help='(default: 2000)')
    made.add_argument('--keep', type=Path, metavar='DIR',
                      help='keep maps, refined data sets and an overlay of the rig there')
    return made


def main() -> int:
    """Train, compare, localize, print."""
    args = options().parse_args()
    prepare(args)
    if args.quick:
        args.steps, args.maps = 40, ['formation']  # so small images share no points
    args.data = training_data(args)
    scene, found = scene_of(args.data), {}
    size, marks, points = scale_of(scene), marked_points(scene, args.marks), shared_points(scene)
    figures: dict[str, Any] = {'scale': size, 'maps': {}}
    for name in args.maps:
        found[name] = trained(args, scene, name)
        figures['maps'][name] = evaluated(marks, points, *found[name])
        report_maps(figures['maps'])
    last = found[args.maps[-1]]
    figures['rig'] = report_rig(marks, scene, last[1])
    if args.keep is not None:
        keep_overlay(args.keep, scene, last)
    figures['localized'] = {name: localized(last[0], seen_by(*last), name, size)
                            for name in ('both', 'rgb', 'thermal')}
    report_localized(figures['localized'], size)
    return finish(args, figures)


def scene_of(data: Path) -> Any:
    """The data set, every fifth pair held out."""
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene

    scene = load_scene(data)
    scene.require('rgb', 'thermal')
    test = tuple(range(0, len(scene.frames), EVERY))
    return replace(scene, test=test,
                   train=tuple(i for i in range(len(scene.frames)) if i not in test))


def scale_of(scene: Any) -> float:
    """One length for the scene; the poses of structure from motion have no metres."""
    from thermal_nerf_loc.field.contraction import space_around_cameras
    return space_around_cameras([frame.T_world_cam[:3, 3] for frame in scene.frames]).scale_m


def trained(args: argparse.Namespace, scene: Any, name: str) -> tuple[Any, Any]:
    """A map, and the scene with what was refined."""
    from thermal_nerf_loc.io.datasets.refined_dataset import write_refined
    from thermal_nerf_loc.mapping.map.uncertainty import uncertainty_of
    from thermal_nerf_loc.mapping.training.config import RefineConfig, TrainConfig
    from thermal_nerf_loc.mapping.training.trainer import train

    what, camera_response, points = MAPS[name]
    refine = RefineConfig(what, 'edges' if what else 'features')
    config = TrainConfig(steps=args.steps, rays=256 if args.quick else 2048,
                         camera_response=camera_response,
                         refine=refine, depth_from='points' if points else 'none',
                         checkpoint_seconds=0.0)
    result = train(scene, config, progress_printer(name))
    radiance_map = replace(result.map, uncertainty=uncertainty_of(result.map, result.scene))
    if args.keep is not None:
        args.keep.mkdir(parents=True, exist_ok=True)
        radiance_map.save(args.keep / f'{name}.map')
        write_refined(args.data, result.scene, args.keep / f'{name}.json')
    return radiance_map, result.scene


def progress_printer(name: str) -> Any:
    """Prints the progress of a training on stderr, at every quarter."""
    marks = iter(k / 4 for k in range(5))
    due = [next(marks)]

    def progress(done: float, total: float, status: str) -> None:
        if done / total >= due[0]:
            print(f'{name}: {done / total:.0%} {status}', file=sys.stderr, flush=True)
            due[0] = next(marks, 2.0)

    return progress


def evaluated(marks: Any, points: Any, radiance_map: Any, refined: Any) -> dict[str, Any]:
    """Held-out quality of one map, and the errors of its depth and its rig."""
    import numpy as np

    from thermal_nerf_loc.evaluation.map_quality import psnr, thermal_span

    scene = seen_by(radiance_map, refined)
    span = thermal_span(scene, scene.test)
    rows: dict[str, list[float]] = {name: [] for name in (
        'rgb_psnr', 'rgb_psnr_levelled', 'thermal_psnr', 'thermal_psnr_levelled', 'mae_celsius',
        'mae_celsius_levelled')}
    for index in scene.test:
        rendered, seen = rendered_and_seen(radiance_map, scene, index, 'rgb')
        gain = (rendered * seen).sum(axis=0) / np.maximum((rendered**2).sum(axis=0), 1e-9)
        for end, rest in (('', rendered - seen), ('_levelled', gain * rendered - seen)):
            rows[f'rgb_psnr{end}'].append(psnr(rest, 1.0))
        rendered, seen = rendered_and_seen(radiance_map, scene, index, 'thermal')
        off = rendered - seen
        for end, rest in (('', off), ('_levelled', off - np.median(off))):
            rows[f'thermal_psnr{end}'].append(psnr(rest, span))
            rows[f'mae_celsius{end}'].append(float(np.abs(rest).mean()))
    figures: dict[str, Any] = {name: float(np.mean(values)) for name, values in rows.items()}
    figures['depth_off'] = depth_off(radiance_map, scene, points)
    figures['rig_off_px'] = median_off(marks, rig_of(refined))
    field = radiance_map.flat_fields.get('thermal')
    figures['flat_field_celsius'] = None if field is None else float(field.max() - field.min())
    return figures


def shared_points(scene: Any) -> dict[int, Any]:
    """Points in held-out RGB images that were matched with others; {}: too few matches."""
    from thermal_nerf_loc.common.errors import RunError
    from thermal_nerf_loc.common.progress import silent
    from thermal_nerf_loc.mapping.camera_poses.sparse_depth import triangulated_depth

    every = replace(scene, train=tuple(range(len(scene.frames))), test=())
    try:
        found = triangulated_depth(every, 'rgb', False, silent)
    except RunError:
        return {}
    return {i: found[i] for i in scene.test}


def depth_off(radiance_map: Any, scene: Any, points: dict[int, Any]) -> float | None:
    """Median relative error of rendered depth at the matched points."""
    import numpy as np

    off = []
    for i, (pixels, depth_m) in points.items():
        camera, T = scene.frames[i].records['rgb'].camera, scene.frames[i].T_world_cam
        x, y = np.floor(pixels).astype(np.int64).T
        rays = camera.rays()[y * camera.width + x]
        directions = (rays @ T[:3, :3].T).astype(np.float32)
        origins = np.broadcast_to(T[:3, 3].astype(np.float32), directions.shape)
        seen = radiance_map.render_rays('rgb', origins, directions)
        off.append(np.abs(seen.distance_m * rays[:, 2] / depth_m - 1.0))
    return float(np.median(np.concatenate(off))) if off else None


def rendered_and_seen(radiance_map: Any, scene: Any, index: int, modality: str) -> tuple[Any, Any]:
    """Rendered and observed values (n, channels) of a sixteenth of the pixels."""
    import numpy as np

    from thermal_nerf_loc.io.datasets.scene import load_image

    frame = scene.frames[index]
    image = load_image(modality, frame.records[modality])
    camera, T = image.camera, frame.T_world_cam @ image.T_cam_sensor
    chosen = np.arange(camera.width * camera.height).reshape(camera.height, camera.width)
    chosen = chosen[2::4, 2::4].reshape(-1)
    directions = (camera.rays()[chosen] @ T[:3, :3].T).astype(np.float32)
    origins = np.broadcast_to(T[:3, 3].astype(np.float32), directions.shape)
    values = radiance_map.render_rays(modality, origins, directions).values
    offset = radiance_map.flat_field_offset(modality, camera.size)
    if offset is not None:
        values = values + offset.reshape(-1, 1)[chosen]
    seen = image.values.reshape(len(camera.rays()), -1)[chosen]
    return values.astype(np.float64), seen.astype(np.float64)


def seen_by(radiance_map: Any, refined: Any) -> Any:
    """The scene to evaluate by; where poses were refined, held-out poses are refined too."""
    from thermal_nerf_loc.localization.held_out_poses import with_held_out

    if 'poses' not in radiance_map.info.refinement.get('what', ()):
        return refined
    return with_held_out(refined, refined, radiance_map)


def rig_of(scene: Any) -> Any:
    """T_cam_thermal: one for all frames."""
    return scene.frames[0].records['thermal'].T_cam_sensor


def marked_points(scene: Any, path: Path | None) -> Any:
    """Targets in the RGB camera of each mark (n, 3), their thermal pixels, the thermal camera."""
    import numpy as np

    from thermal_nerf_loc.geometry import se3
    from thermal_nerf_loc.io.atomic_files import read_json

    if path is None:
        return None
    points, pixels = [], []
    camera = scene.frames[0].records['rgb'].camera
    for sightings in read_json(path):
        T = np.stack([scene.frames[int(row[0])].T_world_cam for row in sightings])
        d = np.einsum('nij,nj->ni', T[:, :3, :3], camera.unproject(
            np.array([row[1:3] for row in sightings])))
        d /= np.linalg.norm(d, axis=1)[:, None]
        across = np.eye(3) - d[:, :, None] * d[:, None, :]
        X = np.linalg.solve(across.sum(axis=0), np.einsum('nij,nj->i', across, T[:, :3, 3]))
        inverse = se3.inverse(T)
        points.append(np.einsum('nij,j->ni', inverse[:, :3, :3], X) + inverse[:, :3, 3])
        pixels.append(np.array([row[3:5] for row in sightings]))
    return (np.concatenate(points), np.concatenate(pixels),
            scene.frames[0].records['thermal'].camera)


def marks_off(marks: Any, T_cam_thermal: Any) -> Any:
    """Reprojection errors (n,) of the marked targets in the thermal images of a rig, in pixels."""
    import numpy as np

    from thermal_nerf_loc.geometry import se3

    points, pixels, camera = marks
    X = se3.inverse(T_cam_thermal)
    return np.linalg.norm(camera.project(points @ X[:3, :3].T + X[:3, 3])[0] - pixels, axis=1)


def median_off(marks: Any, T_cam_thermal: Any) -> float | None:
    """Their median; None where nothing was marked."""
    import numpy as np
    return None if marks is None else float(np.median(marks_off(marks, T_cam_thermal)))


def reference_rig(marks: Any) -> Any:
    """The rig that fits the marks best."""
    import numpy as np
    from scipy.optimize import least_squares

    from thermal_nerf_loc.geometry import se3
    return se3.exp(least_squares(lambda x: marks_off(marks, se3.exp(x)), np.zeros(6)).x)


def report_rig(marks: Any, scene: Any, refined: Any) -> dict[str, Any]:
    """The rig as given, as found, and as fitted to the marks."""
    import numpy as np

    from thermal_nerf_loc.geometry import se3

    rigs, rows, figures = {'as given': rig_of(scene), 'found': rig_of(refined)}, [], {}
    if marks is not None:
        rigs['by the marks'] = reference_rig(marks)
    for name, T in rigs.items():
        turn_deg = np.rad2deg(se3.log(T)[3:])
        off = se3.distance(T, rigs['by the marks']) if marks is not None else (None, None)
        figures[name] = {'shift': T[:3, 3].tolist(), 'turn_deg': turn_deg.tolist(),
                         'marks_px': median_off(marks, T), 'off': off[0], 'off_deg': off[1]}
        rows.append((name, ' '.join(f'{v:.3f}' for v in T[:3, 3]),
                     ' '.join(f'{v:.2f}' for v in turn_deg), figures[name]['marks_px'], *off))
    show('rig', ('', 'shift', 'turn, deg', 'marks, px', 'off', 'off, deg'), rows)
    return figures


def report_maps(found: dict[str, dict[str, Any]]) -> None:
    """One row for each map."""
    columns = {'rgb_psnr': 'rgb dB', 'rgb_psnr_levelled': 'levelled', 'thermal_psnr': 'thermal dB',
               'thermal_psnr_levelled': 'levelled', 'mae_celsius': 'MAE C',
               'mae_celsius_levelled': 'levelled', 'depth_off': 'depth off',
               'rig_off_px': 'rig px'}
    show('held-out views', ('corrections', *columns.values()),
         [(name, *(figures[column] for column in columns)) for name, figures in found.items()])


def localized(radiance_map: Any, scene: Any, modality: str, size: float) -> dict[str, Any]:
    """Held-out pairs, each from a start that is off."""
    import numpy as np

    from _poses import attempts, configured
    from thermal_nerf_loc.localization.localizer import Localizer

    start = START_DEG, START_SHARE * size
    trials = attempts(Localizer(radiance_map, configured(start)),
                      [scene.load(i) for i in scene.test], modality, start, 0)
    good = [t.error_m < SUCCESS_SHARE * size and t.error_deg < SUCCESS_DEG for t in trials]
    return {'success': float(np.mean(good)), 'trials': len(trials),
            'median_share': float(np.median([t.error_m for t in trials])) / size,
            'median_deg': float(np.median([t.error_deg for t in trials])),
            'ok_share': float(np.mean([t.verdict == 'ok' for t in trials])),
            'wrong_but_ok': sum(t.verdict == 'ok' and not g for t, g in zip(trials, good)),
            'each': [(t.error_m / size, t.error_deg, t.verdict) for t in trials]}


def report_localized(found: dict[str, dict[str, Any]], size: float) -> None:
    """One row for each choice of images."""
    show(f'localized from {START_DEG:g} deg and {START_SHARE * size:.2g} off; scene scale '
         f'{size:.3g}, success within {100 * SUCCESS_SHARE:g} % of it and {SUCCESS_DEG:g} deg',
         ('images', 'pairs', 'success', 'median, % of scale', 'median deg', 'ok',
          'wrong, ok'),
         [(name, row['trials'], row['success'], 100 * row['median_share'], row['median_deg'],
           row['ok_share'], row['wrong_but_ok']) for name, row in found.items()])


def keep_overlay(folder: Path, scene: Any, last: tuple[Any, Any]) -> None:
    """Heat (red) on colour (grey), by the given and by the found rig, at the map's own depth."""
    import cv2
    import numpy as np

    rows = []
    for index in [i for i in (3, 6, 9, 11) if i < len(scene.frames)]:
        rows.append(np.hstack([overlaid(last[0], one, index) for one in (scene, last[1])]))
    cv2.imwrite(str(folder / 'overlay.png'), np.vstack(rows))


def overlaid(radiance_map: Any, scene: Any, index: int) -> Any:
    """One colour image, with the thermal image as the rig and the map's depth put it there."""
    import cv2
    import numpy as np

    from thermal_nerf_loc.geometry import se3

    frame = scene.load(index)
    rgb, thermal = frame.images['rgb'], frame.images['thermal']
    width = 480
    camera = rgb.camera.resized(width, round(width * rgb.camera.height / rgb.camera.width))
    rays = camera.rays()
    directions = (rays @ frame.T_world_cam[:3, :3].T).astype(np.float32)
    origins = np.broadcast_to(frame.T_world_cam[:3, 3].astype(np.float32), rays.shape)
    points = rays * radiance_map.render_rays('rgb', origins, directions).distance_m[:, None]
    X = se3.inverse(thermal.T_cam_sensor)
    uv, seen = thermal.camera.project(points @ X[:3, :3].T + X[:3, 3])
    detail = thermal.values[..., 0] - cv2.GaussianBlur(thermal.values[..., 0], (0, 0), 25)
    detail = cv2.GaussianBlur(detail, (0, 0), 1.5)
    shape = (camera.height, camera.width)
    heat = cv2.remap(detail, (uv - 0.5).astype(np.float32).reshape(*shape, 2), None,
                     cv2.INTER_LINEAR)
    warm = np.clip(heat / 0.6, 0.0, 1.0) * seen.reshape(shape)
    grey = cv2.cvtColor(cv2.resize(rgb.values, shape[::-1], interpolation=cv2.INTER_AREA),
                        cv2.COLOR_RGB2GRAY)[..., None]
    red = np.array([0.1, 0.1, 1.0])
    mixed = grey * (1.0 - 0.8 * warm[..., None]) + 0.8 * warm[..., None] * red
    return (255.0 * np.clip(mixed, 0.0, 1.0)).astype(np.uint8)


if __name__ == '__main__':
    sys.exit(guarded(main))
