# SPDX-License-Identifier: Apache-2.0
"""What images say about poses and lenses, where the errors are known."""

from dataclasses import replace
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.progress import silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.scene import GL_FROM_CV, Scene
from thermal_nerf_loc.mapping.camera_poses.pose_agreement import (
    check_poses, PoseAgreement, Verdict)
from thermal_nerf_loc.simulation.perturbations import PerturbationConfig, perturbed_scene
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A dozen overlapping views of the simulated room."""
    out = tmp_path_factory.mktemp('data') / 'room'
    simulate_dataset(out, SimulationConfig(frames=12, size=(128, 96), laps=0.3, supersampling=1))
    return load_scene(out)


def with_focal(scene: Scene, factor: float) -> Scene:
    """The scene with another focal length of its colour camera."""
    frames = []
    for frame in scene.frames:
        record = frame.records['rgb']
        camera = replace(record.camera, fx=factor * record.camera.fx,
                         fy=factor * record.camera.fy)
        frames.append(replace(frame, records={**frame.records,
                                              'rgb': replace(record, camera=camera)}))
    return replace(scene, frames=tuple(frames))


def check(scene: Scene) -> PoseAgreement:
    """Of the colour images."""
    return check_poses(scene, ('rgb',), silent)


def test_true_poses_agree(scene: Scene) -> None:
    """Within a fraction of a pixel, over many points."""
    found = check(scene)
    assert found.verdict is Verdict.AGREE and found.residual_px < 0.3
    assert found.points > 300 and found.pairs > 10
    assert found.text.startswith('poses agree with rgb images: 0.')


def test_wrong_poses_and_lenses_are_named(scene: Scene) -> None:
    """With about their size, each alone."""
    poses = check(perturbed_scene(scene, PerturbationConfig(1.5, 0.02)))
    assert poses.verdict is Verdict.POSES and 0.7 < poses.pose_deg < 2.5
    assert '--refine poses would help' in poses.text
    lens = check(with_focal(scene, 1.08))
    assert lens.verdict is Verdict.LENS and lens.focal_factor == pytest.approx(1.08, abs=0.03)
    assert '% too long): --refine intrinsics' in lens.text


def test_cameras_that_only_turn_show_no_depth(tmp_path: Path) -> None:
    """Views from one place, all at the same one or said to be so."""
    camera = Camera.from_fov(160, 120, 70.0)
    big = cv2.GaussianBlur(np.random.default_rng(0).uniform(size=(600, 600, 3)), (0, 0), 3.0)
    big = ((big - big.min()) / np.ptp(big) * 255).astype(np.uint8)  # at 1 m, 3 m wide
    frames = []
    for k, turn in enumerate(np.linspace(-0.3, 0.3, 8)):
        T = se3.exp([0.0, 0.0, 0.0, 0.3 * turn, turn, 0.0])
        p = camera.rays() @ T[:3, :3].T
        at = (300.0 + 200.0 * p[:, :2] / p[:, 2:]).astype(np.float32).reshape(120, 160, 2)
        cv2.imwrite(str(tmp_path / f'{k}.png'), cv2.remap(big, at, None, cv2.INTER_LINEAR))
        frames.append({'file_path': f'{k}.png', 'transform_matrix': (T @ GL_FROM_CV).tolist()})
    (tmp_path / 'transforms.json').write_text(json.dumps({
        'fl_x': camera.fx, 'w': 160, 'h': 120, 'frames': frames}))
    found = check(load_scene(tmp_path))
    assert found.verdict is Verdict.TURNING and 'depth cannot be seen' in found.text


def test_what_cannot_be_checked_is_said(scene: Scene) -> None:
    """Poses of other images, one image, images that share nothing."""
    order = np.random.default_rng(1).permutation(len(scene.frames))
    mixed = replace(scene, frames=tuple(
        replace(frame, T_world_cam=scene.frames[k].T_world_cam)
        for frame, k in zip(scene.frames, order)))
    assert check(mixed).verdict is Verdict.CONTRADICT
    assert check(replace(scene, train=scene.train[:1])).verdict is Verdict.ONE_IMAGE
    assert check(replace(scene, train=())).verdict is Verdict.ONE_IMAGE
    few = check(replace(scene, train=(scene.train[0], scene.train[-1])))
    assert few.verdict is Verdict.TOO_FEW_POINTS and 'too few points' in few.text


def test_the_command_says_it_and_trains_on(tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    """One line before training, and figures in --json."""
    data = tmp_path / 'room'
    simulate_dataset(data, SimulationConfig(frames=4, size=(32, 24), supersampling=1))
    assert main(['train', str(data), '--map', str(tmp_path / 'm'), '--steps', '2',
                 '--json', str(tmp_path / 'j')]) == 0
    assert 'share too few points to check poses' in capsys.readouterr().err
    figures = json.loads((tmp_path / 'j').read_text())['pose_agreement']
    assert figures['verdict'] == 'too few points' and figures['modality'] == 'rgb'
