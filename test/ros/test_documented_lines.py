# SPDX-License-Identifier: Apache-2.0
"""The start lines of the guide, as they stand there, run by a shell against the real node."""

import os
from pathlib import Path
import re
import signal
import subprocess
import sys

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

import ros_drive  # noqa: E402, I202

ROOT = Path(__file__).parents[2]
PROGRAM, MAP = '.venv/bin/localizer_node', '/path/to/room.map'


def start_lines():
    """The blocks of the guide that start the node without a launch file: alone, in a namespace."""
    guide = (ROOT / 'docs' / 'guide' / 'ros.md').read_text(encoding='utf-8')
    blocks = [block for block in re.findall(r'```bash\n(.*?)```', guide, re.DOTALL)
              if PROGRAM in block]
    assert len(blocks) == 2, blocks
    return blocks


def with_the_file_last(line):
    words = ' --params-file config/localizer.yaml'
    assert words in line
    return line.replace(words, '').rstrip() + words


@pytest.mark.parametrize('change, number', [(str, 0), (with_the_file_last, 0), (str, 1)])
def test_the_start_lines_of_the_guide_start_the_node(change, number):
    line = change(start_lines()[number])
    assert MAP in line
    line = line.replace(PROGRAM, f'exec {sys.executable} {ros_drive.WORLD_NODE}')
    env = dict(os.environ, PYTHONPATH=str(ROOT), ROS_DOMAIN_ID=str(ros_drive.other_domain()))
    process = subprocess.Popen(['bash', '-c', line.replace(MAP, 'room')], cwd=ROOT, env=env,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with ros_drive.ended(process):
        told = []
        for row in process.stdout:
            told.append(row)
            if 'waiting for images' in row:
                break
        else:
            raise AssertionError(''.join(told))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_an_empty_map_that_wins_is_explained():
    done = subprocess.run(
        [sys.executable, ros_drive.WORLD_NODE, '--ros-args', '-p', 'map:=room', '-p', "map:=''"],
        capture_output=True, text=True, timeout=60, check=False,
        env=dict(os.environ, PYTHONPATH=str(ROOT), ROS_DOMAIN_ID=str(ros_drive.other_domain())))
    told = done.stdout + done.stderr
    assert done.returncode == 2, told
    assert 'no map given' in told and 'give the file first' in told
