# SPDX-License-Identifier: Apache-2.0
"""A simulated robot that drives in real time and feeds a real node; faults can be switched on."""

from collections import deque
from contextlib import contextmanager, suppress
import os
from pathlib import Path
import subprocess
import sys
import threading
import time

import dds_domains
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags import messages
from thermal_nerf_loc.ros import message_conversion
from thermal_nerf_loc.simulation.record import OPTICAL, RADIOMETRY, Robot, SimulationConfig

ROOT = Path(__file__).parents[2]
WORLD_NODE = str(Path(__file__).with_name('ros_node_in_world.py'))
IMAGE_HZ, ODOMETRY_HZ, SECONDS = 8, 40, 6
MAX_PATIENCE = 10.0  # largest factor on time limits, on a busy machine


def start(*arguments, namespace='', map_name='room', domain=None, remappings=(), extra_env=()):
    """Start the real node with the exact world as its map; its output is a file."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))), PYTHONUNBUFFERED='1')
    for name, value in dict(extra_env).items():
        env[name] = os.pathsep.join((value, env[name])) if name == 'PYTHONPATH' else value
    if domain is not None:
        env['ROS_DOMAIN_ID'] = str(domain)
    words = [sys.executable, WORLD_NODE, '--ros-args', '-p', f'map:={map_name}']
    if namespace:
        words += ['-r', f'__ns:=/{namespace}']
    for argument in arguments:
        words += ['-p', argument]
    for rule in remappings:
        words += ['-r', rule]
    return subprocess.Popen(words, env=env, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


class Output:
    """The output lines of a process, read in the background."""

    def __init__(self, process):
        self.lines = []
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def _read(self, process):
        for line in process.stdout:
            self.lines.append(line.rstrip())

    def has(self, text, since=0):
        return any(text in line for line in self.lines[since:])

    def __str__(self):
        return '\n'.join(self.lines[-40:])


def slowness():
    """How many times longer than alone a thread of this machine takes just now, at least 1."""
    wall_s, cpu_s = time.monotonic(), time.thread_time()
    while time.thread_time() - cpu_s < 0.05:
        pass
    return max(1.0, (time.monotonic() - wall_s) / (time.thread_time() - cpu_s))


def other_domain():
    """A DDS domain in which no other node of this test run is."""
    return dds_domains.claim()


def record_drive(**settings):
    """Images and poses along a short path, rendered once: [(T_map_base, {modality: pixels})]."""
    config = SimulationConfig(size=(96, 72), supersampling=1, clean=True, **settings)
    robot = Robot(config, held_out=True, seed=1)
    frames = []
    for k in range(SECONDS * IMAGE_HZ):
        ns = round(k * 1e9 / IMAGE_HZ)
        rgb = np.rint(robot.take_image('rgb', ns).values * 255).astype(np.uint8)
        thermal = RADIOMETRY.to_counts(robot.take_image('thermal', ns).values[..., 0])
        frames.append({'rgb': rgb, 'thermal': thermal})
    return robot, frames


class Drive:
    """Drives a path back and forth; publishes images and odometry, records the node's answers."""

    def __init__(self, recorded, namespace='', prefix_frames='', domain=None, tf='/tf'):
        self.domain = domain
        self.robot, self.frames = recorded
        self.namespace = namespace
        self.node_name = f'/{namespace}/localizer' if namespace else '/localizer'
        self.prefix, self.tf_topic = prefix_frames, tf
        self.T0 = self.robot.T_world_base(0)  # of odom in the map: odometry has no error
        self.reset_faults()
        self.offset_ns = 0
        self.time_offset_ns = 0  # that the node adds to the stamps of a camera
        self.updates = deque(maxlen=5000)  # (arrival s, stamp, error m, error deg, sigma m)
        self.map_odom = deque(maxlen=20000)  # (arrival s, error m, error deg)
        self.states = deque(maxlen=5000)  # (arrival s, state, reason)
        self.status = {}
        self.newest_ns = 0  # stamp of the newest images
        self._truth = {}
        self._rng = np.random.default_rng(0)
        self._frozen = {}
        self._stop = threading.Event()

    def reset_faults(self):
        self.silent = set()  # modalities whose images stop
        self.without_info = set()
        self.frozen = set()
        self.mangle = {}  # modality: function of the message
        self.without_mount = set()
        self.stop_odometry = False
        self.burst = 1  # images of one pose, stamped 1 ms apart
        self.halved = False  # images and camera_info of half the size
        self._standing_s = self._carried_to_s = None

    def go_on(self, process):
        """Remove all faults; give a new initial pose only if the node has lost track."""
        self.reset_faults()
        self.publish_mounts()
        self.call(Trigger, 'resume')
        mark = self.mark()
        assert self.until(lambda: self.diagnostics_since(mark + 0.3), 20.0, process)
        if self.status['state'] != 'tracking':
            self.start_afresh(process)

    def start_afresh(self, process, patience_s=40.0):
        """Publish the true pose as initial pose, and wait until the node tracks."""
        lines = len(process.output.lines)
        self.start_at(self.here())
        assert self.until(lambda: process.output.has('initial pose set', lines), patience_s,
                          process), str(process.output)
        mark = self.mark()
        assert self.until(lambda: len(self.poses_since(mark)) > 2 and self.diagnostics_since(mark)
                          and self.status['state'] == 'tracking', patience_s, process), (
            self.status, str(process.output))

    def diagnostics_since(self, s):
        """Whether diagnostics came after the time `s` (monotonic)."""
        return self.status.get('received_s', 0.0) > s

    def __enter__(self):
        self.patience = min(slowness(), MAX_PATIENCE)
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node('robot', context=self.context, namespace=self.namespace)
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        create = self.node.create_publisher
        self.tf, self.tf_static = create(TFMessage, self.tf_topic, 100), create(
            TFMessage, f'{self.tf_topic}_static', latched)
        self.images = {m: create(Image, f'{m}/image_raw', 5) for m in ('rgb', 'thermal')}
        self.infos = {m: create(CameraInfo, f'{m}/camera_info', 5) for m in ('rgb', 'thermal')}
        self.initial = create(PoseWithCovarianceStamped, 'initialpose', 5)
        listen = self.node.create_subscription
        listen(TFMessage, self.tf_topic, self._on_tf, 200)
        listen(PoseWithCovarianceStamped, f'{self.node_name}/pose', self._on_pose, 50)
        listen(DiagnosticArray, '/diagnostics', self._on_status, 10)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.publish_mounts()
        self._threads = [threading.Thread(target=target, daemon=True)
                         for target in (self._spin, self._drive)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._threads[1].join(5.0)
        rclpy.try_shutdown(context=self.context)
        self._threads[0].join(5.0)
        # A context that is shut down leaves its nodes in the domain, latched messages and all.
        self.node.destroy_node()

    def publish_mounts(self):
        self.tf_static.publish(TFMessage(transforms=[
            message_conversion.matrix_to_transform(
                T, self.prefix + 'base_link', self.prefix + OPTICAL[m], 0)
            for m, T in self.robot.rig.T_base_sensor.items() if m not in self.without_mount]))

    def start_at(self, T, sigma_m=0.2, sigma_deg=8.0, variances=None):
        """Publish an initial pose, for the newest odometry."""
        message = PoseWithCovarianceStamped()
        message.header.frame_id = 'map'
        message.pose.pose = message_conversion.matrix_to_pose(T)
        message.pose.covariance = np.diag(variances or np.repeat(
            (sigma_m**2, np.deg2rad(sigma_deg)**2), 3)).ravel()
        self.initial.publish(message)

    def here(self):
        """Where the robot is now."""
        return self._T(self._true_s(self._now_s()))

    def was_at(self, stamp_ns):
        """Where it was when it published the images of the nearest stamp."""
        truth = dict(self._truth)
        return truth[min(truth, key=lambda ns: abs(ns - stamp_ns))]

    def mark(self):
        """The time now (monotonic), for the methods that end in `_since`."""
        return time.monotonic()

    def wait(self, seconds):
        time.sleep(seconds)

    def kidnap(self, metres=1.0):
        """Move it along its path, about so many metres, without odometry; returns the metres."""
        here_s = self._s(self._now_s())
        distances = np.array([se3.distance(self._T(k / IMAGE_HZ), self._T(here_s))[0]
                              for k in range(len(self.frames))])
        k = int(np.argmin(np.abs(distances - metres)))
        self._standing_s, self._carried_to_s = here_s, k / IMAGE_HZ
        return float(distances[k])

    def stand_at(self, T):
        """Stop from now on where the path is nearest to a pose."""
        distances_m = [se3.distance(self._T(k / IMAGE_HZ), T)[0] for k in range(len(self.frames))]
        self._standing_s = int(np.argmin(distances_m)) / IMAGE_HZ

    def call(self, kind, service, patience_s=20.0, request=None):
        """Call a service of the node."""
        client = self.node.create_client(kind, f'{self.node_name}/{service}')
        assert client.wait_for_service(patience_s), f'no service {service}'
        return self._answer(client, request or kind.Request(), patience_s)

    def set(self, name, value, patience_s=20.0):
        """Set one parameter; returns the result with its reason."""
        client = self.node.create_client(SetParameters, f'{self.node_name}/set_parameters')
        assert client.wait_for_service(patience_s)
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self._answer(client, request, patience_s).results[0]

    def _answer(self, client, request, patience_s):
        future = client.call_async(request)
        assert self.until(future.done, patience_s), 'no answer from the service'
        self.node.destroy_client(client)
        return future.result()

    def until(self, condition, patience_s=25.0, alive=None):
        """Wait for a condition, longer on a busy machine; False if it does not come true."""
        end = time.monotonic() + patience_s * self.patience
        while time.monotonic() < end:
            if condition():
                return True
            assert alive is None or alive.poll() is None, 'the node died'
            time.sleep(0.05)
        sys.stdout.write(f'in vain: {self.status}\n{self.states_since(end - 20.0)[-8:]}\n')
        return False

    def poses_since(self, s):
        return [row for row in list(self.updates) if row[0] > s]

    def states_since(self, s):
        return [row for row in list(self.states) if row[0] > s]

    def tf_since(self, s):
        return [row for row in list(self.map_odom) if row[0] > s]

    # private

    def _now_s(self):
        return time.monotonic() - self._begin

    def _s(self, t):
        """Position on the path in seconds, back and forth, as odometry has it."""
        if self._standing_s is not None:
            return self._standing_s
        span = SECONDS - 1.0 / IMAGE_HZ
        return span - abs(t % (2 * span) - span)

    def _true_s(self, t):
        """True position on the path in seconds, also after `kidnap`."""
        return self._s(t) if self._carried_to_s is None else self._carried_to_s

    def _T(self, path_s):
        return self.robot.T_world_base(round(path_s * 1e9))

    def _drive(self):
        self._begin, start_ns = time.monotonic(), time.time_ns()
        k = 0
        per_image = ODOMETRY_HZ // IMAGE_HZ
        while not self._stop.is_set():
            t = k / ODOMETRY_HZ
            if self._stop.wait(max(0.0, t - self._now_s())):
                return
            stamp = start_ns + round(t * 1e9) + self.offset_ns
            if not self.stop_odometry:
                self.tf.publish(TFMessage(transforms=[message_conversion.matrix_to_transform(
                    se3.inverse(self.T0) @ self._T(self._s(t)), self.prefix + 'odom',
                    self.prefix + 'base_link', stamp)]))
            if k % per_image == 0:
                path_s = self._true_s(t)
                for n in range(self.burst):
                    self._publish_images(round(path_s * IMAGE_HZ), stamp + n * 10**6,
                                         self._T(path_s))
            k = max(k + 1, int(self._now_s() * ODOMETRY_HZ) // per_image * per_image
                    if self._now_s() - t > 0.5 else k + 1)

    def _publish_images(self, index, stamp, T):
        self._truth[stamp], self.newest_ns = T, stamp
        for m in ('rgb', 'thermal'):
            if m in self.silent:
                continue
            pixels = self.frames[index][m]
            # A real camera never sends the same picture twice; the last bit is noise enough.
            pixels = pixels ^ self._rng.integers(0, 2, pixels.shape, pixels.dtype)
            if m in self.frozen:
                pixels = self._frozen.setdefault(m, pixels)
            else:
                self._frozen.pop(m, None)
            camera = self.robot.rig.cameras[m]
            if self.halved:
                pixels = np.ascontiguousarray(pixels[::2, ::2])
                camera = camera.resized(*pixels.shape[1::-1])
            frame_id = self.prefix + OPTICAL[m]
            message = message_conversion.image_to_message(
                pixels, 'rgb8' if m == 'rgb' else '16UC1', frame_id, stamp)
            message = self.mangle.get(m, lambda x: x)(message)
            if m not in self.without_info:
                self.infos[m].publish(message_conversion.camera_to_info(camera, frame_id, stamp))
            self.images[m].publish(message)

    def _spin(self):
        with suppress(ExternalShutdownException):
            self.executor.spin()

    def _on_tf(self, message):
        for item in message.transforms:
            if (item.header.frame_id, item.child_frame_id) == ('map', self.prefix + 'odom'):
                try:
                    T = messages.matrix_from_transform(item.transform)
                except UserError:  # an attacker's
                    continue
                truth = self.T0
                if self._carried_to_s is not None:
                    truth = (self._T(self._carried_to_s)
                             @ se3.inverse(self._T(self._standing_s)) @ self.T0)
                self.map_odom.append((time.monotonic(), *se3.distance(T, truth)))

    def _on_pose(self, message):
        stamp = messages.stamp_ns(message.header.stamp)
        if stamp not in self._truth:
            stamp -= self.time_offset_ns
        if stamp not in self._truth:
            return
        T = messages.matrix_from_pose(message.pose.pose)
        P = np.reshape(message.pose.covariance, (6, 6))
        sigma_m = float(np.sqrt(np.linalg.eigvalsh(P[:3, :3])[-1]))
        self.updates.append((time.monotonic(), stamp, *se3.distance(T, self._truth[stamp]),
                             sigma_m))

    def _on_status(self, message):
        for status in message.status:
            if status.name == self.node_name:
                values = {pair.key: pair.value for pair in status.values}
                self.status = {**values, 'received_s': time.monotonic()}
                self.states.append((time.monotonic(), values['state'], values['reason']))


@contextmanager
def ended(process):
    """End a process, whatever happens."""
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
