# SPDX-License-Identifier: Apache-2.0
"""Config dataclasses as ROS parameters: names, defaults, ranges and descriptions, once."""

from dataclasses import fields, is_dataclass
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
    """Declare every field of `cls` (nested ones as `outer.inner`) and read the values given."""
    values = _declare(node, cls(), '')
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
