# SPDX-License-Identifier: Apache-2.0
"""Launch files: their syntax and arguments, without ROS; what they start, where launch is."""

import ast
import importlib
import importlib.util
from pathlib import Path
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.tracking.node_config import NodeConfig, read_parameter_file

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
WANTED = {'localization': {'map', 'rgb_image', 'thermal_image', 'rviz', 'use_sim_time',
                           'namespace', 'params_file'},
          'replay_evaluation': {'bag', 'map', 'out'}, 'build_map': {'data', 'map'}}


def has_launch():
    """Tell whether the real packages are here: the folder launch/ is a namespace package."""
    try:
        return all(hasattr(importlib.import_module(name), part) for name, part in (
            ('launch', 'LaunchDescription'), ('launch_ros.actions', 'Node')))
    except ImportError:
        return False


needs_launch = pytest.mark.skipif(not has_launch(), reason='needs launch and launch_ros')


def arguments(path):
    """The table ARGUMENTS of a launch file: {name: has a default}."""
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == 'ARGUMENTS':
            return {row.elts[0].value: ast.unparse(row.elts[1]) != 'None'
                    for row in node.value.elts}
    raise AssertionError(f'{path} has no ARGUMENTS')


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'launch' / f'{name}.launch.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_launch_file_is_known_here():
    assert {path.name.split('.')[0] for path in FILES} == set(WANTED)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_launch_files_declare_what_they_use(path):
    source = path.read_text(encoding='utf-8')
    compile(source, str(path), 'exec')
    declared = arguments(path)
    assert set(declared) >= WANTED[path.name.split('.')[0]]
    used = {node.args[0].value for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'LaunchConfiguration'
            and isinstance(node.args[0], ast.Constant)}
    assert used <= set(declared)
    for name in declared:
        spelt = f"'{name}'" in source or any(  # also as f'{camera}_image'
            name == f'{camera}_{part}' for camera in ('rgb', 'thermal')
            for part in ('image', 'camera_info'))
        assert spelt, name


def test_the_parameter_file_and_the_remapped_topics_are_those_of_the_node():
    config = read_parameter_file(ROOT / 'config' / 'localizer.yaml')
    assert config == NodeConfig()  # it repeats defaults, and nothing else
    source = (ROOT / 'thermal_nerf_loc/ros/subscribers.py').read_text(encoding='utf-8')
    for part in ('/image_raw', '/camera_info'):
        assert f'{{modality}}{part}' in source


def test_rviz_shows_the_topics_that_there_are():
    content = yaml.safe_load((ROOT / 'config' / 'localization.rviz').read_text(encoding='utf-8'))
    shown = [display['Topic']['Value'] for display in content['Visualization Manager']['Displays']
             if 'Topic' in display]
    sources = ''.join(path.read_text(encoding='utf-8')
                      for path in (ROOT / 'thermal_nerf_loc/ros').glob('*.py'))
    for topic in shown:
        if topic.startswith('localizer/'):
            assert f"'~/{topic.removeprefix('localizer/')}'" in sources, topic
        else:
            assert topic in ('rgb/image_raw', 'thermal/image_raw', 'map')
    assert {'localizer/map_points', 'localizer/path', 'localizer/pose'} <= set(shown)


@pytest.mark.parametrize('command', [
    ['replay', 'm', 'b', '--out', 'o', '--modality', 'both', '--params-file', 'p',
     '--through-ros', '--rate', '1.0'],
    ['import-bag', 'b', 'd'],
    ['train', 'd', '--map', 'm', '--strategy', 'rgbx', '--steps', '5', '--max-seconds', '5']])
