# SPDX-License-Identifier: Apache-2.0
"""
Random and hostile messages for a running node, from a seed, on all that it subscribes to.

What nobody could tell from an honest message is left out (a camera's place on the robot that is
wrong but possible): a pose that follows from it is no fault of the node.
"""

from dataclasses import fields, is_dataclass
import time

from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetState
from nav_msgs.msg import Odometry
import numpy as np
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import (DescribeParameters, GetParameters, GetParameterTypes,
                                ListParameters, SetParameters, SetParametersAtomically)
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Empty, Trigger
from tf2_msgs.msg import TFMessage

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags import messages
from thermal_nerf_loc.ros import message_conversion
from thermal_nerf_loc.tracking.node_config import NodeConfig

FALSE_M = 0.5  # beyond this, and three sigmas, a pose is false
NUMBERS = (0.0, -0.0, 1e-300, -1.0, 1e6, 1e30, -1e300, float('nan'), float('inf'), -float('inf'))
SIZES = (0, 1, 2, 71, 96, 4096, 65535, 2**31 - 1, 2**32 - 1)
NAMES = ('', '/', 'map', 'odom', 'base_link', 'x' * 300, 'rgb_optical', '~', 'é/ü', 'a b\n', '..')
INVALID = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE,
           Transition.TRANSITION_CLEANUP, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
           Transition.TRANSITION_DESTROY, 77, 255)


def parameter_names(config, prefix=''):
    """Full names of all parameters with their fields."""
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from parameter_names(value, f'{prefix}{f.name}.')
        else:
            yield prefix + f.name, f, value


