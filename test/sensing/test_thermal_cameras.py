# SPDX-License-Identifier: Apache-2.0
"""Scales of known thermal cameras, against one reading of each maker's manual."""

from pathlib import Path

import pytest

from thermal_nerf_loc.sensing.thermal_cameras import KNOWN_CAMERAS, radiometry_of


def test_known_cameras():
    assert float(radiometry_of('flir-lepton').to_celsius(29815)) == pytest.approx(25.0)
    assert float(radiometry_of('flir-ax5').to_celsius(7454)) == pytest.approx(25.01)
    assert float(radiometry_of('optris-pi').to_celsius(1250)) == pytest.approx(25.0)
    assert float(radiometry_of('seek').to_celsius(65 * 64)) == pytest.approx(25.0)
    page = Path(__file__).parents[2] / 'docs' / 'reference' / 'thermal_cameras.md'
    text = page.read_text(encoding='utf-8')
    assert all(f'`{name}`' in text for name in KNOWN_CAMERAS)
