# SPDX-License-Identifier: Apache-2.0
"""
Poses for thermal images that have none, by COLMAP: a data set that `train` reads.

    python benchmarks/pose_real_sets.py --frames DIR --cameras FILE --out OUT     16-bit images
    python benchmarks/pose_real_sets.py --rjpeg DIR --focal-px F --out OUT        DJI's JPEGs

SIFT finds too little in raw counts, and maps each image's whole range to 8 bits. So COLMAP gets
copies of the images: counts between two percentiles, then histogram equalisation in tiles with a
limit (CLAHE). The data set gets the counts as they are. Every `--hold-out`-th image that was
placed is held out.

Of DJI's radiometric JPEGs, what one sees is a preview in false colours. The counts lie in the
segments APP3: joined, they are 640 x 512 16-bit numbers, little endian, of 1/64 kelvin. The JPEGs
say where the drone was (XMP): that makes the poses metric. The focal length is that of the data
sheet (9 mm at 12 um a pixel: 750 px); `--find-lens` lets COLMAP find it, and k1.
"""

import argparse
from collections.abc import Mapping, Sequence
import math
from pathlib import Path
import re
import sys
import tempfile
from typing import Any

from _bench import finish, guarded, parser, show
from _sfm import stretched

SIZE = 640, 512  # of DJI's M2EA
CELSIUS_PER_COUNT, CELSIUS_OFFSET = 1.0 / 64.0, -273.15
METRES_PER_DEGREE = 111_320.0  # of latitude
QUICK = 12  # images


def main() -> int:
    """Stretch, reconstruct, scale, write."""
    made = parser(__doc__)
    source = made.add_mutually_exclusive_group()
    source.add_argument('--frames', type=Path, metavar='DIR', help='folder of 16-bit images')
    source.add_argument('--rjpeg', type=Path, metavar='DIR', help='folder of radiometric JPEGs')
    made.add_argument('--cameras', type=Path, metavar='FILE',
                      help='YAML file with the lens and the scale of --frames')
    made.add_argument('--focal-px', type=float, default=750.0, metavar='F',
                      help='of --rjpeg (default: 750)')
    made.add_argument('--find-lens', action='store_true', help='SIMPLE_RADIAL, by COLMAP')
    made.add_argument('--hold-out', type=int, default=8, metavar='N', help='(default: 8)')
    made.add_argument('--out', type=Path, metavar='DIR', help='data set to write')
    args = made.parse_args()
    if args.out is None or not (args.frames or args.rjpeg):
        if not args.quick:
            made.error('--out and one of --frames, --rjpeg are needed')
        print('no images: give --frames or --rjpeg, and --out')  # so that all can run at once
        return 0
    names, counts, camera, radiometry = read_images(args)
    with tempfile.TemporaryDirectory(prefix='stretched-') as scratch:
        found = placed(Path(scratch), names, counts, camera, args.find_lens)
    poses, camera = {n: found.model.images[f'{n}.png'].T_world_cam for n in names
                     if f'{n}.png' in found.model.images}, only_camera(found.model)
    metric = scaled(args, found.model, poses, camera)
    figures = written(args, names, counts, camera, radiometry, poses, metric)
    figures |= {'images': len(names), 'models': found.models, 'camera': str(camera),
                'points': len(found.model.points), 'scale_from': metric.source,
                'error_px': float(found.model.errors_px.mean()),
                'notes': list(metric.notes)}
    show(str(args.out), ('', 'figure'), [(key, str(value)) for key, value in figures.items()
                                         if not isinstance(value, list)])
    for note in metric.notes:
        print(note)
    return finish(args, figures)


def read_images(args: argparse.Namespace) -> tuple[list[str], list[Any], Any, Any]:
    """Names, counts (h, w), the camera as far as it is known, and the scale of the counts."""
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.geometry.camera import Camera
    from thermal_nerf_loc.importers.images.folders import list_images
    from thermal_nerf_loc.io.datasets.camera_file import read_rig
    from thermal_nerf_loc.io.images import read_counts
    from thermal_nerf_loc.sensing.thermal import LinearRadiometry

    folder = args.frames or args.rjpeg
    files = list_images(folder, thermal=True)[:QUICK if args.quick else None]
    names = [Path(file).stem for file in files]
    if args.rjpeg is not None:
        camera = Camera(*SIZE, args.focal_px, args.focal_px, SIZE[0] / 2, SIZE[1] / 2)
        counts = [counts_of_rjpeg(folder / file) for file in files]
        return names, counts, camera, LinearRadiometry(CELSIUS_PER_COUNT, CELSIUS_OFFSET)
    if args.cameras is None:
        raise InputError('the lens is not known', where='--frames', expected='--cameras FILE')
    rig = read_rig(args.cameras)['thermal']
    if rig.camera is None:
        raise InputError('has no thermal camera', where=args.cameras, expected='a block thermal')
    return names, [read_counts(folder / file).counts for file in files], rig.camera, rig.radiometry


