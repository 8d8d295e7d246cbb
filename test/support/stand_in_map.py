# SPDX-License-Identifier: Apache-2.0
"""A complete `LocalizationMap` whose members tests set as they need them."""

import numpy as np

from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap


class StandInMap(LocalizationMap):
    """Members are plain attributes, with the defaults of the protocol; no other may be set."""

    modalities = ('rgb', 'thermal')
    name = scene_name = ''
    info = bounds = keyframes = panoramas = panorama_index = uncertainty = device = None
    landmarks = {}
    radiometric = True
    viewpoints = np.empty((0, 4, 4))
    calibration, false_positive_tails = {}, {}

    def __init__(self, **members):
        for name, value in members.items():
            if not hasattr(LocalizationMap, name):
                raise AttributeError(f'a map has no {name}')
            setattr(self, name, value)
