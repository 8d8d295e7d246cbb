# SPDX-License-Identifier: Apache-2.0
"""
The ROS 2 node: thermal and RGB images in, `map -> odom` out.

A lifecycle node: configure loads and warms up the map, activate subscribes and starts tracking.
With `autostart` (the default) it runs both transitions at the start, and ends with an error where
one fails.
"""

from functools import partial
import gc
import signal
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from numpy.typing import NDArray
from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.signals import uninstall_signal_handlers

from thermal_nerf_loc.common.errors import InputError, RunError, UserError
from thermal_nerf_loc.common.threads import limit_threads
from thermal_nerf_loc.localization.localizer import Localizer
from thermal_nerf_loc.ros.managed_node import describe, ManagedNode
from thermal_nerf_loc.ros.message_conversion import diagnostics_message
from thermal_nerf_loc.ros.nav2.bond import Bond
from thermal_nerf_loc.ros.nav2.initial_pose import InitialPoseInput, offer_service
from thermal_nerf_loc.ros.parameters import declare_config
from thermal_nerf_loc.ros.publishers import Publishers
from thermal_nerf_loc.ros.services import Services
from thermal_nerf_loc.ros.subscribers import Subscribers
from thermal_nerf_loc.ros.tf_buffer import make_buffer
from thermal_nerf_loc.ros.visualization import MapVisualization
from thermal_nerf_loc.tracking.frame_synchronizer import RobotFrame
from thermal_nerf_loc.tracking.node_config import changed_config, NodeConfig
from thermal_nerf_loc.tracking.robot_tracker import RobotUpdate
from thermal_nerf_loc.tracking.session import load, load_radiance_map, LoadMap, Session
from thermal_nerf_loc.tracking.tracking_thread import TrackingThread

Array = NDArray[np.float64]

_LOG_PERIOD_S = 5.0  # problems are logged once in so many seconds


