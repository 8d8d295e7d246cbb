# SPDX-License-Identifier: Apache-2.0
"""A map is built in one call, is frozen, and nothing that works on a map changes it."""

from dataclasses import fields, FrozenInstanceError, is_dataclass, replace
from pathlib import Path
import typing

import numpy as np
import pytest

from thermal_nerf_loc.evaluation.map_quality import evaluate_map
from thermal_nerf_loc.field.density_grid import SamplingConfig
from thermal_nerf_loc.field.hash_encoding import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization import build_map as building
from thermal_nerf_loc.localization.build_map import build_map, build_map_file, BuiltMap
from thermal_nerf_loc.localization.confidence.covariance_calibration import calibrate
from thermal_nerf_loc.localization.confidence.false_positives import measure_tails
from thermal_nerf_loc.localization.global_search.panorama_retrieval import RetrievalConfig
from thermal_nerf_loc.localization.global_search.verification import GlobalSearchConfig
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig
from thermal_nerf_loc.localization.refinement.coarse_to_fine import RefinementConfig
from thermal_nerf_loc.mapping.map.localization_map import panoramas_of, with_panoramas
from thermal_nerf_loc.mapping.map.panoramas import find_panoramas, PanoramaConfig
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.map.uncertainty import uncertainty_of
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.trainer import TrainingResult
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig
from thermal_nerf_loc.tracking.tracker import Tracker, TrackerConfig

TINY = TrainConfig(
    steps=12, rays=256, field=FieldConfig(encoding=EncodingConfig(log2_rows=12, finest=64)),
    sampling=SamplingConfig(grid_cells=16, bins=32), panoramas=PanoramaConfig(rays=100),
    depth_from='none')
FAST = LocalizerConfig(
    refinement=RefinementConfig(rays=100, last_rays=100, grid_rays=150, hypotheses=1,
                                refined=1),
    global_search=GlobalSearchConfig(candidates=2, panoramas=RetrievalConfig(hypotheses=4)))


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Ten small views, two of them held out: too few to calibrate."""
    out = tmp_path_factory.mktemp('data') / 'room'
    simulate_dataset(out, SimulationConfig(frames=8, size=(48, 36), supersampling=1))
    return load_scene(out)


@pytest.fixture(scope='module')
def built(scene: Scene) -> BuiltMap:
    """A rough map with every part of a good one, but for the calibration."""
    return build_map(scene, TINY)


def test_a_built_map_is_complete(built: BuiltMap, scene: Scene) -> None:
    assert built.map.uncertainty is not None
    assert built.map.panoramas is not None and len(built.map.panoramas) >= 1
    assert built.map.calibration == {} == built.map.false_positive_tails
    assert built.least_confidence() == {}
    assert (built.steps, built.map.info.steps) == (12, 12) and built.scene is scene
    assert len(built.map.viewpoints) == len(scene.train)


def test_each_part_is_made_with_those_before(scene: Scene, monkeypatch: pytest.MonkeyPatch,
                                             ) -> None:
    """Uncertainty weighs in the calibration, that in the false positives; views are held out."""
    seen = []

    def noted(name: str, result: object) -> object:
        def measure(radiance_map: RadianceMap, frames: list, **_: object) -> object:
            seen.append((name, radiance_map.uncertainty is not None, dict(
                radiance_map.calibration), [frame.name for frame in frames]))
            return result
        return measure

    monkeypatch.setattr(building, 'calibrate', noted('calibrate', {'rgb': (2.0, 0.01)}))
    monkeypatch.setattr(building, 'measure_tails', noted('tails', {'rgb': (-2.0, 0.5, -0.2)}))
    trained: list[TrainingResult] = []
    built = build_map(scene, TINY, on_trained=trained.append)
    held_out = [scene.frames[i].name for i in scene.test]
    assert seen == [('calibrate', True, {}, held_out), ('tails', True, {'rgb': (2.0, 0.01)},
                                                        held_out)]
    assert built.map.calibration == {'rgb': (2.0, 0.01)}
    assert built.map.false_positive_tails == {'rgb': (-2.0, 0.5, -0.2)}
    assert 0.0 < built.least_confidence()['rgb'] < 1.0
    bare, = trained
    assert bare.map.uncertainty is None and bare.map.panoramas is None
    assert bare.map.learners is built.map.learners


def test_a_trained_map_survives_what_follows(scene: Scene, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on disk before it is completed, and its checkpoint is gone."""
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError('broken')

    path, checkpoint = tmp_path / 'room.map', tmp_path / 'room.map.checkpoint'
    checkpoint.write_bytes(b'of an earlier training')
    monkeypatch.setattr(building, 'uncertainty_of', broken)
    with pytest.warns(UserWarning, match='interrupted training'), pytest.raises(RuntimeError):
        build_map_file(scene, path, TINY)
    assert RadianceMap.load(path).info.steps == 12 and not checkpoint.exists()
    monkeypatch.undo()
    built = build_map_file(scene, path, TINY)
    kept = RadianceMap.load(path)
    assert kept.uncertainty is not None and len(kept.panoramas) == len(built.map.panoramas)


