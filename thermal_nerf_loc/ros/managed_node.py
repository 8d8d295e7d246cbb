# SPDX-License-Identifier: Apache-2.0
"""
A lifecycle node that no request can end.

rclpy lets an error of a callback end the process: a transition that the state does not allow is
enough. Here it is refused and logged, and so are all other errors of services; changes of the
state are logged, too.
"""

from collections.abc import Callable
from functools import partial
import threading
import traceback
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.context import Context
from rclpy.executors import Executor
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.common.threads import JOIN_S

_LONGEST_LINE = 1000  # characters: messages that are refused may hold anything
_HINT = {'configure': "the node configures itself unless it is started with 'autostart:=false'"}


class ManagedNode(LifecycleNode):
    """Refuses and logs where `LifecycleNode` would raise out of the executor."""

    def __init__(self, name: str, context: Context | None = None) -> None:
        """Guard the services that every lifecycle node has."""
        super().__init__(name, context=context)
        self._threads: list[threading.Thread] = []
        for service in self.services:
            guarded = (self._change_state if service.srv_type is ChangeState
                       else partial(self._answer, service.srv_name))
            service.callback = partial(guarded, service.callback)

    @property
    def lifecycle_state(self) -> str:
        """Label of the state; rclpy has no public access."""
        return str(self._state_machine.current_state[1])

    def on_parameter_changes(self, check: Callable[[list[Any]], SetParametersResult],
                             apply: Callable[[list[Any]], None]) -> None:
        """Call `check` before parameters change, and `apply` with those that did."""
        if hasattr(self, 'add_post_set_parameters_callback'):
            self.add_on_set_parameters_callback(check)
            self.add_post_set_parameters_callback(apply)
            return

        # Humble lacks it: there `check` is the last that may refuse, and what it lets pass is set.
        def check_and_apply(parameters: list[Any]) -> SetParametersResult:
            result = check(parameters)
            if result.successful:
                apply(parameters)
            return result

        self.add_on_set_parameters_callback(check_and_apply)

    def on_fault(self, error: Exception) -> None:
        """An error came out of a callback."""
        self.get_logger().error(str(error))

    def spin(self, executor: Executor) -> None:
        """Execute callbacks until the context is shut down; their errors go to `on_fault`."""
        while rclpy.ok():
            try:
                executor.spin()
            except Exception as error:
                if not rclpy.ok():  # the signal came first, and all that needs the context fails
                    return
                self.on_fault(error)

    def run_in_thread(self, work: Callable[[], Any]) -> Future:
        """Run `work` beside the executor; await the future for its result, or its error."""
        executor, future = self.executor, Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # returned to the caller, who awaits it
                future.set_result(error)
            if rclpy.ok():
                executor.wake()

        thread = threading.Thread(target=run, name='lengthy service', daemon=True)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()
        return future

    def join_threads(self) -> None:
        """
        Wait for the threads of `run_in_thread`.

        A thread in C++ code when the interpreter ends (torch, DDS) aborts the process: Python
        unwinds it through code that must not throw, `terminate called without an active
        exception`. So whoever ends the process joins every thread first.
        """
        for thread in self._threads:
            thread.join(JOIN_S)

    def _change_state(self, change: Callable[[Any, Any], Any], request: Any,
                      response: Any) -> Any:
        before = self.lifecycle_state
        wish = request.transition.label or _transition_name(request.transition)
        try:
            response = change(request, response)
        except Exception as error:  # RCLError: the state has no such transition
            response.success = False
            if self.lifecycle_state != before:  # it began
                self.on_fault(error)
        if not response.success and self.lifecycle_state == before:
            hint = f'; {_HINT[wish]}' if wish in _HINT and before == 'active' else ''
            self.get_logger().error(f'{wish} is refused or failed: the node is still {before}'
                                    f'{hint}')
        elif self.lifecycle_state != before:
            self.get_logger().info(f'{wish}: {before} -> {self.lifecycle_state}')
        return response

    def _answer(self, name: str, answer: Callable[[Any, Any], Any], request: Any,
                response: Any) -> Any:
        try:
            return answer(request, response)
        except Exception as error:
            self.on_fault(error)
            return response


def describe(error: Exception) -> str:
    """One line for a user's mistake, a trace for a fault of the program."""
    if isinstance(error, UserError):
        return str(error)[:_LONGEST_LINE]
    return ''.join(traceback.format_exception(error)).rstrip()


def _transition_name(transition: Any) -> str:
    """The name that lifecycle_msgs/Transition has for an id."""
    for constant in ('CONFIGURE', 'CLEANUP', 'ACTIVATE', 'DEACTIVATE'):
        if transition.id == getattr(transition, f'TRANSITION_{constant}'):
            return constant.lower()
    shutdowns = (transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
                 transition.TRANSITION_INACTIVE_SHUTDOWN, transition.TRANSITION_ACTIVE_SHUTDOWN)
    return 'shutdown' if transition.id in shutdowns else f'transition {transition.id}'
