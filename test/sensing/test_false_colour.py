# SPDX-License-Identifier: Apache-2.0
"""Palettes over heat are told from photographs and from grey."""

import cv2
import numpy as np
import pytest
from radiometric_files import preview
from textured_corner import photograph, poses, textures

from thermal_nerf_loc.sensing.false_colour import is_coloured, is_false_colour

PALETTES = ('INFERNO', 'JET', 'HOT', 'MAGMA', 'PLASMA', 'RAINBOW', 'TURBO', 'COOL')


def heat() -> np.ndarray:
    """Smooth warm and cold areas with some edges, 8 bits."""
    rng = np.random.default_rng(0)
    field = cv2.GaussianBlur(rng.normal(size=(120, 160)), (0, 0), 12.0)
    field[40:80, 60:100] += 2.0 * field.std()
    return cv2.normalize(field, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.mark.parametrize('name', PALETTES)
def test_palettes_are_recognised(name: str):
    picture = cv2.applyColorMap(heat(), getattr(cv2, f'COLORMAP_{name}'))
    decoded = cv2.imdecode(cv2.imencode('.jpg', picture)[1], cv2.IMREAD_COLOR)[..., ::-1]
    assert is_false_colour(decoded / 255.0)
    assert is_coloured(decoded)


def test_photographs_and_grey_are_not():
    wall, floor = textures()
    photo = np.clip(photograph(poses(3)[0], wall, floor), 0.0, 255.0)
    assert not is_false_colour(photo / 255.0)
    grey = np.dstack([heat()] * 3)
    assert not is_false_colour(grey / 255.0)
    assert not is_coloured(grey)
    logo = grey.copy()
    logo[:8, :16] = 255, 0, 0  # 0.7 % of the pixels
    assert not is_coloured(logo)


def test_noise_of_all_colours_is_no_palette():
    data = cv2.imdecode(np.frombuffer(preview(), np.uint8), cv2.IMREAD_COLOR)
    assert not is_false_colour(data / 255.0)
