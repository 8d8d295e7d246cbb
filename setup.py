# SPDX-License-Identifier: Apache-2.0
"""Install thermal_nerf_loc with pip or colcon; what is pinned stands in constraints.txt."""

from pathlib import Path
import re

from setuptools import find_packages, setup

NAME = 'thermal_nerf_loc'
HERE = Path(__file__).resolve().parent  # `colcon build --symlink-install` runs a link to this file
VERSION = re.search(r"^__version__ = '(.+)'$",
                    (HERE / NAME / 'common' / '__init__.py').read_text(), re.M)[1]


def shared(folder: str) -> tuple[str, list[str]]:
    """List a folder's files for share/thermal_nerf_loc/, where ROS tools look them up."""
    files = sorted(f'{folder}/{path.name}' for path in (HERE / folder).glob('*')
                   if path.is_file() and not path.name.startswith('.'))
    return f'share/{NAME}/{folder}', files


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
    packages=find_packages(exclude=['test']),
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        shared('config'),
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
        'view': ['viser>=1.1'],  # the interactive page
        'docs': ['latex2mathml', 'mkdocs-material>=9.5'],
        'colcon': ['colcon-core', 'colcon-package-information', 'colcon-ros'],
        'lint': ['codespell', 'flake8', 'flake8-import-order', 'mypy', 'pre-commit',
                 'pre-commit-hooks', 'ruff', 'types-PyYAML'],
    },
    zip_safe=True,
    entry_points={
        'console_scripts': [
            f'thermal-nerf-loc = {NAME}.cli:main',
            f'localizer_node = {NAME}.ros.localizer_node:main',
            f'bag_player = {NAME}.ros.bag_player:main',
        ],
    },
)
