# SPDX-License-Identifier: Apache-2.0
"""
Compare the depth that a network predicts from thermal images with measured depth.

The scores are those of the literature on monocular depth; `draw_depth` shows image, measured and
predicted depth, error and spread as one PNG.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import write_atomically
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.mapping.thermal_depth.model import ThermalDepth
from thermal_nerf_loc.sensing.frame import SensorImage, THERMAL

# Depth and its standard deviation (h, w), metres along z, from a thermal image.
Predict = Callable[[SensorImage], tuple[NDArray[np.floating], NDArray[np.floating]]]

_CELL_IN, _DPI = 2.2, 110
_VIEWS_DRAWN = 4


@dataclass(frozen=True, slots=True)
class DepthScores:
    """Means over images of means over pixels with measured depth."""

    images: int
    abs_rel: float  # |z - z*| / z*
    rmse_m: float
    delta1: float  # share with max(z / z*, z* / z) < 1.25
    within_spread: float  # share with |z - z*| below the predicted standard deviation


def score_depth(predict: Predict, scene: Scene, indices: Sequence[int]) -> DepthScores:
    """Score predictions on all of these frames that have measured thermal depth."""
    rows = []
    for index in indices:
        record = scene.frames[index].records.get(THERMAL)
        if record is None or record.depth_path is None:
            continue
        image = load_image(THERMAL, record)
        assert image.depth_m is not None  # its path is known
        rows.append(_image_scores(*predict(image), image.depth_m))
    rows = [row for row in rows if row is not None]
    if not rows:
        raise InputError('no frame has measured thermal depth', where=scene.root,
                         expected='thermal_depth_file_path')
    abs_rel, mean_square, delta1, within = np.mean(np.array(rows), axis=0)
    return DepthScores(len(rows), float(abs_rel), float(np.sqrt(mean_square)), float(delta1),
                       float(within))


def _image_scores(depth_m: NDArray[np.floating], spread_m: NDArray[np.floating],
                  truth_m: NDArray[np.floating]) -> tuple[float, ...] | None:
    known = np.isfinite(truth_m) & (truth_m > 0.0) & (depth_m > 0.0)
    if not known.any():
        return None
    z, truth, spread = (np.asarray(part, np.float64)[known]
                        for part in (depth_m, truth_m, spread_m))
    off, ratio = np.abs(z - truth), np.maximum(z / truth, truth / z)
    return (float((off / truth).mean()), float((off**2).mean()), float((ratio < 1.25).mean()),
            float((off < spread).mean()))


def network_predictor(model: ThermalDepth) -> Predict:
    """The predictions of a trained network."""
    def predict(image: SensorImage) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        found = model.predict_image(image)
        return found.depth_m, found.spread_m
    return predict


def network_scores(model: ThermalDepth, scene: Scene, split: str) -> dict[str, Any] | None:
    """Scores of a network on a split; None where no frame has measured thermal depth."""
    indices = [i for i in scene.split(split) if THERMAL in scene.frames[i].records
               and scene.frames[i].records[THERMAL].depth_path is not None]
    return asdict(score_depth(network_predictor(model), scene, indices)) if indices else None


def write_depth_sheet(path: Path, model: ThermalDepth, scene: Scene) -> None:
    """Draw a few held-out views, or training views where none was held out."""
    frames = [i for i in scene.test or scene.train if THERMAL in scene.frames[i].records]
    chosen = np.unique(np.linspace(0, len(frames) - 1, _VIEWS_DRAWN).round().astype(int))
    write_atomically(path, draw_depth(network_predictor(model), scene,
                                      [frames[k] for k in chosen]))


def draw_depth(predict: Predict, scene: Scene, indices: Sequence[int]) -> bytes:
    """One row for each frame; rows share the scales of depth and of errors."""
    from matplotlib.figure import Figure

    images = [load_image(THERMAL, scene.frames[index].records[THERMAL]) for index in indices]
    predicted = [predict(image) for image in images]
    depths = [depth for depth, _ in predicted] + [np.nan_to_num(image.depth_m) for image in images
                                                  if image.depth_m is not None]
    shown = np.concatenate([depth[depth > 0.0] for depth in depths])
    low, high = np.quantile(shown, (0.01, 0.99))
    spread_scale = 0.15 * float(np.median(shown))
    figure = Figure(figsize=(5.6 * _CELL_IN, 0.86 * _CELL_IN * len(images)),
                    layout='constrained')
    axes = figure.subplots(len(images), 5, squeeze=False)
    for row, index, image, (depth, spread) in zip(axes, indices, images, predicted):
        nothing = np.full(depth.shape, np.nan)
        truth = nothing if image.depth_m is None else np.where(image.depth_m > 0.0,
                                                               image.depth_m, np.nan)
        name = scene.frames[index].name.rsplit('/', 1)[-1]
        for cell, values, title, colours, ends in (
                (row[0], image.values[..., 0], f'thermal {name}', 'inferno',
                 np.nanquantile(image.values, (0.01, 0.99))),
                (row[1], truth, 'measured depth, m', 'viridis', (low, high)),
                (row[2], depth, 'predicted depth, m', 'viridis', (low, high)),
                (row[3], depth - truth, 'error, m (red: too near)', 'RdBu',
                 (-2 * spread_scale, 2 * spread_scale)),
                (row[4], spread, 'predicted spread, m', 'magma', (0.0, 2 * spread_scale))):
            cell.axis('off')
            cell.set_title(title, fontsize=7)
            picture = cell.imshow(values, cmap=colours, vmin=ends[0], vmax=ends[1])
            if cell is not row[0] and cell is not row[1]:
                figure.colorbar(picture, ax=cell, fraction=0.04).ax.tick_params(labelsize=6)
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=_DPI)
    return out.getvalue()
