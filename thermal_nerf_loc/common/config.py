# SPDX-License-Identifier: Apache-2.0
"""
One source for every default: frozen dataclasses whose fields carry their range and meaning.

The command line, YAML files, map files and ROS parameters all walk the same fields.
"""

from collections.abc import Sequence
from dataclasses import asdict, field, fields, is_dataclass
import difflib
from pathlib import Path
import types
import typing
from typing import Any, TypeVar

import yaml

from thermal_nerf_loc.common.errors import InputError

T = TypeVar('T')


def setting(default: Any, help: str, low: float | None = None, high: float | None = None,  # noqa: A002
            choices: tuple[str, ...] | None = None, formerly: str | tuple[str, ...] = ()) -> Any:
    """
    Declare a config field with its meaning and its allowed values.

    `formerly`: names that the field had in earlier versions; files may still use them.
    """
    metadata = {'help': help, 'low': low, 'high': high, 'choices': choices,
                'formerly': (formerly,) if isinstance(formerly, str) else formerly}
    if is_dataclass(default):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


def from_mapping(cls: type[T], values: Any, where: str = 'configuration') -> T:
    """
    Build `cls` from a (nested) mapping; unknown keys and wrong values are named.

    Former names of fields are accepted (`setting`). A class may name settings that it had in
    earlier versions, with the one value that is left of each: `removed = {'form': 'so3xr3'}`.
    """
    if not isinstance(values, dict):
        raise InputError(f'{cls.__name__} must be a mapping', where=where, got=repr(values))
    known, former = {f.name for f in fields(cls)}, former_names(cls)  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    given: dict[str, str] = {}  # field: the key that set it
    removed = getattr(cls, 'removed', {})
    for key, value in values.items():
        name = former.get(key, key)
        if key in removed and key not in known:
            if value != removed[key]:
                raise InputError('this choice was removed', where=f'{where}.{key}',
                                 expected=f'{removed[key]!r}, or no such key', got=repr(value))
            continue
        if name not in known:
            raise unknown_key(key, sorted(known), where)
        if name in arguments:
            raise InputError('one setting is given under two names', where=where,
                             expected=f'only {name!r}', got=f'{given[name]!r} and {key!r}')
        arguments[name], given[name] = _coerce(hints[name], value, f'{where}.{key}'), key
    config = cls(**arguments)
    check(config, where)
    return config


def unknown_key(key: Any, known: Sequence[str], where: str) -> InputError:
    """The error for a key that is not one of `known`, with the one that is spelled most alike."""
    near = difflib.get_close_matches(str(key), known, n=1)
    return InputError(f'unknown key {key!r}', where=where,
                      expected='one of ' + ', '.join(known),
                      hint=f'Did you mean {near[0]!r}?' if near else None)


def former_names(cls: Any) -> dict[str, str]:
    """Each former name of a field of `cls` with its present name."""
    return {old: f.name for f in fields(cls) for old in f.metadata.get('formerly', ())}


def to_mapping(config: Any) -> dict[str, Any]:
    """Turn a config into plain nested dictionaries, ready for JSON or YAML."""
    return asdict(config)


def check(config: Any, where: str = 'configuration') -> None:
    """Hold every field against its declared range, nested configs included."""
    for f in fields(config):
        value, name = getattr(config, f.name), f'{where}.{f.name}'
        low, high, choices = (f.metadata.get(k) for k in ('low', 'high', 'choices'))
        if is_dataclass(value):
            check(value, name)
        elif choices is not None and value not in choices:
            raise InputError('value is not allowed', where=name,
                             expected='one of ' + ', '.join(choices), got=repr(value))
        elif _is_number(value) and not ((low is None or value >= low)
                                        and (high is None or value <= high)):
            raise InputError('value is out of range', where=name,
                             expected=f'{"-inf" if low is None else low} to '
                                      f'{"inf" if high is None else high}', got=value)


def load_yaml(cls: type[T], path: Path) -> T:
    """Read a config from a YAML file."""
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise InputError('cannot read the configuration', where=path, got=error.strerror) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError('is no YAML', where=path, got=' '.join(str(error).split())) from None
    return from_mapping(cls, {} if values is None else values, str(path))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _coerce(kind: Any, value: Any, where: str) -> Any:
    """Accept exactly the declared type; an int where a float is due, a list for a tuple."""
    if is_dataclass(kind) and isinstance(kind, type):
        return value if isinstance(value, kind) else from_mapping(kind, value, where)
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is types.NoneType and value is None:
            return None
        if origin is float and _is_number(value):
            return float(value)
        if origin is tuple and isinstance(value, (list, tuple)):
            inner = typing.get_args(option)
            return tuple(_coerce(inner[0], v, where) for v in value) if inner else tuple(value)
        if (origin in (str, bool) and isinstance(value, origin)) or (
                origin is int and isinstance(value, int) and not isinstance(value, bool)):
            return value
    names = ' or '.join(getattr(option, '__name__', str(option)) for option in options)
    raise InputError('value has the wrong type', where=where, expected=names, got=repr(value))
