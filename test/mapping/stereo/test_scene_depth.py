# SPDX-License-Identifier: Apache-2.0
"""Which source of depth is taken, and what happens where there is none."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.io.datasets.depth_maps import DepthSource, with_depth
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.mapping.stereo import scene_depth
from thermal_nerf_loc.mapping.stereo.scene_depth import find_depth
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
from thermal_nerf_loc.simulation.perturbations import PerturbationConfig, perturbed_scene
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

BOTH = ('rgb', 'thermal')


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    """Ten views of 80 x 60; its depth is the truth of a simulation."""
    out = tmp_path_factory.mktemp('scene') / 'room'
    simulate_dataset(out, SimulationConfig(frames=10, size=(80, 60), laps=0.3,
                                           held_out_share=0.1))
    return load_scene(out)


def with_records(scene, change):
    """The scene with other image records."""
    return replace(scene, frames=tuple(replace(frame, records={
        name: change(record) for name, record in frame.records.items()})
        for frame in scene.frames))


def test_truth_of_a_simulation_is_not_taken_but_measured_depth_is(scene):
    """Both by themselves; the maps go into the training only where they were measured."""
    measured = with_records(scene, lambda record: replace(record, depth_is_truth=False))
    assert find_depth(with_depth(measured, DepthSource('auto')), BOTH, 'auto').source == 'measured'
    found = find_depth(with_depth(scene, DepthSource('auto')), BOTH, 'auto')
    assert found.source == 'stereo' and set(found.images) == set(BOTH)
    facts = found.facts()
    assert set(facts) == {'source', 'share', 'seconds', 'disagreement'}
    assert 0.2 < facts['share']['rgb'] < 1.0 and 0.0 < facts['disagreement']['rgb'] < 0.02
    assert facts['seconds'] > 0.0


def test_none_is_none(scene):
    found = find_depth(scene, BOTH, 'none')
    assert found.source == 'none' and not found.images


def test_training_gets_depth_and_confidence_of_its_pixels(scene):
    """Right, where it is known; of the pixels of the image, not of the view."""
    found = find_depth(scene, BOTH, 'stereo')
    sources, _ = load_sources(scene, TrainConfig(), found)
    true = load_sources(scene, TrainConfig(depth_weight=0.3))[0]
    for name in BOTH:
        pixels = np.arange(len(sources[name]))
        batch = sources[name].at(pixels)
        known = batch.confidence > 0.0
        off = (batch.depth_m / true[name].at(pixels).depth_m - 1.0).abs()[known]
        assert float(off.median()) < 0.02
        assert float(batch.confidence.max()) <= 1.0


def test_each_camera_fills_what_the_other_could_not(scene):
    """Through a rig that is known; not while it is to be refined."""
    alone = find_depth(scene, BOTH, 'stereo', refined=('rig',)).share
    together = find_depth(scene, BOTH, 'stereo').share
    assert together['thermal'] > alone['thermal'] + 0.05
    assert together['rgb'] >= alone['rgb']


def test_a_filled_depth_is_right(scene):
    """Thermal depth that came from RGB, against the truth."""
    alone, together = (find_depth(scene, BOTH, 'stereo', refined=refined).images['thermal']
                       for refined in (('rig',), ()))
    off = []
    for i in scene.train:
        camera = scene.frames[i].records['thermal'].camera
        own, filled = alone(i, camera), together(i, camera)
        new = (own[1] <= 0.0) & (filled[1] > 0.0)
        true = scene.load(i).images['thermal'].depth_m
        off.append(np.abs(filled[0][new] / true[new] - 1.0))
    assert np.median(np.concatenate(off)) < 0.02


def test_points_where_stereo_fails_and_nothing_where_both_do(scene, monkeypatch, caplog):
    """The fallback, and the end of it: a warning, and a training that goes on."""
    tried = []
    monkeypatch.setattr(scene_depth, '_by_stereo', lambda *_: scene_depth.SceneDepth('none'))
    monkeypatch.setattr(scene_depth, '_by_points', lambda scene, name, *_: (
        tried.append(name), scene_depth.SceneDepth('points'))[1])
    assert find_depth(scene, BOTH, 'auto').source == 'points' and tried == ['rgb']
    assert find_depth(scene, BOTH, 'stereo').source == 'none'
    assert 'stereo finds no depth' in caplog.text

    def fails(*_):
        raise RunError('too few points to tell depth')

    monkeypatch.setattr(scene_depth, '_by_points', fails)
    assert find_depth(scene, BOTH, 'auto').source == 'none'
    assert 'neither stereo nor points tell depth' in caplog.text
    with pytest.raises(RunError):
        find_depth(scene, BOTH, 'points')


@pytest.mark.parametrize('what', ['poses', 'turns', 'one', 'masks'])
def test_nothing_is_claimed_and_the_training_goes_on(scene, what, caplog, monkeypatch):
    """Poses that contradict the images, cameras that only turn, one image, masks everywhere."""
    bad = scene
    if what == 'poses':
        bad = perturbed_scene(scene, PerturbationConfig(pose_deg=25.0, pose_m=0.8))
    elif what == 'turns':
        frames = [replace(frame, T_world_cam=np.block([
            [frame.T_world_cam[:3, :3], np.zeros((3, 1))], [np.eye(4)[3:]]]), records={
                name: replace(record, T_cam_sensor=np.eye(4))
                for name, record in frame.records.items()}) for frame in scene.frames]
        bad = replace(scene, frames=tuple(frames))
    elif what == 'one':
        bad = replace(scene, train=scene.train[:1])
    else:
        load = scene_depth.load_image
        monkeypatch.setattr(scene_depth, 'load_image', lambda name, record: replace(
            load(name, record), valid=np.zeros((record.camera.height, record.camera.width), bool)))
    found = find_depth(bad, BOTH, 'stereo')
    assert found.source == 'none' and not found.images
    reason = {'turns': 'the cameras only turn', 'one': 'one rgb image alone'}
    assert reason.get(what, 'too little parallax') in caplog.text
    assert 'the map is trained without' in caplog.text
    assert find_depth(bad, BOTH, 'none').source == 'none'
    load_sources(bad, TrainConfig(), found)


def test_time_and_memory_are_shared_by_the_cameras(scene, monkeypatch):
    """Half of what is left for each; beyond the limit, temporary files."""
    calls = []
    original = scene_depth.stereo_depth

    def watched(*arguments):
        calls.append((arguments[6].__name__, arguments[7]))
        return original(*arguments)

    monkeypatch.setattr(scene_depth, 'stereo_depth', watched)
    find_depth(scene, BOTH, 'stereo', seconds=1000.0, memory_limit_mb=0.1)
    assert [name for name, _ in calls] == ['on_disk', 'on_disk']
    assert calls[0][1] <= 500.0 < calls[1][1] < 1000.0
    calls.clear()
    find_depth(scene, BOTH, 'stereo')
    assert calls == [('in_memory', None)] * 2
