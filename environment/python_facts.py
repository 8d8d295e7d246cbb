# SPDX-License-Identifier: Apache-2.0
"""
Describe the interpreter that runs this to setup.sh, in one line of words.

MAJOR.MINOR.MICRO SYSTEM MACHINE LIBC venv|no-venv ros|no-ros base|derived EXECUTABLE
In a virtual environment (derived) EXECUTABLE is the interpreter that it was made from.
Runs on any Python 3, so that an interpreter that is too old can be named.
"""

import importlib
import platform
import sys


def imports(*names):  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN201
    """Whether all these modules import here."""
    try:
        for name in names:
            importlib.import_module(name)
    except Exception:  # a half-working ROS may raise anything: it is then not one to build on
        return False
    return True


is_base = sys.prefix == sys.base_prefix
print('.'.join(str(number) for number in sys.version_info[:3]),
      platform.system(), platform.machine(), platform.libc_ver()[0] or 'no-glibc',
      'venv' if imports('venv', 'ensurepip') else 'no-venv',
      'ros' if imports('rclpy', 'tf2_msgs.msg') else 'no-ros',
      'base' if is_base else 'derived', sys.executable if is_base else sys._base_executable)
