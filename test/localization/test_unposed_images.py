# SPDX-License-Identifier: Apache-2.0
"""Images without poses: read as such, found in a room, doubted where they should be, learned."""

from collections.abc import Mapping
from dataclasses import replace
import json
from pathlib import Path

from localization_room import look_at, PaintedRoom, RGB_CAMERA, T_CAM_THERMAL, take_frame
from localization_room import THERMAL_CAMERA
import numpy as np
import pytest

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import silent
from thermal_nerf_loc.evaluation.refined_poses import unposed_summary
from thermal_nerf_loc.field.density_grid import SamplingConfig
from thermal_nerf_loc.field.hash_encoding import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene, SceneWriter
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization import extend_map, unposed_images
from thermal_nerf_loc.localization.build_map import BuiltMap
from thermal_nerf_loc.localization.global_search.panorama_retrieval import RetrievalConfig
from thermal_nerf_loc.localization.global_search.verification import GlobalSearchConfig
from thermal_nerf_loc.localization.localizer import LocalizerConfig
from thermal_nerf_loc.localization.unposed_images import find_unposed
from thermal_nerf_loc.mapping.map.panoramas import find_panoramas, PanoramaConfig, Panoramas
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.trainer import train
from thermal_nerf_loc.sensing.frame import Frame, THERMAL
from thermal_nerf_loc.simulation.perturbations import PerturbationConfig, without_poses
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

SECOND = 1_000_000_000
CONFIG = LocalizerConfig(global_search=GlobalSearchConfig(
    candidates=6, panoramas=RetrievalConfig(hypotheses=16)))


@pytest.fixture(scope='module')
def room() -> PaintedRoom:
    """A room that knows its places."""
    made = PaintedRoom()
    made.panoramas = find_panoramas(made, path(12), PanoramaConfig(spacing=0.36, rays=400))
    return made


def path(count: int) -> np.ndarray:
    """Poses along an arc in the room, which look outwards; a second or so apart."""
    angle = np.linspace(0.0, 1.5, count)
    eyes = np.stack([2.0 + 0.5 * np.cos(angle), 2.0 + 0.5 * np.sin(angle),
                     1.2 + 0.1 * np.sin(3.0 * angle)], axis=1)
    return np.array([look_at(eye, (2.0 + 2.0 * np.cos(a), 2.0 + 2.0 * np.sin(a), 1.2))
                     for eye, a in zip(eyes, angle)])


def scene_of(world: PaintedRoom, out: Path, stamped: bool = True,
             swap: Mapping[int, Frame] = {}) -> Scene:
    """Five frames on the path, every other one without its pose."""
    cameras = {'rgb': RGB_CAMERA, 'thermal': THERMAL_CAMERA}
    with SceneWriter(out, cameras, T_CAM_THERMAL, poses_may_lack=True) as writer:
        for k, T in enumerate(path(5)):
            frame = swap.get(k) or take_frame(world, T, seed=k)
            writer.add(replace(frame, stamp_ns=stamped * (k + 1) * SECOND, name=f'{k}',
                               T_world_cam=None if k % 2 else T))
    scene = load_scene(out)
    truth = [replace(frame, T_world_cam_true=path(5)[int(frame.name[4])])
             for frame in scene.unposed]
    return replace(scene, unposed=tuple(truth))


@pytest.mark.parametrize('began', ['neighbours', 'search'])
def test_frames_are_found_and_believed(room: PaintedRoom, tmp_path: Path, began: str) -> None:
    """Between their neighbours in time, or, without stamps, anywhere."""
    scene = scene_of(room, tmp_path / 'data', began == 'neighbours')
    assert len(scene.unposed) == 2 and len(scene.frames) == 3
    found = find_unposed(room, scene, localizer=CONFIG)
    assert [finding.start for finding in found] == [began] * 2
    figures = unposed_summary(found)
    assert figures['accepted'] == 2 and figures['accepted_share'] == 1.0
    assert figures['accepted_truth']['worst_m'] < 0.02
    assert figures['accepted_truth']['worst_deg'] < 0.5
    assert figures['accepted_truth']['worse_than_5cm_2deg'] == 0


