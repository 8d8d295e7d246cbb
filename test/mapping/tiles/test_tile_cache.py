# SPDX-License-Identifier: Apache-2.0
"""Tiles in memory: bounded, the least used go first, those ahead are there in time."""

import threading

import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.mapping.tiles import tile_cache
from thermal_nerf_loc.mapping.tiles.tile_cache import TileCache


@pytest.fixture
def loaded(monkeypatch):
    """Every tile takes 10 MB; the list of those that were loaded."""
    monkeypatch.setattr(tile_cache, 'bytes_of', lambda tile: 10 * 2**20)
    return []


def cache_of(loaded, memory_mb=35.0):
    def load(number):
        if number == 99:
            raise InputError('no such tile')
        loaded.append(number)
        return f'tile {number}'

    return TileCache(load, memory_mb)


def test_the_least_used_tile_goes_first(loaded):
    cache = cache_of(loaded)
    for number in (0, 1, 2):
        assert cache.get(number) == f'tile {number}'
    cache.get(0)
    cache.get(3)
    assert set(cache.numbers) == {0, 2, 3} and cache.bytes <= 35 * 2**20
    assert loaded == [0, 1, 2, 3] and cache.waits == 4


def test_a_tile_that_is_larger_than_the_memory_still_loads(loaded):
    cache = cache_of(loaded, 1.0)
    assert cache.get(7) == 'tile 7' and cache.get(8) == 'tile 8'
    assert cache.numbers == (8,)


def test_tiles_ahead_are_not_waited_for(loaded):
    cache = cache_of(loaded)
    cache.ask([0, 1])
    cache.settle()
    assert cache.resident(0) and cache.resident(1) and cache.waits == 0
    cache.ask([0, 1, 2, 3, 4])  # no more than fit: the first ones
    cache.settle()
    assert set(cache.numbers) == {0, 1, 2}
    cache.close()


def test_a_tile_under_way_is_loaded_once(loaded, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def load(number):
        begun.set()
        go.wait(5.0)
        loaded.append(number)
        return number + 1

    cache = TileCache(load, 100.0)
    cache.ask([4])
    assert begun.wait(5.0)
    threading.Timer(0.05, go.set).start()
    assert cache.get(4) == 5 and loaded == [4]


def test_a_tile_that_cannot_be_loaded_is_said(loaded, caplog):
    cache = cache_of(loaded)
    cache.ask([99])
    cache.settle()
    cache.ask([1])
    cache.settle()
    assert 'cannot be loaded' in caplog.text and cache.resident(1)
    with pytest.raises(InputError):
        cache.get(99)
