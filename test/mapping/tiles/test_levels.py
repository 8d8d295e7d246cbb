# SPDX-License-Identifier: Apache-2.0
"""Levels: offsets that make neighbours agree, and none where nothing is known."""

import numpy as np

from thermal_nerf_loc.mapping.tiles.levels import differences, offsets
from thermal_nerf_loc.sensing.rendering import RayRendering


class Flat:
    """Everything is as warm as this, and 2 m away."""

    def __init__(self, value, sure=True):
        self.value, self.sure = value, sure

    def render_rays(self, modality, origins, directions):
        n, channels = len(origins), 3 if modality == 'rgb' else 1
        return RayRendering(np.full((n, channels), self.value, np.float32),
                            np.full(n, 2.0, np.float32), np.zeros(n, np.float32),
                            np.full(n, float(self.sure), np.float32))


def test_offsets_explain_what_was_measured():
    true = np.array([0.5, -0.2, 0.1, -0.4])
    pairs = {(a, b): (true[a] - true[b], 100 + 50 * a)
             for a, b in ((0, 1), (1, 2), (2, 3), (0, 3))}
    found = offsets(4, pairs)
    np.testing.assert_allclose(found, -(true - true.mean()), atol=1e-6)


def test_few_rays_say_nothing():
    np.testing.assert_allclose(offsets(2, {(0, 1): (5.0, 3)}), 0.0, atol=1e-12)


def test_differences_of_temperature_and_brightness():
    cameras = np.zeros((3, 3))
    apart, count = differences(Flat(21.5), Flat(21.0), 'thermal', cameras)
    assert abs(apart - 0.5) < 1e-6 and count == 600
    apart, _ = differences(Flat(0.6), Flat(0.5), 'rgb', cameras)
    assert abs(apart - np.log(1.2)) < 1e-6
    assert differences(Flat(21.5), Flat(21.0, sure=False), 'thermal', cameras) == (0.0, 0)
