# SPDX-License-Identifier: Apache-2.0
"""Install thermal_nerf_loc with pip or colcon; what is pinned stands in constraints.txt."""

import os
from pathlib import Path
import platform
import re
import shutil
import subprocess

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

NAME = 'thermal_nerf_loc'
HERE = Path(__file__).resolve().parent  # `colcon build --symlink-install` runs a link to this file
VERSION = re.search(r"^__version__ = '(.+)'$",
                    (HERE / NAME / 'common' / '__init__.py').read_text(), re.M)[1]


def shared(folder: str) -> tuple[str, list[str]]:
    """List a folder's files for share/thermal_nerf_loc/, where ROS tools look them up."""
    files = sorted(f'{folder}/{path.name}' for path in (HERE / folder).glob('*')
                   if path.is_file() and not path.name.startswith('.'))
    return f'share/{NAME}/{folder}', files


# The compiled kernels: one library for each instruction set, chosen when it is opened. No
# -march=native: wheels and folders move between machines.
NATIVE = f'{NAME}/field/native'
INSTRUCTION_SETS = {
    'avx2': ['-mavx2', '-mfma'],
    'avx512': ['-mavx512f', '-mavx512dq', '-mavx512bw', '-mavx512vl', '-mavx2', '-mfma',
               '-mprefer-vector-width=512'],
}
COMPILE = ['-std=c++17', '-O3', '-fno-math-errno', '-fno-trapping-math', '-fno-exceptions',
           '-fno-rtti', '-fvisibility=hidden', '-fPIC', '-shared', '-pthread']


def native_libraries() -> list[Extension]:
    """List what is compiled for this machine: nothing but on x86-64 with a Unix."""
    if platform.machine() not in ('x86_64', 'amd64') or os.name != 'posix':
        return []
    sources = sorted(str(path.relative_to(HERE)) for path in (HERE / NATIVE).glob('*.cpp'))
    headers = sorted(str(path.relative_to(HERE)) for path in (HERE / NATIVE).glob('*.h'))
    return [Extension(f'{NATIVE}/kernels_{name}'.replace('/', '.'), sources, depends=headers,
                      extra_compile_args=COMPILE + flags, optional=True)
            for name, flags in INSTRUCTION_SETS.items()]


class BuildNative(build_ext):
    """Compile plain shared libraries; where that fails, install without them and say so."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name the file without the tag of this Python: ctypes opens it."""
        return fullname.replace('.', os.sep) + '.so'

    def build_extension(self, ext: Extension) -> None:
        """Compile one library with $CXX, or the first compiler that is found."""
        compiler = os.environ.get('CXX') or next(
            filter(shutil.which, ('c++', 'g++', 'clang++')), None)
        target = Path(self.get_ext_fullpath(ext.name)).absolute()
        if compiler is None:
            print(f'no C++ compiler: installed without {target.name}, numba and torch serve')
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix('.new')  # a program may be running with the old one
        command = [*compiler.split(), *ext.extra_compile_args, *ext.sources, '-o', str(fresh)]
        print(' '.join(command), flush=True)
        try:
            subprocess.run(command, check=True, cwd=HERE)
            os.replace(fresh, target)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f'installed without {target.name}, numba and torch serve: {error}')


setup(
    name=NAME,
    version=VERSION,
    description='Tell a robot where it is from thermal and RGB images inside a radiance map',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='thermal_nerf_loc maintainers',
    author_email='maintainers@users.noreply.github.com',
    maintainer='thermal_nerf_loc maintainers',
    maintainer_email='maintainers@users.noreply.github.com',
    license='Apache-2.0',
    url=f'https://github.com/thermal-nerf-loc/{NAME}',
    packages=find_packages(exclude=['test']),
    package_data={f'{NAME}.field.native': ['*.cpp', '*.h']},
    ext_modules=native_libraries(),
    cmdclass={'build_ext': BuildNative},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        shared('config'),
        shared('config/sros2'),
        shared('launch'),
    ],
    python_requires='>=3.10',
    install_requires=[
        'matplotlib>=3.8',
        'numba>=0.59',
        'numpy>=1.26',
        # Not opencv-python: its windows need libGL, which servers and containers lack.
        'opencv-python-headless>=4.9',
        'pyyaml>=6.0',
        'rich>=13.0',
        'rosbags>=0.11',
        'safetensors>=0.4.3',
        'scipy>=1.11',
        'setuptools',
        'tifffile>=2023.9',
        'torch>=2.4',
    ],
    extras_require={
        # colcon runs pytest only where an extra of this name asks for it.
        'test': ['evo; python_version >= "3.11"', 'hypothesis', 'pytest', 'pytest-rerunfailures',
                 'pytest-timeout', 'transforms3d', 'viser>=1.1',
                 # Other machines find no wheel; the tests that need it are skipped there.
                 'onnxruntime>=1.17; platform_machine == "x86_64"',
                 'pycolmap>=4.0; platform_machine == "x86_64"'],
        'sfm': ['pycolmap>=4.0'],  # camera poses from images
        'onnx': ['onnxruntime>=1.17'],  # depth networks that teach
        'phone': ['lzfse>=0.4'],  # depth in Record3D's recordings
        'cluster': ['distributed>=2024.1'],  # tiles trained by several machines
        'remote': ['fsspec>=2023.1'],  # maps in object stores (s3:// needs s3fs as well)
        'view': ['viser>=1.1'],  # the interactive page
        'docs': ['latex2mathml', 'mkdocs-material>=9.5'],
        'colcon': ['colcon-core', 'colcon-package-information', 'colcon-package-selection',
                   'colcon-ros'],
        'lint': ['codespell', 'flake8', 'flake8-import-order', 'mypy', 'pre-commit',
                 'pre-commit-hooks', 'ruff', 'types-PyYAML'],
    },
    zip_safe=False,
    entry_points={
        'console_scripts': [
            f'thermal-nerf-loc = {NAME}.cli:main',
            f'localizer_node = {NAME}.ros.localizer_node:main',
            f'bag_player = {NAME}.ros.bag_player:main',
        ],
    },
)
