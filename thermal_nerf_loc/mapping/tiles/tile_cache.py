# SPDX-License-Identifier: Apache-2.0
"""
Tiles in memory: as many as `memory_mb` allow, the least used go first; the next come ahead.

A thread of low priority loads what is asked for ahead. A tile that is needed now is loaded at
once, unless the thread is at it already.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
import logging
import threading

from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.common.threads import lower_priority
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

_NICE = 10
_FEWEST = 2  # tiles ahead, however large they are
_log = logging.getLogger(__name__)

LoadTile = Callable[[int], RadianceMap]


def bytes_of(radiance_map: RadianceMap) -> int:
    """Memory that a map takes: weights, once more as its renderer packs them, grids, landmarks."""
    fields = sum(2 * tensor.numel() * tensor.element_size() for learner in radiance_map.learners
                 for tensor in learner.field.state_dict().values())
    grids = sum(2 * learner.grid.values.nbytes for learner in radiance_map.learners)
    others = sum(found.points.nbytes + found.descriptors.nbytes
                 for found in radiance_map.landmarks.values())
    others += sum(image.nbytes for image in radiance_map.keyframes.thumbnails.values())
    return int(fields + grids + others + (
        radiance_map.uncertainty.values.nbytes if radiance_map.uncertainty else 0))


class TileCache:
    """Loaded tiles by number; safe to be used by several threads."""

    def __init__(self, load: LoadTile, memory_mb: float) -> None:
        """Nothing is loaded yet."""
        self._load, self._limit = load, memory_mb * 2**20
        self._tiles: OrderedDict[int, tuple[RadianceMap, int]] = OrderedDict()
        self._coming: dict[int, Future[RadianceMap]] = {}
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='load-tile',
                                        initializer=lower_priority, initargs=(_NICE,))
        self.loads = self.waits = 0  # tiles that were loaded; of them those that were waited for

    @property
    def bytes(self) -> int:
        """Memory that the tiles take."""
        with self._lock:
            return sum(size for _, size in self._tiles.values())

    def limit_mb(self, memory_mb: float) -> None:
        """Another limit, from the next tile on."""
        self._limit = memory_mb * 2**20

    @property
    def numbers(self) -> tuple[int, ...]:
        """Tiles that are loaded, the least used first."""
        with self._lock:
            return tuple(self._tiles)

    def resident(self, number: int) -> RadianceMap | None:
        """A tile if it is loaded."""
        with self._lock:
            if number not in self._tiles:
                return None
            self._tiles.move_to_end(number)
            return self._tiles[number][0]

    def get(self, number: int) -> RadianceMap:
        """A tile; it is loaded if need be."""
        with self._lock:
            found, coming = self.resident(number), self._coming.get(number)
            if found is not None:
                return found
            self.waits += 1
        if coming is not None and not coming.cancel():
            return coming.result()
        return self._loaded(number)

    def ask(self, numbers: Sequence[int], instead: bool = True) -> None:
        """Load tiles ahead, in this order, as far as they fit, `instead` of what still waits."""
        with self._lock:
            sizes = [size for _, size in self._tiles.values()]
            fit = int(self._limit * len(sizes) / max(sum(sizes), 1)) if sizes else 0
            numbers = numbers[:max(fit, _FEWEST)]  # before the first, nobody knows their size
            for number in reversed(numbers):
                self.resident(number)  # the first are dropped last
            for number, future in list(self._coming.items()):
                if instead and number not in numbers:
                    future.cancel()  # which calls `_arrived`
            for number in numbers:
                if number not in self._tiles and number not in self._coming:
                    future = self._pool.submit(self._loaded, number)
                    self._coming[number] = future
                    future.add_done_callback(partial(self._arrived, number))

    def drop(self, number: int) -> None:
        """Forget a tile, which has changed."""
        with self._lock:
            self._tiles.pop(number, None)

    def settle(self) -> None:
        """Wait until all that was asked for is there."""
        while True:
            with self._lock:
                coming = list(self._coming.values())
            if not coming:
                return
            for future in coming:
                if not future.cancelled():
                    future.exception()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _arrived(self, number: int, done: 'Future[RadianceMap]') -> None:
        with self._lock:
            if self._coming.get(number) is done:
                del self._coming[number]
        error = None if done.cancelled() else done.exception()
        if isinstance(error, UserError):
            _log.warning('tile %d cannot be loaded: %s', number, error)

    def _loaded(self, number: int) -> RadianceMap:
        with self._lock:
            found = self.resident(number)
        if found is not None:
            return found
        tile = self._load(number)
        with self._lock:
            self.loads += 1
            self._tiles[number] = tile, bytes_of(tile)
            while len(self._tiles) > 1 and self.bytes > self._limit:
                self._tiles.popitem(last=False)
        return tile
