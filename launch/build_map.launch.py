# SPDX-License-Identifier: Apache-2.0
"""
Train a map from a data set, or from a bag, which is made a data set first.

ros2 launch thermal_nerf_loc build_map.launch.py data:=DIR_OR_BAG map:=FILE
"""

from pathlib import Path
import shlex
import shutil
import sys

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration

ARGUMENTS = (
    ('data', None, 'folder with a transforms.json, or a bag'),
    ('map', None, 'map file to write'),
    ('dataset', '', 'where a bag is imported to (default: the map with _data added)'),
    ('import_options', '', "more options of import-bag, such as '--thermal-camera flir-boson'"),
    ('strategy', '', 'how the branches share a field: rgbx, scratch, finetune or separate'),
    ('steps', '', 'training steps'),
    ('max_seconds', '', 'time limit'),
)
CUT_SHORT = 3  # exit code of import-bag: a part of the bag is lost, but the data set is complete


def generate_launch_description() -> LaunchDescription:
    """Describe one training."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in ARGUMENTS),
        OpaqueFunction(function=build)])


def build(context: LaunchContext) -> list[ExecuteProcess]:
    """Make the processes to run; launch ends when the last one has ended."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    if not _is_bag(Path(given['data'])):
        return [train(given['data'], given)]
    dataset = given['dataset'] or str(Path(given['map']).with_suffix('')) + '_data'

    def train_next(event: ProcessExited,
                   context: LaunchContext) -> list[ExecuteProcess | Shutdown]:
        if event.returncode in (0, CUT_SHORT):
            return [train(dataset, given)]
        return [Shutdown(reason='the bag could not be imported')]

    command = [*program(), 'import-bag', given['data'], dataset,
               *shlex.split(given['import_options'])]
    return [ExecuteProcess(cmd=command, output='screen', name='import_bag', on_exit=train_next)]


def train(data: str, given: dict[str, str]) -> ExecuteProcess:
    """Train from a data set."""
    command = [*program(), 'train', data, '--map', given['map']]
    for name in ('strategy', 'steps', 'max_seconds'):
        if given[name]:
            command += [f'--{name.replace("_", "-")}', given[name]]
    return ExecuteProcess(cmd=command, output='screen', name='train',
                          on_exit=Shutdown(reason='the training has ended'))


def program() -> list[str]:
    """
    Find the installed program; its own first line names the Python that has the package.

    That of `ros2 launch` may lack it: the package's Python may be a virtual environment's.
    """
    prefix = Path(__file__).absolute().parents[3]  # this is PREFIX/share/thermal_nerf_loc/launch/
    for folder in (prefix / 'lib' / 'thermal_nerf_loc', prefix / 'bin'):
        if (folder / 'thermal-nerf-loc').is_file():
            return [str(folder / 'thermal-nerf-loc')]
    found = shutil.which('thermal-nerf-loc')
    return [found] if found else [sys.executable, '-m', 'thermal_nerf_loc.cli']


def _is_bag(path: Path) -> bool:
    return path.suffix in ('.mcap', '.db3', '.bag') or (path / 'metadata.yaml').is_file()