class Attacker:
    """Sends to the node of a `ros_drive.Drive`; counts false poses that the node publishes."""

    def __init__(self, drive, seed=0):
        self.drive, self.rng = drive, np.random.default_rng(seed)
        node, name = drive.node, drive.node_name
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        create = node.create_publisher
        self.outputs = {'tf_static': create(TFMessage, '/tf_static', latched),
                        'odom': create(Odometry, 'odom', 10)}
        self.clients = {
            service: node.create_client(kind, f'{name}/{service}') for service, kind in (
                ('reinitialize_global_localization', Empty), ('request_nomotion_update', Empty),
                ('pause', Trigger), ('resume', Trigger), ('reload_map', Trigger),
                ('set_parameters', SetParameters), ('get_parameters', GetParameters),
                ('set_parameters_atomically', SetParametersAtomically),
                ('describe_parameters', DescribeParameters), ('list_parameters', ListParameters),
                ('get_parameter_types', GetParameterTypes), ('change_state', ChangeState),
                ('get_state', GetState), ('get_available_states', GetAvailableStates))}
        self.parameters = list(parameter_names(NodeConfig()))
        self.false_poses, self.poses, self.sent = [], 0, {}
        node.create_subscription(PoseWithCovarianceStamped, f'{name}/pose', self._on_pose, 50)

    def send(self, count, alive, pause_s=0.003):
        """Send so many; `alive` is the node's process."""
        kinds = {'image': 0.3, 'camera_info': 0.12, 'tf': 0.15, 'tf_static': 0.05,
                 'initialpose': 0.12, 'odom': 0.03, 'service': 0.115, 'parameters': 0.11,
                 'reload_map': 0.0005, 'flood': 0.0045}
        weights = np.array(list(kinds.values()))
        for kind in self.rng.choice(list(kinds), count, p=weights / weights.sum()):
            assert alive.poll() is None, 'the node died'
            getattr(self, f'_send_{kind}')()
            self.sent[str(kind)] = self.sent.get(str(kind), 0) + 1
            time.sleep(pause_s)

    def go_back(self):
        """Make the node track again, if it can: what was paused goes on."""
        self.drive.call(Trigger, 'resume')

    # private

    def _any(self, values):
        return values[int(self.rng.integers(len(values)))]

    def _number(self):
        return float(self._any(NUMBERS) if self.rng.random() < 0.7 else self.rng.normal(0, 1e3))

    def _header(self, message, frame=None):
        message.header.frame_id = self._any(NAMES) if frame is None else frame
        kind = self.rng.random()
        if kind < 0.9:  # about now, so that the message is looked at
            message.header.stamp = message_conversion.stamp_from_ns(
                self.drive.newest_ns + int(self.rng.integers(-10**8, 10**8)))
        elif kind < 0.99:
            message.header.stamp.nanosec = int(self.rng.integers(2**32))
        else:
            message.header.stamp.sec = int(self._any((-2**31, 0, 2**31 - 1)))
        return message

    def _modality(self):
        return self._any(('rgb', 'thermal'))

    def _send_image(self):
        modality = self._modality()
        shape = (72, 96, 3) if modality == 'rgb' else (72, 96)
        pixels = self.rng.integers(0, 256, shape).astype(np.uint8 if modality == 'rgb'
                                                         else np.uint16)
        frame = f'{modality}_optical' if self.rng.random() < 0.7 else None
        message = message_conversion.image_to_message(
            pixels, 'rgb8' if modality == 'rgb' else '16UC1', 'x', 0)
        spoil = self.rng.random()
        if spoil < 0.3:
            message.height, message.width = int(self._any(SIZES)), int(self._any(SIZES))
        elif spoil < 0.4:
            message.step = int(self._any(SIZES))
        elif spoil < 0.5:
            message.encoding = self._any(('', 'rgb8', '64FC1', 'bayer_rggb8', '32FC1', 'x' * 1000))
        elif spoil < 0.6:
            message.data = bytes(message.data[:int(self.rng.integers(len(message.data)))])
        elif spoil < 0.65:
            message.is_bigendian = 255
        self.drive.images[modality].publish(self._header(message, frame))

    def _send_flood(self):
        """What costs memory, if anyone keeps it."""
        kind = self.rng.integers(3)
        if kind == 0:
            message = Image(height=1, width=1, step=1, encoding='mono8', data=bytes(8 * 2**20))
            self.drive.images['thermal'].publish(self._header(message, 'thermal_optical'))
        elif kind == 1:
            self.drive.tf.publish(TFMessage(transforms=[
                self._header(message_conversion.matrix_to_transform(
                    np.eye(4), f'flood{int(self.rng.integers(2**62))}', f'{k}', 0))
                for k in range(int(self._any((300, 3000))))]))
        else:
            message = PoseWithCovarianceStamped()
            self.drive.initial.publish(self._header(message, 'm' * 2**20))

    def _send_camera_info(self):
        modality = self._modality()
        k = np.array([self._number() for _ in range(9)])
        message = CameraInfo(width=int(self._any(SIZES)), height=int(self._any(SIZES)), k=k,
                             distortion_model=self._any(('', 'plumb_bob', 'equidistant', 'x')),
                             d=[self._number() for _ in range(int(self._any((0, 3, 5, 1000))))])
        message.binning_x = int(self._any((0, 1, 2**32 - 1)))
        message.roi.width = int(self._any(SIZES))
        self.drive.infos[modality].publish(self._header(message, self._any(NAMES)))

    def _transform(self):
        """Of frames that are the robot's only where no honest one could be like it."""
        message = message_conversion.matrix_to_transform(np.eye(4), 'a', 'b', 0)
        if self.rng.random() < 0.5:
            message.child_frame_id = self._any(NAMES)
            message.transform.rotation.w = self._any((0.0, float('nan'), float('inf')))
        else:
            message.child_frame_id = f'hostile{int(self.rng.integers(50))}'
            message.transform.translation.x = self._number()
        return self._header(message)

    def _send_tf(self):
        self.drive.tf.publish(TFMessage(transforms=[
            self._transform() for _ in range(int(self.rng.integers(4)))]))

    def _send_tf_static(self):
        self.outputs['tf_static'].publish(TFMessage(transforms=[self._transform()]))

    def _send_initialpose(self):
        message = PoseWithCovarianceStamped()
        at, turned = message.pose.pose.position, message.pose.pose.orientation
        if self.rng.random() < 0.5:  # a pose in the room, just not the robot's
            at.x, at.y, at.z = (float(x) for x in self.rng.uniform(0.3, 4.0, 3))
            turned.z, turned.w = (float(x) for x in self.rng.normal(size=2))
            message.pose.covariance = np.diag(self.rng.uniform(0.0, 0.5, 6)).ravel()
        else:
            at.x, at.y, at.z = self._number(), self._number(), self._number()
            turned.x, turned.w = self._number(), self._number()
            message.pose.covariance = np.array([self._number() for _ in range(36)])
        self.drive.initial.publish(self._header(message, self._any(('map', 'map', *NAMES))))

    def _send_odom(self):
        message = Odometry(child_frame_id=self._any(NAMES))
        message.pose.pose.position.x = self._number()
        self.outputs['odom'].publish(self._header(message))

    def _send_service(self):
        name = self._any(('reinitialize_global_localization', 'request_nomotion_update', 'pause',
                          'resume', 'resume', 'resume', 'get_state', 'get_available_states',
                          'change_state', 'change_state'))
        request = self.clients[name].srv_type.Request()
        if name == 'change_state':
            request.transition = Transition(id=int(self._any(INVALID)),
                                            label=self._any(('', '', *NAMES, 'fly')))
        self._ask(name, request)

    def _send_reload_map(self):
        self._ask('reload_map', Trigger.Request())

    def _send_parameters(self):
        name, field, default = self._any(self.parameters)
        if self.rng.random() < 0.3:
            names = [self._any((name, *NAMES)) for _ in range(int(self._any((0, 1, 1000))))]
            service = self._any(('get_parameters', 'describe_parameters', 'get_parameter_types'))
            self._ask(service, self.clients[service].srv_type.Request(names=names))
            return
        if self.rng.random() < 0.1:
            self._ask('list_parameters', ListParameters.Request(
                prefixes=[self._any(NAMES)], depth=int(self._any((0, 1, 2**63)))))
            return
        if self.rng.random() < 0.3:
            name = self._any(NAMES)
        service = self._any(('set_parameters', 'set_parameters_atomically'))
        self._ask(service, self.clients[service].srv_type.Request(parameters=[
            Parameter(name=name, value=self._bad_value(field, default))]))

    def _bad_value(self, field, default):
        """A value outside the range, of a wrong type, or far too long."""
        outside = [x for x in (field.metadata.get('low'), field.metadata.get('high'))
                   if x is not None]
        kind = self.rng.integers(4)
        if kind == 0 and isinstance(default, float) and len(outside) == 2:
            beyond = (outside[0] - 1.0, outside[1] * 2 + 1.0, float('nan'), float('inf'))
            return ParameterValue(type=ParameterType.PARAMETER_DOUBLE,
                                  double_value=float(self._any(beyond)))
        if kind == 1 and not isinstance(default, bytes):
            return ParameterValue(type=ParameterType.PARAMETER_BYTE_ARRAY,
                                  byte_array_value=[b'\x00'] * int(self._any((0, 1000))))
        if kind == 2:
            return ParameterValue(type=ParameterType.PARAMETER_DOUBLE_ARRAY,
                                  double_array_value=[float('nan')] * int(self._any((1, 10000))))
        return ParameterValue(type=ParameterType.PARAMETER_STRING, string_value='x' * 100_000)

    def _ask(self, name, request):
        client = self.clients[name]
        if client.service_is_ready():
            client.call_async(request)

    def _on_pose(self, message):
        self.poses += 1
        T = messages.matrix_from_pose(message.pose.pose)
        P = np.reshape(message.pose.covariance, (6, 6))
        sigma_m = float(np.sqrt(np.linalg.eigvalsh(P[:3, :3])[-1]))
        stamp_ns = messages.stamp_ns(message.header.stamp)
        error_m = se3.distance(T, self.drive.was_at(stamp_ns))[0]
        if error_m > max(FALSE_M, 3.0 * sigma_m):
            self.false_poses.append((error_m, sigma_m, stamp_ns))


def resident_mib(process):
    """Resident memory of a process."""
    with open(f'/proc/{process.pid}/status', encoding='ascii') as file:
        (line,) = [line for line in file if line.startswith('VmRSS')]
    return int(line.split()[1]) / 1024.0
