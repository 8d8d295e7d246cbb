# SPDX-License-Identifier: Apache-2.0
"""
Building a map: rays through training pixels, one optimiser, a schedule that lets surfaces stand.

The order matters more than any weight (measured on simulated rooms, where depth is known):
1. rays are sampled uniformly, the direction is hidden from the colour branch: nothing but
   parallax can explain the images, so surfaces condense where they are;
2. samples move to the surfaces (density grid), an exploring share stays;
3. the colour branch sees directions, once fog can no longer buy anything with them.
A phase that inherits its surfaces (`finetune`) begins where this order ends.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
import json
import resource
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.field.contraction import Space, space_around_cameras
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import (
    CameraOptimizer, FixedCameras, HashLevelSchedule)
from thermal_nerf_loc.mapping.camera_poses.pose_initialization import adjust, place_thermal
from thermal_nerf_loc.mapping.map.keyframes import keyframes_of
from thermal_nerf_loc.mapping.map.radiance_map import MapInfo, RadianceMap
from thermal_nerf_loc.mapping.training.camera_response import zero_offset, ZeroOffset
from thermal_nerf_loc.mapping.training.checkpoint import Checkpoint, State
from thermal_nerf_loc.mapping.training.config import BOTH, EDGES, FEATURES, TrainConfig
from thermal_nerf_loc.mapping.training.distributed import joined, Processes
from thermal_nerf_loc.mapping.training.objective import Objective
from thermal_nerf_loc.mapping.training.pixel_sources import load_sources, without_frozen
from thermal_nerf_loc.mapping.training.ray_sampler import PixelSource
from thermal_nerf_loc.mapping.training.scene_bounds import fit_bounds
from thermal_nerf_loc.mapping.training.strategies import (
    adam, inherit, Learner, learners_for, phases_for, set_rate)
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.thermal import TemperatureRange

_REPORT_STEPS = 20
_REFRESH_STEPS = 16


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """A trained map and what it cost."""

    map: RadianceMap
    steps: int
    seconds: float
    rays_per_second: float
    peak_memory_mb: float
    final_loss: float
    backend: str  # what read the hash grid
    scene: Scene  # as it was given, or with what was refined


def train(scene: Scene, config: TrainConfig = TrainConfig(), progress: Progress = silent,
          checkpoint: Checkpoint | None = None) -> TrainingResult:
    """
    Train a map of the scene's training split; remove `checkpoint` once the map is saved.

    Under torchrun every process calls this, and gets the same map.
    """
    device = config.resolved_device()
    given, scene = scene, without_frozen(scene)
    sources, temperatures = load_sources(scene, config, progress)
    began = time.monotonic()
    with joined(device) as processes:
        config, space = fit_bounds(config, sources, _positions(scene))
        trainer = Trainer(config, sources, scene, processes, space)
        backend = trainer.learners[0].field.encoding.backend
        seconds = _run(trainer, scene, progress, checkpoint, began)
    refined, facts = given, {}
    if trainer.corrections is not None:
        refined, facts = trainer.corrections.applied(given), trainer.corrections.facts(given)
    zero = trainer.zero(scene, temperatures)
    if temperatures is not None and zero is not None:
        temperatures = temperatures.moved(zero.celsius)
    info = MapInfo(scene_name=scene.root.name, training=asdict(config), steps=trainer.steps,
                   seconds=seconds, refinement=facts, zero=zero._asdict() if zero else {})
    radiance_map = RadianceMap(trainer.learners, temperatures, info, keyframes_of(refined),
                               flat_fields=trainer.objective.flat_fields(temperatures))
    return TrainingResult(radiance_map, trainer.steps, seconds,
                          trainer.steps * config.rays / max(seconds, 1e-9),
                          resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
                          trainer.loss, backend, refined)


def _run(trainer: 'Trainer', scene: Scene, progress: Progress, checkpoint: Checkpoint | None,
         began: float) -> float:
    """Step until done; the seconds that it took, with those before an interruption."""
    processes, period_s = trainer.processes, trainer.config.checkpoint_seconds
    started = began - _resume(trainer, checkpoint)
    if trainer.corrections and not trainer.steps:
        _look_ahead(trainer, scene, progress)
    seconds = processes.leaders(time.monotonic() - started)
    if not trainer.steps:
        trainer.prelude = seconds
    while not trainer.finished(seconds):
        trainer.step(seconds)
        seconds = processes.leaders(time.monotonic() - started)
        if trainer.steps % _REPORT_STEPS == 0 and processes.leads:
            progress(trainer.share, 1.0, trainer.status(seconds))
        if checkpoint and trainer.agreed and checkpoint.due(seconds, period_s):
            state = trainer.state(seconds)
            if processes.leads:
                checkpoint.write(state, trainer.identity)
    trainer.finish()
    return seconds


def _look_ahead(trainer: 'Trainer', scene: Scene, progress: Progress) -> None:
    """Let corrections begin where matched points, or edges in a map of colour, put them."""
    config, corrections = trainer.config, trainer.corrections
    assert corrections is not None
    if config.refine.method in (FEATURES, BOTH):
        adjust(corrections, scene, progress)
    elif config.refine.method == EDGES:
        ahead = Trainer(config.looking_ahead(), {RGB: trainer.sources[RGB]}, scene,
                        trainer.processes, trainer.learners[0].field.space)
        _run(ahead, scene, _prefixed(progress, 'colour ahead, '), None, time.monotonic())
        known = ahead.corrections.applied(scene) if ahead.corrections else scene
        place_thermal(corrections, known, ahead.learners, progress)


def _prefixed(progress: Progress, words: str) -> Progress:
    def told(done: float, total: float, message: str = '') -> None:
        progress(done, total, words + message)
    return told


def _resume(trainer: 'Trainer', checkpoint: Checkpoint | None) -> float:
    """Seconds that an interrupted training has taken, whose state the trainer gets."""
    if checkpoint is None:
        return 0.0
    if not checkpoint.resume:
        checkpoint.warn_if_left()
        return 0.0
    state = checkpoint.read(trainer.identity)
    try:
        trainer.restore(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError('checkpoint does not fit its own settings', where=checkpoint.path,
                         got=f'{type(error).__name__}: {error}') from None
    return float(state.facts['seconds'])


class Trainer:
    """One optimiser over the fields that learn at present; `step` is one batch each."""

    def __init__(self, config: TrainConfig, sources: Mapping[str, PixelSource], scene: Scene,
                 processes: Processes = Processes(), space: Space | None = None) -> None:
        """Build fields and optimiser from the seed; without a space it is guessed."""
        torch.manual_seed(config.seed)
        self.rng = processes.random(config.seed)
        self.config, self.sources, self.processes = config, sources, processes
        if space is None:
            space = space_around_cameras(_positions(scene))
        channels = {name: source.channels for name, source in sources.items()}
        self._phases = phases_for(config.strategy, tuple(sources))
        self.phase, self.phase_began = 0, 0
        self.learners = learners_for(config.strategy, config.field, config.sampling, space,
                                     channels)
        for learner in self.learners:
            learner.field.to(processes.device)
        self.corrections = (CameraOptimizer(config.refine, scene, tuple(sources), space.scale_m)
                            if config.refine.what else None)
        self._coarseness = HashLevelSchedule(config.refine.first_levels, config.refine.fine_at,
                                      config.refine.coarse_until)
        self.objective = Objective(config, sources, processes.device,
                                   self.corrections or FixedCameras())
        self.optimizer = self._optimizer()
        self.steps, self.share, self.loss = 0, 0.0, float('nan')
        self.prelude = 0.0  # seconds before the first step

    @property
    def learning(self) -> tuple[Learner, ...]:
        """The learners of the present phase; those of earlier ones are done."""
        present = set(self._phases[self.phase].modalities)
        return tuple(learner for learner in self.learners if present & set(learner.modalities))

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have in common with this training: settings and pixels."""
        return {'config': self.config.identity(), 'processes': self.processes.count,
                'images': {name: source.digest for name, source in self.sources.items()}}

    def finished(self, seconds: float) -> bool:
        """True once the steps are done or the time is up."""
        limit = self.config.max_seconds
        return self.steps >= self.config.planned_steps or (limit is not None and seconds >= limit)

    def step(self, seconds: float) -> None:
        """Draw, render, compare, descend."""
        self.share = self._share(seconds)
        if self.share >= self._phases[self.phase].end and self.phase + 1 < len(self._phases):
            self.begin_phase(self.phase + 1)
        self._set_learning_rate()
        self._set_levels()
        loss = torch.zeros((), device=self.processes.device)
        for learner in self.learning:
            for modality in learner.modalities:
                batch = self.sources[modality].draw(self._rays_each(), self.rng)
                loss = loss + self.objective.loss(learner, modality, batch, self._moment(),
                                                  self.rng)
        if self.corrections is not None:
            loss = loss + self.config.refine.prior * self.corrections.prior()
        if not torch.isfinite(loss):
            raise RunError('training diverged: the loss is not finite', where=f'step {self.steps}',
                           hint='Lower --learning-rate or check the poses.')
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average([parameter.grad for group in self.optimizer.param_groups
                                for parameter in group['params']
                                if parameter.grad is not None])
        self.optimizer.step()
        self.loss = float(loss.detach())
        self.steps += 1
        self._refresh_grids()

    def begin_phase(self, phase: int) -> None:
        """Let the next modalities inherit what stands, under an optimiser of their own."""
        torch.manual_seed(self.config.seed + phase)
        self.phase, self.phase_began = phase, self.steps
        self.learners += tuple(inherit(self.learners[0], name, self.sources[name].channels)
                               for name in self._phases[phase].modalities)
        for learner in self.learning:
            learner.field.to(self.processes.device)
        self.optimizer = self._optimizer()

    @property
    def agreed(self) -> bool:
        """True while all processes hold the same state, but for their random numbers."""
        return self.processes.count == 1 or self.steps % _REFRESH_STEPS == 0

    def finish(self) -> None:
        """Leave the same map in every process, ready to be rendered."""
        self._merge()
        self.objective.formations.cpu()
        for learner in self.learners:
            learner.field.cpu()

    def zero(self, scene: Scene, temperatures: TemperatureRange | None) -> ZeroOffset | None:
        """By how much the map is too cold, where shutter events tell."""
        if (temperatures is None or not self.config.formation
                or not self.sources[THERMAL].radiometric):
            return None
        stamps = [scene.frames[i].records[THERMAL].stamp_ns for i in scene.train
                  if THERMAL in scene.frames[i].records]
        return zero_offset(np.array(stamps), self.objective.offsets(temperatures))

    def status(self, seconds: float) -> str:
        """One line for a progress bar."""
        quality = ' '.join(f'{name} {value:.1f} dB' for name, value in self.objective.psnr.items())
        return f'{quality} | {self.steps * self.config.rays / max(seconds, 1e-9):,.0f} rays/s'

    def state(self, seconds: float) -> State:
        """All that the next step depends on."""
        tensors = {'torch_random': torch.get_rng_state()}
        for i, learner in enumerate(self.learners):
            tensors |= {f'field{i}.{key}': value
                        for key, value in learner.field.state_dict().items()}
            tensors[f'grid{i}'] = torch.from_numpy(learner.grid.values)
        tensors |= {f'formation.{key}': value
                    for key, value in self.objective.formations.state_dict().items()}
        tensors |= {f'depth_fit.{key}': value
                    for key, value in self.objective.depth_fits.state_dict().items()}
        if self.corrections is not None:
            tensors |= {f'corrections.{key}': value
                        for key, value in self.corrections.state_dict().items()}
        for i, moments in self.optimizer.state_dict()['state'].items():
            tensors |= {f'adam{i}.{key}': value for key, value in moments.items()}
        return State(tensors, {'steps': self.steps, 'seconds': seconds,
                               'prelude': self.prelude, 'phase': self.phase,
                               'phase_began': self.phase_began, 'loss': self.loss,
                               'psnr': self.objective.psnr,
                               'variance': self.objective.balance.variance,
                               'random': self.processes.gather(
                                   json.dumps(self.rng.bit_generator.state), 1024)})

    def restore(self, state: State) -> None:
        """Go on where `state` was taken."""
        facts, tensors = state.facts, state.tensors
        for phase in range(1, facts['phase'] + 1):
            self.begin_phase(phase)
        for i, learner in enumerate(self.learners):
            learner.field.load_state_dict(_under(f'field{i}.', tensors))
            learner.grid.values[:] = tensors[f'grid{i}'].numpy()
        self.objective.formations.load_state_dict(_under('formation.', tensors))
        self.objective.depth_fits.load_state_dict(_under('depth_fit.', tensors))
        if self.corrections is not None:
            self.corrections.load_state_dict(_under('corrections.', tensors))
        parameters = sum(len(group['params']) for group in self.optimizer.param_groups)
        self.optimizer.load_state_dict({
            'state': {i: _under(f'adam{i}.', tensors) for i in range(parameters)},
            'param_groups': self.optimizer.state_dict()['param_groups']})
        self.steps, self.phase_began = facts['steps'], facts['phase_began']
        self.prelude = facts['prelude']
        self.loss, self.objective.psnr = facts['loss'], dict(facts['psnr'])
        self.objective.balance.variance = dict(facts['variance'])
        self.rng.bit_generator.state = json.loads(facts['random'][self.processes.rank])
        torch.set_rng_state(tensors['torch_random'])

    def _moment(self) -> tuple[float, float]:
        """How many steps the schedule has run, and of how many; inherited surfaces end it."""
        phase = self._phases[self.phase]
        total = self.config.planned_steps * (phase.end - phase.begin)
        if self.config.max_seconds is not None and self.steps:
            expected = self.steps / max(self.share, 1e-9)
            total = min(total, expected * (phase.end - phase.begin))
        return (total if phase.inherits else self.steps - self.phase_began), total

    def _rays_each(self) -> int:
        """The batch is shared evenly, so that every strategy and any number of processes pay."""
        shares = self.processes.count * sum(len(learner.modalities) for learner in self.learning)
        return max(1, self.config.rays // shares)

    def _share(self, seconds: float) -> float:
        """How much of the training is done, by steps or by time."""
        by_steps = self.steps / self.config.planned_steps
        if self.config.max_seconds is None:
            return by_steps
        time_left = max(self.config.max_seconds - self.prelude, 1e-9)
        return max(by_steps, min(1.0, (seconds - self.prelude) / time_left))

    def _set_learning_rate(self) -> None:
        phase = self._phases[self.phase]
        set_rate(self.optimizer, self.steps - self.phase_began,
                 (self.share - phase.begin) / (phase.end - phase.begin))

    def _set_levels(self) -> None:
        """Hide fine hash levels while poses are still far off."""
        if self.corrections is not None and self.config.refine.method != FEATURES:
            for learner in self.learners:
                encoding = learner.field.encoding
                encoding.active_levels = self._coarseness.levels(self.share,
                                                                 encoding.config.levels)

    def _optimizer(self) -> torch.optim.Adam:
        """For what the present phase learns."""
        present = {name for learner in self.learning for name in learner.modalities}
        cameras = [p for name, formation in self.objective.formations.items() if name in present
                   for p in formation.parameters()]
        poses = self.corrections.parameters() if self.corrections is not None else ()
        return adam(self.config, self.learning, cameras, poses)

    def _refresh_grids(self) -> None:
        if self.steps % _REFRESH_STEPS == 0:
            for learner in self.learning:
                learner.grid.refresh(learner.field, self.config.refresh_share, self.rng)
            self._merge()

    def _merge(self) -> None:
        """Make one of what each process has learned beside the weights."""
        self.processes.average([*(torch.from_numpy(learner.grid.values)
                                  for learner in self.learning),
                                *self.objective.formations.buffers(),
                                *self.objective.depth_fits.buffers()])
        variance = self.objective.balance.variance
        if not variance:
            return
        mean = torch.tensor([variance[name] for name in sorted(variance)], dtype=torch.float64)
        self.processes.average([mean])
        self.objective.balance.variance = dict(zip(sorted(variance), mean.tolist(), strict=True))


def _positions(scene: Scene) -> NDArray[np.float64]:
    """Where the training cameras were (n, 3)."""
    return np.array([scene.frames[i].T_world_cam[:3, 3] for i in scene.train])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()
            if name.startswith(prefix)}
