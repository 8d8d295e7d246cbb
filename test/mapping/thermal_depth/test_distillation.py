# SPDX-License-Identifier: Apache-2.0
"""Thermal depth networks: warped teachers, likelihoods, agreement, files, commands."""

from dataclasses import replace
import importlib.util
import json
import struct

import numpy as np
import pytest
from stand_in_map import StandInMap
import torch

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation.depth_quality import score_depth
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.datasets.depth_maps import DepthSource, with_depth
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.scene import load_image
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.stereo.depth_warp import warp_depth
from thermal_nerf_loc.mapping.thermal_depth import distillation, teacher
from thermal_nerf_loc.mapping.thermal_depth.distillation import distill, DistillConfig
from thermal_nerf_loc.mapping.thermal_depth.model import (
    small_camera, TemperatureScaling, ThermalDepth)
from thermal_nerf_loc.mapping.thermal_depth.onnx_network import OnnxDepth
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

HAS_ONNX = importlib.util.find_spec('onnxruntime') is not None
QUICK = DistillConfig(steps=60, images=3)


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Networks as small as these gain nothing from two, that wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def room(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'room'
    simulate_dataset(out, SimulationConfig(frames=8, size=(64, 48), thermal_size=(64, 48),
                                           supersampling=1))
    return load_scene(out)


class World(StandInMap):
    """The true room in place of a map, as files and commands ask for it."""

    name = 'room'
    viewpoints = se3.from_parts(np.eye(3), np.array([2.0, 2.0, 1.3]))[None]

    def __init__(self):
        super().__init__(render_rays=make_world('room').render_rays)

    def learner(self, modality):
        return self


def tilted_plane(camera, T, normal, offset_m):
    """Depth along z at the pixels of a camera that stands at T, of n . p = offset."""
    rays = camera.rays()
    rays = rays / rays[:, 2:]
    z = (offset_m - normal @ T[:3, 3]) / (rays @ T[:3, :3].T @ normal)
    return z.reshape(camera.height, camera.width)


@pytest.mark.parametrize('lens', [{}, {'model': CameraModel.OPENCV,
                                       'distortion': (-0.15, 0.02, 0.0, 0.0)}])
def test_a_plane_is_warped_to_fractions_of_a_pixel(lens):
    """Into a camera elsewhere, with another lens and resolution; nearest pixels are far worse."""
    source, target = Camera.from_fov(96, 72, 70.0), Camera.from_fov(80, 60, 45.0, **lens)
    T = se3.exp([0.08, -0.03, 0.02, 0.03, -0.05, 0.1])
    normal = np.array([0.3, -0.2, 1.0]) / np.linalg.norm([0.3, -0.2, 1.0])
    depth, confidence = (tilted_plane(source, np.eye(4), normal, 2.0) for _ in range(2))
    found, warped = warp_depth(depth, confidence, source, target, np.linalg.inv(T))
    truth = tilted_plane(target, T, normal, 2.0)
    assert (found > 0.0).mean() > 0.98
    seen = found > 0.0
    np.testing.assert_allclose(found[seen], truth[seen], rtol=1e-6 if not lens else 2e-4)
    assert (warped[seen] > 0.5).all()


def test_what_is_near_hides_what_is_far():
    """A box before a wall: its depth where it is seen, nothing where the source never looked."""
    camera = Camera.from_fov(80, 60, 60.0)
    depth = np.full((60, 80), 4.0)
    depth[20:40, 30:50] = 1.0
    T = np.eye(4)
    T[0, 3] = 0.2  # target 0.2 m to the right: near things move left by 14 px, the wall by 3
    found, _ = warp_depth(depth, np.ones_like(depth), camera, camera, np.linalg.inv(T))
    row = found[30]
    near = np.flatnonzero(np.isclose(row, 1.0))
    shift = 0.2 * camera.fx
    assert near.min() == pytest.approx(30 - shift, abs=1) and len(near) in (19, 20)
    hidden = np.flatnonzero(row == 0.0)
    behind = hidden[(hidden > near.max()) & (hidden < 60)]
    assert len(behind) == pytest.approx(shift - shift / 4.0, abs=3)
    assert set(np.unique(row.round(6))) <= {0.0, 1.0, 4.0}


def test_depth_of_the_other_camera_fits_measured_depth(room):
    """True RGB depth, warped into the thermal camera of the simulated rig."""
    frame = room.load(0)
    rgb, thermal = frame.images[RGB], frame.images[THERMAL]
    T = np.linalg.inv(thermal.T_cam_sensor) @ rgb.T_cam_sensor
    found, _ = warp_depth(rgb.depth_m, np.ones_like(rgb.depth_m), rgb.camera, thermal.camera, T)
    seen = found > 0.0
    off = np.abs(found - thermal.depth_m)[seen] / thermal.depth_m[seen]
    assert seen.mean() > 0.8 and np.median(off) < 0.002


def test_frames_that_disagree_are_not_trusted(room):
    """One frame's depth is 40 % off: nobody else's surfaces lie there."""
    depths = {i: load_image(RGB, room.frames[i].records[RGB]).depth_m for i in room.train}
    right = teacher.depth_consistency(room, 2, depths)
    wrong = teacher.depth_consistency(room, 2, depths | {2: 1.4 * depths[2]})
    assert right.mean() > 2.0 * wrong.mean()


@pytest.mark.parametrize('kind', ['affine', 'inverse'])
def test_a_relative_network_gets_the_scale_of_the_map(kind):
    """Scale and shift by robust least squares, a tenth of the pixels being nonsense."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(1.0, 5.0, (30, 40)).astype(np.float32)
    given = ((1.0 / truth if kind == 'inverse' else truth) + 0.2) / 3.0
    given[:3] = rng.uniform(0.0, 2.0, (3, 40))
    found = teacher.fit_depth_scale(given, kind, truth, np.ones_like(truth))
    np.testing.assert_allclose(found[3:], truth[3:], rtol=0.01)


def test_a_turn_of_the_camera_is_exact(room):
    """Grid and shift of a turned camera, against the world seen from there."""
    camera = Camera.from_fov(40, 30, 60.0)
    grid, shift = distillation.rotated(camera, np.random.default_rng(1), 4.0)
    R = se3.so3_exp(np.deg2rad(4.0) * np.random.default_rng(1).normal(size=3))
    T = room.frames[0].T_world_cam
    before, after = (teacher.render_view(World(), THERMAL, camera, pose)[1] for pose in (
        T, T @ se3.from_parts(R, np.zeros(3))))
    found = torch.exp(distillation._sample(torch.log(torch.from_numpy(before))[None],
                                           grid[None], 'nearest')[0] + shift).numpy()
    inside = (grid.abs() <= 1.0).all(dim=-1).numpy()
    assert np.median(np.abs(found - after)[inside] / after[inside]) < 0.01


def test_confidence_and_spread_weigh_in_the_likelihood(room):
    """Where confidence is 0, wild depth leaves the training untouched."""
    camera = small_camera(room.frames[0].records[THERMAL].camera)
    examples = teacher.measured_examples(room, room.train[:3], camera)
    half = [replace(example,
                    confidence=np.where(np.arange(80) < 40, example.confidence, 0.0).astype('f4'))
            for example in examples]
    wild = [replace(example, depth_m=np.where(example.confidence > 0.0, example.depth_m, 77.0)
                    .astype('f4')) for example in half]
    config = replace(QUICK, steps=3)
    weights = [distill(part, [], camera, config)[0].network.state_dict() for part in (half, wild)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    silence = [replace(example,
                       confidence=np.zeros_like(example.confidence)) for example in examples]
    with pytest.raises(InputError, match='no depth to learn from'):
        distill([], silence, camera, config)


def test_it_learns_and_its_file_tells_the_same(room, tmp_path):
    """Better than the best constant on its two views; bit by bit the same after loading."""
    camera = small_camera(room.frames[0].records[THERMAL].camera)
    two = room.train[:2]
    examples = teacher.map_examples(World(), room, two, camera)
    model, steps = distill([], examples, camera, replace(QUICK, turn_deg=1.0))
    assert steps == 60
    path = tmp_path / 'm'
    replace(model, facts={'teacher': 'map'}).save(path)
    again = ThermalDepth.load(path)
    assert again.facts == {'teacher': 'map'} and again.camera == model.camera
    frame = room.load(0)
    one, other = (m.predict(frame) for m in (model, again))
    np.testing.assert_array_equal(one.depth_m, other.depth_m)
    np.testing.assert_array_equal(one.spread_m, other.spread_m)
    assert one.depth_m.shape == (48, 64) and (one.spread_m > 0.0).all()

    def predict(image):
        seen = model.predict_image(image)
        return seen.depth_m, seen.spread_m

    def constant(image):
        return np.full((48, 64), typical), np.ones((48, 64))

    typical = np.median([example.depth_m for example in examples])
    assert score_depth(predict, room, two).abs_rel < 0.8 * score_depth(
        constant, room, two).abs_rel
    blind = Frame(0, {RGB: frame.images[RGB]})
    with pytest.raises(InputError, match='no thermal image'):
        model.predict(blind)
    wide = Camera.from_fov(64, 48, 100.0)
    with pytest.raises(InputError, match='another lens'):
        model.predict_image(SensorImage(wide, np.zeros((48, 64, 1), np.float32), 0))


def test_damaged_and_foreign_files_are_named(tmp_path):
    from safetensors.torch import save
    path = tmp_path / 'm'
    path.write_bytes(b'nonsense')
    with pytest.raises(InputError, match='truncated, corrupt'):
        ThermalDepth.load(path)
    path.write_bytes(save({'a': torch.zeros(1)}))
    with pytest.raises(InputError, match='foreign safetensors'):
        ThermalDepth.load(path)
    model = ThermalDepth(distillation.DepthNetwork(), Camera.from_fov(80, 60, 60.0),
                         TemperatureScaling(20, 2))
    model.save(path)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(InputError, match='truncated, corrupt'):
        ThermalDepth.load(path)
    path.write_bytes(data.replace(b'out.bias', b'out.base'))
    with pytest.raises(InputError, match='inconsistent'):
        ThermalDepth.load(path)


def test_masked_pixels_teach_nothing(room, monkeypatch):
    """Neither measured depth nor the map's, where the robot sees itself."""
    def masked(modality, record):
        valid = np.ones((48, 64), bool)
        valid[24:] = False
        return replace(load_image(modality, record), valid=valid)

    monkeypatch.setattr(teacher, 'load_image', masked)
    camera = small_camera(room.frames[0].records[THERMAL].camera)
    for example in (*teacher.measured_examples(room, (0,), camera),
                   *teacher.map_examples(World(), room, (0,), camera)):
        assert not example.confidence[30:].any() and example.confidence[:30].all()


def test_two_lenses_are_refused(room):
    from thermal_nerf_loc.mapping.thermal_depth.dataset import common_camera
    frames = list(room.frames)
    record = frames[1].records[THERMAL]
    frames[1] = replace(frames[1], records={THERMAL: replace(
        record, camera=Camera.from_fov(64, 48, 90.0))})
    assert common_camera(room, room.train).size == (80, 60)
    with pytest.raises(InputError, match='several lenses'):
        common_camera(replace(room, frames=tuple(frames)), room.train)


def test_figures_of_depth():
    """By hand: 10 % too far everywhere, and the spread says so for half of the pixels."""
    truth = np.full((4, 6), 2.0, np.float32)
    spread = np.where(np.arange(6) < 3, 0.3, 0.1) * np.ones((4, 6))
    image = SensorImage(Camera.from_fov(6, 4, 60), np.zeros((4, 6, 1), np.float32), 0,
                        depth_m=truth)
    from thermal_nerf_loc.evaluation import depth_quality
    row = depth_quality._image_scores(1.1 * truth, spread, image.depth_m)
    assert row == pytest.approx((0.1, 0.04, 1.0, 0.5))
    assert depth_quality._image_scores(1.1 * truth, spread, 0 * truth) is None


def test_the_whole_chain(room, tmp_path, monkeypatch, capsys):
    """Distil, write maps, and a training takes them: depth and confidence reach its frames."""
    monkeypatch.setattr(RadianceMap, 'load', classmethod(lambda cls, path, device='cpu': World()))
    network, maps = tmp_path / 'n', tmp_path / 'maps'
    command = ['distill-depth', 'm', str(room.root), '--out', str(network), '--steps', '4']
    assert main([*command, '--views', '2', '--sheet', str(tmp_path / 's.png'), '--json',
                 str(tmp_path / 'j')]) == 0
    told = json.loads((tmp_path / 'j').read_text())
    assert told['lessons'] == 10 and told['labels'] == 0 and 0.0 < told['test']['abs_rel'] < 2.0
    assert (tmp_path / 's.png').read_bytes().startswith(b'\x89PNG')
    assert main([*command, '--teacher', 'none', '--labels', '2', '--json',
                 str(tmp_path / 'j')]) == 0
    assert json.loads((tmp_path / 'j').read_text())['labels'] == 2
    assert main(['predict-depth', str(network), str(room.root), '--out', str(maps)]) == 0
    scene = with_depth(room, DepthSource(str(maps)))
    image = load_image(THERMAL, scene.frames[scene.train[0]].records[THERMAL])
    seen = ThermalDepth.load(network).predict_image(image)
    np.testing.assert_allclose(image.depth_m, seen.depth_m, atol=6e-4)
    assert 0.0 < image.depth_confidence.mean() < 1.0
    capsys.readouterr()
    assert main([*command, '--teacher', 'none', '--labels', '99']) == 2
    assert 'expected 99; got 8' in capsys.readouterr().err
    assert main([*command, '--teacher', str(tmp_path / 'none.onnx')]) == 2
    assert ('does not exist' if HAS_ONNX else 'thermal_nerf_loc[onnx]') in capsys.readouterr().err


def test_an_rgb_teacher_teaches_in_the_thermal_camera(room):
    """Inverse depth of unknown scale, seen in RGB: fitted to the map, agreed upon, warped."""
    by_image = {room.frames[i].records[RGB].path: load_image(RGB, room.frames[i].records[RGB])
                for i in room.train}

    def model(rgb):
        image = next(image for image in by_image.values() if image.values is rgb
                     or np.array_equal(image.values, rgb))
        return 3.0 / image.depth_m + 0.7

    camera = small_camera(room.frames[0].records[THERMAL].camera)
    examples = teacher.rgb_examples(model, 'inverse', World(), room, room.train, camera)
    truth = teacher.measured_examples(room, room.train, camera)
    for example, right in zip(examples, truth, strict=True):
        good = example.confidence > 0.5
        assert good.mean() > 0.2
        off = np.abs(example.depth_m - right.depth_m)[good] / right.depth_m[good]
        assert np.median(off) < 0.01


def test_a_doubtful_map_is_still_listened_to():
    """A fifth of the distance as its spread: half the trust, and the spread is told as doubt."""
    class Foggy(World):
        def __init__(self):
            super().__init__()
            clear = self.render_rays
            self.render_rays = lambda *rays: replace(
                clear(*rays), spread_m=0.2 * clear(*rays).distance_m)

    _, depth, confidence, relative_spread = teacher.render_view(
        Foggy(), THERMAL, Camera.from_fov(8, 6, 60.0), World.viewpoints[0])
    np.testing.assert_allclose(confidence[depth > 0.0], 0.5, atol=1e-4)
    np.testing.assert_allclose(relative_spread[depth > 0.0], 0.2, atol=1e-4)


def test_views_that_nobody_took_lie_beside_the_path_too(room, monkeypatch):
    """A map that brings no places along is looked around in first: other headings, all trusted."""
    camera = small_camera(room.frames[0].records[THERMAL].camera)
    looked, render_view = [], teacher.render_view

    def noted(renderer, modality, camera, T):
        looked.append(T)
        return render_view(renderer, modality, camera, T)

    monkeypatch.setattr(teacher, 'render_view', noted)
    examples = teacher.novel_view_examples(World(), room, room.train, camera, 6,
                                           np.random.default_rng(0))
    assert len(examples) == 6 and min(example.confidence.mean() for example in examples) > 0.8
    taken = [room.frames[i].T_world_cam @ room.frames[i].records[THERMAL].T_cam_sensor
             for i in room.train]
    turned = [min(se3.distance(T, known)[1] for known in taken) for T in looked]
    assert max(turned) > 45.0 and min(turned) < 25.0  # degrees


@pytest.mark.skipif(not HAS_ONNX, reason='needs onnxruntime: pip install thermal_nerf_loc[onnx]')
def test_an_onnx_network_is_asked(tmp_path):
    """A network of one layer, written by hand: the mean of normalised red, green and blue."""
    path = tmp_path / 'mean.onnx'
    path.write_bytes(_onnx_mean(28, 42))
    rgb = np.full((20, 30, 3), 0.5, np.float32)
    rgb[:, 15:] = 0.9
    found = OnnxDepth(path)(rgb)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert found.shape == (20, 30)
    np.testing.assert_allclose(found[:, 2], ((0.5 - mean) / std).mean(), rtol=1e-4)
    np.testing.assert_allclose(found[:, -3], ((0.9 - mean) / std).mean(), rtol=1e-4)
    path.write_bytes(b'nonsense')
    with pytest.raises(InputError, match='is no ONNX network'):
        OnnxDepth(path)


def _onnx_mean(height, width):
    """Protocol buffers of ReduceMean over the channels of x (1, 3, height, width)."""
    def field(number, value):
        if isinstance(value, int):
            return _varint(number << 3) + _varint(value)
        value = value.encode() if isinstance(value, str) else value
        return _varint(number << 3 | 2) + _varint(len(value)) + value

    def tensor(name, shape):
        dims = b''.join(field(1, field(1, side)) for side in shape)
        kind = field(1, field(1, 1) + field(2, dims))  # floats
        return field(1, name) + field(2, kind)

    axes = field(5, field(1, 'axes') + field(8, 1) + field(20, 7))
    node = field(1, 'x') + field(2, 'y') + field(4, 'ReduceMean') + axes
    graph = (field(1, node) + field(2, 'g') + field(11, tensor('x', (1, 3, height, width)))
             + field(12, tensor('y', (1, 1, height, width))))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def _varint(value):
    out = b''
    while value > 127:
        out += struct.pack('B', value & 127 | 128)
        value >>= 7
    return out + struct.pack('B', value)
