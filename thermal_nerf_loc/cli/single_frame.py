# SPDX-License-Identifier: Apache-2.0
"""`localize M --rgb FILE --thermal FILE --camera FILE [--guess POSE]`: one frame, no data set."""

import argparse
from collections.abc import Mapping
from typing import Any

from thermal_nerf_loc.common.errors import InputError

_OPTIONS = ('rgb', 'thermal', 'camera', 'guess')


def is_asked_for(args: argparse.Namespace) -> bool:
    """Whether single images are to be localized; a mixture of both forms is refused."""
    given = [f'--{name}' for name in _OPTIONS if getattr(args, name) is not None]
    if args.data is not None:
        if given:
            raise InputError('a data set and single images cannot be localized together',
                             where='localize', expected='either DATA or ' + ', '.join(given),
                             got=f'{args.data} and {", ".join(given)}')
        return False
    if not given:
        raise InputError('there is nothing to localize', where='localize',
                         expected='DATA, or --rgb and/or --thermal with --camera')
    if args.rgb is None and args.thermal is None:
        raise InputError('no image to localize', where='localize',
                         expected='--rgb FILE or --thermal FILE, or both', got=', '.join(given))
    if args.camera is None:
        raise InputError('--camera missing', where='localize',
                         expected='--camera FILE beside the images')
    if args.guess is not None and args.init == 'global':
        raise InputError('--init global needs no --guess', where='localize',
                         hint='Leave one of them out.')
    misplaced = [f'--{name}' for name in ('frames', 'plot') if getattr(args, name) is not None]
    if misplaced:
        raise InputError(f'{" and ".join(misplaced)} belongs to a data set', where='localize',
                         hint='Leave it out for single images.')
    return True


def localize(args: argparse.Namespace, config: Any,
             modalities: tuple[str, ...]) -> Mapping[str, Any]:
    """Find one frame; figures for table and JSON."""
    from thermal_nerf_loc.cli.localize import candidate_source, with_panoramas
    from thermal_nerf_loc.io.datasets.camera_file import load_frame
    from thermal_nerf_loc.io.trajectory import parse_pose
    from thermal_nerf_loc.localization.localizer import Localizer
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

    given = {name: getattr(args, name) for name in ('rgb', 'thermal')}
    images = {name: path for name, path in given.items() if path and name in modalities}
    if not images:
        raise InputError('no image of that modality', where='--modality', got=args.modality,
                         expected=' or '.join(name for name, path in given.items() if path))
    T_guess = None if args.guess is None else parse_pose(args.guess, '--guess')
    frame = load_frame(args.camera, images)
    renderer = RadianceMap.load(args.map)
    foreign = [name for name in images if name not in renderer.modalities]
    if foreign:
        raise InputError(f'map has no {" and no ".join(foreign)}', where=args.map,
                         expected=' or '.join(renderer.modalities),
                         hint=f'Leave out --{foreign[0]}.')
    source = None
    if T_guess is None:
        renderer = with_panoramas(renderer)
        source = candidate_source(args.candidates, renderer, frame)
    return _figures(Localizer(renderer, config, source).localize(frame, T_guess))


def _figures(found: Any) -> dict[str, Any]:
    """The pose and what to make of it; the table leaves the matrices to the JSON file."""
    from thermal_nerf_loc.io.trajectory import format_pose
    from thermal_nerf_loc.localization.confidence.verdict import sigmas

    sigma_m, sigma_deg = sigmas(found.covariance)
    figures = {
        'pose': format_pose(found.T_world_cam), 'sigma_m': sigma_m, 'sigma_deg': sigma_deg,
        'confidence': found.confidence, 'verdict': found.verdict, 'reason': found.reason or '-',
        'seconds': found.seconds, 'rays': found.rays,
        'T_world_cam': found.T_world_cam.tolist(), 'covariance': found.covariance.tolist(),
        'rivals': [format_pose(T) for T in found.rivals]}
    return figures | ({'ignored': dict(found.ignored)} if found.ignored else {})