def test_the_command_line_has_the_options_that_launch_files_use(command, capsys, tmp_path,
                                                                monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        assert main(command) == 2  # nothing is there, yet every option was understood
    except UserError as error:
        raise AssertionError from error
    told = capsys.readouterr().err
    assert 'unrecognized' not in told and 'invalid' not in told and '--help' not in told, told


@needs_launch
@pytest.mark.parametrize('name', WANTED)
def test_launch_reads_the_files(name):
    from launch.actions import DeclareLaunchArgument
    description = load(name).generate_launch_description()
    declared = {entity.name: entity.default_value is not None for entity in description.entities
                if isinstance(entity, DeclareLaunchArgument)}
    assert declared == arguments(ROOT / 'launch' / f'{name}.launch.py')


@pytest.fixture
def stand_in(monkeypatch):
    """Just enough of launch to read what `build_map` would start, on machines without it."""
    class Made:
        def __init__(self, **given):
            self.__dict__.update(given)

    parts = {'launch': ('LaunchContext', 'LaunchDescription'),
             'launch.actions': ('DeclareLaunchArgument', 'ExecuteProcess', 'OpaqueFunction',
                                'Shutdown'),
             'launch.events': (), 'launch.events.process': ('ProcessExited',),
             'launch.substitutions': ()}
    for name, classes in parts.items():
        module = ModuleType(name)
        module.__dict__.update({kind: type(kind, (Made,), {}) for kind in classes})
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules['launch.substitutions'].LaunchConfiguration = (
        lambda name: SimpleNamespace(perform=lambda context: context[name]))
    given = {'data': 'd', 'map': 'm', 'dataset': '', 'import_options': '', 'strategy': '',
             'steps': '', 'max_seconds': ''}
    monkeypatch.setenv('PATH', '')  # nothing is installed: the program is that of the sources
    return lambda **changes: load('build_map').build({**given, **changes})[0]


def test_a_training_is_one_command(stand_in):
    process = stand_in(steps='50')
    assert process.cmd == [sys.executable, '-m', 'thermal_nerf_loc.cli', 'train', 'd', '--map',
                           'm', '--steps', '50']
    assert type(process.on_exit).__name__ == 'Shutdown'


def test_a_bag_is_imported_before_the_training(stand_in):
    process = stand_in(data='a.mcap', map='maps/room.map', steps='50',
                       import_options="--thermal-camera 'flir-boson'")
    assert process.cmd[2:] == ['thermal_nerf_loc.cli', 'import-bag', 'a.mcap', 'maps/room_data',
                               '--thermal-camera', 'flir-boson']
    for code in (0, 3):  # done, and done with what is whole of the bag
        (after,) = process.on_exit(SimpleNamespace(returncode=code), None)
        assert after.cmd[3:] == ['train', 'maps/room_data', '--map', 'maps/room.map', '--steps',
                                 '50']
    (after,) = process.on_exit(SimpleNamespace(returncode=2), None)
    assert type(after).__name__ == 'Shutdown'


@pytest.mark.parametrize('place', ['lib/thermal_nerf_loc', 'bin'])
def test_launch_files_start_the_installed_program(stand_in, tmp_path, place):
    share, program = tmp_path / 'share/thermal_nerf_loc/launch', tmp_path / place
    for folder in (share, program):
        folder.mkdir(parents=True)
    (program / 'thermal-nerf-loc').touch()
    for name in ('build_map', 'replay_evaluation'):
        file = share / f'{name}.launch.py'
        file.symlink_to(ROOT / 'launch' / file.name)  # as --symlink-install does
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.program() == [str(program / 'thermal-nerf-loc')]


def test_the_description_names_what_there_is():
    text = ''.join((ROOT / 'docs' / page).read_text(encoding='utf-8')
                   for page in ('guide/ros.md', 'reference/ros_interface.md'))
    sources = ''.join(path.read_text(encoding='utf-8')
                      for path in (ROOT / 'thermal_nerf_loc/ros').glob('*.py'))
    for name in set(re.findall(r'`~/([\w/]+)`', text)):
        assert f"'~/{name}'" in sources or f"'{name}'" in sources, name
    config = NodeConfig()
    text = text.replace('`tracker.step`', '')  # a method
    for dotted in set(re.findall(r'`((?:synchronizer|tracker|localizer|thermal_scale)\.\w+)',
                                 text)):
        part, field = dotted.split('.')
        assert hasattr(getattr(config, part), field), dotted
    for name in [name for file in FILES for name in arguments(file)]:
        assert name in text, name
    assert (ROOT / 'docs' / 'pictures' / 'ros_frames.svg').is_file()
