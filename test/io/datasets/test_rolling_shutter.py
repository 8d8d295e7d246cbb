# SPDX-License-Identifier: Apache-2.0
"""Rolling images: every row is seen from where the camera was just then."""

from collections.abc import Callable
import json
from pathlib import Path

from localization_room import look_at, PaintedRoom
import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation.map_quality import evaluate_map
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene, SceneWriter
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import CameraOptimizer
from thermal_nerf_loc.mapping.training.config import RefineConfig, TrainConfig
from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
from thermal_nerf_loc.sensing.frame import Frame, SensorImage

CAMERA = Camera.from_fov(40, 30, 70.0)
T_CAM_THERMAL = se3.exp([0.05, 0.0, 0.0, 0.0, 0.03, 0.0])
VELOCITY = np.array([0.5, 0.1, 0.2, 0.1, 0.9, 0.2])  # of the RGB camera, a second
START = look_at((1.6, 1.8, 1.2), (3.5, 2.0, 1.2))
READOUT_S, STEP_S = 0.06, 0.25
ROOM = PaintedRoom()


def pose(seconds: float) -> np.ndarray:
    return START @ se3.exp(seconds * VELOCITY)


def rolling_image(modality: str, seconds: float, readout_s: float) -> SensorImage:
    """Row by row, from where the camera is at that row's own moment."""
    T_cam_sensor = T_CAM_THERMAL if modality == 'thermal' else np.eye(4)
    rows = []
    for y, rays in enumerate(CAMERA.rays().reshape(CAMERA.height, CAMERA.width, 3)):
        share = (y + 0.5) / CAMERA.height - 0.5
        T = pose(seconds + share * readout_s) @ T_cam_sensor
        rows.append(ROOM.render_rays(modality, np.repeat(T[None, :3, 3], len(rays), axis=0),
                                     rays @ T[:3, :3].T).values)
    return SensorImage(CAMERA, np.array(rows, np.float32), 0, T_cam_sensor)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames a quarter of a second apart; the thermal camera reads from the bottom up."""
    out = tmp_path_factory.mktemp('data') / 'rolling'
    with SceneWriter(out, {'rgb': CAMERA, 'thermal': CAMERA}, T_CAM_THERMAL) as writer:
        for k in range(5):
            images = {'rgb': rolling_image('rgb', k * STEP_S, READOUT_S),
                      'thermal': rolling_image('thermal', k * STEP_S, -READOUT_S)}
            writer.add(Frame(round((1.0 + k * STEP_S) * 1e9), images, pose(k * STEP_S), f'{k}'))
    return out


def scene_of(folder: Path, name: str = 'a.json', change: Callable[[dict], object] | None = None,
             ) -> Scene:
    """The set as it is told about with other keys."""
    content = json.loads((folder / 'transforms.json').read_text())
    content |= {'rolling_shutter_s': READOUT_S}
    content['thermal'] |= {'rolling_shutter_s': -READOUT_S}
    if change is not None:
        change(content)
    (folder / name).write_text(json.dumps(content))
    return load_scene(folder / name)


@pytest.mark.parametrize('modality', ['rgb', 'thermal'])
def test_training_rays_see_what_the_rows_saw(folder: Path, modality: str) -> None:
    """In the exact room; as one pose for all rows they would not."""
    off = {}
    for name, scene in (('rolling', scene_of(folder)), ('at once', load_scene(folder))):
        sources, temperatures = load_sources(scene, TrainConfig())
        batch = sources[modality].at(np.arange(len(sources[modality])))
        seen = ROOM.render_rays(modality, batch.origins, batch.directions).values
        truth = batch.truth.numpy()
        off[name] = np.abs((temperatures.to_field(seen) if modality == 'thermal' else seen)
                           - truth).mean()
    assert off['rolling'] < 0.003
    assert off['at once'] > 5.0 * off['rolling']


def test_renders_are_compared_as_the_rows_saw(folder: Path) -> None:
    """A perfect map must not be blamed for the shutter."""
    split = {'train_filenames': [f'rgb/{k}.png' for k in range(5)], 'test_filenames': []}
    with_rows, without = (evaluate_map(ROOM, scene_of(folder, 'b.json', change), 'train')
                          for change in (lambda content: content.update(split),
                                         lambda content: content.update(
                                             split, rolling_shutter_s=0.0)))
    assert with_rows.rgb_psnr > 45.0
    assert without.rgb_psnr < with_rows.rgb_psnr - 10.0


def test_corrections_move_the_rows_along(folder: Path) -> None:
    """Learned poses begin with the very rays that are given."""
    scene = scene_of(folder)
    sources, _ = load_sources(scene, TrainConfig())
    batch = sources['rgb'].draw(300, np.random.default_rng(0))
    optimizer = CameraOptimizer(RefineConfig(('poses',), 'gradient'), scene, ('rgb',), 1.0)
    for ours, given in zip(optimizer.rays('rgb', batch), (batch.origins, batch.directions)):
        np.testing.assert_allclose(ours.detach().numpy(), given, atol=1e-6)
    assert batch.row_motion is not None and np.abs(batch.row_motion - np.eye(4)).max() > 0.01


def test_the_motion_is_that_of_the_neighbours(folder: Path) -> None:
    """Also at both ends of the drive, for a frame's own readout, and for other cameras."""
    def own(content: dict) -> None:
        content['frames'][1]['rolling_shutter_s'] = 2 * READOUT_S
        content.update(train_filenames=[f'rgb/{k}.png' for k in range(5)], test_filenames=[])
    records = [frame.records for frame in scene_of(folder, 'c.json', own).frames]
    for k in (0, 2, 4):
        np.testing.assert_allclose(records[k]['rgb'].sweep, READOUT_S * VELOCITY, atol=1e-8)
    np.testing.assert_allclose(records[1]['rgb'].sweep, 2 * READOUT_S * VELOCITY, atol=1e-8)
    turned = se3.adjoint(se3.inverse(T_CAM_THERMAL)) @ (-READOUT_S * VELOCITY)
    np.testing.assert_allclose(records[2]['thermal'].sweep, turned, atol=1e-8)


def test_what_cannot_be_known_is_said(folder: Path) -> None:
    """Frames minutes apart tell no motion; a readout of minutes is none."""
    def apart(content: dict) -> None:
        for k, entry in enumerate(content['frames']):
            entry['stamp_ns'] = entry.pop('image_stamp_ns', 0) + (k + 1) * 100_000_000_000
    scene = scene_of(folder, 'd.json', apart)
    assert any('10 rolling images have no neighbour' in notice for notice in scene.notices)
    assert scene.load(1).images['rgb'].sweep is None
    with pytest.raises(InputError, match='rolling_shutter_s is no readout time'):
        scene_of(folder, 'e.json', lambda content: content.update(rolling_shutter_s=30))
