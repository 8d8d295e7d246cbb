# SPDX-License-Identifier: Apache-2.0
"""Fields of many shapes with rays through them, to hold kernels against the torch reference."""

import numpy as np
import torch

from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig, RadianceField
from thermal_nerf_loc.field.volume_rendering import Samples

SPACE = ContractedSpace((0.5, -1.0, 0.25), (2.0, 1.5, 1.0))
ROOM = FieldConfig(EncodingConfig(levels=4, features=4, log2_rows=11, coarsest=4, finest=40))
SHAPES = {
    'room': (ROOM, 37, 16),
    'two features': (FieldConfig(EncodingConfig(3, 2, 10, 3, 20), 40, 7, 24, 17), 5, 24),
    'eight features': (FieldConfig(EncodingConfig(5, 8, 10, 5, 64), 96, 31, 48, 33, True), 50, 9),
    'one level': (FieldConfig(EncodingConfig(1, 4, 8, 4, 4), 8, 1, 8, 8), 3, 4),
    'many rays': (ROOM, 700, 5),
}


def made(config, rays, samples, seed=0):
    """A field with surfaces and rays from inside it, some of which leave the inner box."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    field = RadianceField(config, SPACE, {'rgb': 3, 'thermal': 1})
    with torch.no_grad():
        field.encoding.table.uniform_(-1.5, 1.5)
        for name, bias in field.named_parameters():
            if name.endswith('bias'):
                bias.uniform_(-0.5, 0.5)
    directions = rng.normal(size=(rays, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    edges = np.sort(rng.uniform(0.1, 6.0, (rays, samples + 1)), axis=1)
    edges[:, -1] += 3.0
    made_of = (rng.uniform(-0.5, 0.5, (rays, 3)), directions, edges[:, :-1], np.diff(edges))
    origins, directions, distance, width = (torch.tensor(a, dtype=torch.float32) for a in made_of)
    return field, origins, directions, Samples(distance, width)
