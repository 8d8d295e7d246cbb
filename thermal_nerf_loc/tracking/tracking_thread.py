# SPDX-License-Identifier: Apache-2.0
"""The thread that tracks, so that messages keep arriving; it takes the newest frame each time."""

from collections.abc import Callable
import threading
import time

from thermal_nerf_loc.common.threads import adopt_limit, JOIN_S
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer, RobotFrame
from thermal_nerf_loc.tracking.robot_tracker import RobotTracker, RobotUpdate

_POLL_S = 0.02  # period in which frames that wait for odometry are tried again

OnUpdate = Callable[[RobotUpdate, RobotFrame, float], None]  # with the seconds of the step
OnProblem = Callable[[Exception], None]


class TrackingThread:
    """Takes frames of the synchronizer, tracks them and reports the updates, until stopped."""

    def __init__(self, synchronizer: FrameSynchronizer, robot: RobotTracker, on_update: OnUpdate,
                 on_problem: OnProblem, after_update: OnUpdate) -> None:
        """
        All callbacks run in this thread.

        `on_update` publishes, and has to be quick; `after_update` is for what may take longer.
        """
        self._synchronizer, self._robot = synchronizer, robot
        self._on_update, self._on_problem = on_update, on_problem
        self._after_update = after_update
        self._reporting = threading.Lock()
        self._epoch = 0  # an update is reported in the epoch in which its step began
        self._data_arrived = threading.Event()
        self._stopped = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._track_once = False
        self._thread = threading.Thread(target=self._run, name='tracker', daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Data has arrived: check for a frame now."""
        self._data_arrived.set()

    def discard_current(self) -> None:
        """Do not report the update of a step that has already begun."""
        with self._reporting:
            self._epoch += 1

    def pause(self) -> None:
        """Track nothing until `resume`."""
        self._running.clear()

    def resume(self) -> None:
        """Go on after a pause."""
        self._running.set()

    @property
    def paused(self) -> bool:
        """Whether it waits for `resume`."""
        return not self._running.is_set()

    def track_once(self) -> None:
        """Track the next frame, even while paused."""
        self._track_once = True

    def stop(self, timeout_s: float = JOIN_S) -> None:
        """End after the step at hand; as a daemon the thread cannot keep the process alive."""
        self._stopped.set()
        self._data_arrived.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        adopt_limit()
        while not self._stopped.is_set():
            self._data_arrived.wait(_POLL_S)
            self._data_arrived.clear()
            try:
                self._step()
            except Exception as error:
                # A bad frame (`UserError`; the next one may be good), or a fault that is reported
                # with a trace: the node lives on. In a step that `stop` cut short it is neither.
                if not self._stopped.is_set():
                    self._on_problem(error)

    def _step(self) -> None:
        if not (self._running.is_set() or self._track_once):
            return
        epoch = self._epoch
        robot_frame = self._synchronizer.next_frame(time.monotonic_ns(), newest=True)
        if robot_frame is None:
            return
        self._track_once = False
        start = time.perf_counter()
        update = self._robot.step(robot_frame)
        step_s = time.perf_counter() - start
        with self._reporting:
            if self._stopped.is_set() or epoch != self._epoch:
                return
            self._on_update(update, robot_frame, step_s)
        self._after_update(update, robot_frame, step_s)