def test_what_contradicts_is_not_learned_from(room: PaintedRoom, tmp_path: Path) -> None:
    """Heat that was seen from elsewhere, and a picture of another room."""
    T, elsewhere = path(5)[1], se3.plus(path(5)[1], [0.08, 0.0, 0.0, 0.0, 0.06, 0.0])
    images = dict(take_frame(room, T, seed=1).images)
    images[THERMAL] = take_frame(room, elsewhere, seed=1).images[THERMAL]
    other = take_frame(PaintedRoom(seed=9), path(5)[3], seed=3)
    scene = scene_of(room, tmp_path / 'data', swap={1: Frame(0, images), 3: other})
    found = {finding.frame.name: finding for finding in find_unposed(room, scene,
                                                                     localizer=CONFIG)}
    assert found['rgb/1.png'].refusal.kind in ('contradicted', 'ambiguous', 'lost')
    assert found['rgb/3.png'].refusal.kind in ('ambiguous', 'lost')
    assert found['rgb/3.png'].refusal.reason
    assert unposed_summary(list(found.values()))['accepted'] == 0


def test_each_camera_must_agree(room: PaintedRoom, tmp_path: Path) -> None:
    """A pose that both cameras were averaged to is told by either alone."""
    T, elsewhere = path(5)[1], se3.plus(path(5)[1], [0.08, 0.0, 0.0, 0.0, 0.06, 0.0])
    images = dict(take_frame(room, T).images)
    images[THERMAL] = take_frame(room, elsewhere).images[THERMAL]
    frame = Frame(0, images)
    finder = unposed_images._Finder(room, unposed_images.AcceptanceConfig(), CONFIG)
    right = finder._first.localize(take_frame(room, T), T)
    assert finder._refusal(take_frame(room, T), right) is None
    told = finder._refusal(frame, right)
    assert told.kind == 'contradicted' and 'thermal alone' in told.reason


def test_two_looks_that_differ_are_none(room: PaintedRoom, monkeypatch: pytest.MonkeyPatch,
                                        ) -> None:
    """A second localization that ends elsewhere, however sure the first was."""
    T = path(5)[1]
    finder = unposed_images._Finder(room, unposed_images.AcceptanceConfig(), CONFIG)
    frame = take_frame(room, T)
    found = finder._first.localize(frame, T)
    moved = replace(found, T_world_cam=se3.plus(T, [0.03, 0.0, 0.0, 0.0, 0.0, 0.0]))
    told = finder._refusal(frame, moved)
    assert told.kind == 'unstable' and '0.03 m' in told.reason


