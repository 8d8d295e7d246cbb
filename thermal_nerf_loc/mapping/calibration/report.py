# SPDX-License-Identifier: Apache-2.0
"""A picture of the residuals of a calibration by a board, and the rig in words that ROS takes."""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.se3 import quaternion_from_matrix
from thermal_nerf_loc.mapping.calibration.board import LensFit

_ARROWS_PX = 0.05  # of the width: the length of the median residual


def residual_picture(fits: Mapping[str, LensFit]) -> bytes:
    """A PNG: where residuals point, how they grow from the centre, and each image's rms."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(12.0, 3.6 * len(fits)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(fits), 3, squeeze=False)
    for row, (name, fit) in zip(axes, fits.items()):
        corners = np.concatenate(list(fit.corners.values()))
        residuals = np.concatenate(list(fit.residuals.values()))
        camera = fit.camera
        length = np.linalg.norm(residuals, axis=1)
        grow = _ARROWS_PX * camera.width / max(float(np.median(length)), 1e-9)
        row[0].quiver(corners[:, 0], corners[:, 1], *(grow * residuals.T), length, angles='xy',
                      scale_units='xy', scale=1.0, width=2e-3)
        row[0].set(xlim=(0, camera.width), ylim=(camera.height, 0), aspect='equal',
                   title=f'{name}: residuals x {grow:.0f},\n'
                         f'{100.0 * fit.coverage:.0f} % of the image covered')
        centre = np.array([camera.cx, camera.cy])
        row[1].plot(np.linalg.norm(corners - centre, axis=1), length, '.', markersize=3)
        row[1].set(xlabel='pixels from the centre', ylabel='residual (px)', ylim=(0.0, None),
                   title=f'rms {fit.rms_px:.3f} px, f {camera.fx:.1f} px')
        each = [float(np.sqrt((r**2).sum(axis=1).mean())) for r in fit.residuals.values()]
        row[2].bar(np.arange(len(each)), each)
        row[2].set(xlabel='image', ylabel='rms (px)',
                   title=f'{len(each)} images, {len(fit.left_out)} left out')
    stream = BytesIO()
    figure.savefig(stream, format='png')
    return stream.getvalue()


def static_transform(T: NDArray[np.float64], parent: str, child: str) -> str:
    """The line that publishes a pose on tf."""
    numbers = [f'--{name} {value:.6f}' for name, value in zip(
        ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw'),
        [*T[:3, 3], *quaternion_from_matrix(T[:3, :3])])]
    return (f'ros2 run tf2_ros static_transform_publisher {" ".join(numbers)} '
            f'--frame-id {parent} --child-frame-id {child}')
