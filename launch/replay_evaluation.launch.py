# SPDX-License-Identifier: Apache-2.0
"""
Play a bag to the real node and measure it.

ros2 launch thermal_nerf_loc replay_evaluation.launch.py bag:=BAG map:=FILE out:=DIR
"""

from pathlib import Path
import shutil
import sys

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration

SHARE = Path(__file__).resolve().parents[1]  # the package's share folder, or its sources
ARGUMENTS = (
    ('bag', None, 'rosbag2 folder, .mcap or .db3 file'),
    ('map', None, 'map file to localize in'),
    ('out', None, 'folder for trajectory.tum, metrics.json and the report'),
    ('modality', 'both', 'cameras to use: both, rgb or thermal'),
    ('rate', '1.0', 'times real time'),
    ('params_file', str(SHARE / 'config' / 'localizer.yaml'), 'parameters of the node'),
    ('through_ros', 'true', 'false: every frame, as fast as it goes, without DDS'),
)


def generate_launch_description() -> LaunchDescription:
    """Describe one process, which starts node and player in a DDS domain of their own."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in ARGUMENTS),
        OpaqueFunction(function=replay)])


def replay(context: LaunchContext) -> list[ExecuteProcess]:
    """Make the process to run; launch ends when it has ended."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    through_ros = _flag('through_ros', given['through_ros'])
    command = [*program(), 'replay', given['map'], given['bag'], '--out', given['out'],
               '--modality', given['modality'], '--params-file', given['params_file']]
    if through_ros:
        command += ['--through-ros', '--rate', given['rate']]
    return [ExecuteProcess(cmd=command, output='screen', name='replay',
                           on_exit=Shutdown(reason='the replay has ended'))]


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


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ('true', 'false'):
        raise ValueError(f'{name}:={text}: expected true or false')
    return text.lower() == 'true'
