# SPDX-License-Identifier: Apache-2.0
"""
The real node with the exact simulated world in place of a trained map: `map:=room`.

`map:=room.thermal` is a map of the same room with thermal images only; that of `map:=room.torch`
spends time in torch with every rendering, as a trained map does.
"""

from pathlib import Path

from stand_in_map import StandInMap

from thermal_nerf_loc.mapping.map.panoramas import find_panoramas, PanoramaConfig
from thermal_nerf_loc.ros.localizer_node import main
from thermal_nerf_loc.simulation.layouts import make_world

COARSE = PanoramaConfig(spacing=0.33, rays=500)


class WorldMap(StandInMap):
    """A simulated world in place of a map, with all or one of its modalities."""

    def __init__(self, path: Path) -> None:
        """Build the world that the file name says."""
        world, only = make_world(path.stem), path.suffix[1:].replace('torch', '')
        super().__init__(modalities=(only,) if only else world.modalities, scene_name=path.stem,
                         render_rays=world.render_rays, bounds=world.bounds,
                         viewpoints=world.viewpoints)
        if path.suffix == '.torch':
            self.render_rays = self._render_by_torch
        self._world = world
        self.panoramas = find_panoramas(self, world.viewpoints, COARSE)

    def _render_by_torch(self, modality, origins, directions):
        import torch
        torch.ones(700, 700) @ torch.ones(700, 700)
        return self._world.render_rays(modality, origins, directions)


if __name__ == '__main__':
    raise SystemExit(main(load_map=WorldMap))
