# SPDX-License-Identifier: Apache-2.0
"""The robot's own body: masked once for a camera, it neither teaches nor localizes."""

from dataclasses import replace
import json
from pathlib import Path

from image_streams import CAMERA, drain, feed, image, make_synchronizer
from localization_room import make_poses, PaintedRoom, perturbed, take_frame
import numpy as np
import pytest
import yaml

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation.study.drive_replay import _configure, ReplayRequest
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.importers.bags.images import ImageDecoder
from thermal_nerf_loc.io.datasets.camera_file import load_frame, read_rig
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.images import write_png
from thermal_nerf_loc.localization.localizer import Localizer
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
from thermal_nerf_loc.sensing.frame import Frame
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig
from thermal_nerf_loc.tracking.node_config import NodeConfig

WIDTH, HEIGHT = 32, 24


@pytest.fixture(scope='module')
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('data') / 'room'
    simulate_dataset(out, SimulationConfig(frames=3, size=(WIDTH, HEIGHT),
                                           thermal_size=(WIDTH, HEIGHT)))
    return out


def arm(folder: Path, name: str = 'arm.png', size: tuple[int, int] = (HEIGHT, WIDTH),
        ) -> np.ndarray:
    """A mask that leaves the lower third out; True where pixels count."""
    counts = np.ones(size, bool)
    counts[2 * size[0] // 3:] = False
    write_png(folder / name, 255 * counts.astype(np.uint8))
    return counts


def masked(folder: Path, name: str, **keys: object) -> Path:
    """Another transforms file of the set, with further top-level keys."""
    content = json.loads((folder / 'transforms.json').read_text()) | keys
    file = folder / name
    file.write_text(json.dumps(content))
    return file


def test_one_file_masks_a_camera_in_every_frame(simulated: Path) -> None:
    """Besides what a frame's own mask leaves out; the other camera sees all."""
    counts = arm(simulated)
    scene = load_scene(masked(simulated, 'a.json', mask_path='arm.png'))
    for index in range(len(scene.frames)):
        images = scene.load(index).images
        np.testing.assert_array_equal(images['rgb'].valid, counts)
        assert images['thermal'].valid is None
    own = np.ones((HEIGHT, WIDTH), bool)
    own[:, :8] = False
    write_png(simulated / 'own.png', 255 * own.astype(np.uint8))
    content = json.loads((simulated / 'transforms.json').read_text())
    content['frames'][0]['thermal_mask_path'] = 'own.png'
    file = masked(simulated, 'b.json', frames=content['frames'], thermal_mask_path='arm.png')
    both, other = (load_scene(file).load(index).images['thermal'].valid for index in (0, 1))
    np.testing.assert_array_equal(both, own & counts)
    np.testing.assert_array_equal(other, counts)


def test_masked_pixels_teach_nothing(simulated: Path) -> None:
    """Training never draws them."""
    counts = arm(simulated)
    scene = load_scene(masked(simulated, 'a.json', mask_path='arm.png'))
    sources, _ = load_sources(scene, TrainConfig())
    assert len(sources['rgb']) == len(scene.train) * counts.sum()
    assert len(sources['thermal']) == len(scene.train) * counts.size


@pytest.mark.parametrize('name, told', [('none.png', 'does not exist'),
                                        ('small.png', 'mask does not fit its camera')])
def test_a_mask_that_cannot_be_is_refused(simulated: Path, name: str, told: str) -> None:
    """At once: images without it would teach the arm."""
    arm(simulated, 'small.png', (8, 8))
    with pytest.raises(InputError, match=told):
        load_scene(masked(simulated, 'c.json', mask_path=name))


def test_the_localizer_does_not_align_on_the_arm() -> None:
    """A patterned arm that moves with the camera would hold the start where it is."""
    room, T = PaintedRoom(), make_poses(1, seed=3)[0]
    frame = take_frame(room, T, modalities=('rgb',))
    values = frame.images['rgb'].values.copy()
    rows, columns = np.indices(values.shape[:2])
    hidden = rows > 0.45 * len(values)
    values[hidden] = (((rows + columns) // 8) % 2)[hidden][:, None].astype(np.float32)
    start = perturbed(T, 6.0, 0.08, seed=1)

    def found(valid: np.ndarray | None) -> object:
        seen = replace(frame.images['rgb'], values=values, valid=valid)
        return Localizer(room).localize(Frame(0, {'rgb': seen}), start)

    metres, degrees = se3.distance(found(~hidden).T_world_cam, T)
    assert metres < 0.02 and degrees < 0.5
    assert found(~hidden).verdict == 'ok'
    assert found(None).confidence < 0.7 * found(~hidden).confidence


def test_a_camera_file_has_its_mask(tmp_path: Path) -> None:
    """For single images, and for imports."""
    counts = arm(tmp_path)
    write_png(tmp_path / 'a.png', np.full((HEIGHT, WIDTH, 3), 9, np.uint8))
    file = tmp_path / 'camera.yaml'
    file.write_text(yaml.safe_dump({'rgb': {'fl_x': 20.0, 'w': WIDTH, 'h': HEIGHT,
                                            'mask_path': 'arm.png'}}))
    frame = load_frame(file, {'rgb': tmp_path / 'a.png'})
    np.testing.assert_array_equal(frame.images['rgb'].valid, counts)
    assert read_rig(file)['rgb'].mask_path == tmp_path / 'arm.png'
    file.write_text(yaml.safe_dump({'rgb': {'fl_x': 20.0, 'mask_path': 7}}))
    with pytest.raises(InputError, match='mask_path: path is no text'):
        load_frame(file, {'rgb': tmp_path / 'a.png'})


def test_imports_write_it() -> None:
    """Images of a bag come out masked; one of another size is refused."""
    counts = np.ones((CAMERA.height, CAMERA.width), bool)
    counts[3:] = False
    reader = ImageDecoder('rgb', CAMERA, None, False, True, counts)
    np.testing.assert_array_equal(reader.image(image('rgb', 5), 5, np.eye(4)).valid, counts)
    with pytest.raises(InputError, match='mask does not fit the rgb camera'):
        ImageDecoder('rgb', CAMERA, None, False, True, counts[:2])


def test_the_node_masks_what_it_hears(tmp_path: Path) -> None:
    """Its parameters name files; the other camera is not touched."""
    counts = arm(tmp_path, size=(CAMERA.height, CAMERA.width))
    synchronizer = make_synchronizer(100)
    synchronizer.masks = NodeConfig(rgb_mask=str(tmp_path / 'arm.png')).masks()
    feed(synchronizer, ('thermal', 50), ('rgb', 50))
    (seen,) = drain(synchronizer)
    np.testing.assert_array_equal(seen.frame.images['rgb'].valid, counts)
    assert seen.frame.images['thermal'].valid is None
    synchronizer.masks = {'rgb': counts[:2]}
    feed(synchronizer, ('thermal', 80), ('rgb', 80))
    (seen,) = drain(synchronizer)
    assert set(seen.frame.images) == {'thermal'}
    assert 'image and its mask differ in size' in seen.problems[0]
    asked = _configure(ReplayRequest(tmp_path, tmp_path, tmp_path,
                                     masks={'rgb': tmp_path / 'arm.png'}))
    np.testing.assert_array_equal(asked.masks()['rgb'], counts)  # and so does `replay`
    with pytest.raises(InputError, match='does not exist'):
        NodeConfig(thermal_mask=str(tmp_path / 'none.png')).masks()
