# SPDX-License-Identifier: Apache-2.0
"""Panoramas of a map: in free space, around the training path, and kept with the map."""

from dataclasses import replace

import numpy as np
import pytest
from stand_in_map import StandInMap

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig
from thermal_nerf_loc.mapping.map.localization_map import panoramas_of, with_panoramas
from thermal_nerf_loc.mapping.map.panoramas import (
    find_panoramas, PanoramaConfig, Panoramas, sphere)
from thermal_nerf_loc.simulation.layouts import make_world

COARSE = PanoramaConfig(spacing=0.4, rays=200)


@pytest.fixture(scope='module')
def world():
    return make_world('machine_room')


@pytest.fixture(scope='module')
def places(world):
    return find_panoramas(world, world.viewpoints, COARSE)


def test_rays_of_a_panorama_are_spread_evenly():
    directions = sphere(500)
    assert np.allclose(np.linalg.norm(directions, axis=1), 1.0)
    nearest = np.sort(directions @ directions.T, axis=1)[:, -2]
    angles = np.arccos(nearest)
    assert angles.min() > 0.5 * np.sqrt(4 * np.pi / 500)
    assert np.abs(directions.mean(axis=0)).max() < 0.01


def test_places_lie_in_free_space_all_over_the_room(world, places):
    clearance = world.clearance_m(places.positions)
    assert (clearance > 0.15).all()
    heights = places.positions[:, 2]
    path = np.array(world.layout.waypoints)
    assert heights.min() > path[:, 2].min() - 0.31
    assert heights.max() < path[:, 2].max() + 0.31
    rng = np.random.default_rng(0)
    anywhere = rng.uniform((0.5, 0.5, 1.1), (7.5, 5.5, 1.5), (300, 3))
    anywhere = anywhere[world.is_free(anywhere, 0.5)]
    gap = np.linalg.norm(anywhere[:, None] - places.positions, axis=-1).min(axis=1)
    assert np.quantile(gap, 0.95) < 0.8


def test_panoramas_show_what_is_there(world, places):
    k = len(places) // 2
    origin = np.repeat(places.positions[k][None], 200, axis=0)
    seen = world.render_rays('thermal', origin, places.directions)
    assert np.allclose(places.values['thermal'][k], seen.values, atol=1e-4)
    assert np.allclose(places.distance_m[k], seen.distance_m, atol=1e-4)


def test_cameras_remember_which_way_was_up(places):
    assert np.allclose(places.up, (0.0, 0.0, 1.0), atol=0.01)
    pitch = np.arcsin(np.clip(-places.camera_ups[:, 2], -1.0, 1.0))
    assert np.ptp(pitch) == pytest.approx(0.6, abs=0.01)
    assert (places.camera_ups[:, 1] < -0.9).all()


def test_fewer_places_where_more_would_be_too_many(world):
    few = find_panoramas(world, world.viewpoints[:1], replace(COARSE, most=20))
    assert 1 < len(few) < 40


def test_a_map_need_not_be_in_metres(world, places):
    class Model:
        """The same room, ten of whose units are a metre."""

        modalities = world.modalities

        def render_rays(self, modality, origins, directions):
            seen = world.render_rays(modality, 0.1 * origins, directions)
            return replace(seen, distance_m=10.0 * seen.distance_m, spread_m=10.0 * seen.spread_m)

    viewpoints = world.viewpoints.copy()
    viewpoints[:, :3, 3] *= 10.0
    found = find_panoramas(Model(), viewpoints, COARSE)
    assert len(found) == len(places)
    np.testing.assert_allclose(found.positions, 10.0 * places.positions, atol=0.01)


@pytest.mark.parametrize('opacity', [0.05, 0.0])
def test_a_map_of_fog_has_places_and_one_of_nothing_has_none(world, opacity):
    class Fog:
        modalities = ('thermal',)

        def render_rays(self, *rays):
            seen = world.render_rays(*rays)
            return replace(seen, opacity=np.full_like(seen.opacity, opacity))

    if opacity:
        assert len(find_panoramas(Fog(), world.viewpoints, COARSE)) > 10
    else:
        with pytest.raises(InputError, match='shows nothing'):
            find_panoramas(Fog(), world.viewpoints, COARSE)


def test_halves_survive_a_file(places):
    again = Panoramas.from_tensors(places.tensors())
    assert np.abs(again.values['thermal'] - places.values['thermal']).max() < 0.04
    assert np.abs(again.distance_m - places.distance_m).max() < 0.01
    assert (again.positions == places.positions).all()
    with pytest.raises(ValueError, match='different sizes'):
        replace(places, weight=places.weight[1:])


def test_a_map_without_viewpoints_says_so():
    with pytest.raises(InputError, match='where its cameras stood'):
        panoramas_of(StandInMap())


def test_panoramas_are_rendered_where_a_map_has_none(world, caplog):
    """They are returned; the map that was asked stays as it is."""
    bare = StandInMap(modalities=('thermal',), viewpoints=world.viewpoints[:1],
                      render_rays=world.render_rays)
    found = panoramas_of(bare)
    assert 'takes a while' in caplog.text
    assert bare.panoramas is None
    complete = with_panoramas(bare)
    np.testing.assert_array_equal(complete.panoramas.positions, found.positions)
    assert complete is not bare and bare.panoramas is None
    assert panoramas_of(complete) is complete.panoramas and with_panoramas(complete) is complete
    assert complete.viewpoints is bare.viewpoints and complete.modalities == ('thermal',)


def test_a_localizer_renders_panoramas_once(world):
    """Also for one with other settings; a search of each goes through the same ones."""
    calls = []

    def render_rays(*rays):
        calls.append(rays[0])
        return world.render_rays(*rays)

    localizer = Localizer(StandInMap(modalities=('thermal',), viewpoints=world.viewpoints[:1],
                                     render_rays=render_rays))
    panoramas = localizer.source.panoramas
    count = len(calls)
    assert count > 0 and localizer.source.panoramas is panoramas
    assert localizer.with_config(LocalizerConfig(seed=1)).source.panoramas is panoramas
    assert len(calls) == count
