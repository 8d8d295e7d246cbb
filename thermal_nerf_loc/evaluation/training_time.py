# SPDX-License-Identifier: Apache-2.0
"""How long a training step takes on this machine, measured in a second."""

from functools import lru_cache
from pathlib import Path
import time

import numpy as np

from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.training.config import ScheduleConfig, TrainConfig
from thermal_nerf_loc.mapping.training.ray_sampler import PixelSource
from thermal_nerf_loc.mapping.training.trainer import Trainer
from thermal_nerf_loc.sensing.frame import RGB, SensorImage, THERMAL

_SECONDS = 1.0
_FIRST_STEPS, _FEWEST_STEPS = 3, 3  # not counted: memory is allocated; counted at least


@lru_cache(maxsize=1)
def seconds_a_step() -> float:
    """Seconds of a step at the default settings, once kernels are compiled."""
    camera, rng = Camera.from_fov(32, 24, 70.0), np.random.default_rng(0)

    def source(channels: int) -> PixelSource:
        values = rng.random((camera.height, camera.width, channels), np.float32)
        return PixelSource([camera], [np.eye(4)], lambda _: SensorImage(camera, values, 0),
                           channels)

    config = TrainConfig(steps=10_000, device='cpu', schedule=ScheduleConfig(uniform_steps=1))
    trainer = Trainer(config, {RGB: source(3), THERMAL: source(1)}, Scene(Path(), (), (), ()),
                      space=ContractedSpace((0.0, 0.0, 0.0), (2.0, 2.0, 2.0)))
    for _ in range(_FIRST_STEPS):
        trainer.step(0.0)
    started, steps = time.perf_counter(), 0
    while steps < _FEWEST_STEPS or time.perf_counter() - started < _SECONDS:
        trainer.step(0.0)
        steps += 1
    return (time.perf_counter() - started) / steps
