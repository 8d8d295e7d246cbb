# SPDX-License-Identifier: Apache-2.0
"""
Config dataclasses as ROS parameters: names, defaults, ranges and descriptions.

Former names of settings are accepted where a node is started (command line, parameter file).
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
import difflib
import math
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import (InvalidParameterTypeException, InvalidParameterValueException,
                              ParameterUninitializedException)
from rclpy.node import Node
from rclpy.parameter import Parameter

from thermal_nerf_loc.common.config import from_mapping
from thermal_nerf_loc.common.errors import InputError

T = TypeVar('T')

_LARGEST_INTEGER = 2**53


def declare_config(node: Node, cls: type[T]) -> T:
    """
    Declare every field of `cls` (nested ones as `outer.inner`) and read the values given.

    Warns about values that were given by a former name, and about names that are no parameter.
    """
    default = cls()
    _accept_former_names(node, default)
    values = _declare(node, default, '')
    _warn_of_unknown(node)
    return from_mapping(cls, values, 'parameter')


def parameter_names(config: Any, prefix: str = '') -> dict[str, Any]:
    """Every parameter with its default, as `declare_config` declares them."""
    names: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            names.update(parameter_names(value, f'{prefix}{f.name}.'))
        else:
            names[prefix + f.name] = value
    return names


def _given(node: Node) -> dict[str, Parameter]:
    """Values from the command line and parameter files, by name; rclpy has no public access."""
    given: dict[str, Parameter] = node._parameter_overrides
    return given


def _accept_former_names(node: Node, config: Any) -> None:
    """Give values that came by a former name to the parameter's present name."""
    given = _given(node)
    for former, name in _former_names(config):
        if former not in given:
            continue
        if name in given:
            raise InputError('one setting is given under two names', where='parameter',
                             expected=f'only {name!r}', got=f'{name!r} and {former!r}')
        old = given.pop(former)
        given[name] = Parameter(name, old.type_, old.value)
        node.get_logger().warning(f'parameter {former} is now called {name}')


def _former_names(config: Any) -> Iterator[tuple[str, str]]:
    """Pairs (former, present) of full names; any part of a name may be a former one."""
    for present, alternatives in _names(config):
        yield from ((former, present) for former in alternatives if former != present)


def _names(config: Any) -> Iterator[tuple[str, list[str]]]:
    """Each parameter's present name, with all the names that it may be given by."""
    for f in fields(config):
        value = getattr(config, f.name)
        own = [f.name, *f.metadata.get('formerly', ())]
        if not is_dataclass(value):
            yield f.name, own
            continue
        for present, alternatives in _names(value):
            yield f'{f.name}.{present}', [f'{outer}.{inner}' for outer in own
                                          for inner in alternatives]


def _warn_of_unknown(node: Node) -> None:
    """Warn of given names that are no parameter: rclpy ignores them without a word."""
    unknown = [name for name in _given(node) if not node.has_parameter(name)
               and not name.startswith('qos_overrides.')]  # declared with their topics
    known = list(node.get_parameters_by_prefix(''))
    for name in unknown:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {near[0]}?' if near else ''
        node.get_logger().warning(f'there is no parameter {name}{hint}')


def _declare(node: Node, config: Any, prefix: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for f in fields(config):
        default, name = getattr(config, f.name), prefix + f.name
        if is_dataclass(default):
            values[f.name] = _declare(node, default, f'{name}.')
            continue
        value = _declare_one(node, name, default, _descriptor(f.metadata, default))
        values[f.name] = list(value) if hasattr(value, 'typecode') else value
    return values


def _declare_one(node: Node, name: str, default: Any, descriptor: ParameterDescriptor) -> Any:
    try:
        if default is None:
            return node.declare_parameter(name, None, descriptor).value
        if isinstance(default, tuple):
            kind = (Parameter.Type.STRING_ARRAY if default and isinstance(default[0], str)
                    else Parameter.Type.DOUBLE_ARRAY)
            given = Parameter(name, kind, list(default))
            value = node.declare_parameter(name, given.value or [], descriptor).value
            return value or ()  # YAML's empty list arrives as nothing
        return node.declare_parameter(name, default, descriptor).value
    except (InvalidParameterTypeException, InvalidParameterValueException,
            ParameterUninitializedException) as error:
        raise InputError('value is refused', where=f'parameter {name}',
                         expected=_expectation(descriptor, default),
                         got=str(error)) from None


def _descriptor(metadata: Any, default: Any) -> ParameterDescriptor:
    low, high = metadata.get('low'), metadata.get('high')
    choices = metadata.get('choices')
    text = metadata.get('help') or ''
    descriptor = ParameterDescriptor(description=text, dynamic_typing=default is None
                                     or isinstance(default, tuple))
    if choices:
        descriptor.additional_constraints = 'one of ' + ', '.join(choices)
    if low is None and high is None:
        return descriptor
    if isinstance(default, bool) or default is None:
        return descriptor
    if isinstance(default, int):
        descriptor.integer_range = [IntegerRange(
            from_value=-_LARGEST_INTEGER if low is None else math.ceil(low),
            to_value=_LARGEST_INTEGER if high is None else math.floor(high))]
    elif isinstance(default, float):
        descriptor.floating_point_range = [FloatingPointRange(
            from_value=-math.inf if low is None else float(low),
            to_value=math.inf if high is None else float(high))]
    return descriptor


def _expectation(descriptor: ParameterDescriptor, default: Any) -> str:
    ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
    kind = type(default).__name__
    return f'{kind}, {ranges[0].from_value} to {ranges[0].to_value}' if ranges else kind