def counts_of_rjpeg(path: Path) -> Any:
    """The counts (h, w) in a JPEG's segments APP3."""
    import numpy as np

    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.io.atomic_files import read_bytes

    data, position, joined = read_bytes(path), 2, b''
    while data[position:position + 1] == b'\xff' and data[position + 1] != 0xda:
        end = position + 2 + int.from_bytes(data[position + 2:position + 4], 'big')
        if data[position + 1] == 0xe3:
            joined += data[position + 4:end]
        position = end
    if len(joined) != 2 * SIZE[0] * SIZE[1]:
        raise InputError('JPEG holds no raw counts', where=path,
                         expected=f'{2 * SIZE[0] * SIZE[1]} bytes in its segments APP3',
                         got=len(joined))
    return np.frombuffer(joined, '<u2').reshape(SIZE[::-1])


def placed(scratch: Path, names: Sequence[str], counts: Sequence[Any], camera: Any,
           find_lens: bool) -> Any:
    """A reconstruction of the stretched images."""
    from thermal_nerf_loc.importers.images.structure_from_motion import ALL_PAIRS, reconstruct
    from thermal_nerf_loc.io.images import write_png

    for name, image in zip(names, counts):
        write_png(scratch / f'{name}.png', stretched(image))
    return reconstruct(scratch, [f'{name}.png' for name in names], None if find_lens else camera,
                       'SIMPLE_RADIAL', ALL_PAIRS, max(camera.size), progress_printer())


def progress_printer() -> Any:
    """Prints every tenth of the work on stderr."""
    due = [0.0]

    def progress(done: float, total: float, status: str) -> None:
        if done / total >= due[0]:
            print(f'{done / total:.0%} {status}', file=sys.stderr, flush=True)
            due[0] += 0.1

    return progress


def only_camera(model: Any) -> Any:
    """The one camera of all images."""
    return model.cameras[next(iter(model.images.values())).camera]


def scaled(args: argparse.Namespace, model: Any, poses: Mapping[str, Any], camera: Any) -> Any:
    """Metric by the drone's positions; else the median depth is 3 units."""
    from thermal_nerf_loc.importers.images import metric_scale
    from thermal_nerf_loc.io.atomic_files import write_atomically

    if args.rjpeg is None:
        return metric_scale.arbitrary(poses, model.points, camera)
    known = positions_of({name: args.rjpeg / f'{name}.JPG' for name in poses})
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / 'positions.txt'
        write_atomically(listed, ''.join(f'{name} {x:.4f} {y:.4f} {z:.4f}\n'
                                         for name, (x, y, z) in known.items()))
        return metric_scale.from_positions(poses, listed)


def positions_of(files: Mapping[str, Path]) -> dict[str, tuple[float, float, float]]:
    """Metres east, north and up of the first image, from XMP."""
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.io.atomic_files import read_bytes

    degrees: dict[str, list[float]] = {}
    for name, path in files.items():
        text = read_bytes(path).decode('latin1')
        values = [re.search(rf'drone-dji:{key}="([^"]*)"', text)
                  for key in ('GpsLatitude', 'GpsLongitude', 'RelativeAltitude')]
        degrees[name] = [float(value[1]) for value in values if value]
        if len(degrees[name]) != 3:
            raise InputError('JPEG does not say where it was taken', where=path,
                             expected='drone-dji:GpsLatitude and others in its XMP')
    north, east, up = next(iter(degrees.values()))
    across = METRES_PER_DEGREE * math.cos(math.radians(north))
    return {name: ((lon - east) * across, (lat - north) * METRES_PER_DEGREE, alt - up)
            for name, (lat, lon, alt) in degrees.items()}


def written(args: argparse.Namespace, names: Sequence[str], counts: Sequence[Any], camera: Any,
            radiometry: Any, poses: Mapping[str, Any], metric: Any) -> dict[str, Any]:
    """Write the data set; returns the sizes of its splits."""
    import numpy as np

    from thermal_nerf_loc.io.datasets.scene_writer import SceneWriter
    from thermal_nerf_loc.io.datasets.splits import split_of
    from thermal_nerf_loc.sensing.frame import Frame, SensorImage, THERMAL

    figures = {'train': 0, 'test': 0}
    moved = dict(zip(poses, metric.similarity.apply(np.stack(list(poses.values())))))
    remarks = {'scale': {'metric': metric.is_metric, 'from': metric.source}}
    with SceneWriter(args.out, {THERMAL: camera}, np.eye(4), radiometry,
                     remarks=remarks) as writer:
        placed_names = [(name, image) for name, image in zip(names, counts) if name in moved]
        for index, (name, image) in enumerate(placed_names):
            split = split_of(index, args.hold_out)
            thermal = SensorImage(camera, radiometry.to_celsius(image)[..., None], 0, np.eye(4))
            writer.add(Frame(0, {THERMAL: thermal}, moved[name], name), split)
            figures[split] += 1
    return figures


if __name__ == '__main__':
    sys.exit(guarded(main))
