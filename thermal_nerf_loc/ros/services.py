# SPDX-License-Identifier: Apache-2.0
"""Services of the node, on std_srvs; names as in nav2_amcl where it has them."""

from collections.abc import Awaitable, Callable
from typing import Any

from std_srvs.srv import Empty, Trigger

from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.ros.managed_node import ManagedNode

Action = Callable[[], str]  # returns what was done, or raises a `UserError`


class Services:
    """Offers actions as services; an action's error becomes the answer."""

    def __init__(self, node: ManagedNode, amcl_names: bool = False) -> None:
        """Start without services; `amcl_names`: those of AMCL also where AMCL has them."""
        self._node, self._amcl_names = node, amcl_names

    def names(self, name: str) -> tuple[str, ...]:
        """Where a service of AMCL is offered: below the node, and beside it."""
        return (f'~/{name}', name) if self._amcl_names else (f'~/{name}',)

    def offer_empty(self, name: str, action: Action) -> None:
        """Offer one of AMCL's: its outcome is only logged (std_srvs/Empty has no answer)."""
        def answer(request: Any, response: Any) -> Any:
            self._perform(name, action)
            return response

        for full_name in self.names(name):
            self._node.create_service(Empty, full_name, answer)

    def offer_trigger(self, name: str, action: Action) -> None:
        """Offer an action that answers whether it worked."""
        def answer(request: Any, response: Any) -> Any:
            response.success, response.message = self._perform(name, action)
            return response

        self._node.create_service(Trigger, f'~/{name}', answer)

    def offer_lengthy_trigger(self, name: str, action: Callable[[], Awaitable[str]]) -> None:
        """Offer an action that takes long: messages keep arriving while it is awaited."""
        async def answer(request: Any, response: Any) -> Any:
            try:
                response.success, response.message = True, await action()
                self._node.get_logger().info(f'{name}: {response.message}')
            except UserError as error:
                response.success, response.message = False, str(error)
                self._node.get_logger().error(f'{name}: {error}')
            except Exception as error:  # no request may end the node
                response.success, response.message = False, f'failed: {error!r}'
                self._node.on_fault(error)
            return response

        self._node.create_service(Trigger, f'~/{name}', answer)

    def _perform(self, name: str, action: Action) -> tuple[bool, str]:
        try:
            done = action()
        except UserError as error:
            self._node.get_logger().error(f'{name}: {error}')
            return False, str(error)
        except Exception as error:  # no request may end the node
            self._node.on_fault(error)
            return False, f'failed: {error!r}'
        self._node.get_logger().info(f'{name}: {done}')
        return True, done
