# SPDX-License-Identifier: Apache-2.0
"""`info PATH`: tell what a map file or a data set holds."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('path', type=Path, help='map file, folder of tiles, transforms.json or '
                        'its folder')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Load and tell."""
    from thermal_nerf_loc.mapping.tiles.tile_index import is_tiled

    if is_tiled(args.path):
        return _of_tiles(args.path)
    if args.path.is_dir() or args.path.suffix == '.json':
        return _of_data(args.path)
    return _of_map(args.path)


def _of_tiles(path: Path) -> dict[str, Any]:
    from thermal_nerf_loc.mapping.tiles.tile_index import TileFolder

    index = TileFolder(path).read_index()
    low, high = index.bounds
    return {'map': str(path), 'scene': index.scene_name, 'modalities': ', '.join(index.modalities),
            'tiles': len(index.tiles), 'floors': len(index.floors),
            'cameras': len(index.poses), 'size_mb': sum(t.bytes for t in index.tiles) / 2**20,
            'bounds_m': [low.tolist(), high.tolist()], 'overlap_m': index.overlap_m,
            'former_versions': len(index.history),
            'tile': {tile.name: f'version {tile.version}, floor {tile.floor}, {tile.cameras} '
                     f'cameras, beside {", ".join(tile.neighbours) or "none"}'
                     for tile in index.tiles}}


def _of_data(path: Path) -> dict[str, Any]:
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    scene = load_scene(path)
    cameras = {name: next(frame.records[name].camera for frame in scene.frames
                          if name in frame.records) for name in scene.modalities}
    return {'data': str(path), 'modalities': ', '.join(scene.modalities),
            'frames': len(scene.frames), 'train_frames': len(scene.train),
            'test_frames': len(scene.test), 'frames_without_pose': len(scene.unposed),
            **{f'{name}_camera': f'{camera.width}x{camera.height}, focal length {camera.fx:.1f} px'
               for name, camera in cameras.items()},
            'geo_anchor': scene.geo_anchor._asdict() if scene.geo_anchor else None,
            'geo_anchor_is': _written(scene.geo_anchor._asdict() if scene.geo_anchor else {})}


def _of_map(path: Path) -> dict[str, Any]:
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    found = RadianceMap.load(path)
    bounds = found.bounds
    info = found.info
    anchor = dict(info.geo_anchor)
    return {'map': str(path), 'modalities': ', '.join(found.modalities),
            'radiometric': found.radiometric if 'thermal' in found.modalities else None,
            'scene': info.scene_name, 'steps': info.steps, 'training_seconds': info.seconds,
            'made_by': info.made_by, 'extent_m': [float(v) for v in bounds[1] - bounds[0]],
            'geo_anchor': anchor or None, 'geo_anchor_is': _written(anchor)}


def _written(anchor: Mapping[str, float]) -> str | None:
    """All digits: 1e-7 degrees are a centimetre."""
    if not anchor:
        return None
    return (f'{anchor["latitude_deg"]:.7f} deg north, {anchor["longitude_deg"]:.7f} deg east, '
            f'{anchor["height_m"]:.2f} m up; x points east, y north, z up')