def test_what_follows_is_a_share_of_the_training(scene: Scene) -> None:
    """8 to 24 views, as the steps allow; without views to calibrate by it is less."""
    assert [building.calibration_views(steps, 2) for steps in (100, 1500, 100_000)] == [8, 10, 24]
    assert building.calibration_views(1500, 1) == 24
    many = replace(scene, test=tuple(range(len(scene.frames))) * 3)
    for steps in (1500, 3000, 12_000):
        share = building.completion_steps(steps, many, TrainConfig()) / steps
        assert 0.0 < share < 0.25
        assert building.completion_steps(steps, scene, TrainConfig()) / steps < share


def fingerprint(radiance_map: RadianceMap, path: Path) -> tuple:
    """All that is in a map, and which objects its members are."""
    radiance_map.save(path)
    members = {field.name: id(getattr(radiance_map, field.name)) for field in fields(radiance_map)}
    return path.read_bytes(), members, set(vars(radiance_map))


@pytest.mark.slow
def test_nothing_that_works_on_a_map_changes_it(built: BuiltMap, scene: Scene,
                                                tmp_path: Path) -> None:
    """Nor do measurements depend on what a map has of them already."""
    frames = [scene.load(i).only('thermal') for i in scene.train[:8]]
    known = replace(built.map, calibration={'thermal': (2.0, 0.01)},
                    false_positive_tails={'thermal': (-2.0, 0.5, -0.2)})
    tails = []
    for radiance_map in (known, replace(known, panoramas=None, false_positive_tails={})):
        before = fingerprint(radiance_map, tmp_path / 'before')
        assert calibrate(radiance_map, frames, FAST) == calibrate(built.map, frames, FAST)
        tails.append(measure_tails(radiance_map, frames, FAST))
        panoramas_of(radiance_map)
        with_panoramas(radiance_map)
        find_panoramas(radiance_map, radiance_map.viewpoints, TINY.panoramas)
        uncertainty_of(radiance_map, scene)
        evaluate_map(radiance_map, scene)
        localizer = Localizer(radiance_map, FAST)
        localizer.localize(frames[0], frames[0].T_world_cam)
        localizer.localize_anywhere(frames[0])
        tracker = Tracker(localizer)
        tracker.initialize(frames[0].T_world_cam)
        tracker.step(frames[0])
        assert fingerprint(radiance_map, tmp_path / 'after') == before
    assert tails[0] == tails[1] != {}


def test_what_is_handed_out_is_frozen(built: BuiltMap, scene: Scene) -> None:
    """Maps, results and settings, down to the last."""
    frame = scene.load(scene.train[0])
    found = Localizer(built.map).localize(frame, frame.T_world_cam)
    tracker = Tracker(Localizer(built.map))
    handed = [built, built.map, built.map.info, built.map.keyframes, built.map.panoramas,
              built.map.uncertainty, found, tracker.step(frame), frame, frame.images['rgb'],
              frame.images['rgb'].camera, scene, TINY, LocalizerConfig(), TrackerConfig()]
    while handed:
        one = handed.pop()
        for field in fields(one):
            with pytest.raises(FrozenInstanceError):
                setattr(one, field.name, None)
            value = getattr(one, field.name)
            if is_dataclass(value):
                handed.append(value)
    for mapping in (built.map.calibration, built.map.false_positive_tails, built.map.flat_fields,
                    found.fits, frame.images):
        assert isinstance(mapping, typing.Mapping)
        with pytest.raises(TypeError):
            mapping['rgb'] = None
    with pytest.raises(ValueError, match='read-only'):
        found.T_world_cam[0, 3] = 1.0
    np.testing.assert_array_equal(replace(built.map, name='other').bounds, built.map.bounds)
