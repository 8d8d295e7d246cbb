# SPDX-License-Identifier: Apache-2.0
"""Posed image sets: written, read, split, and lenient only where it says so."""

from concurrent.futures import ThreadPoolExecutor
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.datasets.intrinsics import camera_from_keys, keys_from_camera
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene, SceneWriter
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.io.images import write_png
from thermal_nerf_loc.sensing.frame import Frame, SensorImage
from thermal_nerf_loc.sensing.thermal import LinearRadiometry, PlanckRadiometry

ARCO = Path(__file__).resolve().parents[4] / 'shared' / 'data' / 'arco'
RNG = np.random.default_rng(17)
START_NS = 1_732_180_000_123_456_789
RGB_CAMERA = Camera(16, 12, 14.0, 14.5, 8.2, 5.7, CameraModel.OPENCV, (0.1, -0.02, 0.001, 0.002))
THERMAL_CAMERA = Camera(8, 6, 7.0, 7.1, 4.1, 2.9, CameraModel.OPENCV_FISHEYE,
                        (0.02, -0.01, 0.003, 0.0))
T_CAM_THERMAL = se3.exp([0.05, -0.01, 0.02, 0.03, -0.02, 0.01])
PLANCK = PlanckRadiometry(14364.6, 1385.4, 1.0, -5753.0, 0.0108, emissivity=0.95)


def frame(index: int, modalities: str = 'rgb thermal', **thermal: object) -> Frame:
    stamp_ns = START_NS + index * 10**8
    images = {}
    if 'rgb' in modalities:
        images['rgb'] = SensorImage(
            RGB_CAMERA, RNG.integers(0, 256, (12, 16, 3)).astype(np.float32) / 255, stamp_ns,
            valid=RNG.random((12, 16)) > 0.3,
            depth_m=RNG.uniform(0.5, 9.0, (12, 16)).astype(np.float32))
    if 'thermal' in modalities:
        celsius = RNG.uniform(-20.0, 90.0, (6, 8, 1)).astype(np.float32)
        images['thermal'] = SensorImage(THERMAL_CAMERA, celsius, stamp_ns + 7, T_CAM_THERMAL,
                                        **thermal)
    return Frame(stamp_ns, images, se3.exp(RNG.normal(size=6)))


def write(root: Path, frames: list[Frame], radiometry: object = None, **options: object) -> Path:
    cameras = {name: image.camera for f in frames for name, image in f.images.items()}
    with SceneWriter(root, cameras, T_CAM_THERMAL if 'thermal' in cameras else None, radiometry,
                     **options) as writer:
        for index, f in enumerate(frames):
            writer.add(f, 'test' if index == 1 else 'train')
    return root


def edit(root: Path, **changes: object) -> Path:
    """Change top-level keys of a written scene; None takes a key away."""
    file = root / 'transforms.json'
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return root


@pytest.mark.parametrize(('radiometry', 'tolerance'), [
    (None, 0.005), (LinearRadiometry(0.04, -273.15), 0.02), (PLANCK, 0.1)])
def test_what_was_written_comes_back(tmp_path: Path, radiometry: object, tolerance: float):
    frames = [frame(i) for i in range(3)]
    scene = load_scene(write(tmp_path / 'scene', frames, radiometry))
    assert scene.modalities == ('rgb', 'thermal')
    assert (scene.train, scene.test, scene.split('all')) == ((0, 2), (1,), (0, 1, 2))
    assert scene.notices == ()
    for index, before in enumerate(frames):
        after = scene.load(index)
        assert after.stamp_ns == before.stamp_ns
        np.testing.assert_allclose(after.T_world_cam, before.T_world_cam, atol=1e-9)
        for name, old in before.images.items():
            new = after.images[name]
            assert new.camera == old.camera
            assert new.stamp_ns == old.stamp_ns
            np.testing.assert_allclose(new.T_cam_sensor, old.T_cam_sensor, atol=1e-9)
            bound = 1e-6 if name == 'rgb' else tolerance * 1.001 + 1e-5  # half a count
            np.testing.assert_allclose(new.values, old.values, atol=bound)
            assert new.radiometric
        np.testing.assert_array_equal(after.images['rgb'].valid, before.images['rgb'].valid)
        np.testing.assert_allclose(after.images['rgb'].depth_m, before.images['rgb'].depth_m,
                                   atol=0.000501)


