# SPDX-License-Identifier: Apache-2.0
"""Train every strategy (way for modalities to share a field) on equal terms, and compare."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.evaluation.map_quality import score_views, summarize
from thermal_nerf_loc.evaluation.report.map_sheet import write_sheet
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.trainer import train

_VIEWS_DRAWN = 3


def compile_kernels(scene: Scene, config: TrainConfig) -> None:
    """Train two steps, so that no strategy is timed with the compilation of kernels."""
    train(scene, replace(config, steps=2, max_seconds=None))


def train_and_score(scene: Scene, config: TrainConfig, out: Path | None = None,
                    progress: Progress = silent) -> dict[str, Any]:
    """Figures of one strategy; its map and a sheet of held-out views go to `out`."""
    result = train(scene, config, progress)
    scores = score_views(result.map, scene, 'test')
    if out is not None:
        result.map.save(out / f'{config.strategy}.safetensors')
        write_sheet(out / f'{config.strategy}.png', result.map, scene, scores, _VIEWS_DRAWN)
    return {'strategy': config.strategy, 'seconds': result.seconds, 'steps': result.steps,
            'rays': result.steps * config.rays, **asdict(summarize(scores))}


def ranking(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The claims of the published comparison: best thermal PSNR, and its price in RGB."""
    by_strategy = {row['strategy']: row for row in rows}

    def gain(name: str) -> float | None:
        rgbx, scratch = by_strategy['rgbx'][name], by_strategy['scratch'][name]
        return None if rgbx is None or scratch is None else rgbx - scratch

    known = [row for row in rows if row['thermal_psnr'] is not None]
    return {'best_thermal_psnr': (max(known, key=lambda row: row['thermal_psnr'])['strategy']
                                  if known else None),
            'rgbx_over_scratch_thermal_db': gain('thermal_psnr'),
            'rgbx_over_scratch_rgb_db': gain('rgb_psnr')}
