# SPDX-License-Identifier: Apache-2.0
"""
Rolling shutter: images whose rows were exposed one after the other, while the camera moved.

A camera whose readout from the first row to the last takes `readout_s` exposes row y of h rows at
the pose

    T_world_sensor exp((y / h - 1/2) sweep)

where `T_world_sensor` is the pose that the data set gives, at the middle row, and `sweep` (6,) is
the tangent of the motion during the readout. It is found from the poses half a readout before and
after, interpolated between the frames next in time.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import SceneFrame
from thermal_nerf_loc.io.trajectory import Trajectory

Array = NDArray[np.float64]

_LONGEST_GAP_NS = 1_000_000_000  # between frames whose poses are interpolated


def with_sweeps(frames: Sequence[SceneFrame], splits: Sequence[Sequence[int]],
                ) -> tuple[tuple[SceneFrame, ...], int]:
    """The frames with the sweep of their rolling images, and how many images have none."""
    out, unknown = list(frames), 0
    for split in splits:  # each split is one drive
        for name in {name for index in split for name in frames[index].records}:
            rolling = [index for index in split if name in frames[index].records]
            if not any(frames[index].records[name].readout_s for index in rolling):
                continue
            path = _path([frames[index] for index in rolling], name)
            for index in rolling:
                record = frames[index].records[name]
                sweep = sweep_of(path, record.stamp_ns, record.readout_s)
                unknown += bool(record.readout_s) and sweep is None
                out[index] = replace(out[index], records={
                    **out[index].records, name: replace(record, sweep=sweep)})
    return tuple(out), unknown


def sweep_of(path: Trajectory, stamp_ns: int, readout_s: float) -> Array | None:
    """Tangent of the motion from first row to last; None without a neighbour close in time."""
    half_ns = round(0.5e9 * abs(readout_s))
    if not half_ns:
        return None
    before, at, after = (path.at(stamp_ns + step, _LONGEST_GAP_NS)
                         for step in (-half_ns, 0, half_ns))
    if before is not None and after is not None:
        sweep = se3.minus(after, before)
    elif at is not None and after is not None:
        sweep = 2.0 * se3.minus(after, at)
    elif at is not None and before is not None:
        sweep = 2.0 * se3.minus(at, before)
    else:
        return None
    return np.asarray(np.sign(readout_s) * sweep)


def _path(frames: Sequence[SceneFrame], name: str) -> Trajectory:
    """Trajectory of one camera."""
    poses = {frame.records[name].stamp_ns: frame.T_world_cam @ frame.records[name].T_cam_sensor
             for frame in frames}
    stamps = sorted(poses)
    return Trajectory(np.array(stamps), np.array([poses[stamp] for stamp in stamps]))
