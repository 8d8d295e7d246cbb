# SPDX-License-Identifier: Apache-2.0
"""Where a drive's true poses come from: a topic, tf, or a file beside the bag."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.bags.messages import matrix_from_pose, matrix_from_transform, stamp_ns
from thermal_nerf_loc.io.bags.poses import MAX_GAP_S
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.transform_tree import FrameTree
from thermal_nerf_loc.io.trajectory import read_tum, Trajectory
from thermal_nerf_loc.tracking.bag_replay import read_truth, rising_trajectory

Array = NDArray[np.float64]

_TF = 'tf:'
_POSES: Mapping[str, Any] = {
    'geometry_msgs/msg/PoseStamped': lambda m: matrix_from_pose(m.pose),
    'geometry_msgs/msg/PoseWithCovarianceStamped': lambda m: matrix_from_pose(m.pose.pose),
    'geometry_msgs/msg/TransformStamped': lambda m: matrix_from_transform(m.transform),
    'nav_msgs/msg/Odometry': lambda m: matrix_from_pose(m.pose.pose)}


def find_truth(reader: BagReader, source: str | None,
               max_gap_s: float = MAX_GAP_S) -> Trajectory | None:
    """
    The base's true poses in the map.

    `source` is a TUM file, a topic of the bag, or `tf:MAP:BASE` (gaps of tf longer than
    `max_gap_s` are not bridged); None: the topic of simulated bags, where there is one.
    """
    if source is None:
        return read_truth(reader)
    if source.startswith(_TF):
        return _from_tf(reader, source, round(max_gap_s * 1e9))
    if source in reader.topics:
        return _from_topic(reader, source)
    path = Path(source)
    if source.startswith('/') and not path.exists() and not path.suffix:
        topics = [name for name, kind in reader.topics.items() if kind in _POSES]
        raise InputError(f'bag has no {source}, and no file has this name', where='--truth',
                         expected='a TUM file, tf:MAP:BASE or a topic with poses',
                         got=f'topics with poses: {", ".join(sorted(topics)) or "none"}')
    return read_tum(path)


def _from_topic(reader: BagReader, topic: str) -> Trajectory:
    kind = reader.topics[topic]
    if kind not in _POSES:
        raise InputError('topic has no poses', where=f'--truth {topic}',
                         expected=' or '.join(name.rsplit('/', 1)[1] for name in _POSES),
                         got=kind)
    poses = rising_trajectory((stamp_ns(message.header.stamp), _POSES[kind](message))
                              for _, _, message in reader.messages([topic]))
    return _not_empty(poses, topic)


def _from_tf(reader: BagReader, source: str, max_gap_ns: int) -> Trajectory:
    """Poses at every tf stamp at which the whole chain is known."""
    parent, _, child = source.removeprefix(_TF).partition(':')
    if not parent or not child or ':' in child:
        raise InputError('does not name two frames', where='--truth', expected='tf:MAP:BASE',
                         got=source)
    tree = FrameTree()
    topics = [name for name in ('/tf', '/tf_static') if name in reader.topics]
    for topic, _, message in reader.messages(topics) if topics else ():
        tree.add(message, topic == '/tf_static')
    try:
        chain = tree.require_chain(parent, child)
    except InputError as error:
        raise InputError(error.what, where=f'--truth {source}', got=error.got) from None
    looked_up = ((stamp, tree.along(chain, stamp, max_gap_ns)) for stamp in tree.stamps.tolist())
    poses = rising_trajectory((stamp, T) for stamp, T in looked_up if T is not None)
    return _not_empty(poses, source)


def _not_empty(poses: Trajectory, source: str) -> Trajectory:
    if not len(poses):
        raise InputError('bag holds no pose of the truth', where=f'--truth {source}')
    return poses