def test_depth_that_does_not_fit_is_unknown(tmp_path: Path):
    one = frame(0, 'rgb')
    one.images['rgb'].depth_m[0, :3] = [np.nan, np.inf, 70.0]
    depth_m = load_scene(write(tmp_path / 's', [one])).load(0).images['rgb'].depth_m
    np.testing.assert_array_equal(depth_m[0, :3], 0.0)


@pytest.mark.parametrize('modality', ['rgb', 'thermal'])
def test_one_modality_alone(tmp_path: Path, modality: str):
    frames = [frame(i, modality) for i in range(2)]
    scene = load_scene(write(tmp_path / 's', frames) / 'transforms.json')
    assert scene.modalities == (modality,)
    np.testing.assert_allclose(scene.load(1).T_world_cam, frames[1].T_world_cam, atol=1e-9)
    missing = 'thermal' if modality == 'rgb' else 'rgb'
    with pytest.raises(InputError, match=f'scene has no {missing} images; expected {missing}'):
        scene.require(missing)


def test_a_frame_may_lack_a_modality(tmp_path: Path):
    scene = load_scene(write(tmp_path / 's', [frame(0), frame(1, 'rgb'), frame(2, 'thermal')]))
    assert [sorted(scene.load(i).images) for i in range(3)] == [
        ['rgb', 'thermal'], ['rgb'], ['thermal']]
    assert scene.test == (1,)


def test_agc_images_are_no_temperatures(tmp_path: Path):
    write(tmp_path / 's', [frame(0)])
    thermal = json.loads((tmp_path / 's' / 'transforms.json').read_text())['thermal']
    plain = {k: v for k, v in thermal.items() if 'celsius' not in k}
    write_png(tmp_path / 's' / 'thermal' / '00000.png', np.full((6, 8), 51, np.uint8))
    image = load_scene(edit(tmp_path / 's', thermal=plain)).load(0).images['thermal']
    assert not image.radiometric
    np.testing.assert_allclose(image.values, 0.2, atol=1e-7)


def test_counts_without_a_temperature_are_masked(tmp_path: Path):
    write(tmp_path / 's', [frame(0)], PLANCK)
    path = tmp_path / 's' / 'thermal' / '00000.png'
    counts = PLANCK.to_counts(np.full((6, 8), 20.0))
    counts[2, 3] = 0  # less than the offset: no black body sends that
    write_png(path, counts)
    image = load_scene(tmp_path / 's').load(0).images['thermal']
    assert np.isfinite(image.values).all()
    assert not image.valid[2, 3]
    assert image.valid.sum() == 47


def test_missing_files_are_counted_in_one_notice(tmp_path: Path,
                                                 caplog: pytest.LogCaptureFixture):
    root = write(tmp_path / 's', [frame(i) for i in range(10)])
    (root / 'rgb' / '00003.png').unlink()
    (root / 'thermal' / '00003.png').unlink()
    (root / 'thermal' / '00004.png').unlink()
    (root / 'depth' / '00005.png').unlink()
    with caplog.at_level(logging.WARNING):
        scene = load_scene(root)
    assert len(scene.frames) == 9
    assert scene.test == (1,)
    assert sorted(scene.load(3).images) == ['rgb']
    assert scene.load(4).images['rgb'].depth_m is None
    assert len(scene.notices) == len(caplog.records) == 1
    for part in ('1 of 10 rgb files', '2 of 10 thermal files', '1 of 10 rgb depth files',
                 'rgb/00003.png'):
        assert part in scene.notices[0]


def test_image_without_its_mask_is_left_out(tmp_path: Path):
    root = write(tmp_path / 's', [frame(0), frame(1)])
    (root / 'mask' / '00000.png').unlink()
    scene = load_scene(root)
    assert sorted(scene.load(0).images) == ['thermal']
    assert '1 of 2 rgb mask files' in scene.notices[0]


def split_of(root: Path, **changes: object) -> tuple:
    scene = load_scene(edit(root, train_filenames=None, test_filenames=None, **changes))
    return scene.train, scene.test


