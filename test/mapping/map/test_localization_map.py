# SPDX-License-Identifier: Apache-2.0
"""The contract of a map: complete by subclassing, wrapped in whole, never probed for members."""

import ast
from pathlib import Path

import numpy as np
import pytest
from stand_in_map import StandInMap

import thermal_nerf_loc
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap, WrappedMap
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.sensing.rendering import RayRendering
from thermal_nerf_loc.simulation.layouts import make_world

MEMBERS = {name for part in LocalizationMap.__mro__ for name in vars(part)
           if not name.startswith('_') and part.__module__.startswith('thermal_nerf_loc')}
ROOT = Path(thermal_nerf_loc.__file__).parent


class Rays(LocalizationMap):
    """As little as a map may be."""

    modalities = ('thermal',)

    def render_rays(self, modality, origins, directions):
        """See `Renderer`."""
        one = np.ones(len(origins), np.float32)
        return RayRendering(20.0 * one[:, None], one, 0.1 * one, one)


def test_what_renders_rays_is_a_map():
    """All else has a default that says: not known."""
    rays = Rays()
    assert len(MEMBERS) == 21
    for name in ('info', 'bounds', 'keyframes', 'panoramas', 'panorama_index', 'uncertainty'):
        assert getattr(rays, name) is None
    assert rays.calibration == {} == rays.false_positive_tails == rays.landmarks
    assert rays.radiometric
    assert rays.viewpoints.shape == (0, 4, 4) and (rays.name, rays.scene_name) == ('', '')
    assert rays.flat_field_offset('thermal', (4, 3)) is None
    with pytest.raises(InputError, match='cannot be differentiated'):
        rays.render_differentiable('thermal', None, None)
    with pytest.raises(AttributeError):
        _ = rays.uncertanty


def test_trained_and_simulated_maps_are_declared_as_such():
    for kind in (RadianceMap, type(make_world('room'))):
        assert LocalizationMap in kind.__mro__


def test_a_wrapped_map_passes_every_member_on():
    """One that was declared later and forgotten here would be lost behind the node's lock."""
    assert set(vars(WrappedMap)) >= MEMBERS
    inner = StandInMap(name='n', scene_name='s', info='i', bounds='b', radiometric=False,
                       viewpoints='v', keyframes='k', panoramas='p', uncertainty='u',
                       calibration={'rgb': (1.0, 0.0)}, false_positive_tails={'rgb': (0, 1, 0)},
                       modalities=('x',), device='d', landmarks={}, panorama_index='pi',
                       flat_field_offset=lambda *size: ('offset', *size),
                       render_rays=lambda *rays: ('seen', *rays),
                       render_differentiable=lambda *rays: ('torch', *rays))
    asked = []
    inner.keep_near = inner.keep_within = asked.append
    inner.on = lambda device: StandInMap(device=f'on {device}')
    for wrapped in (WrappedMap(inner), WrappedMap(WrappedMap(inner))):
        for name in MEMBERS - {'flat_field_offset', 'render_rays', 'render_differentiable',
                               'keep_near', 'keep_within', 'on'}:
            assert getattr(wrapped, name) is getattr(inner, name), name
        assert wrapped.on('cuda').device == 'on cuda'
        wrapped.keep_near('here')
        wrapped.keep_within(400.0)
        assert asked[-2:] == ['here', 400.0]
        assert wrapped.flat_field_offset('x', (1, 2)) == ('offset', 'x', (1, 2))
        assert wrapped.render_rays('x', 1, 2) == ('seen', 'x', 1, 2)
        assert wrapped.render_differentiable('x', 1, 2) == ('torch', 'x', 1, 2)
    other = WrappedMap(inner, panoramas='q', calibration={}, false_positive_tails={})
    assert (other.panoramas, other.calibration, other.false_positive_tails) == ('q', {}, {})
    assert (inner.panoramas, inner.calibration) == ('p', {'rgb': (1.0, 0.0)})


@pytest.mark.parametrize('path', sorted(ROOT.rglob('*.py')), ids=str)
def test_nobody_probes_a_map(path):
    """Not `getattr(renderer, 'bounds', None)`: a misspelt name would turn a feature off."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                and node.func.id in ('getattr', 'hasattr', 'setattr') and len(node.args) > 1):
            asked = node.args[1]
            assert not (isinstance(asked, ast.Constant) and asked.value in MEMBERS - {'name'}), (
                f'{path}:{node.lineno}')
