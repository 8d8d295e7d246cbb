# SPDX-License-Identifier: Apache-2.0
"""
Maps for Nav2, read back by the rules of its own loader.

`load` follows loadMapYaml and loadMapFromFile in nav2_map_server/src/map_io.cpp (ros-navigation/
navigation2 at a3a9704): keys, types, thresholds on normalized pixels, raw values, the flip.
"""

import numpy as np
import pytest
import tifffile
import yaml

from thermal_nerf_loc.io.nav2_map import RAW_STEPS, write_occupancy, write_raw, write_tiff

VALUES = np.array([[0, 100, -1], [100, 100, 0]], np.int8)


def pgm(path):
    """Pixels of a binary PGM."""
    kind, size, most, rest = path.read_bytes().split(b'\n', 3)
    columns, rows = map(int, size.split())
    assert (kind, most) == (b'P5', b'255')
    return np.frombuffer(rest, np.uint8).reshape(rows, columns)


def load(path):
    """The cells (rows, columns) of nav_msgs/OccupancyGrid, and the parameters."""
    doc = yaml.safe_load(path.read_text())
    assert isinstance(doc['image'], str)
    assert doc['image']
    assert isinstance(doc['resolution'], float)
    assert len(doc['origin']) == 3
    assert all(isinstance(value, float) for value in doc['origin'])
    free_thresh, occupied_thresh = float(doc['free_thresh']), float(doc['occupied_thresh'])
    mode, negate = doc.get('mode', 'trinary').lower(), bool(doc['negate'])
    gray = pgm(path.parent / doc['image'])
    if mode == 'trinary':
        normalized = gray.astype(np.float32) / np.float32(255.0)
        if not negate:
            normalized = np.float32(1.0) - normalized
        result = np.full(gray.shape, -1, np.int8)
        result[normalized >= occupied_thresh] = 100
        result[normalized <= free_thresh] = 0
    else:
        assert mode == 'raw'
        result = gray.astype(np.int8)
        result[(result < 0) | (result > 100)] = -1
    return result[::-1], doc


def test_nav2_loads_what_was_written(tmp_path):
    write_occupancy(tmp_path / 'map.yaml', VALUES, 0.05, (-1.25, 2.5), ['of a\nmap'])
    cells, doc = load(tmp_path / 'map.yaml')
    assert (cells == VALUES).all()
    assert doc['resolution'] == 0.05
    assert doc['origin'] == [-1.25, 2.5, 0.0]
    assert (tmp_path / 'map.yaml').read_text().startswith('# of a map\n')


def test_unknown_stays_unknown_with_the_thresholds_of_map_saver(tmp_path):
    """Pixels are those of map_saver, so that other programs read them as it is usual."""
    write_occupancy(tmp_path / 'map.yaml', VALUES, 0.05, (0.0, 0.0))
    assert set(np.unique(pgm(tmp_path / 'map.pgm'))) == {0, 205, 254}


def test_heat_is_a_raw_map_with_a_linear_scale(tmp_path):
    celsius = np.array([[20.0, 30.0, np.nan], [45.0, 19.0, 61.0]], np.float32)
    write_raw(tmp_path / 'heat.yaml', celsius, 20.0, 60.0, 0.1, (0.0, 0.0))
    cells, _ = load(tmp_path / 'heat.yaml')
    assert cells.tolist() == [[0, 25, -1], [62, 0, 100]]
    base, multiplier = 20.0, 40.0 / RAW_STEPS
    assert base + multiplier * cells[1, 0] == pytest.approx(45.0, abs=multiplier)


def test_exact_temperatures_are_in_the_tiff(tmp_path):
    celsius = np.array([[20.0, np.nan], [30.25, 41.5]], np.float32)
    write_tiff(tmp_path / 'heat.tif', celsius)
    assert np.array_equal(tifffile.imread(tmp_path / 'heat.tif'), celsius[::-1], equal_nan=True)
