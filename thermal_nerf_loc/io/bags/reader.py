# SPDX-License-Identifier: Apache-2.0
"""
Read bags without ROS: rosbag2 (mcap, sqlite3; compressed, split) and ROS 1, by `rosbags`.

Messages have the fields of ROS 2, also those of a ROS 1 bag.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
import re
import tempfile
from typing import Any, NamedTuple, Protocol

import yaml

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import reading
from thermal_nerf_loc.io.bags.messages import (
    camera_from_info, decode_compressed, decode_image, info_from_camera, stamp_ns)
from thermal_nerf_loc.io.bags.salvage import Channel, ROS1_MAGIC, SalvagedBag, StoredMessage
from thermal_nerf_loc.io.bags.writer import BagWriter, jazzy, STORAGES

__all__ = ['STORAGES', 'BagMessage', 'BagReader', 'BagWriter', 'RawMessage', 'camera_from_info',
           'decode_compressed', 'decode_image', 'info_from_camera', 'stamp_ns']

_BAG_KINDS = 'a rosbag2 folder, or one .mcap, .db3 or .bag file'
_SUFFIXES = ('.mcap', '.db3', '.mcap.zst', '.db3.zst')
_MAX_LISTED = 40  # topics in an error


class BagMessage(NamedTuple):
    """A decoded message with the time of its recording."""

    topic: str
    stamp_ns: int
    message: Any


class RawMessage(NamedTuple):
    """A message as CDR bytes, ready to be published again."""

    topic: str
    type: str
    stamp_ns: int
    data: bytes


class _OpenBag(Protocol):
    """A bag that is open, intact or salvaged."""

    counts: dict[Channel, int]
    first_ns: int
    last_ns: int

    def messages(self, topics: Iterable[str]) -> Iterator[StoredMessage]:
        """Serialized messages of these topics."""


class BagReader:
    """
    A recorded bag: a rosbag2 folder, one .mcap or .db3 file, or a .bag of ROS 1.

    With `salvage`, a damaged bag is read as far as it is intact, and `loss` says what is lost;
    without it, such a bag is refused.
    """

    def __init__(self, path: Path, salvage: bool = False) -> None:
        """Keep the path; the bag is opened by `with`."""
        self._path, self._salvage = Path(path), salvage
        self._stack = ExitStack()

    def __enter__(self) -> 'BagReader':
        """Open the bag."""
        with reading(self._path):
            check_bag(self._path, self._salvage)
            self._is_ros1 = _is_ros1(self._path)
        self.loss = ''
        with ExitStack() as stack:
            try:
                self._store: _OpenBag = stack.enter_context(_IntactBag(self._path, self._is_ros1))
            except Exception as error:  # damaged files raise nearly anything
                if not self._salvage:
                    raise _damaged(self._path, error) from error
                self._store, self.loss = self._salvaged(stack, error)
            self._stack = stack.pop_all()
        self._decode_as = _decoder(self._store.counts, self._is_ros1)
        return self

    def __exit__(self, *error: object) -> None:
        """Close the bag."""
        self._stack.close()

    @property
    def topics(self) -> dict[str, str]:
        """Type of each topic."""
        return {channel.topic: channel.msgtype for channel in self._store.counts}

    @property
    def counts(self) -> dict[str, int]:
        """Number of messages on each topic."""
        counts: dict[str, int] = {}
        for channel, count in self._store.counts.items():
            counts[channel.topic] = counts.get(channel.topic, 0) + count
        return counts

    @property
    def first_ns(self) -> int:
        """When the first message was recorded."""
        return self._store.first_ns

    @property
    def duration_ns(self) -> int:
        """Time from the first message to the last."""
        return max(0, self._store.last_ns - self._store.first_ns)

    def messages(self, topics: Iterable[str] | None = None) -> Iterator[BagMessage]:
        """Decoded messages in the order of recording."""
        for channel, recorded_ns, data in self._walk(topics):
            try:
                message = self._decode(channel, data)
            except InputError:
                if not self.loss:
                    raise
                continue  # a message that was cut
            yield BagMessage(channel.topic, recorded_ns, message)

    def raw_messages(self, topics: Iterable[str] | None = None) -> Iterator[RawMessage]:
        """Messages as CDR bytes in the order of recording."""
        if self._is_ros1:
            raise InputError('a bag of ROS 1 cannot be played to ROS 2', where=self._path,
                             hint='Convert it with `rosbags-convert`.')
        for channel, recorded_ns, data in self._walk(topics):
            yield RawMessage(channel.topic, channel.msgtype, recorded_ns, bytes(data))

    def require(self, topic: str, kind: str, option: str | None = None) -> None:
        """Refuse a bag without this topic; the error names those of the same type."""
        if self.topics.get(topic) == kind:
            return
        same = [name for name, found in self.topics.items() if found == kind]
        raise InputError(f'bag has no {topic} of type {kind}', where=self._path,
                         expected=f'one of {", ".join(same)}' if same else None,
                         got=f'topics {", ".join(self.topics) or "none"}',
                         hint=f'Pass {option}.' if option else None)

    def listing(self) -> str:
        """Every topic with its type and count, for errors."""
        counts = self.counts
        parts = [f'{topic} ({kind.replace("/msg/", "/")}, {counts[topic]})'
                 for topic, kind in sorted(self.topics.items())]
        more = [f'and {len(parts) - _MAX_LISTED} more'] if len(parts) > _MAX_LISTED else []
        return ', '.join([*parts[:_MAX_LISTED], *more]) or 'no topic'

    def _salvaged(self, stack: ExitStack, error: Exception) -> tuple[SalvagedBag, str]:
        """The intact part of a bag that does not open, and what is lost."""
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files, missing, messages_compressed, recorded = _files(self._path)
        bag = SalvagedBag(files, missing, scratch, messages_compressed, recorded)
        if not bag.counts:
            raise _damaged(self._path, error) from error
        return bag, bag.loss

    def _walk(self, topics: Iterable[str] | None) -> Iterator[StoredMessage]:
        wanted = set(self.topics) if topics is None else set(topics)
        unknown = sorted(wanted - set(self.topics))
        if unknown:
            raise InputError(f'bag has no {", ".join(unknown)}', where=self._path,
                             got=f'topics {", ".join(self.topics) or "none"}')
        stored = self._store.messages(wanted)
        while True:
            try:
                item = next(stored)
            except StopIteration:
                return
            except Exception as error:
                raise _damaged(self._path, error) from error
            yield item

    def _decode(self, channel: Channel, data: bytes) -> Any:
        try:
            return self._decode_as(data, channel.msgtype)
        except KeyError:
            raise InputError(f'{channel.topic} has a type that is not known', where=self._path,
                             expected="one of ROS 2 Jazzy's own", got=channel.msgtype) from None
        except Exception as error:
            raise _damaged(self._path, error, channel.topic) from error


class _IntactBag:
    """An intact bag, read by `rosbags`."""

    def __init__(self, path: Path, is_ros1: bool) -> None:
        """Choose the reader."""
        from rosbags import rosbag1, rosbag2
        self._reader: Any = rosbag1.Reader(path) if is_ros1 else rosbag2.Reader(path)

    def __enter__(self) -> '_IntactBag':
        self._reader.open()
        self._channels = {_key(c): Channel(c.topic, c.msgtype, c.msgdef.data)
                          for c in self._connections}
        self.counts: dict[Channel, int] = {}
        for connection in self._connections:
            channel = self._channels[_key(connection)]
            self.counts[channel] = self.counts.get(channel, 0) + connection.msgcount
        self.first_ns = self._reader.start_time
        self.last_ns = self._reader.end_time - 1
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.close()

    @property
    def _connections(self) -> list[Any]:
        return list(self._reader.connections)

    def messages(self, topics: Iterable[str]) -> Iterator[StoredMessage]:
        """Serialized messages of these topics, in the order of recording."""
        wanted = set(topics)
        chosen = [c for c in self._connections if c.topic in wanted]
        if chosen:  # an empty list would mean all
            for connection, recorded_ns, data in self._reader.messages(chosen):
                yield self._channels[_key(connection)], recorded_ns, data


def check_bag(path: Path, salvage: bool = False) -> None:
    """Refuse a path that is no bag; with `salvage`, a folder of bag files needs no metadata."""
    if not path.exists():
        raise InputError('bag does not exist', where=path, expected=_BAG_KINDS)
    if path.is_dir() and not (path / 'metadata.yaml').exists():
        inside = sorted(file.name for file in path.iterdir())
        if salvage and any(name.endswith(_SUFFIXES) for name in inside):
            return
        raise InputError('is no rosbag2 folder', where=path, expected='metadata.yaml in it',
                         got=', '.join(inside[:5]) or 'an empty folder',
                         hint='After an interrupted recording `ros2 bag reindex` writes it anew.')
    if path.is_file() and path.suffix not in ('.mcap', '.db3') and not _is_ros1(path):
        raise InputError('is no bag', where=path, expected=_BAG_KINDS)


def _is_ros1(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open('rb') as file:
        return file.read(len(ROS1_MAGIC)) == ROS1_MAGIC


def _files(path: Path) -> tuple[list[Path], list[str], bool, int | None]:
    """Files, names of missing ones, whether messages are compressed, and their number if known."""
    if path.is_file():
        return [path], [], False, None
    found = sorted((file for file in path.iterdir() if file.name.endswith(_SUFFIXES)),
                   key=lambda file: [int(part) if part.isdigit() else part
                                     for part in re.split(r'(\d+)', file.name)])
    try:
        metadata = yaml.safe_load((path / 'metadata.yaml').read_text(encoding='utf-8'))
        info = metadata['rosbag2_bagfile_information']
        names = [Path(name).name for name in info['relative_file_paths']]
        messages_compressed = str(info.get('compression_mode', '')).lower() == 'message'
        recorded = int(info['message_count'])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return found, [], False, None
    listed = [path / name for name in names]
    return ([file for file in listed if file.exists()],
            [file.name for file in listed if not file.exists()],
            messages_compressed, recorded)


def _decoder(channels: Iterable[Channel], is_ros1: bool) -> Callable[[bytes, str], Any]:
    """A function that decodes bytes of a type to a message of ROS 2; KeyError: unknown type."""
    if not is_ros1:
        store = jazzy()

        def decode(data: bytes, kind: str) -> Any:
            store.types[kind]
            return store.deserialize_cdr(data, kind)

        return decode
    from rosbags.typesys import get_types_from_msg, get_typestore, Stores
    noetic: Any = get_typestore(Stores.ROS1_NOETIC)
    for channel in channels:
        if channel.msgtype not in noetic.types:
            with suppress(Exception):  # the topic may not be needed; if it is, its type is unknown
                types = get_types_from_msg(channel.definition, channel.msgtype)
                noetic.register({name: fields for name, fields in types.items()
                                 if name not in noetic.types})

    def decode_ros1(data: bytes, kind: str) -> Any:
        noetic.types[kind]
        message = noetic.deserialize_ros1(data, kind)
        return _ros2_camera_info(message) if kind == 'sensor_msgs/msg/CameraInfo' else message

    return decode_ros1


def _ros2_camera_info(old: Any) -> Any:
    """Rename the fields D, K, R and P of ROS 1."""
    return jazzy().types['sensor_msgs/msg/CameraInfo'](
        header=old.header, height=old.height, width=old.width,
        distortion_model=old.distortion_model, d=old.D, k=old.K, r=old.R, p=old.P,
        binning_x=old.binning_x, binning_y=old.binning_y, roi=old.roi)


def _key(connection: Any) -> Any:
    """A connection without its message count, which changes while a bag is opened."""
    return connection._replace(msgcount=0, owner=None, ext=None)


def _damaged(path: Path, error: Exception, topic: str | None = None) -> InputError:
    reason = ' '.join(str(error).split())[:200].rstrip('.') or type(error).__name__
    return InputError('bag cannot be read', where=f'{path} {topic}' if topic else path, got=reason,
                      hint='Was it recorded to its end? `ros2 bag reindex` may mend it.')
