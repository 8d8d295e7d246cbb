# SPDX-License-Identifier: Apache-2.0
"""
What is whole of a bag that was cut short: its files read from the beginning, as far as they go.

A recording that lost its power has no index at its end, which is where all readers start. Here
records are walked one by one instead: MCAP, sqlite3 and ROS 1 files, compressed or not. What the
last, broken record holds in whole messages counts too.
"""

import bz2
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
import io
from pathlib import Path
import sqlite3
import struct
import sys
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import reading

MCAP_MAGIC = b'\x89MCAP0\r\n'
ROS1_MAGIC = b'#ROSBAG V2.0\n'
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
SQLITE_MAGIC = b'SQLite format 3\x00'

_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _FOOTER = 0x03, 0x04, 0x05, 0x06, 0x02  # MCAP's records
_ROS1_MESSAGE, _ROS1_CHUNK, _ROS1_CONNECTION = 2, 5, 7
_BLOCK = 1 << 20  # bytes decompressed at a time
_LARGEST = 1 << 28  # bytes of a broken record that are looked at: its size may be nonsense


class Channel(NamedTuple):
    """A topic as its file describes it; `definition` is empty where the type's name must do."""

    topic: str
    msgtype: str
    definition: str = ''


Item = tuple[Channel, int, bytes]  # channel, when it was recorded (ns), serialized message


@dataclass(slots=True)
class Tail:
    """How far a file could be read; `reason` is empty where that is its end."""

    path: Path
    whole_bytes: int = 0
    total_bytes: int = 0
    reason: str = ''


def scan(path: Path, tail: Tail) -> Iterator[Item]:
    """Every whole message of one file, in the order of the file; `tail` tells where it ended."""
    with reading(path):
        tail.total_bytes = path.stat().st_size
        with path.open('rb') as file:
            magic = file.read(16)
    for beginning, reader in ((MCAP_MAGIC, _scan_mcap), (ROS1_MAGIC, _scan_ros1),
                              (SQLITE_MAGIC, _scan_sqlite)):
        if magic.startswith(beginning):
            yield from reader(path, tail)
            return
    tail.reason = 'is empty' if not magic else f'begins {magic[:8]!r}, which no bag does'


def unpacked(path: Path, folder: Path) -> Path:
    """The file itself, or what a zstd-compressed one holds, as far as that goes, in `folder`."""
    with reading(path), path.open('rb') as file:
        if file.read(4) != ZSTD_MAGIC:
            return path
        file.seek(0)
        out = folder / path.stem
        with out.open('wb') as plain:
            for block in _inflate(file, 'zstd'):
                plain.write(block)
    return out


def zstd() -> Any:
    """The zstandard module, wherever this Python has it."""
    if sys.version_info >= (3, 14):
        from compression import zstd as module
    else:
        from backports import zstd as module
    return module


def _inflate(file: BinaryIO, kind: str) -> Iterator[bytes]:
    """Decompress block by block; ends quietly where the data does, or where it is damaged."""
    make: dict[str, Callable[[], Any]] = {
        'zstd': lambda: zstd().ZstdDecompressor(), 'lz4': _lz4, 'bz2': bz2.BZ2Decompressor}
    if kind in ('', 'none'):
        yield file.read()
        return
    if kind not in make:
        raise InputError('bag is compressed in an unknown way', got=kind,
                         expected=', '.join(make))
    stream = make[kind]()
    while block := file.read(_BLOCK):
        while block:
            try:
                yield stream.decompress(block)
            except Exception:  # each library has errors of its own
                return
            if not stream.eof:
                break
            block, stream = stream.unused_data, make[kind]()  # the next frame


def _lz4() -> Any:
    import lz4.frame  # type: ignore[import-untyped]
    return lz4.frame.LZ4FrameDecompressor()


