# SPDX-License-Identifier: Apache-2.0
"""
The real node with the exact simulated world in place of a trained map: `map:=room`.

`map:=room.thermal` is a map of the same room with thermal images only.
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
        world, only = make_world(path.stem), path.suffix[1:]
        super().__init__(modalities=(only,) if only else world.modalities, scene_name=path.stem,
                         render_rays=world.render_rays, bounds=world.bounds)
        self.panoramas = find_panoramas(self, world.viewpoints, COARSE)


if __name__ == '__main__':
    raise SystemExit(main(load_map=WorldMap))
