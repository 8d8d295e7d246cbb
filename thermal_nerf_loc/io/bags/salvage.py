# SPDX-License-Identifier: Apache-2.0
"""
Salvage a damaged bag: read its files from the beginning, up to the damage.

A recording that was interrupted has no index at its end, where other readers begin. Here the
records are read one after another: MCAP, sqlite3 and ROS 1 files, compressed or not. From the last
record, which may be cut, the whole messages are read too.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
import io
from pathlib import Path
import sqlite3
import struct
from typing import BinaryIO, NamedTuple
from urllib.parse import quote

from thermal_nerf_loc.io.atomic_files import reading
from thermal_nerf_loc.io.bags.compression import decompress, decompressed, zstd

MCAP_MAGIC = b'\x89MCAP0\r\n'
ROS1_MAGIC = b'#ROSBAG V2.0\n'
SQLITE_MAGIC = b'SQLite format 3\x00'

_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _FOOTER = 0x03, 0x04, 0x05, 0x06, 0x02  # MCAP's records
_ROS1_MESSAGE, _ROS1_CHUNK, _ROS1_CONNECTION = 2, 5, 7
_MAX_CUT_RECORD = 1 << 28  # bytes read of a record that is not whole: its size may be nonsense


class Channel(NamedTuple):
    """A topic and its type; `definition` (the text of the type) may be empty."""

    topic: str
    msgtype: str
    definition: str = ''


StoredMessage = tuple[Channel, int, bytes]  # channel, time of recording (ns), serialized message


@dataclass(slots=True)
class ReadExtent:
    """How far a file could be read; `reason` says why no further, and is empty at its end."""

    path: Path
    readable_bytes: int = 0
    total_bytes: int = 0
    reason: str = ''


def scan(path: Path, extent: ReadExtent) -> Iterator[StoredMessage]:
    """Yield every whole message of a file, in its order; `extent` says where it ended."""
    with reading(path):
        extent.total_bytes = path.stat().st_size
        with path.open('rb') as file:
            magic = file.read(16)
    for beginning, reader in ((MCAP_MAGIC, _scan_mcap), (ROS1_MAGIC, _scan_ros1),
                              (SQLITE_MAGIC, _scan_sqlite)):
        if magic.startswith(beginning):
            yield from reader(path, extent)
            return
    extent.reason = 'is empty' if not magic else f'begins {magic[:8]!r}, which no bag does'


def _scan_mcap(path: Path, extent: ReadExtent) -> Iterator[StoredMessage]:
    schemas: dict[int, tuple[str, str]] = {}
    channels: dict[int, Channel] = {}
    with reading(path), path.open('rb') as file:
        file.seek(len(MCAP_MAGIC))
        while True:
            extent.readable_bytes = file.tell()
            head = file.read(9)
            size = struct.unpack('<Q', head[1:])[0] if len(head) == 9 else 0
            is_whole = len(head) == 9 and size <= extent.total_bytes - file.tell()
            if len(head) == 9 and head[0] == _FOOTER and is_whole:
                extent.readable_bytes = extent.total_bytes
                return
            body = file.read(size if is_whole else _MAX_CUT_RECORD)
            if head[:1] == bytes([_CHUNK]):
                yield from _mcap_records(_mcap_chunk(body), schemas, channels)
            elif is_whole:
                yield from _mcap_records(head + body, schemas, channels)
            if not is_whole:
                extent.reason = 'is cut short'
                return


def _mcap_chunk(body: bytes) -> bytes:
    """The records of a chunk, which follow its times, size, check sum, compression and length."""
    if len(body) < 32:
        return b''
    name = struct.unpack_from('<I', body, 28)[0]
    kind, start = body[32:32 + name].decode('ascii', 'replace'), 32 + name + 8
    return b''.join(decompress(io.BytesIO(body[start:]), kind)) if len(body) > start else b''


def _mcap_records(data: bytes, schemas: dict[int, tuple[str, str]],
                  channels: dict[int, Channel]) -> Iterator[StoredMessage]:
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


def _scan_sqlite(path: Path, extent: ReadExtent) -> Iterator[StoredMessage]:
    """
    Yield rows in the order of their keys, which is that of the file.

    `writable_schema` makes SQLite open a file that is shorter than its header says. A write-ahead
    log beside the file belongs to it; without one the file is not being written.
    """
    is_closed = not path.with_name(f'{path.name}-wal').exists()
    where = f'file:{quote(str(path))}?mode=ro' + ('&immutable=1' if is_closed else '')
    database, last, intact_bytes = None, None, 0
    try:
        database = sqlite3.connect(where, uri=True)
        database.execute('PRAGMA writable_schema=ON')
        topics = {key: Channel(name, kind) for key, name, kind in
                  database.execute('SELECT id, name, type FROM topics')}
        for key, stamp_ns, data in database.execute(
                'SELECT topic_id, timestamp, data FROM messages ORDER BY id'):
            if last is not None:
                intact_bytes += len(last[2])
                yield last
            last = ((topics[key], stamp_ns, data)
                    if key in topics and isinstance(data, bytes) else None)
        if last is not None:
            yield last
        extent.readable_bytes = extent.total_bytes
    except sqlite3.Error as error:  # the last row may end in the page that was cut
        extent.readable_bytes = min(intact_bytes, extent.total_bytes)
        extent.reason = f'is damaged: {error}'
    finally:
        if database is not None:
            database.close()


def _scan_ros1(path: Path, extent: ReadExtent) -> Iterator[StoredMessage]:
    connections: dict[int, Channel] = {}
    with reading(path), path.open('rb') as file:
        file.seek(len(ROS1_MAGIC))
        is_closed = False
        while True:
            extent.readable_bytes = file.tell()
            record = _ros1_record(file, extent.total_bytes)
            if record is None:
                break
            fields, data, is_whole = record
            if 'index_pos' in fields:
                is_closed = any(fields['index_pos'])
            if fields.get('op') == bytes([_ROS1_CHUNK]):
                kind = fields['compression'].decode('ascii', 'replace')
                plain = io.BytesIO(b''.join(decompress(io.BytesIO(data), kind)))
                yield from _ros1_messages(plain, connections)
            if not is_whole:
                break
        if extent.readable_bytes < extent.total_bytes:
            extent.reason = 'is cut short'
        elif not is_closed:
            extent.reason = 'was never closed'


def _ros1_messages(chunk: BinaryIO, connections: dict[int, Channel]) -> Iterator[StoredMessage]:
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
    """Header fields, data, and whether the data is whole; None at the end."""
    header_size = file.read(4)
    if len(header_size) < 4 or _u32(header_size) > end - file.tell():
        return None
    fields, data_size = _ros1_fields(file.read(_u32(header_size))), file.read(4)
    if len(data_size) < 4:
        return None
    size, left = _u32(data_size), end - file.tell()
    return fields, file.read(size if size <= left else min(left, _MAX_CUT_RECORD)), size <= left


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
    """What is intact of a bag; its files are read once to know topics and counts."""

    def __init__(self, files: Sequence[Path], missing: Sequence[str], scratch: Path,
                 messages_compressed: bool, recorded: int | None) -> None:
        """Scan `files`; `recorded` is the number of messages by the bag's metadata, if known."""
        self._files = [decompressed(file, scratch) for file in files]
        self._messages_compressed, self._recorded = messages_compressed, recorded
        self._missing = list(missing)
        self.counts: dict[Channel, int] = {}
        self.first_ns, self.last_ns = 2**63 - 1, 0
        self.extents: list[ReadExtent] = []
        for file, original in zip(self._files, files):
            extent = ReadExtent(original)
            for channel, stamp_ns, _ in scan(file, extent):
                self.counts[channel] = self.counts.get(channel, 0) + 1
                self.first_ns = min(self.first_ns, stamp_ns)
                self.last_ns = max(self.last_ns, stamp_ns)
            self.extents.append(extent)

    @property
    def loss(self) -> str:
        """What is lost, in one sentence; empty where nothing is."""
        found = sum(self.counts.values())
        losses = [f'{extent.path.name} {extent.reason} after '
                  f'{extent.readable_bytes / 2**20:.1f} of {extent.total_bytes / 2**20:.1f} MiB'
                  for extent in self.extents if extent.reason]
        losses += [f'{name} is missing' for name in self._missing]
        if self._recorded is not None and self._recorded > found:
            losses.append(f'{self._recorded - found} of {self._recorded} messages are lost')
        elif losses:
            losses.append(f'{found} messages are whole, how many are lost is unknown')
        return '; '.join(losses)

    def messages(self, topics: Iterable[str]) -> Iterator[StoredMessage]:
        """Whole messages of these topics, file by file."""
        wanted = set(topics)
        for file in self._files:
            for channel, stamp_ns, data in scan(file, ReadExtent(file)):
                if channel.topic in wanted:
                    yield channel, stamp_ns, (zstd().decompress(data) if self._messages_compressed
                                              else data)