def _scan_mcap(path: Path, tail: Tail) -> Iterator[Item]:
    schemas: dict[int, tuple[str, str]] = {}
    channels: dict[int, Channel] = {}
    with reading(path), path.open('rb') as file:
        file.seek(len(MCAP_MAGIC))
        while True:
            tail.whole_bytes = file.tell()
            head = file.read(9)
            size = struct.unpack('<Q', head[1:])[0] if len(head) == 9 else 0
            is_whole = len(head) == 9 and size <= tail.total_bytes - file.tell()
            if len(head) == 9 and head[0] == _FOOTER and is_whole:
                tail.whole_bytes = tail.total_bytes
                return
            body = file.read(size if is_whole else _LARGEST)
            if head[:1] == bytes([_CHUNK]):
                yield from _mcap_records(_mcap_chunk(body), schemas, channels)
            elif is_whole:
                yield from _mcap_records(head + body, schemas, channels)
            if not is_whole:
                tail.reason = 'is cut short'
                return


def _mcap_chunk(body: bytes) -> bytes:
    """Records of a chunk: behind its times, size, check sum, compression and length."""
    if len(body) < 32:
        return b''
    name = struct.unpack_from('<I', body, 28)[0]
    kind, start = body[32:32 + name].decode('ascii', 'replace'), 32 + name + 8
    return b''.join(_inflate(io.BytesIO(body[start:]), kind)) if len(body) > start else b''


def _mcap_records(data: bytes, schemas: dict[int, tuple[str, str]],
                  channels: dict[int, Channel]) -> Iterator[Item]:
    position = 0
    while position + 9 <= len(data):
        kind, size = struct.unpack_from('<BQ', data, position)
        start, position = position + 9, position + 9 + size
        if position > len(data):
            return
        if kind == _MESSAGE:
            channel, _, stamp_ns, _ = struct.unpack_from('<HIQQ', data, start)
            if channel in channels:
                yield channels[channel], stamp_ns, data[start + 22:position]
        elif kind == _SCHEMA:
            (key,) = struct.unpack_from('<H', data, start)
            name, at = _text(data, start + 2)
            _, at = _text(data, at)
            schemas[key] = name, _text(data, at)[0]
        elif kind == _CHANNEL:
            key, schema = struct.unpack_from('<HH', data, start)
            channels[key] = Channel(_text(data, start + 4)[0], *schemas.get(schema, ('', '')))


