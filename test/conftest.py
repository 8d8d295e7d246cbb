# SPDX-License-Identifier: Apache-2.0
"""What all tests share: few threads, a DDS domain of their own, and what the markers mean."""

import importlib.util
import os

import dds_domains
from hypothesis import settings
import pytest

# Before numpy, torch and numba are first imported.
for _name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'NUMBA_NUM_THREADS'):
    os.environ.setdefault(_name, '2')
os.environ.setdefault('MPLBACKEND', 'agg')
# A shared machine may stall any single example.
settings.register_profile('patient', deadline=None)
settings.load_profile('patient')
# rclpy checks the types of message fields only where it is told to.
os.environ.setdefault('ROS_PYTHON_CHECK_FIELDS', '1')
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make test` say that there is a ROS 2 here."""
    parser.addoption('--require-ros', action='store_true',
                     help='stop if rclpy and tf2_msgs are missing, rather than skip tests')
    parser.addoption('--benchmarks', action='store_true',
                     help='run every benchmark with --quick, too')


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to skip the ROS tests where set-up promised them."""
    if config.getoption('--require-ros') and not _has_ros():
        raise pytest.UsageError('rclpy or tf2_msgs is missing; source the ROS 2 that was there '
                                'at `make setup`, or run `make setup` again')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run."""
    missing = {}
    if not _has_ros():
        missing['ros'] = 'needs rclpy and tf2_msgs'
    if any(item.get_closest_marker('gpu') for item in items) and not _has_gpu():
        missing['gpu'] = 'needs a CUDA device'
    for item in items:
        if item.get_closest_marker('ros'):
            # Real processes in real time: a machine that stalls for seconds must not decide.
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope='session', autouse=True)
def ros_domain_id() -> int:
    """Keep the nodes of this test run apart from every other's on the machine."""
    domain = dds_domains.claim()
    os.environ['ROS_DOMAIN_ID'] = str(domain)
    return domain


def _has_ros() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ('rclpy', 'tf2_msgs'))


def _has_gpu() -> bool:
    import torch
    return torch.cuda.is_available()
