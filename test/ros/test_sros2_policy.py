# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy against what the running node really opens, and keys made from it."""

from pathlib import Path
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

POLICY = Path(__file__).resolve().parents[2] / 'config/sros2/policy.xml'
# What the node opens only with some parameters, or with a distribution of ROS.
AT_TIMES = {
    'subscribe': {'/rgb/image_raw/compressed', '/thermal/image_raw/compressed', '/odom', '/clock',
                  '/parameter_events'},
    'publish': {'/map'},
    'reply': {'/localizer/get_type_description'}}


def allowed():
    """Full names by what may be done with them."""
    (profile,) = ElementTree.parse(POLICY).getroot().iter('profile')
    assert (profile.get('ns'), profile.get('node')) == ('/', 'localizer')
    found = {}
    for group in profile:
        ((kind, verdict),) = group.attrib.items()
        assert verdict == 'ALLOW'
        names = [element.text for element in group]
        assert len(set(names)) == len(names)
        found[kind] = {f'/localizer{name[1:]}' if name[0] == '~' else f'/{name.lstrip("/")}'
                       for name in names}
    return found


def test_policy_is_well_formed():
    assert ElementTree.parse(POLICY).getroot().get('version') == '0.2.0'
    names = allowed()
    assert set(names) == {'subscribe', 'publish', 'reply'}
    for kind, group in AT_TIMES.items():
        assert group <= names[kind], kind
    assert not any('*' in name for group in names.values() for name in group)  # nothing wholesale


@pytest.mark.ros
@pytest.mark.slow
def test_the_node_may_do_what_it_does_and_no_more():
    pytest.importorskip('rclpy')
    pytest.importorskip('tf2_msgs')
    import rclpy
    from rclpy.context import Context
    import ros_drive

    domain = ros_drive.other_domain()
    process = ros_drive.start('map_points:=false', domain=domain)
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    try:
        with ros_drive.ended(process):
            process.output = ros_drive.Output(process)
            watcher = rclpy.create_node('watcher', context=context)
            ask = {'publish': watcher.get_publisher_names_and_types_by_node,
                   'subscribe': watcher.get_subscriber_names_and_types_by_node,
                   'reply': watcher.get_service_names_and_types_by_node}
            opened = graph_of(ask, process)
    finally:
        rclpy.shutdown(context=context)
    names = allowed()
    for kind, group in names.items():
        assert opened[kind] <= group, f'{kind}: not in the policy: {opened[kind] - group}'
        assert group - opened[kind] <= AT_TIMES[kind], f'{kind}: more than is needed'


def graph_of(ask, process):
    """What the active node has opened, once discovery has told all of it."""
    import time
    end, before = time.monotonic() + 120.0, None
    while time.monotonic() < end and process.poll() is None:
        time.sleep(1.0)
        try:
            found = {kind: {name for name, _ in query('localizer', '/')}
                     for kind, query in ask.items()}
        except Exception:  # not discovered yet
            continue
        if found == before and process.output.has('waiting for images'):
            return found
        before = found
    raise AssertionError(str(process.output))


def test_keys_are_made_from_the_policy(tmp_path):
    if shutil.which('ros2') is None:
        pytest.skip('needs `ros2 security` of an installed ROS: the wheels have none')
    if subprocess.run(['ros2', 'security', '-h'], capture_output=True).returncode != 0:
        pytest.skip('needs sros2: apt install ros-$ROS_DISTRO-sros2')
    for words in (['create_keystore', 'keys'], ['create_enclave', 'keys', '/localizer'],
                  ['create_permission', 'keys', '/localizer', str(POLICY)]):
        done = subprocess.run(['ros2', 'security', *words], cwd=tmp_path, capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stderr
    permissions = (tmp_path / 'keys/enclaves/localizer/permissions.xml').read_text()
    assert 'rt/thermal/image_raw' in permissions
