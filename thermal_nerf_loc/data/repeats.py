# SPDX-License-Identifier: Apache-2.0
"""
Thermal images that show what was, not what is.

While its shutter is closed a thermal camera gives out the last image again. With the pose of the
later moment it would be learned in the wrong place.
"""

from dataclasses import replace
import hashlib
import logging

from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.sensing.frame import THERMAL

_log = logging.getLogger(__name__)


def without_repeats(scene: Scene) -> Scene:
    """The scene, without thermal training images that are the one before, bit by bit."""
    frames, last, repeats = list(scene.frames), '', []
    for i in sorted(scene.train, key=lambda i: scene.frames[i].stamp_ns):
        record = frames[i].records.get(THERMAL)
        if record is None or not record.path.is_file():
            continue
        digest = hashlib.sha256(record.path.read_bytes()).hexdigest()
        if digest == last:
            repeats.append(frames[i].name)
            frames[i] = replace(frames[i], records={
                name: one for name, one in frames[i].records.items() if name != THERMAL})
        last = digest
    if repeats:
        _log.warning('%s: %d thermal training images repeat the one before, as with a closed '
                     'shutter, and are left out (first: %s)', scene.root, len(repeats),
                     repeats[0])
    return replace(scene, frames=tuple(frames))
