# SPDX-License-Identifier: Apache-2.0
"""Pictures of a map against single rays, and their colours."""

import numpy as np
import pytest
from viewed_world import ViewedWorld

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.visualization.colour_map import ColourScale, draw_bar, fitted_scale
from thermal_nerf_loc.visualization.panels import Panels, render_kinds, scales_for, shown_kinds


def test_colours_stand_for_values():
    scale = ColourScale('inferno', 20.0, 30.0, '°C')
    cold, warm, hot, none = scale.paint(np.array([-40.0, 25.0, 99.0, np.nan])).astype(int)
    assert cold.sum() < warm.sum() < hot.sum()
    assert none.tolist() == [184, 184, 184]
    fitted = fitted_scale('inferno', '°C', [np.r_[np.linspace(20, 30, 1000), 900.0, np.nan]])
    assert 19.9 < fitted.low < 20.2 and 29.8 < fitted.high < 30.2
    upright, lying = draw_bar(scale, (64, 120)), draw_bar(scale, (200, 52), upright=False)
    assert upright.shape == (120, 64, 3) and lying.shape == (52, 200, 3)
    assert upright[110, 15].sum() < upright[60, 15].sum() < upright[8, 15].sum()
    assert (upright[:, 30:] < 128).any(), 'numbers'


def test_a_picture_shows_what_rays_see():
    world, camera = ViewedWorld(), Camera.from_fov(40, 30, 70.0)
    T = world.keyframes.poses[3]
    images = render_kinds(world, camera, T, ('depth', 'temperature', 'colour'))
    assert list(images) == ['depth', 'temperature', 'colour']
    ray = camera.unproject(np.array([[30.5, 7.5]]))
    seen = world.render_rays('thermal', T[None, :3, 3], ray @ T[:3, :3].T)
    assert images['temperature'][7, 30] == pytest.approx(seen.values[0, 0], abs=1e-3)
    assert images['depth'][7, 30] == pytest.approx(seen.distance_m[0] * ray[0, 2], abs=1e-4)
    scales = scales_for(world, camera, world.keyframes.poses, ('temperature', 'depth'))
    assert scales['temperature'].unit == '°C' and 15.0 < scales['temperature'].low < 30.0
    panels = Panels(('colour', 'temperature'), camera.size, scales)
    frame = panels.compose(images)
    assert frame.shape[::-1][1:] == panels.size and not any(side % 2 for side in panels.size)
    np.testing.assert_array_equal(frame[24:54, :40],
                                  np.rint(images['colour'] * 255).astype(np.uint8))
    np.testing.assert_array_equal(frame[24:54, 48:88],
                                  scales['temperature'].paint(images['temperature']))


def test_only_what_the_map_has_can_be_shown():
    heat = ViewedWorld(modalities=('thermal',))
    assert shown_kinds(heat) == ('temperature', 'depth')
    assert 'depth' in render_kinds(heat, Camera.from_fov(4, 3, 70.0), np.eye(4), ('depth',))
    for asked, told in ((['colour'], 'map has no colour.*trained without rgb'),
                        (['sound'], 'cannot show'), (['depth', 'depth'], 'twice')):
        with pytest.raises(InputError, match=told):
            shown_kinds(heat, asked)
