# SPDX-License-Identifier: Apache-2.0
"""One real node and one simulated robot for all tests of a module: a DDS domain of their own."""

import pytest
import ros_drive


@pytest.fixture(scope='session')
def recorded():
    """What the robot's cameras see along its path."""
    return ros_drive.record_drive()


@pytest.fixture(scope='module')
def node_parameters():
    """`name:=value` for the module's node; a module may define its own."""
    return ()


@pytest.fixture(scope='module')
def node(node_parameters):
    """The module's node."""
    domain = ros_drive.other_domain()
    process = ros_drive.start('diagnostics_period_s:=0.2', *node_parameters, domain=domain)
    with ros_drive.ended(process):
        process.domain, process.output = domain, ros_drive.Output(process)
        yield process


@pytest.fixture(scope='module')
def robot(recorded, node):
    """The robot, which drives and feeds the node."""
    with ros_drive.Drive(recorded, domain=node.domain) as drive:
        assert drive.until(lambda: drive.status, 60.0, node), str(node.output)
        yield drive


@pytest.fixture
def tracked(robot, node):
    """The same robot, once the node tracks it."""
    robot.go_on(node)
    return robot
