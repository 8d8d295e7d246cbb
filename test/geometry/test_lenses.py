# SPDX-License-Identifier: Apache-2.0
"""Fisheye lenses, and lenses that differ from frame to frame: learned through, localized with."""

import json

from localization_room import make_poses, PaintedRoom, perturbed, take_image
import numpy as np
import pytest

from thermal_nerf_loc.evaluation.map_quality import evaluate_map
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.datasets.intrinsics import keys_from_camera
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene, SceneWriter
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization.localizer import Localizer
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
from thermal_nerf_loc.sensing.frame import Frame, SensorImage

ROOM = PaintedRoom()
FISHEYE = Camera(48, 36, 16.0, 16.5, 24.5, 17.5, CameraModel.OPENCV_FISHEYE,
                 (0.03, -0.01, 0.002, -0.001))
LENSES = (Camera(48, 36, 30.0, 30.0, 24.0, 18.0), Camera(48, 36, 45.0, 44.0, 22.0, 19.0), FISHEYE)


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Three frames, each through a lens of its own (a zoom, and another camera)."""
    out = tmp_path_factory.mktemp('data') / 'lenses'
    with SceneWriter(out, {'rgb': LENSES[0]}) as writer:
        for T, lens in zip(make_poses(3, seed=4), LENSES):
            seen = take_image(ROOM, 'rgb', T, lens)
            writer.add(Frame(0, {'rgb': SensorImage(LENSES[0], seen.values, 0)}, T))
    content = json.loads((out / 'transforms.json').read_text())
    for entry, lens in zip(content['frames'], LENSES):
        entry |= keys_from_camera(lens)
    (out / 'transforms.json').write_text(json.dumps(content))
    return load_scene(out)


def test_every_frame_is_learned_through_its_own_lens(scene: Scene) -> None:
    """Training rays see in the exact room what their pixels saw."""
    assert [frame.records['rgb'].camera for frame in scene.frames] == list(LENSES)
    sources, _ = load_sources(scene, TrainConfig())
    batch = sources['rgb'].at(np.arange(len(sources['rgb'])))
    seen = ROOM.render_rays('rgb', batch.origins, batch.directions).values
    assert np.abs(seen - batch.truth.numpy()).max() < 0.01


def test_renders_are_compared_through_it(scene: Scene) -> None:
    """A perfect map fits but for 8 bits."""
    assert evaluate_map(ROOM, scene, 'train').rgb_psnr > 50.0


@pytest.mark.parametrize('lens', [FISHEYE.resized(144, 108), LENSES[1].resized(144, 108)],
                         ids=['fisheye', 'zoom'])
@pytest.mark.parametrize('known', ['guess', 'coarse guess'])
def test_it_is_localized_with(lens: Camera, known: str) -> None:
    """From a guess, also one so rough that the surroundings are searched."""
    T = make_poses(1, seed=7)[0]
    frame = Frame(0, {'rgb': take_image(ROOM, 'rgb', T, lens, noise=0.01)})
    start = perturbed(T, *((5.0, 0.06) if known == 'guess' else (25.0, 0.15)), seed=2)
    P = np.diag(np.repeat((0.06**2, 0.09**2) if known == 'guess' else (0.15**2, 0.45**2), 3))
    found = Localizer(ROOM).localize(frame, start, P)
    metres, degrees = se3.distance(found.T_world_cam, T)
    assert metres < 0.02 and degrees < 0.5
    assert found.verdict == 'ok'