class LocalizerNode(ManagedNode):
    """Connects subscribers, tracking thread, publishers and services around a `Session`."""

    def __init__(self, load_map: LoadMap = load_radiance_map) -> None:
        """Declare parameters and services; nothing is loaded yet."""
        super().__init__('localizer')
        self.config = declare_config(self, NodeConfig)
        self.failure: Exception | None = None
        self._load_map = load_map
        self._session: Session | None = None  # from configure to cleanup
        self._subscribers: Subscribers | None = None  # from activate to deactivate
        self._reloading = False
        self._root = ''  # the frame whose parent on tf is the map
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._published_state = ''  # the last one in diagnostics
        self.on_parameter_changes(self._check_parameters, self._apply_parameters)
        self._initial_pose: InitialPoseInput | None = None  # from configure to cleanup
        self._parts: list[Any] = []  # what cleanup destroys
        services = Services(self, self.config.amcl_names)
        offer_service(self, services.names('set_initial_pose'), lambda: self._initial_pose,
                      self._on_problem)
        services.offer_empty('reinitialize_global_localization', self._search_everywhere)
        services.offer_empty('request_nomotion_update', self._track_once)
        services.offer_trigger('pause', self._pause)
        services.offer_trigger('resume', self._resume)
        services.offer_lengthy_trigger('reload_map', self._reload_map)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the map and compile the kernels, so that the first frame is no slower."""
        try:
            self.get_logger().info(f'loading map {self.config.map}')
            limit_threads(self.config.threads)
            loaded = load(self.config, self._load_map)
            self._session = Session(self.config, loaded, make_buffer(), self.get_logger().warning,
                                    self._on_problem)
            self._pose_publishers = Publishers(self, self.config)
            self._visualization = MapVisualization(self, self._on_problem)
            self._initial_pose = InitialPoseInput(self, self.config, self._on_initial_pose,
                                                  self._on_problem)
            self._bond = Bond(self, self.config.bond_heartbeat_period)
            self._parts = [self._pose_publishers, self._visualization, self._initial_pose,
                           self._bond]
        except Exception as error:
            self.failure = error
            if rclpy.ok():
                self.get_logger().fatal(describe(error))
            self._release()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and track."""
        session = self._configured_session()
        self._thread = TrackingThread(session.synchronizer, session.robot, self._on_update,
                                      self._on_problem, self._after_update)
        self._subscribers = Subscribers(self, self.config, session.synchronizer, self,
                                        session.inertial)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics_timer = self.create_timer(
            self.config.diagnostics_period_s, self._publish_diagnostics, clock=steady)
        self._save_timer = self.create_timer(
            self.config.pose_save_period_s, self._save_pose, clock=steady)
        outcome = super().on_activate(state)
        self._thread.start()
        self._bond.start()
        self._visualization.show_map(session.loaded, self.config)
        self.get_logger().info(f'active with {" and ".join(session.synchronizer.modalities)}; '
                               'waiting for images')
        return outcome

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop tracking; the pose is forgotten only by cleanup."""
        self.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the map."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End in any state."""
        self.stop()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised an error: begin anew, unconfigured."""
        self.stop()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_fault(self, error: Exception) -> None:
        """A callback raised an error; it must not end the node."""
        self._on_problem(error)

    def stop(self) -> None:
        """Unsubscribe, stop tracking and save the last pose."""
        if self._subscribers is None:
            return
        self._subscribers.stop()
        self._subscribers = None
        if rclpy.ok():
            self._bond.stop()
        self.destroy_timer(self._diagnostics_timer)
        self.destroy_timer(self._save_timer)
        self._visualization.stop()
        self._thread.stop()
        self._pose_publishers.retract()
        self._configured_session().synchronizer.clear()
        self._save_pose()

    def close(self) -> None:
        """Stop, and end every thread in order: those that work with the map first."""
        if self._subscribers is not None:
            self._subscribers.stop()
        if self._session is not None:
            self._session.close()
        self.stop()
        self.join_threads()
        self.destroy_node()

    def _release(self) -> None:
        self._session, self._initial_pose, self._root = None, None, ''
        for part in self._parts:
            part.destroy()
        self._parts = []

    # Callbacks of the subscribers (executor's thread).

    def on_data(self) -> None:
        """Something arrived that a frame may have waited for."""
        self._thread.wake()

    def on_odometry(self, stamp_ns: int) -> None:
        """`odom -> base` arrived on tf."""
        self._pose_publishers.repeat_map_to_odom(stamp_ns)

    def _on_initial_pose(self, T_map_base: Array, stamp_ns: int, covariance: Array | None,
                         ) -> None:
        """An initial pose was given: poses published before no longer hold."""
        session, subscribers = self._configured_session(), self._subscribers
        T_odom_base = None if subscribers is None else subscribers.odometry_at(stamp_ns)
        session.robot.set_initial_pose(T_map_base, T_odom_base, covariance)
        self._retract_pose()
        since = ' and kept until the node is active' if subscribers is None else ''
        self.get_logger().info(f'initial pose set to {_position(T_map_base)}{since}')

    def on_time_jump(self) -> None:
        """Time jumped back: nothing older may be published."""
        self._retract_pose()
        self._pose_publishers.clear_path()
        self.get_logger().warning('time jumped back: tracking starts anew')

    def on_problem(self, error: Exception) -> None:
        """A message was refused."""
        self._on_problem(error)

    # Callbacks of the tracking thread.

    def _on_update(self, update: RobotUpdate, robot_frame: RobotFrame, step_s: float) -> None:
        session = self._configured_session()
        if self._subscribers is None:
            return
        root, T_root_base = self._subscribers.root_of_base(update.stamp_ns)
        self._tell_root(root)
        self._pose_publishers.publish_update(update, root, T_root_base)
        now_ns = self.get_clock().now().nanoseconds
        session.note_step(update, (now_ns - update.stamp_ns) / 1e9, step_s)
        if update.state != self._published_state:  # a change is published at once
            before, self._published_state = self._published_state, update.state
            reason = f' ({update.reason})' if update.reason else ''
            self.get_logger().info(f'state: {before or "waiting for images"} -> '
                                   f'{update.state}{reason}')
            self._publish_diagnostics()
        for problem in robot_frame.problems:
            self._on_problem(InputError(problem))

    def _tell_root(self, root: str) -> None:
        if root != self._root and self.config.publish_tf:
            self._root, frames = root, self.config.synchronizer
            transform = f'{self.config.map_frame} -> {root}'
            self._configured_session().health.facts['publishes'] = transform
            why = (f'others publish {root} -> {frames.base_frame}' if root != frames.base_frame
                   else f'no other parent of {root} is on tf')
            self.get_logger().info(f'publishes {transform}: {why}')

    def _after_update(self, update: RobotUpdate, robot_frame: RobotFrame, step_s: float) -> None:
        self._visualization.show_overlay(self._configured_session().loaded, self.config, update,
                                         robot_frame)

    def _on_problem(self, error: Exception) -> None:
        session = self._session
        if session is not None:
            session.health.note_problem('problems' if isinstance(error, UserError) else 'faults',
                                        str(error))
        if rclpy.ok():
            self.get_logger().warning(describe(error), throttle_duration_sec=_LOG_PERIOD_S)

    # Timers.

    def _publish_diagnostics(self) -> None:
        session = self._configured_session()
        for topic in self._subscribers.silent_topics() if self._subscribers is not None else ():
            publishers = self.count_publishers(topic)
            hint = ('its quality of service does not fit, or it sends nothing' if publishers
                    else 'nobody publishes on it; is it remapped rightly?')
            self.get_logger().warning(f'no message on {topic} so far: {hint}')
        figures = session.health.figures(session.synchronizer.counts,
                                         self.config.tracker.lost_after_s)
        self._diagnostics.publish(diagnostics_message(
            self.get_fully_qualified_name(), figures, self.get_clock().now().to_msg()))

    def _save_pose(self) -> None:
        try:
            self._configured_session().save_pose()
        except UserError as error:
            self._on_problem(error)

    # Services.

    def _search_everywhere(self) -> str:
        self._active_session('there is nothing to search').robot.search_everywhere()
        self._retract_pose()
        return 'the pose is forgotten; the whole map is searched'

    def _track_once(self) -> str:
        self._active_session('no frame is tracked')
        self._thread.track_once()
        return 'the next frame is tracked'

    def _pause(self) -> str:
        self._active_session('there is nothing to pause').health.paused = True
        self._thread.pause()
        self._retract_pose()
        return 'paused: images are dropped, and no transform is published'

    def _resume(self) -> str:
        self._active_session('there is nothing to resume').health.paused = False
        self._thread.resume()
        return 'tracking goes on'

    async def _reload_map(self) -> str:
        """Load the map while tracking goes on; the old map stays where the new one fails."""
        session = self._configured_session('there is no map to replace')
        if self._reloading:
            raise RunError('a map is being loaded already')
        self._reloading, config = True, self.config
        try:
            outcome = await self.run_in_thread(
                partial(load, config, self._load_map))
        finally:
            self._reloading = False
        if isinstance(outcome, Exception):
            if not isinstance(outcome, UserError):
                self._on_problem(outcome)
            raise RunError(f'the old map stays: {outcome}')
        if session is not self._session:
            raise RunError('the node was cleaned up meanwhile')
        cameras_changed = session.replace_map(outcome, self.config)
        self._retract_pose()
        self._pose_publishers.clear_path()
        if self._subscribers is not None:
            if cameras_changed:
                self._subscribers.subscribe_to_cameras()
            self._visualization.show_map(outcome, self.config)
        return f'map {config.map} is in use'

    # Parameters.

    def _check_parameters(self, parameters: list[Any]) -> SetParametersResult:
        try:
            config = changed_config(self.config, parameters, self._session is not None)
            if self._session is not None:
                Localizer(self._session.loaded.renderer, config.localizer)
                config.chosen_modalities(self._session.loaded.renderer.modalities)
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_parameters(self, parameters: list[Any]) -> None:
        before = self.config
        self.config = changed_config(before, parameters, configured=False)
        if self._session is None:
            return
        self._pose_publishers.config = self.config
        if self._initial_pose is not None:
            self._initial_pose.config = self.config
        cameras_changed = self._session.reconfigure(self.config)
        if self._subscribers is not None:
            if cameras_changed:
                self._subscribers.subscribe_to_cameras()
            self._diagnostics_timer.timer_period_ns = round(
                self.config.diagnostics_period_s * 1e9)
            self._save_timer.timer_period_ns = round(self.config.pose_save_period_s * 1e9)

    def _retract_pose(self) -> None:
        """Stop publishing the last pose, and discard that of a frame that is being tracked."""
        if self._subscribers is not None:
            self._thread.discard_current()
        self._pose_publishers.retract()

    def _configured_session(self, consequence: str = '') -> Session:
        if self._session is None:
            raise RunError(f'the node is not configured: {consequence}')
        return self._session

    def _active_session(self, consequence: str) -> Session:
        if self._subscribers is None:
            raise RunError(f'the node is not active: {consequence}')
        return self._configured_session()


def main(args: list[str] | None = None, load_map: LoadMap = load_radiance_map) -> int:
    """Run the node until it is shut down; 0: ended well, 1 or 2: could not start."""
    rclpy.init(args=args)
    node = None
    try:
        executor = SingleThreadedExecutor()
        node = LocalizerNode(load_map)
        executor.add_node(node)
        if node.config.autostart and not _autostart(node):
            return getattr(node.failure, 'exit_code', 1) if rclpy.ok() else 0
        node.spin(executor)
    except UserError as error:
        rclpy.logging.get_logger('localizer').fatal(str(error))
        return error.exit_code
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():  # else the signal came first, and all that needs the context fails
            raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ending; Ctrl-C twice is usual
        if node is not None:
            node.close()
        rclpy.try_shutdown()
        uninstall_signal_handlers()  # which ends their thread
        gc.freeze()  # collecting what torch and numba made would take a second
    return 0


def _autostart(node: LocalizerNode) -> bool:
    return all(step() == TransitionCallbackReturn.SUCCESS
               for step in (node.trigger_configure, node.trigger_activate))


def _position(T: Array) -> str:
    return f'{np.round(T[:3, 3], 3).tolist()}'


if __name__ == '__main__':
    raise SystemExit(main())
