# SPDX-License-Identifier: Apache-2.0
"""The exact simulated room in place of any map file, for tests and as a program."""

import sys

import numpy as np
from stand_in_map import StandInMap

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.mapping.map.keyframes import Keyframes
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.map.uncertainty import CELLS, Uncertainty
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.visualization.camera_path import cameras_facing

UP = np.array([0.0, 0.0, 1.0])


class ViewedWorld(StandInMap):
    """The room as a map, with cameras in a ring in its middle that look outward."""

    def __init__(self, modalities=('rgb', 'thermal'), cameras=12):
        self.world = make_world('room')
        super().__init__(modalities=modalities, name='room', bounds=self.world.bounds,
                         render_rays=self.world.render_rays)
        angle = np.linspace(0.0, 2.0 * np.pi, cameras, endpoint=False)[:, None]
        forward = np.concatenate([np.cos(angle), np.sin(angle), np.full((cameras, 1), -0.2)],
                                 axis=1)
        poses = cameras_facing(self.bounds.mean(axis=0) + 0.3 * forward, forward, UP)
        channels = {'rgb': 3, 'thermal': 1}
        self.keyframes = Keyframes(poses, {
            name: np.full((cameras, 30, 40, channels[name]), 0.5 if name == 'rgb' else 25.0,
                          np.float32) for name in modalities})


def install(monkeypatch, **facts):
    """Let `RadianceMap.load` return that world for every path."""
    world = ViewedWorld(**facts)
    monkeypatch.setattr(RadianceMap, 'load', classmethod(lambda cls, path, device='cpu': world))
    return world


def unsure(world):
    """Give that world an uncertainty, which grows with the height."""
    low, high = world.bounds
    space = ContractedSpace(tuple(0.5 * (low + high)), tuple(0.5 * (high - low)))
    heights = np.linspace(-2.0, 1.0, CELLS, dtype=np.float32)
    world.uncertainty = Uncertainty(np.broadcast_to(heights, (CELLS,) * 3), space)
    return world


if __name__ == '__main__':
    RadianceMap.load = classmethod(lambda cls, path, device='cpu': unsure(ViewedWorld()))
    raise SystemExit(main(sys.argv[1:]))
