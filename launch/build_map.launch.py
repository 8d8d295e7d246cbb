# SPDX-License-Identifier: Apache-2.0
"""
Train a map from a data set.

ros2 launch thermal_nerf_loc build_map.launch.py data:=DIR map:=FILE
"""

from pathlib import Path
import sys

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration

ARGUMENTS = (
    ('data', None, 'folder with a transforms.json'),
    ('map', None, 'map file to write'),
    ('strategy', '', 'how the branches share a field: rgbx, scratch, finetune or separate'),
    ('steps', '', 'training steps'),
    ('max_seconds', '', 'time limit'),
)


def generate_launch_description() -> LaunchDescription:
    """Describe one training."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in ARGUMENTS),
        OpaqueFunction(function=train)])


def train(context: LaunchContext) -> list[ExecuteProcess]:
    """Put the command together; launch ends when it does."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    if _is_bag(Path(given['data'])):
        raise ValueError(f'data:={given["data"]} is a bag, not a data set: maps are trained on '
                         'posed images (a folder with transforms.json)')
    command = [sys.executable, '-m', 'thermal_nerf_loc.cli', 'train', given['data'],
               '--map', given['map']]
    for name in ('strategy', 'steps', 'max_seconds'):
        if given[name]:
            command += [f'--{name.replace("_", "-")}', given[name]]
    return [ExecuteProcess(cmd=command, output='screen', name='train',
                           on_exit=Shutdown(reason='the training has ended'))]


def _is_bag(path: Path) -> bool:
    return path.suffix in ('.mcap', '.db3', '.bag') or (path / 'metadata.yaml').is_file()
