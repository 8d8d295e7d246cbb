# SPDX-License-Identifier: Apache-2.0
"""
The messages of Nav2 that the node speaks: the installed ones, else built here in a minute.

Only what the tests need, under the real names and with the real fields: `bond/msg/Status` and
`nav2_msgs/srv/SetInitialPose`. `environment()` is what a process needs to import them.
"""

import importlib.util
import os
from pathlib import Path
import shutil
import subprocess
import sys

STATUS = """std_msgs/Header header
string id
string instance_id
bool active
float32 heartbeat_timeout
float32 heartbeat_period
"""
SET_INITIAL_POSE = 'geometry_msgs/PoseWithCovarianceStamped pose\n---\n'
PACKAGES = {'bond': ('msg/Status.msg', STATUS, 'std_msgs'),
            'nav2_msgs': ('srv/SetInitialPose.srv', SET_INITIAL_POSE, 'geometry_msgs')}
CMAKE = """cmake_minimum_required(VERSION 3.16)
project({name})
find_package(ament_cmake REQUIRED)
find_package({depends} REQUIRED)
find_package(rosidl_default_generators REQUIRED)
rosidl_generate_interfaces(${{PROJECT_NAME}} "{file}" DEPENDENCIES {depends})
ament_export_dependencies(rosidl_default_runtime)
ament_package()
"""
MANIFEST = """<package format="3"><name>{name}</name><version>0.0.1</version>
<description>For tests.</description><maintainer email="a@example.org">tests</maintainer>
<license>Apache-2.0</license><buildtool_depend>ament_cmake</buildtool_depend>
<buildtool_depend>rosidl_default_generators</buildtool_depend><depend>{depends}</depend>
<exec_depend>rosidl_default_runtime</exec_depend>
<member_of_group>rosidl_interface_packages</member_of_group></package>
"""


def are_installed() -> bool:
    """Tell whether Nav2's own are here."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def why_not() -> str:
    """What is missing to build them; empty: nothing."""
    missing = [tool for tool in ('cmake', 'ninja', 'c++') if _tool(tool) is None]
    return f'needs Nav2, or {", ".join(missing)} to build two messages' if missing else ''


def build(prefix: Path) -> Path:
    """Build them into a folder, once."""
    if are_installed() or (prefix / 'complete').is_file():
        return prefix
    for name, (file, content, depends) in PACKAGES.items():
        source, made = prefix / 'src' / name, prefix / 'build' / name
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_text(content)
        (source / 'CMakeLists.txt').write_text(CMAKE.format(name=name, file=file, depends=depends))
        (source / 'package.xml').write_text(MANIFEST.format(name=name, depends=depends))
        env = {**os.environ, 'AMENT_PREFIX_PATH': sys.prefix, 'CMAKE_PREFIX_PATH': sys.prefix}
        for command in (
                [_tool('cmake'), '-S', source, '-B', made, '-G', 'Ninja',
                 f'-DCMAKE_MAKE_PROGRAM={_tool("ninja")}', f'-DCMAKE_INSTALL_PREFIX={prefix}',
                 f'-DPython3_EXECUTABLE={sys.executable}', '-DBUILD_TESTING=OFF',
                 '-DCMAKE_BUILD_TYPE=Debug'],
                [_tool('cmake'), '--build', made, '-j', '2'],
                [_tool('cmake'), '--install', made]):
            done = subprocess.run([str(word) for word in command], env=env, text=True, check=False,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert done.returncode == 0, done.stdout[-3000:]
    (prefix / 'complete').touch()
    return prefix


def environment(prefix: Path) -> dict[str, str]:
    """Return the variables by which a process finds them."""
    if are_installed():
        return {}
    (packages,) = (prefix / 'lib').glob('python3*/site-packages')
    return {'PYTHONPATH': str(packages), 'LD_LIBRARY_PATH': os.pathsep.join(filter(None, (
        str(prefix / 'lib'), os.environ.get('LD_LIBRARY_PATH'))))}


def _tool(name: str) -> str | None:
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.is_file() else shutil.which(name)