def test_splits(tmp_path: Path):
    root = write(tmp_path / 's', [frame(i, 'rgb') for i in range(10)])
    name = [f'rgb/{i:05d}.png' for i in range(10)]
    everything = set(range(10))
    assert split_of(root) == ((1, 2, 3, 4, 5, 6, 7, 9), (0, 8))
    (root / name[2]).unlink()  # frames that are not there move no other to another side
    scene = load_scene(root)
    assert [scene.frames[i].name for i in scene.test] == [name[0], name[8]]
    write_png(root / name[2], np.zeros((12, 16, 3), np.uint8))
    assert split_of(root, val_filenames=[name[3]]) == (tuple(sorted(everything - {3})), (3,))
    scene = load_scene(edit(root, train_filenames=[name[0]], val_filenames=['./' + name[3]],
                            test_filenames=[name[4], name[5]]))
    assert (scene.train, scene.test) == ((0,), (4, 5))
    scene = load_scene(edit(root, train_filenames=name[:9], val_filenames=None,
                            test_filenames=None))
    assert (scene.train, scene.test) == (tuple(range(9)), (9,))
    with pytest.raises(InputError, match='unknown split'):
        scene.split('val')


def test_axes_are_turned_once(tmp_path: Path):
    """A camera at the origin with an identity matrix looks along -z of an OpenGL world."""
    root = write(tmp_path / 's', [frame(0, 'rgb')])
    content = json.loads((root / 'transforms.json').read_text())
    content['frames'][0]['transform_matrix'] = np.eye(4).tolist()[:3]  # 3x4 will do
    (root / 'transforms.json').write_text(json.dumps(content))
    T_world_cam = load_scene(root).load(0).T_world_cam
    np.testing.assert_allclose(T_world_cam @ [0, 0, 1, 0], [0, 0, -1, 0], atol=1e-15)
    np.testing.assert_allclose(T_world_cam @ [0, 1, 0, 0], [0, -1, 0, 0], atol=1e-15)


def test_rig_moves_points_from_thermal_to_rgb(tmp_path: Path):
    one = frame(0)
    write(tmp_path / 's', [one])
    T = np.array(json.loads((tmp_path / 's' / 'transforms.json').read_text())
                 ['thermal']['transform_rgb_thermal'])
    np.testing.assert_allclose(T, T_CAM_THERMAL, atol=1e-12)
    loaded = load_scene(tmp_path / 's').load(0)
    p_thermal = np.array([0.1, 0.2, 2.0])
    p_rgb = se3.transform(T, p_thermal)
    np.testing.assert_allclose(
        se3.transform(loaded.T_world_cam @ loaded.images['thermal'].T_cam_sensor, p_thermal),
        se3.transform(one.T_world_cam, p_rgb), atol=1e-12)


def test_per_frame_intrinsics(tmp_path: Path):
    root = write(tmp_path / 's', [frame(0), frame(1)])
    content = json.loads((root / 'transforms.json').read_text())
    content['frames'][1] |= {'fl_x': 20.0, 'k1': 0.3, 'thermal': {'fl_x': 9.0}}
    (root / 'transforms.json').write_text(json.dumps(content))
    scene = load_scene(root)
    first, second = scene.load(0).images, scene.load(1).images
    assert (first['rgb'].camera, first['thermal'].camera) == (RGB_CAMERA, THERMAL_CAMERA)
    assert (second['rgb'].camera.fx, second['rgb'].camera.distortion[0]) == (20.0, 0.3)
    assert second['rgb'].camera.fy == RGB_CAMERA.fy
    assert second['thermal'].camera.fx == 9.0


def test_blender_style_field_of_view_and_file_names(tmp_path: Path):
    write_png(tmp_path / 'train' / 'r_0.png', np.full((10, 20, 4), 255, np.uint8))
    (tmp_path / 'transforms.json').write_text(json.dumps({
        'camera_angle_x': 1.2,
        'frames': [{'file_path': './train/r_0', 'transform_matrix': np.eye(4).tolist()}]}))
    scene = load_scene(tmp_path)
    expected = Camera.from_fov(20, 10, np.rad2deg(1.2))
    camera = scene.load(0).images['rgb'].camera
    assert (camera.fx, camera.fy) == pytest.approx((expected.fx, expected.fx))
    assert camera.size == (20, 10)
    assert (scene.train, scene.test) == ((0,), ()), 'a single frame is for training'


