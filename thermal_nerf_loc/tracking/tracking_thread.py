# SPDX-License-Identifier: Apache-2.0
"""The thread that tracks, so that messages keep arriving; always at the newest frame."""

from collections.abc import Callable
import threading
import time

from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer, RobotFrame
from thermal_nerf_loc.tracking.robot_tracker import RobotTracker, RobotUpdate

_PATIENCE_S = 0.02  # between two looks at frames that wait for odometry

OnUpdate = Callable[[RobotUpdate, RobotFrame, float], None]
OnProblem = Callable[[Exception], None]


class TrackingThread:
    """Take, step, announce, until stopped."""

    def __init__(self, synchronizer: FrameSynchronizer, robot: RobotTracker, on_update: OnUpdate,
                 on_problem: OnProblem, on_leisure: OnUpdate) -> None:
        """
        All callbacks run in the worker's thread.

        `on_update` tells, quickly, what counts; `on_leisure` may take a moment afterwards.
        """
        self._synchronizer, self._robot = synchronizer, robot
        self._on_update, self._on_problem, self._on_leisure = on_update, on_problem, on_leisure
        self._telling = threading.Lock()
        self._epoch = 0
        self._news = threading.Event()
        self._stopped = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._single = False
        self._thread = threading.Thread(target=self._run, name='tracker', daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Something arrived."""
        self._news.set()

    def disown(self) -> None:
        """Nothing that was begun before now is told afterwards."""
        with self._telling:
            self._epoch += 1

    def pause(self) -> None:
        """Track nothing until `resume`."""
        self._running.clear()

    def resume(self) -> None:
        """Go on."""
        self._running.set()

    @property
    def paused(self) -> bool:
        """Tell whether it waits for `resume`."""
        return not self._running.is_set()

    def track_once(self) -> None:
        """Track the next frame, even while paused."""
        self._single = True

    def stop(self, patience_s: float = 1.0) -> None:
        """End after the frame at hand; a daemon thread cannot keep the process alive."""
        self._stopped.set()
        self._news.set()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._news.wait(_PATIENCE_S)
            self._news.clear()
            try:
                self._step()
            except UserError as error:  # a bad frame; the next one may be good
                self._on_problem(error)
            except Exception as error:  # the node must live on: reported as a fault, with a trace
                self._on_problem(error)

    def _step(self) -> None:
        if not (self._running.is_set() or self._single):
            return
        epoch = self._epoch
        observation = self._synchronizer.take(time.monotonic_ns(), newest=True)
        if observation is None:
            return
        self._single = False
        start = time.perf_counter()
        update = self._robot.step(observation)
        step_s = time.perf_counter() - start
        with self._telling:
            if self._stopped.is_set() or epoch != self._epoch:
                return
            self._on_update(update, observation, step_s)
        self._on_leisure(update, observation, step_s)
