# SPDX-License-Identifier: Apache-2.0
"""The real node with the exact simulated world in place of a trained map: `map:=room`."""

from thermal_nerf_loc.ros.localizer_node import main
from thermal_nerf_loc.simulation.world import make_world

if __name__ == '__main__':
    raise SystemExit(main(load_map=lambda path: make_world(path.name)))