@pytest.mark.parametrize('camera', [
    RGB_CAMERA, THERMAL_CAMERA, Camera.from_fov(8, 6, 60),
    Camera(8, 6, 5, 5, 4, 3, CameraModel.OPENCV, (0.1, 0.2, 0.01, 0.02, 0.3)),
    Camera(8, 6, 5, 5, 4, 3, CameraModel.OPENCV, (0.1, 0.2, 0.01, 0.02, 0.3, 0.4, 0.5, 0.6))])
def test_intrinsics_round_trip(camera: Camera):
    assert camera_from_keys(keys_from_camera(camera), 'here') == camera


def test_scene_can_be_read_from_many_threads(tmp_path: Path):
    scene = load_scene(write(tmp_path / 's', [frame(i) for i in range(6)]))
    alone = [scene.load(i).images['rgb'].values for i in range(6)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: scene.load(i % 6).images['rgb'].values, range(24)))
    for i, values in enumerate(together):
        np.testing.assert_array_equal(values, alone[i % 6])


def test_writer_finds_what_does_not_belong(tmp_path: Path):
    good = frame(0)
    shifted = SensorImage(THERMAL_CAMERA, good.images['thermal'].values, 0, np.eye(4))
    other = SensorImage(Camera.from_fov(8, 6, 50), good.images['thermal'].values, 0)
    agc = SensorImage(THERMAL_CAMERA, np.zeros((6, 8, 1), np.float32), 0, T_CAM_THERMAL,
                      radiometric=False)
    named = Frame(0, good.images, good.T_world_cam, 'a')
    with SceneWriter(tmp_path / 's', {'rgb': RGB_CAMERA, 'thermal': THERMAL_CAMERA}) as writer:
        writer.add(named)
        for bad, said in (
                (named, "frame name is taken; got 'a'"),
                (Frame(0, good.images, good.T_world_cam, '../b'), 'cannot be a file name'),
                (Frame(0, good.images, None), 'frame has no pose'),
                (Frame(0, {}, np.eye(4)), 'images without a camera'),
                (Frame(0, {**good.images, 'thermal': shifted}, np.eye(4)), 'sits elsewhere'),
                (Frame(0, {'thermal': other}, np.eye(4), 'o'), 'o: thermal image has another cam'),
                (Frame(0, {'thermal': agc}, np.eye(4), 'g'), 'g: radiometric and other')):
            with pytest.raises(InputError) as caught:
                writer.add(bad)
            assert said in str(caught.value)
        with pytest.raises(InputError, match="expected train or test; got 'val'"):
            writer.add(frame(1), 'val')
    assert len(load_scene(tmp_path / 's').frames) == 1
    assert [file.name for file in (tmp_path / 's' / 'rgb').iterdir()] == ['a.png']


def test_writer_leaves_nothing_after_an_error_or_without_frames(tmp_path: Path):
    def record() -> None:
        with SceneWriter(tmp_path / 's', {'rgb': RGB_CAMERA}) as writer:
            writer.add(frame(0, 'rgb'))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        record()
    with (pytest.raises(InputError, match='no frame was added'),
          SceneWriter(tmp_path / 's', {'rgb': RGB_CAMERA})):
        pass
    assert list(tmp_path.iterdir()) == []


def test_jpeg_colour_is_smaller_and_close(tmp_path: Path):
    smooth = np.dstack([np.tile(np.linspace(0.1, 0.9, 16), (12, 1))] * 3).astype(np.float32)
    one = Frame(0, {'rgb': SensorImage(RGB_CAMERA, smooth, 0)}, np.eye(4))
    scene = load_scene(write(tmp_path / 's', [one], rgb_format='jpg'))
    assert scene.frames[0].name == 'rgb/00000.jpg'
    np.testing.assert_allclose(scene.load(0).images['rgb'].values, smooth, atol=0.03)


@pytest.mark.skipif(not ARCO.exists(), reason='real recordings are not beside us')
def test_real_recording():
    scene: Scene = load_scene(ARCO)
    assert len(scene.frames) == 40
    assert scene.test == (0, 8, 16, 24, 32)
    rig = scene.load(20)
    rgb, thermal = rig.images['rgb'], rig.images['thermal']
    assert rgb.camera.size == (640, 360)
    assert thermal.camera.size == (640, 512)
    assert thermal.radiometric
    assert 5.0 < thermal.values.min() < thermal.values.max() < 40.0
    assert 0.5 < np.ptp(np.quantile(thermal.values, [0.01, 0.99])) < 20.0
