# SPDX-License-Identifier: Apache-2.0
"""
Trains nerfstudio's nerfacto on the CPU; run by `nerfacto.py` with the Python that has nerfstudio.

Its own trainer, data manager and settings, but for: the torch implementation (tiny-cuda-nn needs
a GPU), no viewer, no refinement of the exact poses, and no LPIPS, whose weights would have to be
downloaded and which training does not use. One line of JSON for every mark.
"""

import json
from pathlib import Path
import sys
import tempfile
import time
from typing import Any

import torch
import torchmetrics.image.lpip


class NoLpips(torch.nn.Module):
    """Stands where the model keeps a score that nobody asks for."""

    def __init__(self, **_: Any) -> None:
        super().__init__()


def main(data: str, views: str, threads: str, rays_a_step: str, *marks: str) -> None:
    """Train until the last mark (seconds), look at `views` held-out images at each."""
    torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity = NoLpips
    torch.set_num_threads(int(threads))
    from nerfstudio.configs.method_configs import method_configs

    torch.manual_seed(0)
    config = method_configs['nerfacto']
    config.machine.device_type = 'cpu'
    config.machine.num_devices = 1
    config.mixed_precision = False
    config.vis = 'tensorboard'
    config.logging.local_writer.enable = False
    config.output_dir = Path(tempfile.mkdtemp())
    config.data = config.pipeline.datamanager.data = Path(data)
    config.pipeline.datamanager.train_num_rays_per_batch = int(rays_a_step)
    config.pipeline.model.implementation = 'torch'
    config.pipeline.model.camera_optimizer.mode = 'off'
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup(test_mode='test')
    trainer.pipeline.train()
    step, seconds = 0, 0.0
    for mark in map(float, marks):
        while seconds < mark:
            started = time.monotonic()
            before_and_after(trainer, step)
            seconds += time.monotonic() - started
            step += 1
        print(json.dumps({'seconds': seconds, 'steps': step,
                          'rays_per_second': step * int(rays_a_step) / seconds,
                          'psnr': psnr(trainer.pipeline, int(views))}), flush=True)


def before_and_after(trainer: Any, step: int) -> None:
    """One iteration with the callbacks that nerfstudio's own loop runs around it."""
    from nerfstudio.engine.callbacks import TrainingCallbackLocation
    for callback in trainer.callbacks:
        callback.run_callback_at_location(
            step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
    trainer.train_iteration(step)
    for callback in trainer.callbacks:
        callback.run_callback_at_location(
            step, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)


def psnr(pipeline: Any, views: int) -> float:
    """Mean over the first held-out images."""
    dataset = pipeline.datamanager.eval_dataset
    pipeline.eval()
    scores = []
    with torch.no_grad():
        for i in range(min(views, len(dataset))):
            seen = dataset[i]['image'][..., :3]
            shown = pipeline.model.get_outputs_for_camera(dataset.cameras[i:i + 1])['rgb']
            scores.append(-10.0 * torch.log10(((shown - seen)**2).mean()).item())
    pipeline.train()
    return sum(scores) / len(scores)


if __name__ == '__main__':
    main(*sys.argv[1:])
