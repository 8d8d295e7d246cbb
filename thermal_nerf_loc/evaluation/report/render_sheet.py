# SPDX-License-Identifier: Apache-2.0
"""What the cameras saw beside what the map shows, as one PNG."""

from collections.abc import Sequence
import io
from typing import Any

import numpy as np

from thermal_nerf_loc.evaluation.map_quality import compare_frame, ViewComparison
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import RGB

_CELL_IN = 2.1  # width of one picture
_DPI = 110


def draw_renders(renderer: LocalizationMap, scene: Scene, indices: Sequence[int]) -> bytes:
    """One row a view: each modality as seen and as rendered, then the rendered depth."""
    from matplotlib.figure import Figure

    rows = [compare_frame(renderer, scene, index) for index in indices]
    columns = max(2 * len(views) + 1 for views in rows)
    figure = Figure(figsize=(_CELL_IN * columns, 0.85 * _CELL_IN * len(rows)),
                    layout='constrained')
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, views in zip(grid, rows):
        _draw_row(axes, views)
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=_DPI)
    return out.getvalue()


def _draw_row(axes: Any, views: list[ViewComparison]) -> None:
    for cell in axes:
        cell.axis('off')
    for k, view in enumerate(views):
        low, high = np.nanquantile(view.seen.values, (0.01, 0.99))
        for cell, values, what in ((axes[2 * k], view.seen.values, 'seen'),
                                   (axes[2 * k + 1], view.rendered, 'rendered')):
            if view.modality == RGB:
                cell.imshow(np.clip(values, 0.0, 1.0))
            else:
                cell.imshow(values[..., 0], cmap='inferno', vmin=low, vmax=high)
            cell.set_title(f'{view.modality} {what}', fontsize=7)
    if views:
        picture = axes[2 * len(views)].imshow(views[0].depth_m, cmap='viridis')
        axes[2 * len(views)].set_title('rendered depth, m', fontsize=7)
        axes[0].figure.colorbar(picture, ax=axes[2 * len(views)], fraction=0.04)
