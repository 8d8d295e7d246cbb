# SPDX-License-Identifier: Apache-2.0
"""Extend a map: localize images that came without poses, and train anew with those found."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from thermal_nerf_loc.common.config import check, from_mapping
from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization.build_map import build_map_file
from thermal_nerf_loc.localization.unposed_images import AcceptanceConfig, find_unposed, Finding
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.training.config import TrainConfig

_SAME_POSE = 1e-6  # metres, or entries of a rotation


@dataclass(frozen=True, slots=True)
class ExtensionRound:
    """One search for unposed images; training follows where poses were accepted."""

    tried: int
    accepted: int
    seconds: float | None = None  # of the training
    panoramas: int | None = None  # of its map


@dataclass(frozen=True, slots=True, eq=False)
class ExtendedMap:
    """The last round's map, the scene with the poses found, and what came of every image."""

    map: RadianceMap
    scene: Scene
    findings: tuple[Finding, ...]
    rounds: tuple[ExtensionRound, ...]


def training_of(radiance_map: RadianceMap, steps: int | None = None,
                device: str | None = None) -> TrainConfig:
    """Return the settings that a map was trained with; poses are not refined again."""
    settings = {name: value for name, value in radiance_map.info.training.items()
                if name not in ('panoramas', 'places', 'refine')}
    config = replace(from_mapping(TrainConfig, settings, 'map: training'),
                     steps=steps or radiance_map.info.steps, max_seconds=None,
                     device=device or 'auto')
    check(config, 'option')
    return config


def extend_map(start: RadianceMap, scene: Scene, path: Path, config: TrainConfig,
               acceptance: AcceptanceConfig = AcceptanceConfig(), rounds: int = 2,
               progress: Progress = silent) -> ExtendedMap:
    """
    Find unposed images of `scene` in the map, train a map with them, repeat in that map.

    The last round's map is saved at `path`. Raises `RunError` where no pose is accepted.
    """
    _check(start, scene)
    findings: dict[str, Finding] = {}
    done: list[ExtensionRound] = []
    current = start
    while scene.unposed and len(done) < rounds:
        found = find_unposed(current, scene, acceptance, progress=progress)
        findings |= {finding.frame.name: finding for finding in found}
        poses: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = {
            finding.frame.name: finding.localization.T_world_cam for finding in found
            if finding.refusal is None}
        done.append(ExtensionRound(len(found), len(poses)))
        if not poses:
            break
        scene = scene.with_poses(poses)
        built = build_map_file(scene, path, config, progress)
        current = RadianceMap.load(path)  # as it will be used: the file holds 16-bit floats
        done[-1] = replace(done[-1], seconds=built.seconds,
                           panoramas=len(built.map.panoramas or ()))
    if current is start:
        refused = [f.refusal.kind for f in findings.values() if f.refusal]
        raise RunError('none of the poses found is good enough to learn from', where=scene.root,
                       got=', '.join(f'{refused.count(kind)} {kind}'
                                     for kind in dict.fromkeys(refused)),
                       hint='A better map helps, or looser limits by --config.')
    return ExtendedMap(current, scene, tuple(findings.values()), tuple(done))


def _check(start: RadianceMap, scene: Scene) -> None:
    """Refuse a start whose result could not be trusted, or not be measured."""
    if not scene.unposed:
        raise InputError('every frame has a pose', where=scene.root,
                         expected='frames without transform_matrix')
    if not scene.test:
        raise InputError('no frame is held out', where=scene.root,
                         hint='The gain is measured on held-out frames.')
    if not start.calibration:
        raise InputError('the map has no calibration of its poses', where=start.name,
                         expected='one that was trained with 8 or more frames held out')
    trained = start.info.refinement.get('frames', {})
    given = {frame.name: frame.T_world_cam for frame in scene.frames}
    moved = [name for name, T in trained.items()
             if name in given and abs(given[name] - T).max() > _SAME_POSE]
    if moved:
        raise InputError('the map was trained on other poses than these', where=scene.root,
                         got=f'{len(moved)} frames, first {moved[0]}',
                         hint='It was refined: give the file that train --refined wrote.')