def _text(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from('<I', data, at)
    return data[at + 4:at + 4 + size].decode('utf-8', 'replace'), at + 4 + size


def _scan_sqlite(path: Path, tail: Tail) -> Iterator[Item]:
    """
    Rows in the order of their keys, which is that of the file.

    `writable_schema` makes SQLite open a file that is shorter than its header says. A journal
    beside the file is part of it, without one nobody else writes.
    """
    alone = not path.with_name(f'{path.name}-wal').exists()
    where = f'file:{quote(str(path))}?mode=ro' + ('&immutable=1' if alone else '')
    database, held, bytes_whole = None, None, 0
    try:
        database = sqlite3.connect(where, uri=True)
        database.execute('PRAGMA writable_schema=ON')
        topics = {key: Channel(name, kind) for key, name, kind in
                  database.execute('SELECT id, name, type FROM topics')}
        for key, stamp_ns, data in database.execute(
                'SELECT topic_id, timestamp, data FROM messages ORDER BY id'):
            if held is not None:
                bytes_whole += len(held[2])
                yield held
            held = ((topics[key], stamp_ns, data)
                    if key in topics and isinstance(data, bytes) else None)
        if held is not None:
            yield held
        tail.whole_bytes = tail.total_bytes
    except sqlite3.Error as error:  # what was held may end in the page that was cut
        tail.whole_bytes, tail.reason = min(bytes_whole, tail.total_bytes), f'is damaged: {error}'
    finally:
        if database is not None:
            database.close()


def _scan_ros1(path: Path, tail: Tail) -> Iterator[Item]:
    connections: dict[int, Channel] = {}
    with reading(path), path.open('rb') as file:
        file.seek(len(ROS1_MAGIC))
        is_closed = False
        while True:
            tail.whole_bytes = file.tell()
            record = _ros1_record(file, tail.total_bytes)
            if record is None:
                break
            fields, data, is_whole = record
            if 'index_pos' in fields:
                is_closed = any(fields['index_pos'])
            if fields.get('op') == bytes([_ROS1_CHUNK]):
                kind = fields['compression'].decode('ascii', 'replace')
                plain = io.BytesIO(b''.join(_inflate(io.BytesIO(data), kind)))
                yield from _ros1_messages(plain, connections)
            if not is_whole:
                break
        if tail.whole_bytes < tail.total_bytes:
            tail.reason = 'is cut short'
        elif not is_closed:
            tail.reason = 'was never closed'


def _ros1_messages(chunk: BinaryIO, connections: dict[int, Channel]) -> Iterator[Item]:
    size = len(chunk.read())
    chunk.seek(0)
    while (record := _ros1_record(chunk, size)) is not None:
        fields, data, is_whole = record
        if not is_whole:
            return
        if fields.get('op') == bytes([_ROS1_CONNECTION]):
            inner = _ros1_fields(data)
            kind = inner['type'].decode().replace('/', '/msg/', 1)
            connections[_u32(fields['conn'])] = Channel(
                fields['topic'].decode(), kind, inner['message_definition'].decode())
        elif fields.get('op') == bytes([_ROS1_MESSAGE]):
            channel = connections.get(_u32(fields['conn']))
            seconds, ns = struct.unpack('<II', fields['time'])
            if channel is not None:
                yield channel, seconds * 10**9 + ns, data


def _ros1_record(file: BinaryIO, end: int) -> tuple[dict[str, bytes], bytes, bool] | None:
    """Header fields, data, and whether all of it is there; None at the end."""
    sized = file.read(4)
    if len(sized) < 4 or _u32(sized) > end - file.tell():
        return None
    fields, sized = _ros1_fields(file.read(_u32(sized))), file.read(4)
    if len(sized) < 4:
        return None
    size, left = _u32(sized), end - file.tell()
    return fields, file.read(size if size <= left else min(left, _LARGEST)), size <= left


def _ros1_fields(header: bytes) -> dict[str, bytes]:
    fields, position = {}, 0
    while position + 4 <= len(header):
        size = struct.unpack_from('<I', header, position)[0]
        name, _, value = header[position + 4:position + 4 + size].partition(b'=')
        fields[name.decode('ascii', 'replace')] = value
        position += 4 + size
    return fields


def _u32(data: bytes) -> int:
    return int(struct.unpack('<I', data)[0])


class SalvagedBag:
    """Files of one bag, surveyed once so that topics and counts are known."""

    def __init__(self, files: Sequence[Path], missing: Sequence[str], scratch: Path,
                 packed_messages: bool, recorded: int | None) -> None:
        """Survey `files`; `recorded` messages should be in them, if anybody wrote that down."""
        self._files = [unpacked(file, scratch) for file in files]
        self._packed, self._recorded = packed_messages, recorded
        self._missing = list(missing)
        self.counts: dict[Channel, int] = {}
        self.first_ns, self.last_ns = 2**63 - 1, 0
        self.tails: list[Tail] = []
        for file, original in zip(self._files, files):
            tail = Tail(original)
            for channel, stamp_ns, _ in scan(file, tail):
                self.counts[channel] = self.counts.get(channel, 0) + 1
                self.first_ns = min(self.first_ns, stamp_ns)
                self.last_ns = max(self.last_ns, stamp_ns)
            self.tails.append(tail)

    @property
    def loss(self) -> str:
        """What is gone, in one sentence; empty where nothing is."""
        found = sum(self.counts.values())
        broken = [f'{tail.path.name} {tail.reason} after {tail.whole_bytes / 2**20:.1f} of '
                  f'{tail.total_bytes / 2**20:.1f} MiB' for tail in self.tails if tail.reason]
        broken += [f'{name} is missing' for name in self._missing]
        if self._recorded is not None and self._recorded > found:
            broken.append(f'{self._recorded - found} of {self._recorded} messages are lost')
        elif broken:
            broken.append(f'{found} messages are whole, how many are lost nobody wrote down')
        return '; '.join(broken)

    def messages(self, topics: Iterable[str]) -> Iterator[Item]:
        """Whole messages of these topics, file by file."""
        wanted = set(topics)
        for file in self._files:
            for channel, stamp_ns, data in scan(file, Tail(file)):
                if channel.topic in wanted:
                    yield channel, stamp_ns, (zstd().decompress(data) if self._packed else data)