@pytest.fixture(scope='module')
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated set in which every other training frame has no pose."""
    out = tmp_path_factory.mktemp('data') / 'room'
    simulate_dataset(out, SimulationConfig(frames=8, size=(32, 24),
                                           spoil=PerturbationConfig(unposed=0.5)))
    return out


def test_frames_without_a_pose_stand_apart(simulated: Path, tmp_path: Path) -> None:
    """In no split, with the truth where a simulation knows it; null and missing mean the same."""
    scene = load_scene(simulated)
    assert [len(part) for part in (scene.train, scene.test, scene.unposed)] == [4, 2, 4]
    assert all(frame.T_world_cam_true is not None for frame in scene.unposed)
    assert scene.unposed[0].load().T_world_cam is None
    assert any('4 of 10 frames have no pose' in notice for notice in scene.notices)
    content = json.loads((simulated / 'transforms.json').read_text())
    for entry in content['frames']:
        if entry['transform_matrix'] is None:
            del entry['transform_matrix']
    file = simulated / 'missing.json'
    file.write_text(json.dumps(content))
    assert [f.name for f in load_scene(file).unposed] == [f.name for f in scene.unposed]
    del content['train_filenames'], content['test_filenames']
    file.write_text(json.dumps(content))
    counted = load_scene(file)  # every eighth of those that have one
    assert len(counted.test) == 1 and len(counted.train) == 5


def test_poses_are_taken_away_and_given_back(simulated: Path) -> None:
    """Evenly or at the end; with the same poses it is the same set again."""
    scene = load_scene(simulated)
    half = scene.with_poses({frame.name: frame.T_world_cam_true for frame in scene.unposed})
    assert len(half.train) == 8 and not half.unposed
    for pattern, taken in (('spread', '37'), ('block', '67')):
        bare = without_poses(half, 0.25, pattern)
        assert [frame.name[-5] for frame in bare.unposed] == list(taken)
        assert len(bare.train) == 6
        assert bare.test == scene.test
        back = bare.with_poses({f.name: f.T_world_cam_true for f in bare.unposed})
        assert {back.frames[i].name for i in back.train} == {half.frames[i].name
                                                             for i in half.train}


TINY = TrainConfig(steps=4, rays=64, field=FieldConfig(encoding=EncodingConfig(
    levels=4, log2_rows=12, finest=64)), sampling=SamplingConfig(grid_cells=16, bins=32),
                   depth_from='none')


def tiny_map(scene: Scene, out: Path, config: TrainConfig = TINY, *rest: object) -> BuiltMap:
    """Make a map that claims to be calibrated, with as many panoramas as training views."""
    result, count = train(scene, config), len(scene.train)
    empty = Panoramas(np.zeros((count, 3), np.float32), np.zeros((count, 4), np.float32),
                      np.zeros((count, 4), np.float32), {}, np.eye(3)[2], np.eye(3))
    made = replace(result.map, calibration={'rgb+thermal': (1.0, 0.0)}, panoramas=empty)
    made.save(out)
    return BuiltMap(made, scene, result.steps, 1.0, 1.0, 1.0, result.backend)


def test_the_command_learns_and_writes_poses(simulated: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four are believed at first, one more in the better map, one never."""
    start, out = tmp_path / 'a.map', tmp_path / 'b.map'
    tiny_map(load_scene(simulated), start)
    monkeypatch.setattr(extend_map, 'build_map_file', tiny_map)
    rounds = iter([('00001', '00003'), ('00005',)])

    def find(renderer, scene, config, progress):
        believed = next(rounds)
        return [unposed_images.Finding(frame, Answer(frame.T_world_cam_true), 'search',
                                None if any(name in frame.name for name in believed)
                                else unposed_images.Refusal('lost', 'too dark'))
                for frame in scene.unposed]

    monkeypatch.setattr(extend_map, 'find_unposed', find)
    assert main(['extend', str(start), str(simulated), '--map', str(out), '--json',
                 str(tmp_path / 'a.json')]) == 0
    figures = json.loads((tmp_path / 'a.json').read_text())
    told = [(row['tried'], row['accepted'], row['places']) for row in figures['rounds']]
    assert told == [(4, 2, 6), (2, 1, 7)]  # and learned from that many
    assert (figures['tried'], figures['accepted'], figures['accepted_share']) == (4, 3, 0.75)
    assert figures['refused'] == {'lost': 1}
    assert figures['accepted_truth']['worst_m'] == 0.0
    assert set(figures['gain_db']) == {'rgb', 'thermal'}
    for name in ('rgb', 'thermal'):
        gained = figures['after'][f'{name}_psnr'] - figures['before'][f'{name}_psnr']
        assert figures['gain_db'][name] == pytest.approx(gained)
    assert [row['reason'] for row in figures['frames'] if not row['accepted']] == ['too dark']
    assert RadianceMap.load(out).info.steps == 4
    written = load_scene(simulated / 'extended.json')
    before = load_scene(simulated)
    assert len(written.train) == 7 and len(written.unposed) == 1
    assert [written.frames[i].name for i in written.test] == [before.frames[i].name
                                                              for i in before.test]
    for frame in written.frames:
        if frame.name.endswith(('00001.png', '00003.png')) and 'train' in frame.name:
            np.testing.assert_allclose(frame.T_world_cam, frame.T_world_cam_true, atol=1e-12)
    entry = json.loads((simulated / 'extended.json').read_text())['frames'][1]
    assert entry['pose_found']['sigma_m'] > 0.0


class Answer:
    """As much of a localization as is reported."""

    verdict, confidence, covariance = 'ok', 0.9, 1e-6 * np.eye(6)

    def __init__(self, T_world_cam: np.ndarray) -> None:
        self.T_world_cam = T_world_cam


def test_nothing_to_learn_from_is_said(simulated: Path, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """All posed, nothing held out, no calibration, nothing believed: one clear error each."""
    scene = load_scene(simulated)
    tiny_map(scene, tmp_path / 'a.map')
    start = RadianceMap.load(tmp_path / 'a.map')

    def refused(scene: Scene, told: str, kind: type[Exception] = InputError) -> None:
        with pytest.raises(kind, match=told):
            extend_map.extend_map(start, scene, tmp_path / 'b.map', TrainConfig(steps=1),
                              unposed_images.AcceptanceConfig(), 1, silent)
        assert not (tmp_path / 'b.map').exists()

    refused(replace(scene, unposed=()), 'every frame has a pose')
    refused(replace(scene, test=()), 'no frame is held out')
    monkeypatch.setattr(extend_map, 'find_unposed', lambda *args, **rest: [
        unposed_images.Finding(frame, Answer(np.eye(4)), 'search',
                               unposed_images.Refusal('lost', 'dark'))
        for frame in scene.unposed])
    refused(scene, 'none of the poses found.*4 lost', RunError)
    start = replace(start, calibration={})
    refused(scene, 'has no calibration of its poses')
