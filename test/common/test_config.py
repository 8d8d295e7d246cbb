# SPDX-License-Identifier: Apache-2.0
"""Settings are read from mappings and YAML; names of earlier versions are accepted."""

from dataclasses import dataclass, fields

import pytest

from thermal_nerf_loc.common.config import former_names, from_mapping, load_yaml, setting
from thermal_nerf_loc.common.errors import InputError


@dataclass(frozen=True, slots=True)
class _Search:
    count: int = setting(16, 'poses', 1, 100, formerly=('number', 'many'))


@dataclass(frozen=True, slots=True)
class _Config:
    blur_px: tuple[float, ...] = setting((4.0, 2.0), 'of each round')
    search: _Search = setting(_Search(), 'of the map', formerly='hunt')


@pytest.mark.parametrize('values', [
    {'search': {'count': 3}}, {'search': {'number': 3}}, {'hunt': {'count': 3}},
    {'hunt': {'many': 3}}, {'hunt': _Search(3)}])
def test_former_names_mean_the_same(values):
    assert from_mapping(_Config, values) == _Config(search=_Search(3))


def test_a_yaml_file_may_use_former_names(tmp_path):
    (tmp_path / 'old.yaml').write_text('blur_px: [3, 1.5]\nhunt: {number: 3}\n')
    assert load_yaml(_Config, tmp_path / 'old.yaml') == _Config((3.0, 1.5), _Search(3))


@pytest.mark.parametrize('values, names', [
    ({'hunt': {}, 'search': {}}, ("'hunt'", "'search'")),
    ({'search': {'count': 1, 'many': 2}}, ("'count'", "'many'")),
    ({'hunt': {'number': 1, 'many': 1}}, ("'number'", "'many'"))])
def test_one_setting_under_two_names_is_refused(values, names):
    with pytest.raises(InputError, match='two names') as caught:
        from_mapping(_Config, values, 'c.yaml')
    assert all(name in str(caught.value) for name in names)


def test_wrong_values_are_named_as_the_file_names_them():
    with pytest.raises(InputError, match=r'c\.yaml\.hunt\.number'):
        from_mapping(_Config, {'hunt': {'number': 'three'}}, 'c.yaml')


def test_unknown_keys_are_answered_with_present_names():
    with pytest.raises(InputError, match="unknown key 'serch'") as caught:
        from_mapping(_Config, {'serch': {}})
    assert "Did you mean 'search'?" in str(caught.value)
    assert 'hunt' not in str(caught.value)


def test_former_names_lead_to_present_ones():
    assert former_names(_Config) == {'hunt': 'search'}
    assert former_names(_Search) == {'number': 'count', 'many': 'count'}
    assert [f.metadata['formerly'] for f in fields(_Config)] == [(), ('hunt',)]
