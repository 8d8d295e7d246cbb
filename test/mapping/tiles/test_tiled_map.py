# SPDX-License-Identifier: Apache-2.0
"""A drive from tile to tile, with tiles that are exact: no jump, no wait, no more memory."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.se3 import distance
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig
from thermal_nerf_loc.mapping.tiles import tile_cache
from thermal_nerf_loc.mapping.tiles.tile_index import Tile, TileFolder, TileIndex
from thermal_nerf_loc.mapping.tiles.tiled_map import TiledMap
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.record import render_image
from thermal_nerf_loc.simulation.world import World

CAMERA = Camera.from_fov(128, 96, 70.0)
LEVEL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # looks along x
APART_M = 0.03  # two tiles put the world so far from each other


class ShiftedWorld(World):
    """The world a little off along y, as a tile may be."""

    def __init__(self, layout, shift_m):
        super().__init__(layout)
        self._shift = np.array([0.0, shift_m, 0.0])

    def render_rays(self, modality, origins, directions):
        return super().render_rays(modality, np.asarray(origins, np.float64) - self._shift,
                                   np.asarray(directions, np.float64))


class ExactTiles(TiledMap):
    """Tiles that render the simulated room."""

    def _load(self, number):
        return ShiftedWorld(make_world('room').layout, (-0.5, 0.5)[number % 2] * APART_M)


def written(folder, count=2):
    """A folder whose tiles follow each other along x in the room."""
    x = np.linspace(0.8, 2.6, 37)
    poses = np.stack([se3.from_parts(LEVEL, (position, 1.9, 1.25)) for position in x])
    owner = np.minimum((np.arange(len(x)) * count) // len(x), count - 1)
    tiles = tuple(Tile(f'tile_{k:04d}', f'tiles/{k}.map', str(k), 1, 0,
                       tuple(poses[owner == k, :3, 3].min(axis=0)),
                       tuple(poses[owner == k, :3, 3].max(axis=0)), (), '', 1)
                  for k in range(count))
    TileFolder(folder).write_index(TileIndex('room', (RGB, THERMAL), True, 0.4, tiles, poses,
                                             owner))
    return folder


@pytest.fixture
def exact(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_cache, 'bytes_of', lambda tile: 10 * 2**20)
    tmp_path.joinpath('plant.map').mkdir()
    return ExactTiles.load(written(tmp_path / 'plant.map'))


def frame_at(T):
    world = make_world('room')
    return Frame(1, {name: SensorImage(CAMERA, render_image(world, name, CAMERA, T, 2), 1)
                     for name in (RGB, THERMAL)}, T)


def test_the_index_comes_back_as_it_was_written(exact):
    index = exact.index
    assert [tile.name for tile in index.tiles] == ['tile_0000', 'tile_0001']
    assert len(index.poses) == 37 and index.owner.tolist() == sorted(index.owner.tolist())
    np.testing.assert_allclose(index.bounds[0], (-1.2, -0.1, -0.75), atol=1e-6)
    assert index.floors == pytest.approx((1.25,))


def test_a_pose_does_not_jump_from_tile_to_tile(exact):
    """Tiles that differ by 3 cm: half of it either way, and between the two in the overlap."""
    refinement = LocalizerConfig().refinement
    localizer, errors = Localizer(exact, replace(LocalizerConfig(), refinement=replace(
        refinement, exact=replace(refinement.exact, rays=6000)))), []
    for x in (1.0, 1.6, 1.7, 1.8, 2.4):
        T = se3.from_parts(LEVEL, (x, 1.9, 1.25))
        found = localizer.localize(frame_at(T), se3.plus(T, np.array([0.03, -0.02, 0.02, 0.02,
                                                                      0.01, -0.02])))
        assert distance(found.T_world_cam, T)[0] < 0.5 * APART_M + 0.006
        errors.append(float(found.T_world_cam[1, 3] - 1.9))
    assert errors[0] < -0.3 * APART_M and errors[-1] > 0.3 * APART_M
    assert max(np.diff(errors)) < 0.75 * APART_M  # nowhere the whole step at once


def test_tiles_ahead_are_there_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_cache, 'bytes_of', lambda tile: 10 * 2**20)
    (tmp_path / 'plant.map').mkdir()
    tiled = ExactTiles.load(written(tmp_path / 'plant.map', 6), memory_mb=45.0, waits=False)
    down = np.tile(np.array([[0.0, 0.0, -1.0]], np.float32), (8, 1))
    for x in np.linspace(0.8, 2.6, 60):
        position = np.array([x, 1.9, 1.25])
        tiled.keep_near(position)
        tiled.render_rays(RGB, np.tile(position, (8, 1)).astype(np.float32), down)
        tiled.cache.settle()
        assert len(tiled.cache.numbers) <= 4
    assert tiled.cache.waits <= 1  # the first one
    assert tiled.cache.loads >= 6


def test_less_memory_can_be_asked_for_later(exact):
    exact.keep_within(5.0)
    for number in (0, 1):
        exact.cache.get(number)
        assert exact.cache.numbers == (number,)
