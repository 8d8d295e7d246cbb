# SPDX-License-Identifier: Apache-2.0
"""
Training a map: random rays of the training images, one optimizer, a schedule of stages.

The order of the stages matters more than any weight (measured on simulated rooms, where depth is
known):
1. samples are uniform along the ray, and the direction is hidden from the colour branch: nothing
   but parallax can explain the images, so surfaces form where they are;
2. samples move to the surfaces (density grid), a share stays uniform;
3. the colour branch sees directions, when fog can no longer use them to explain the images.
A phase that inherits its surfaces (`finetune`) begins where this order ends.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
import math
import resource
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.common.progress import prefixed, Progress, silent
from thermal_nerf_loc.field.contraction import ContractedSpace, space_around_cameras
from thermal_nerf_loc.field.device import (
    OutOfMemory, random_state, restore_random, say_out_of_memory)
from thermal_nerf_loc.field.native.adam import Optimizer, TableAdam
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import (
    CameraOptimizer, FixedCameras, HashLevelSchedule)
from thermal_nerf_loc.mapping.camera_poses.pose_initialization import (
    adjusted_cameras, initialize_rig_by_edges)
from thermal_nerf_loc.mapping.map.keyframes import keyframes_of
from thermal_nerf_loc.mapping.map.localization_map import MapInfo
from thermal_nerf_loc.mapping.map.map_file import as_kept
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.map.uncertainty import DepthSupport
from thermal_nerf_loc.mapping.training.checkpoint import Checkpoint, pack, State, unpack
from thermal_nerf_loc.mapping.training.config import EDGES, FEATURES, TrainConfig
from thermal_nerf_loc.mapping.training.distributed import joined, Processes
from thermal_nerf_loc.mapping.training.objective import Objective
from thermal_nerf_loc.mapping.training.pixel_sources import (
    depth_of, load_sources, modalities_of, thermal_stamps_ns, without_frozen)
from thermal_nerf_loc.mapping.training.ray_sampler import DevicePixels, PixelSource, RayBatch
from thermal_nerf_loc.mapping.training.scene_bounds import (
    fit_bounds, fuse_depth, known_rays, starts_from_depth)
from thermal_nerf_loc.mapping.training.schedule import adam, Completion, Schedule
from thermal_nerf_loc.mapping.training.strategies import inherit, Learner, learners_for
from thermal_nerf_loc.sensing.frame import RGB

_REPORT_STEPS = 20
_REFRESH_STEPS = 16
_MEASURED = 8, 24  # steps between which the speed is measured
_FUSED_RAYS, _SUPPORT_RAYS = 600_000, 48_000  # of known depth


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """A trained map and what it cost."""

    map: RadianceMap
    steps: int
    seconds: float
    rays_per_second: float
    peak_memory_mb: float
    final_loss: float
    backend: str  # of the hash grid
    scene: Scene  # as it was given, or with refined poses
    support: DepthSupport | None = None  # of the map's surfaces; None: no depth was known


def train(scene: Scene, config: TrainConfig = TrainConfig(), progress: Progress = silent,
          checkpoint: Checkpoint | None = None, began: float | None = None,
          completion: Completion = lambda steps: 0.0) -> TrainingResult:
    """
    Train a map of the scene's training split; remove `checkpoint` once the map is saved.

    `max_seconds` count from `began` (`time.monotonic()`; None: now), and include `completion`,
    what follows a training of so many steps, in steps. Under torchrun every process calls this,
    and gets the same map.
    """
    began = time.monotonic() if began is None else began
    try:
        return _train(scene, config, progress, checkpoint, began, completion)
    except OutOfMemory:
        if config.resolved_device() == 'cpu':
            raise
    say_out_of_memory('training', 'it begins again on the processor')
    return _train(scene, replace(config, device='cpu'), progress, checkpoint, began, completion)


def _train(scene: Scene, config: TrainConfig, progress: Progress, checkpoint: Checkpoint | None,
           began: float, completion: Completion) -> TrainingResult:
    device = config.resolved_device()
    given, scene = scene, without_frozen(scene)
    adjusted = adjusted_cameras(scene, modalities_of(scene, config), config.refine, progress)
    depth = depth_of(adjusted, config, progress)
    sources, temperatures = load_sources(scene, config, depth)
    with joined(device) as processes:
        config, space = fit_bounds(config, sources, _positions(scene))
        trainer = Trainer(config, sources, scene, processes, space)
        backend = trainer.learners[0].field.encoding.backend
        if trainer.camera_optimizer is not None and adjusted.cameras is not None:
            trainer.camera_optimizer.start_from(adjusted.cameras)
        seconds = _run(trainer, scene, progress, checkpoint, began, completion)
    refined, facts = given, {}
    if trainer.camera_optimizer is not None:
        refined = trainer.camera_optimizer.applied(given)
        facts = trainer.camera_optimizer.facts(given)
    zero = None
    if temperatures is not None:
        zero = trainer.objective.thermal_zero(thermal_stamps_ns(scene), temperatures)
        temperatures = temperatures.moved(zero.celsius) if zero else temperatures
    info = MapInfo(scene_name=scene.root.name, training=asdict(config), steps=trainer.steps,
                   seconds=seconds, refinement=facts, geometry=depth.facts(),
                   temperature_offset=zero._asdict() if zero else {},
                   geo_anchor=scene.geo_anchor._asdict() if scene.geo_anchor else {})
    radiance_map = RadianceMap(trainer.learners, temperatures, info, keyframes_of(refined),
                               flat_fields=trainer.objective.flat_fields(temperatures))
    radiance_map = radiance_map.on(processes.device)
    return TrainingResult(radiance_map, trainer.steps, seconds,
                          trainer.steps * config.rays / max(seconds, 1e-9),
                          resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
                          trainer.loss, backend, refined,
                          trainer.depth_support(radiance_map))


def _run(trainer: 'Trainer', scene: Scene, progress: Progress, checkpoint: Checkpoint | None,
         began: float, completion: Completion = lambda steps: 0.0) -> float:
    """Step until done; the seconds that it took, with those before an interruption."""
    processes, period_s = trainer.processes, trainer.config.checkpoint_seconds
    started = began - (checkpoint.restore_into(trainer.restore, trainer.identity)
                       if checkpoint else 0.0)
    if trainer.config.refine.method == EDGES and not trainer.steps:
        _initialize_rig(trainer, scene, progress)
    seconds = processes.of_leader(time.monotonic() - started)
    first_s = seconds
    if not trainer.steps:
        trainer.schedule.preparation_s = seconds
    while not trainer.finished(seconds):
        trainer.step(seconds)
        seconds = processes.of_leader(time.monotonic() - started)
        if trainer.steps == _MEASURED[0]:
            first_s = seconds
        elif trainer.steps == _MEASURED[1]:
            trainer.schedule.reserved_s = processes.of_leader(trainer.schedule.to_reserve(
                completion, (seconds - first_s) / float(np.ptp(_MEASURED))))
        if trainer.steps % _REPORT_STEPS == 0 and processes.leads:
            progress(trainer.schedule.share, 1.0, trainer.status(seconds))
        if checkpoint and trainer.is_synchronized and checkpoint.due(seconds, period_s):
            state = trainer.state(seconds)
            if processes.leads:
                checkpoint.write(state, trainer.identity)
    trainer.finish()
    return seconds


def _initialize_rig(trainer: 'Trainer', scene: Scene, progress: Progress) -> None:
    """Begin where edges in a map of colour put the thermal camera."""
    optimizer = trainer.camera_optimizer
    assert optimizer is not None  # `RefineConfig`: edges refine the rig
    colour = Trainer(trainer.config.of_colour_map(), {RGB: trainer.sources[RGB]}, scene,
                     trainer.processes, trainer.learners[0].field.space)
    _run(colour, scene, prefixed(progress, 'colour map, '), None, time.monotonic())
    known = colour.camera_optimizer.applied(scene) if colour.camera_optimizer else scene
    initialize_rig_by_edges(optimizer, known, colour.learners, progress)


class Trainer:
    """Fields, cameras and optimizer in training; `step` trains with one batch each."""

    def __init__(self, config: TrainConfig, sources: Mapping[str, PixelSource], scene: Scene,
                 processes: Processes = Processes(), space: ContractedSpace | None = None) -> None:
        """Build fields and optimizer from the seed; `space` defaults to a guess by the path."""
        torch.manual_seed(config.seed)
        self.rng = processes.random(config.seed)
        self.config, self.sources, self.processes = config, sources, processes
        self._pixels: dict[str, PixelSource | DevicePixels] = {
            name: source if processes.has_kernels else source.on(processes.device)
            for name, source in sources.items()}
        if space is None:
            space = space_around_cameras(_positions(scene))
        channels = {name: source.channels for name, source in sources.items()}
        self.schedule = Schedule(config, tuple(sources))
        self.learners = tuple(learner.on(processes.device, processes.plain)
                              for learner in learners_for(config.strategy, config.field,
                                                          config.sampling, space, channels))
        self._depth_is_known = starts_from_depth(config, sources)
        refine = config.refine
        self.camera_optimizer = (
            CameraOptimizer(refine, scene, tuple(sources), space.scale_m).to(processes.device)
            if refine.what else None)
        self._hash_levels = HashLevelSchedule(refine.first_levels, refine.fine_at,
                                              refine.coarse_until)
        self.objective = Objective(config, sources, processes.device,
                                   self.camera_optimizer or FixedCameras())
        self.optimizer = self._optimizer()
        self._loss = torch.tensor(float('nan'))

    @property
    def loss(self) -> float:
        """Loss of the last step; reading it waits for the device."""
        return float(self._loss)

    @property
    def steps(self) -> int:
        """Steps done."""
        return self.schedule.steps

    @property
    def active_learners(self) -> tuple[Learner, ...]:
        """The learners of the present phase; those of earlier ones are done."""
        present = set(self.schedule.phase.modalities)
        return tuple(learner for learner in self.learners if present & set(learner.modalities))

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have in common with this training: settings and pixels."""
        return {'config': self.config.identity(), 'processes': self.processes.count,
                'images': {name: source.digest for name, source in self.sources.items()}}

    @property
    def is_synchronized(self) -> bool:
        """True while all processes hold the same state, but for their random numbers."""
        return self.processes.count == 1 or self.steps % _REFRESH_STEPS == 0

    def finished(self, seconds: float) -> bool:
        """True once the steps are done or the time is up."""
        return self.schedule.finished(seconds)

    def step(self, seconds: float) -> None:
        """Sample rays, render, compare, take an optimizer step, refresh the density grids."""
        self.schedule.update(seconds)
        if self.schedule.next_phase_is_due:
            self.begin_phase(self.schedule.phase_index + 1)
        self.schedule.set_learning_rates(self.optimizer)
        self._set_hash_levels()
        self._hold_depth()
        loss = self._batch_loss()
        self._loss = loss.detach()
        if self.processes.has_kernels or self.steps % _REPORT_STEPS == 0:
            self._check_loss()
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average([parameter.grad for group in self.optimizer.param_groups
                                for parameter in group['params']
                                if parameter.grad is not None])
        self.optimizer.step()
        self.schedule.count_step()
        self._refresh_grids()

    def depth_support(self, trained: RadianceMap) -> DepthSupport | None:
        """How far known depth agrees with the map; None where none is known."""
        if not self._depth_is_known:
            return None
        return DepthSupport.of(trained, trained.space, self._known_rays(_SUPPORT_RAYS))

    def begin_phase(self, index: int) -> None:
        """Let the next modalities inherit the surfaces, with an optimizer of their own."""
        self._settle()
        torch.manual_seed(self.config.seed + index)
        self.schedule.begin_phase(index)
        where = self.processes.device, self.processes.plain
        self.learners += tuple(
            inherit(self.learners[0], name, self.sources[name].channels).on(*where)
            for name in self.schedule.phase.modalities)
        self.optimizer = self._optimizer()

    def finish(self) -> None:
        """Leave the same map in every process, on the CPU, as it will come back from its file."""
        self._settle()
        self._synchronize()
        if self.steps:
            self._check_loss()
        self.objective.camera_responses.cpu()
        if self.camera_optimizer is not None:
            self.camera_optimizer.cpu()
        self.learners = tuple(learner.on(torch.device('cpu')) for learner in self.learners)
        for learner in self.learners:
            learner.grid.values = as_kept(learner.grid.values)

    def status(self, seconds: float) -> str:
        """One line for a progress bar."""
        quality = ' '.join(f'{name} {value:.1f} dB' for name, value in self.objective.psnr.items())
        return f'{quality} | {self.steps * self.config.rays / max(seconds, 1e-9):,.0f} rays/s'

    def state(self, seconds: float) -> State:
        """All that the next step depends on, for a checkpoint."""
        tensors = pack(self._modules(), [learner.grid.shared for learner in self.learners],
                       self.optimizer)
        tensors['torch_random'] = torch.get_rng_state()
        tensors |= {f'held{i}': torch.from_numpy(learner.grid.held)
                    for i, learner in enumerate(self.learners)}
        random = self.processes.gather(random_state(self.rng), 1 << 15)
        return State(tensors, {**self.schedule.facts(), 'seconds': seconds, 'loss': self.loss,
                               'psnr': self.objective.psnr, 'random': random})

    def restore(self, state: State) -> None:
        """Go on where `state` was taken."""
        facts, tensors = state.facts, state.tensors
        for index in range(1, facts['phase'] + 1):
            self.begin_phase(index)
        self.schedule.restore(facts)
        unpack(tensors, self._modules(), [learner.grid.shared for learner in self.learners],
               self.optimizer)
        for i, learner in enumerate(self.learners):
            learner.grid.held = tensors[f'held{i}'].numpy()
        self._loss, self.objective.psnr = torch.tensor(facts['loss']), dict(facts['psnr'])
        restore_random(self.rng, facts['random'][self.processes.rank])
        torch.set_rng_state(tensors['torch_random'])

    def _modules(self) -> dict[str, nn.Module]:
        """All that learns, by its name in a checkpoint."""
        modules: dict[str, nn.Module] = {
            f'field{i}': learner.field for i, learner in enumerate(self.learners)}
        modules |= {'camera_response': self.objective.camera_responses,
                    'depth_fit': self.objective.depth_fits}
        if self.camera_optimizer is not None:
            modules['camera_optimizer'] = self.camera_optimizer
        return modules

    def _check_loss(self) -> None:
        """Stop where the training has diverged."""
        if not math.isfinite(self.loss):
            raise RunError('training diverged: the loss is not finite', where=f'step {self.steps}',
                           hint='Lower --learning-rate or check the poses.')

    def _batch_loss(self) -> Tensor:
        """Loss of one batch of rays of each modality that learns, and of the cameras' prior."""
        loss = torch.zeros((), device=self.processes.device)
        for learner in self.active_learners:
            for modality in learner.modalities:
                batch = self._pixels[modality].draw(self._rays_each(), self.rng)
                loss = loss + self.objective.loss(learner, modality, batch,
                                                  self.schedule.position, self.rng)
        if self.camera_optimizer is not None:
            loss = loss + self.config.refine.prior * self.camera_optimizer.prior()
        return loss

    def _rays_each(self) -> int:
        """Rays of a modality in this process: the batch costs the same for every strategy."""
        modalities = sum(len(learner.modalities) for learner in self.active_learners)
        return max(1, self.config.rays // (self.processes.count * modalities))

    def _hold_depth(self) -> None:
        """Begin with a density grid of known depth, and let go of it after some steps."""
        if not self.config.schedule.holds_depth(*self.schedule.position):
            for learner in self.active_learners:
                learner.grid.release()
        elif self._depth_is_known and not self.steps:
            for learner in self.learners:
                learner.grid.hold(fuse_depth(learner.grid, self._known_rays(_FUSED_RAYS)))

    def _known_rays(self, most: int) -> Iterator[tuple[str, RayBatch]]:
        return known_rays(self.sources, most, self.objective.cameras)

    def _set_hash_levels(self) -> None:
        """Hide fine hash levels while poses are still far off."""
        if self.camera_optimizer is not None and self.config.refine.method != FEATURES:
            for learner in self.learners:
                encoding = learner.field.encoding
                encoding.active_levels = self._hash_levels.levels(self.schedule.share,
                                                                  encoding.config.levels)

    def _optimizer(self) -> Optimizer:
        """For what learns in the present phase."""
        present = {name for learner in self.active_learners for name in learner.modalities}
        responses = [p for name, response in self.objective.camera_responses.items()
                     if name in present for p in response.parameters()]
        poses = self.camera_optimizer.parameters() if self.camera_optimizer is not None else ()
        return adam(self.config, self.active_learners, responses, poses)

    def _settle(self) -> None:
        """Let rows of the hash grid that were idle catch up."""
        if isinstance(self.optimizer, TableAdam):
            self.optimizer.settle()

    def _refresh_grids(self) -> None:
        if self.steps % _REFRESH_STEPS == 0:
            for learner in self.active_learners:
                learner.grid.refresh(learner.field, self.config.refresh_share, self.rng)
            self._synchronize()

    def _synchronize(self) -> None:
        """Average over the processes what no gradient does: density grids and buffers."""
        self.processes.average([*(learner.grid.shared for learner in self.active_learners),
                                *self.objective.camera_responses.buffers(),
                                *self.objective.depth_fits.buffers()])


def _positions(scene: Scene) -> NDArray[np.float64]:
    """Where the training cameras were (n, 3)."""
    return np.array([scene.frames[i].T_world_cam[:3, 3] for i in scene.train])
