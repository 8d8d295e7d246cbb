# SPDX-License-Identifier: Apache-2.0
"""What the node says where it would otherwise only wait. Real processes."""

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

import ros_drive  # noqa: E402, I202

pytest_plugins = ('ros_fixtures',)


def test_a_silent_topic_is_named_and_refused_images_say_why(recorded):
    def smoke(message):
        message.encoding = 'smoke8'
        return message
    domain = ros_drive.other_domain()
    process = ros_drive.start('diagnostics_period_s:=0.2', 'map_points:=false', domain=domain)
    with ros_drive.ended(process), ros_drive.Drive(recorded, domain=domain) as drive:
        process.output = output = ros_drive.Output(process)
        drive.silent, drive.mangle = {'rgb'}, {'thermal': smoke}
        assert drive.until(lambda: drive.status, 60.0, process), str(output)
        assert drive.until(lambda: drive.status['state'] == 'waiting for images'
                           and 'encoding' in drive.status['reason'], 20.0, process), drive.status
        assert drive.until(lambda: output.has('no message on /rgb/image_raw'), 20.0, process)
        assert not output.has('no message on /thermal/image_raw'), str(output)
        drive.reset_faults()
        assert drive.until(lambda: output.has('state: waiting for images -> '), 40.0, process)
        drive.start_at(drive.here())
        assert drive.until(lambda: output.has('-> tracking'), 40.0, process), str(output)


@pytest.mark.parametrize('rule, topic', [
    ('rgb/image_raw:=/front/image_raw', '/front/image_raw/compressed'),
    ('rgb/image_raw/compressed:=/front/jpeg', '/front/jpeg')])
def test_compressed_images_follow_the_remapped_topic(recorded, rule, topic):
    domain = ros_drive.other_domain()
    process = ros_drive.start('diagnostics_period_s:=0.2', 'map_points:=false',
                              'rgb_transport:=compressed', remappings=(rule,), domain=domain)
    with ros_drive.ended(process), ros_drive.Drive(recorded, domain=domain) as drive:
        process.output = ros_drive.Output(process)
        assert drive.until(lambda: drive.node.count_subscribers(topic) == 1, 60.0, process)
        assert not drive.node.count_subscribers('/rgb/image_raw/compressed')
