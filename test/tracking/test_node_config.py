# SPDX-License-Identifier: Apache-2.0
"""Parameters of the node without ROS: files, changes at run time, the thermal scale."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.sensing.thermal import LinearRadiometry, PlanckRadiometry
from thermal_nerf_loc.sensing.thermal_cameras import KNOWN_CAMERAS
from thermal_nerf_loc.tracking.node_config import (changed_config, FIXED, NodeConfig,
                                                   read_parameter_file, ThermalScaleConfig)

PLANCK = {'planck_r1': 21106.77, 'planck_b': 1501.0, 'planck_f': 1.0, 'planck_o': -7340.0}
LINEAR = {'celsius_per_count': 0.04, 'celsius_offset': -273.15}


def test_the_shipped_parameters_are_valid_and_equal_the_defaults(request):
    path = request.config.rootpath / 'config' / 'localizer.yaml'
    assert read_parameter_file(path) == NodeConfig()


def test_parameter_files_may_be_dotted_or_nested(tmp_path):
    path = tmp_path / 'p.yaml'
    path.write_text('/r1/localizer:\n  ros__parameters:\n    use_sim_time: true\n'
                    '    synchronizer.max_skew_s: 0.2\n    synchronizer: {base_frame: base}\n'
                    '    localizer.seed: 77\n')
    config = read_parameter_file(path)
    assert config.synchronizer.max_skew_s == 0.2
    assert config.synchronizer.base_frame == 'base'
    assert config.localizer.seed == 77


@pytest.mark.parametrize('text, message', [
    ('a: [', 'is no YAML'), ('map: x\n', 'no ROS parameter file'),
    ('/**:\n  ros__parameters:\n    maap: x\n', "Did you mean 'map'"),
    ('/**:\n  ros__parameters:\n    synchronizer: {max_skew_s: 9.0}\n', 'out of range'),
    ('/**:\n  ros__parameters:\n    initial_pose: [1.0, 2.0]\n', 'x y z qx qy qz qw')])
def test_wrong_parameter_files_say_what_is_wrong(tmp_path, text, message):
    path = tmp_path / 'p.yaml'
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_parameter_file(path)


def test_the_former_name_of_the_synchronizer_is_accepted(tmp_path):
    path = tmp_path / 'p.yaml'
    path.write_text('/**: {ros__parameters: {intake: {max_skew_s: 0.2}, intake.odom_frame: o}}')
    config = read_parameter_file(path)
    assert (config.synchronizer.max_skew_s, config.synchronizer.odom_frame) == (0.2, 'o')


def parameter(name, value):
    return SimpleNamespace(name=name, value=value)


def test_settings_change_where_they_can():
    before = NodeConfig()
    after = changed_config(before, [parameter('tracker.gate', 30.0), parameter('modality', 'rgb'),
                                    parameter('use_sim_time', True)], configured=True)
    assert (after.tracker.gate, after.modality) == (30.0, 'rgb')
    assert dataclasses.replace(after, modality='both', tracker=before.tracker) == before


@pytest.mark.parametrize('name, value, told', [
    ('synchronizer.base_frame', 'other', 'cannot change while the node runs.*Clean the node up'),
    ('initial_pose', [0.0] * 6 + [1.0], 'publish on `initialpose`'),
    ('tracker.gate', -1.0, 'out of range'), ('modality', 'sonar', 'one of both, rgb, thermal'),
    ('synchronizer.max_skew_s', 'much', 'wrong type')])
def test_settings_are_refused_with_a_reason(name, value, told):
    with pytest.raises(InputError, match=told) as caught:
        changed_config(NodeConfig(), [parameter(name, value)], configured=True)
    assert name in str(caught.value)


def test_what_is_fixed_exists_and_may_be_repeated():
    config = NodeConfig()
    for name in FIXED:
        value = config
        for part in name.split('.'):
            value = getattr(value, part)
        value = list(value) if isinstance(value, tuple) else value
        assert changed_config(config, [parameter(name, value)], configured=True) == config


def test_a_thermal_scale_is_linear_planck_or_that_of_a_known_camera():
    assert ThermalScaleConfig().radiometry() == LinearRadiometry(0.01, -273.15)
    assert ThermalScaleConfig(**LINEAR).radiometry() == LinearRadiometry(0.04, -273.15)
    assert ThermalScaleConfig(camera='seek').radiometry() == KNOWN_CAMERAS['seek'].radiometry
    planck = ThermalScaleConfig(**PLANCK, emissivity=0.95, planck_r2=0.0125).radiometry()
    assert planck == PlanckRadiometry(21106.77, 1501.0, 1.0, -7340.0, 0.0125, emissivity=0.95)
    kelvin = 1501.0 / np.log(21106.77 / (20000.0 - 7340.0) + 1.0)  # FLIR's formula
    black = ThermalScaleConfig(**PLANCK).radiometry()
    assert black.to_celsius(20000) == pytest.approx(kelvin - 273.15, abs=1e-4)
    assert ThermalScaleConfig(radiometric=False, **PLANCK).radiometry() is None


@pytest.mark.parametrize('values, message', [
    ({**PLANCK, **LINEAR}, 'thermal scale is given twice.*celsius_per_count.*planck_r1'),
    ({**PLANCK, 'camera': 'seek'}, 'given twice.*got camera; planck_r1'),
    ({**LINEAR, 'camera': 'seek'}, 'given twice.*got camera; celsius_per_count'),
    ({'planck_r1': 16000.0}, 'half a temperature scale'),
    ({'emissivity': 0.9}, 'half a temperature scale'),
    ({**PLANCK, 'planck_b': -1.0}, 'Planck constants are impossible'),
    ({'celsius_per_count': 0.0}, 'scale is zero'),
    ({'camera': 'flir-bosom'}, "Did you mean 'flir-boson'")])
def test_what_is_no_thermal_scale_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        ThermalScaleConfig(**values)
    with pytest.raises(InputError, match=message):
        changed_config(NodeConfig(), [parameter(f'thermal_scale.{name}', value)
                                      for name, value in values.items()], configured=True)


def test_a_planck_scale_may_be_set_at_run_time():
    changed = changed_config(NodeConfig(), [parameter(f'thermal_scale.{name}', value)
                                            for name, value in PLANCK.items()], configured=True)
    assert isinstance(changed.thermal_scale.radiometry(), PlanckRadiometry)


def test_cameras_have_time_offsets_and_a_floor_is_a_choice(tmp_path):
    path = tmp_path / 'a.yaml'
    path.write_text('/**:\n  ros__parameters:\n    thermal_time_offset_s: -0.08\n'
                    '    planar: true\n    planar_z_m: 0.2\n    max_rate_hz: 5.0\n')
    config = read_parameter_file(path)
    assert config.time_offsets_s() == {'rgb': 0.0, 'thermal': -0.08}
    assert (config.floor_z_m, NodeConfig().floor_z_m) == (0.2, None)
    path.write_text('/**:\n  ros__parameters:\n    rgb_time_offset_s: 11.0\n')
    with pytest.raises(InputError, match='rgb_time_offset_s'):
        read_parameter_file(path)


@pytest.mark.parametrize('name, value', [('map', 'x' * 10**5), ('initial_pose', [0.0] * 10**5),
                                         ('localizer.refinement.sigmas_px', [1.0] * 1000)])
def test_values_that_would_only_cost_memory_are_refused(name, value):
    with pytest.raises(InputError, match='too long') as refused:
        changed_config(NodeConfig(), [SimpleNamespace(name=name, value=value)], False)
    assert len(str(refused.value)) < 200
