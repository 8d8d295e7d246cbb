# SPDX-License-Identifier: Apache-2.0
"""Choose the source of poses among those that a bag offers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thermal_nerf_loc.common.config import check, setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.importers.bags.survey import Survey
from thermal_nerf_loc.io.bags.poses import body_of, MAX_GAP_S, ODOMETRY, PoseSource
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.trajectory import read_tum

_MAP_FRAMES, _ODOM_FRAMES = ('map', 'world'), ('odom',)


@dataclass(frozen=True, slots=True)
class PoseOptions:
    """Where poses come from; all empty: the best source that the bag has."""

    file: Path | None = None  # TUM
    topic: str = ''
    world: str = ''  # tf frame
    from_images: bool = False  # structure from motion
    frame: str = ''  # tf frame whose poses a file or a topic holds
    max_gap_s: float = setting(MAX_GAP_S, 'between two poses that are interpolated', 1e-3, 3600.0)

    def __post_init__(self) -> None:
        """Check the ranges, and that only one source is named."""
        check(self, 'poses')
        named = [option for option, value in (('--poses', self.file), ('--pose-topic', self.topic),
                                              ('--world-frame', self.world),
                                          ('--poses-from-images', self.from_images)) if value]
        if len(named) > 1:
            raise InputError('poses can come from one place only', expected='one of them',
                             got=' and '.join(named))


def choose_source(bag: Path, options: PoseOptions, survey: Survey,
                  topics: Sequence[str], camera_frame: str, reader: BagReader) -> PoseSource:
    """
    Choose the source that was named, else the best one.

    Best is the first of: tf from `map` or `world`, stamped poses, odometry, tf from `odom`; the
    later ones drift more. Several topics of one kind are refused: the user must name one.
    """
    if options.file is not None:
        trajectory = read_tum(options.file)
        body = body_of('', options.frame, survey.tree, camera_frame)
        return PoseSource(f'{options.file} of {body}', '', body, trajectory, survey.tree,
                          _max_gap_ns(options))
    if options.world or not options.topic:
        found = _from_tf(options, survey, camera_frame,
                         (options.world,) if options.world else _MAP_FRAMES)
        if found is not None:
            return found
        if options.world:
            raise InputError(f'tf does not lead from {options.world!r} to {camera_frame!r}',
                             where=bag, got=f'frames {", ".join(survey.tree.frames) or "none"}',
                             hint='Pass another --world-frame.')
    if len(topics) > 1:
        raise InputError('bag has several topics of poses', where=bag,
                         expected=f'one of {", ".join(topics)}', got=reader.listing(),
                         hint='Pass --pose-topic, --world-frame or --poses.')
    if topics:
        return _from_topic(topics[0], options, survey, camera_frame, reader)
    found = _from_tf(options, survey, camera_frame, _ODOM_FRAMES)
    if found is None:
        raise InputError('bag has no poses', where=bag,
                         expected='tf from map or odom to the camera, nav_msgs/Odometry or '
                                  'geometry_msgs/PoseStamped', got=reader.listing(),
                         hint='Give them by --poses FILE.tum, or --world-frame for another root '
                              'of tf, or pass --poses-from-images.')
    return found


def _from_tf(options: PoseOptions, survey: Survey, camera_frame: str,
             roots: tuple[str, ...]) -> PoseSource | None:
    for root in roots:
        chain = survey.tree.chain(root, camera_frame)
        if chain and survey.tree.moves(chain):
            return PoseSource(f'tf {root} -> {camera_frame}', root, '', None, survey.tree,
                              _max_gap_ns(options), root in _ODOM_FRAMES)
    return None


def _from_topic(topic: str, options: PoseOptions, survey: Survey, camera_frame: str,
                reader: BagReader) -> PoseSource:
    log = survey.poses[topic]
    body = body_of(log.child, options.frame, survey.tree, camera_frame)
    return PoseSource(f'{topic} of {body} in {log.parent or "its world"}', log.parent, body,
                      log.trajectory(), survey.tree, _max_gap_ns(options),
                      reader.topics[topic] == ODOMETRY)


def _max_gap_ns(options: PoseOptions) -> int:
    return round(options.max_gap_s * 1e9)
