# SPDX-License-Identifier: Apache-2.0
"""Poses and rig learned with the map: gradients, gauge, masks, and a spoiled room recovered."""

from dataclasses import replace
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import silent
from thermal_nerf_loc.evaluation.refined_poses import (aligned_rmse, poses_of, rig_error,
                                                       truth_errors)
from thermal_nerf_loc.field.density_grid import SamplingConfig
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.field.volume_rendering import BranchOptions, render, Samples
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.lie_torch import (
    gauge_basis, rigid_motion, se3_exp, se3_hat, velocities)
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.refined_dataset import check_refined_path, write_refined
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.camera_poses import thermal_extrinsics
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import (
    CameraOptimizer, HashLevelSchedule)
from thermal_nerf_loc.mapping.camera_poses.pose_initialization import initialize_by_points
from thermal_nerf_loc.mapping.camera_poses.thermal_extrinsics import find_rig
from thermal_nerf_loc.mapping.training.config import RefineConfig, TrainConfig
from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
from thermal_nerf_loc.mapping.training.trainer import train, Trainer
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.perturbations import PerturbationConfig, perturbed_scene
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

EVERYTHING = ('poses', 'rig', 'intrinsics', 'time')
TINY = TrainConfig(
    steps=20, rays=128, field=FieldConfig(encoding=EncodingConfig(levels=4, log2_rows=12,
                                                                  finest=64)),
    sampling=SamplingConfig(grid_cells=16, bins=32),
    refine=RefineConfig(EVERYTHING, 'gradient'), depth_from='none')


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A few small views of the simulated room, close enough in time to tell velocities."""
    out = tmp_path_factory.mktemp('data') / 'room'
    simulate_dataset(out, SimulationConfig(frames=8, size=(32, 24), laps=0.2))
    return load_scene(out)


def trainer_of(scene: Scene, config: TrainConfig = TINY) -> Trainer:
    """Ready for its first step, its hash grid full of differences."""
    made = Trainer(config, load_sources(scene, config)[0], scene)
    with torch.no_grad():
        table = made.learners[0].field.encoding.table
        table[:] = torch.rand(table.shape, generator=torch.manual_seed(1)) - 0.5
    return made


class Chain:
    """Image loss of both modalities in all parameters of the cameras, at samples that stay."""

    def __init__(self, made: Trainer) -> None:
        self.made, self.learner, rng = made, made.learners[0], np.random.default_rng(0)
        self.batches = {name: source.draw(60, rng) for name, source in made.sources.items()}
        self.samples = {name: Samples.from_numpy(*self.learner.grid.sample(
            batch.origins, batch.directions, 12, 1.0, rng))
            for name, batch in self.batches.items()}

    def loss(self) -> torch.Tensor:
        total = torch.zeros(())
        for name, batch in self.batches.items():
            rays = self.made.camera_optimizer.rays(name, batch)
            seen = render(self.learner.field, name, *rays, self.samples[name],
                          BranchOptions()).values
            total = total + ((seen - batch.truth)**2).sum()
        return total

    def gradients(self) -> dict[str, torch.Tensor]:
        """Slopes of the loss by parameter."""
        self.made.camera_optimizer.zero_grad()
        self.loss().backward()
        return {name: parameter.grad.clone()
                for name, parameter in self.made.camera_optimizer.named_parameters()}


def test_gradients_of_the_whole_chain_are_differences(
        scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """From parameters through rays, grid, networks and compositing; the kernels' as torch's."""
    chain = Chain(trainer_of(scene))
    encoding = chain.learner.field.encoding
    encoding.active_levels = 2.5
    kernels = chain.gradients()
    encoding.reference = True
    for name, gradient in chain.gradients().items():
        torch.testing.assert_close(kernels[name], gradient, rtol=1e-3, atol=1e-4)
    # differences need more digits than the field keeps
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)
    chain.learner.field.double()
    chain.batches = {name: replace(batch, directions_cam=batch.directions_cam.astype(np.float64))
                     for name, batch in chain.batches.items()}
    exact, rng, h = chain.gradients(), np.random.default_rng(2), 1e-6
    for name, parameter in chain.made.camera_optimizer.named_parameters():
        step, found = torch.from_numpy(np.asarray(rng.normal(size=parameter.shape))), []
        with torch.no_grad():
            for sign in (1.0, -2.0):
                parameter += sign * h * step
                found.append(float(chain.loss()))
        assert (found[0] - found[1]) / (2 * h) == pytest.approx(
            float((exact[name] * step).sum()), rel=1e-2, abs=1e-6), name


def test_what_no_image_can_tell_moves_nothing(scene: Scene) -> None:
    """Parameters along the gauge leave all poses alone; a small motion of the world lies there."""
    optimizer = trainer_of(scene).camera_optimizer
    basis = gauge_basis(optimizer.given, optimizer.scale_m)
    assert basis.shape[1] == 7
    with torch.no_grad():
        along = torch.from_numpy(basis @ np.arange(1.0, 8.0))
        optimizer.poses[:] = along.view_as(optimizer.poses)
        np.testing.assert_allclose(optimizer.frame_poses().numpy(), optimizer.given, atol=1e-12)
        optimizer.poses.normal_()
        assert np.abs(optimizer.frame_poses().numpy() - optimizer.given).max() > 0.1
    moved = se3.exp([0.0, 0.0, 0.0, 1e-4, -2e-4, 1e-4]) @ optimizer.given
    optimizer.start_from_poses(moved)
    np.testing.assert_allclose(optimizer.start_poses.numpy(), optimizer.given, atol=1e-6)


def test_parameters_make_rigid_motions() -> None:
    """Zero is none, and anything else still is one."""
    assert torch.equal(rigid_motion(torch.zeros(1, 6), 2.0)[0], torch.eye(4))
    for T in rigid_motion(torch.randn(5, 6, dtype=torch.float64) * 0.5, 2.0):
        np.testing.assert_allclose(se3.check_pose(T.numpy()), T.numpy(), atol=1e-9)


def test_levels_come_in_smoothly_and_all_of_them() -> None:
    """Few until `coarse_until`, then steadily more, all from `fine_at` on."""
    coarseness = HashLevelSchedule(2.0, 0.5, 0.1)
    levels = [coarseness.levels(share, 8) for share in np.linspace(0.0, 1.0, 101)]
    assert levels[:11] == [2.0] * 11
    assert levels[50:] == [8.0] * 51
    assert 0.0 < max(np.diff(levels)) < 0.2
    assert HashLevelSchedule(4.0, 0.5).levels(0.0, 3) == 3.0


def test_training_hides_fine_levels_only_while_it_refines(scene: Scene) -> None:
    """At the first step few are read, at the last all; features alone need no mask."""
    made = trainer_of(scene)
    made.step(0.0)
    assert made.learners[0].field.encoding.active_levels < 4.5
    result = train(scene, TINY)
    assert result.map.learners[0].field.encoding.active_levels == 4.0
    known = trainer_of(scene, replace(TINY, refine=RefineConfig(('poses',), 'features')))
    known.step(0.0)
    assert not any(p.requires_grad for p in known.camera_optimizer.parameters())


def test_an_interrupted_refinement_goes_on(scene: Scene) -> None:
    """Corrections, their moments and what they began at are in a checkpoint."""
    whole, part, rest = (trainer_of(scene) for _ in range(3))
    for made in (whole, part):
        made.camera_optimizer.start_from_poses(se3.plus(made.camera_optimizer.given,
                                                        [0.01, 0, 0, 0, 0.02, 0]))
    for _ in range(4):
        whole.step(0.0)
    part.step(0.0)
    part.step(0.0)
    rest.restore(part.state(0.0))
    rest.step(0.0)
    rest.step(0.0)
    for name, value in whole.camera_optimizer.state_dict().items():
        assert torch.equal(rest.camera_optimizer.state_dict()[name], value), name
    assert float(rest.camera_optimizer.poses.abs().max()) > 0.0


def test_what_was_refined_is_where_the_map_says(scene: Scene, tmp_path: Path) -> None:
    """Keyframes, facts, scene and the written data set all tell the same."""
    fast = replace(TINY, refine=replace(TINY.refine, learning_rate=0.01))
    result = train(scene, fast)
    poses = poses_of(result.scene, scene.train)
    assert np.abs(poses - poses_of(scene, scene.train)).max() > 1e-3
    np.testing.assert_allclose(result.map.keyframes.poses, poses, atol=1e-9)
    facts = result.map.info.refinement
    np.testing.assert_allclose(facts['frames'][scene.frames[scene.train[0]].name], poses[0],
                               atol=1e-9)
    result.map.save(tmp_path / 'm')
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    assert RadianceMap.load(tmp_path / 'm').info.refinement == facts
    out = scene.root / 'refined.json'
    check_refined_path(scene.root, out)
    write_refined(scene.root, result.scene, out)
    again = load_scene(out)
    np.testing.assert_allclose(poses_of(again, again.train), poses, atol=1e-9)
    mine, theirs = (s.frames[2].records['thermal'] for s in (result.scene, again))
    np.testing.assert_allclose(theirs.T_cam_sensor, mine.T_cam_sensor, atol=1e-9)
    assert theirs.camera == mine.camera
    out.unlink()


def test_edges_find_the_rig(tmp_path: Path) -> None:
    """Turned and shifted, where depth is known; and what they cannot tell is refused."""
    simulate_dataset(tmp_path / 'room', SimulationConfig(frames=16, size=(160, 120),
                                                         supersampling=1))
    bad = perturbed_scene(load_scene(tmp_path / 'room'),
                          PerturbationConfig(rig_deg=5.0, rig_m=0.06))
    world = make_world('room')
    found = find_rig(bad, lambda origins, directions: world.render_rays(
        'rgb', origins, directions).distance_m)
    record = bad.frames[0].records['thermal']
    off_m, off_deg = se3.distance(record.T_cam_sensor @ found.T, record.T_cam_sensor_true)
    assert off_m < 0.05 and off_deg < 1.2  # few views: shift and turn trade
    assert found.correlation > found.correlation_before
    with pytest.raises(InputError, match='rig only'):
        RefineConfig(('poses',), 'edges')


def test_slopes_of_likeness_are_differences() -> None:
    """In all six directions of the rig, where edges are smooth and none leaves the view."""
    rng = np.random.default_rng(0)
    camera = Camera.from_fov(60, 50, 70.0)
    heat = cv2.GaussianBlur(rng.normal(size=(50, 60)).astype(np.float32), (0, 0), 6.0)
    rays = Camera.from_fov(30, 25, 35.0).rays()
    points = rays / rays[:, 2:] * rng.uniform(1.0, 3.0, (len(rays), 1))
    slopes = tuple(cv2.Sobel(heat, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    edges = [thermal_extrinsics._Edges(points, rng.normal(size=len(points)).astype(np.float32),
                                       heat, slopes, camera, np.eye(4))]
    T, h = se3.exp([0.01, -0.02, 0.01, 0.02, 0.01, -0.03]), 1e-2  # look-ups are in 1/32 pixel
    score, g, H = thermal_extrinsics._linearized(edges, T)
    assert score == pytest.approx(thermal_extrinsics._score(edges, T), abs=1e-6)
    for axis in np.eye(6):
        up, down = (thermal_extrinsics._score(edges, se3.plus(T, sign * h * axis))
                    for sign in (1.0, -1.0))
        assert (up - down) / (2 * h) == pytest.approx(g @ axis, abs=0.1 * np.abs(g).max())
    assert (np.linalg.eigvalsh(H) >= -1e-9).all()


def test_edges_are_looked_for_in_a_map_of_colour(scene: Scene) -> None:
    """Ahead of the training, which then begins with the rig that was found; a resumed one too."""
    config = replace(TINY, steps=24, refine=RefineConfig(('poses', 'rig'), 'edges',
                                                         colour_map_share=0.5))
    ahead = config.of_colour_map()
    assert (ahead.steps, ahead.modality, ahead.refine.what) == (12, 'rgb', ('poses',))
    assert ahead.refine.method == 'gradient'
    assert replace(config, max_seconds=40.0).of_colour_map().max_seconds == 20.0
    said = []
    result = train(scene, config, lambda done, total, status: said.append(status))
    facts = result.map.info.refinement
    assert -1.0 < facts['edge_correlation'] < 1.0
    assert facts['rig_deg'] < 16.0 and facts['rig_m'] < 2.0  # from a map that knows nothing yet
    assert result.steps == 24 and any(s.startswith('edges of heat') for s in said)
    made = trainer_of(scene, config)
    made.camera_optimizer.start_from_rig(se3.exp([0.0, 0.0, 0.0, 0.1, 0.0, 0.0]), 0.5)
    made.schedule.preparation_s = 7.0
    made.step(0.0)
    other = trainer_of(scene, config)
    other.restore(made.state(9.0))
    assert other.steps == 1 and other.schedule.preparation_s == 7.0
    assert torch.equal(other.camera_optimizer.rig_correction(),
                       made.camera_optimizer.rig_correction())


def test_time_before_the_first_step_is_not_the_schedules(scene: Scene) -> None:
    """A training of 30 s that needs 10 s to find points has 20 s of schedule."""
    made = trainer_of(scene, replace(TINY, steps=10_000, max_seconds=30.0))
    made.schedule.preparation_s = 10.0
    shares = []
    for seconds in (10.0, 20.0, 40.0):
        made.schedule.update(seconds)
        shares.append(made.schedule.share)
    assert shares == [0.0, pytest.approx(0.5), 1.0]


def test_velocity_is_that_of_the_path() -> None:
    """A frame between two others; none at the ends or across a gap."""
    poses = np.stack([se3.exp([0.3 * t, 0, 0, 0, 0, 0.2 * t]) for t in (0.0, 0.5, 1.0, 9.0)])
    found = velocities(poses, [0, 500_000_000, 1_000_000_000, 9_000_000_000])
    np.testing.assert_allclose(found[1], [0.3, 0, 0, 0, 0, 0.2], atol=1e-9)
    assert not found[[0, 2, 3]].any()


def test_a_spoiled_room_is_recovered(tmp_path: Path) -> None:
    """Poses far off, found from what images share; the data set knows the truth."""
    simulate_dataset(tmp_path / 'room', SimulationConfig(
        frames=14, size=(112, 84), laps=0.4, supersampling=1, spoil=PerturbationConfig(3.0, 0.05)))
    bad = load_scene(tmp_path / 'room')
    before = truth_errors(bad)
    assert 2.0 < before['rmse_deg'] < 6.0
    optimizer = CameraOptimizer(RefineConfig(('poses',), 'features'), bad, ('rgb',), 2.0)
    initialize_by_points(optimizer, bad, silent)
    after = truth_errors(optimizer.applied(bad))
    assert after['rmse_deg'] < 0.5 * before['rmse_deg']
    assert after['rmse_m'] < 0.6 * before['rmse_m']


def test_spoiling_is_as_large_as_asked(scene: Scene) -> None:
    """Poses on average, the rig exactly; the truth stays beside them."""
    bad = perturbed_scene(scene, PerturbationConfig(3.0, 0.05, 5.0, 0.08))
    np.testing.assert_array_equal(bad.frames[0].T_world_cam_true, scene.frames[0].T_world_cam)
    off = np.array([se3.distance(f.T_world_cam, f.T_world_cam_true) for f in bad.frames])
    rms = np.sqrt((off**2).mean(axis=0))
    assert 0.03 < rms[0] < 0.07 and 1.8 < rms[1] < 4.2
    assert rig_error(bad) == pytest.approx((0.08, 5.0))
    assert rig_error(scene) is None


def test_errors_are_taken_after_alignment() -> None:
    """Another world frame and scale are no error; a turned camera is."""
    rng = np.random.default_rng(0)
    truth = se3.exp(rng.normal(size=(9, 6)))
    moved = se3.exp(rng.normal(size=6)) @ truth
    moved[:, :3, 3] *= 1.7
    assert aligned_rmse(moved, truth)['rmse_m'] < 1e-9
    assert aligned_rmse(moved, truth)['scale'] == pytest.approx(1 / 1.7)
    moved[0] = se3.plus(moved[0], [0, 0, 0, 0, 0, np.deg2rad(3.0)])
    assert aligned_rmse(moved, truth)['rmse_deg'] == pytest.approx(1.0)


def test_what_cannot_be_refined_is_named(scene: Scene, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    """Before any step: unknown names, one camera, no stamps, nothing in common, a wrong file."""
    with pytest.raises(InputError, match='poses, rig, intrinsics, time'):
        RefineConfig(('lens',))
    with pytest.raises(InputError, match='colour and thermal'):
        train(scene, replace(TINY, modality='rgb', refine=RefineConfig(('rig',), 'gradient')))
    still = replace(scene, frames=tuple(replace(f, stamp_ns=0) for f in scene.frames))
    with pytest.raises(InputError, match='no time offset'):
        train(still, TINY)
    with pytest.raises(RunError, match='share too few points'):
        train(replace(scene, train=scene.train[::3]), replace(
            TINY, refine=RefineConfig(('poses',), 'features')))
    with pytest.raises(InputError, match='beside the images'):
        check_refined_path(scene.root, tmp_path / 'refined.json')
    assert main(['train', str(scene.root), '--map', str(tmp_path / 'm'), '--refine', 'lens']) == 2
    assert 'cannot refine this' in capsys.readouterr().err


def test_the_command_tells_what_it_has_refined(tmp_path: Path) -> None:
    """Figures, the map's own facts, and a data set that carries them on."""
    data, refined = tmp_path / 'room', tmp_path / 'room' / 'refined.json'
    assert main(['simulate', str(data), '--frames', '6', '--size', '32x24', '--pose-deg', '1',
                 '--rig-deg', '2']) == 0
    config = tmp_path / 'c.yaml'
    config.write_text('{rays: 64, steps: 8, field: {encoding: {log2_rows: 10, levels: 4}}, '
                      'sampling: {grid_cells: 16}}')
    assert main(['train', str(data), '--map', str(tmp_path / 'm'), '--config', str(config),
                 '--refine', 'poses,rig', '--refine-method', 'gradient', '--refined',
                 str(refined), '--json', str(tmp_path / 'j')]) == 0
    told = json.loads((tmp_path / 'j').read_text())['refinement']
    assert told['truth_before']['rig_deg'] == pytest.approx(2.0)
    assert told['truth_after']['rig_deg'] != told['truth_before']['rig_deg']
    assert 'frozen map' in told['held_out_poses']
    assert truth_errors(load_scene(refined))['rmse_deg'] == pytest.approx(
        told['truth_after']['rmse_deg'])


def test_closed_motions_are_the_matrix_exponential() -> None:
    """Near zero, in the middle and far, with first derivatives."""
    xi = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    xi *= torch.logspace(-6, 0.4, 40, dtype=torch.float64)[:, None]
    xi[0, 3:] = 0.0
    pull = torch.randn(40, 4, 4, dtype=torch.float64)
    found = []
    for exponential in (se3_exp, lambda x: torch.matrix_exp(se3_hat(x))):
        x = xi.clone().requires_grad_()
        T = exponential(x)
        (T * pull).sum().backward()
        found.append((T.detach(), x.grad))
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
