# SPDX-License-Identifier: Apache-2.0
"""Replay at a rate: nothing comes early, and what comes while the tracker is busy is dropped."""

from types import SimpleNamespace

from image_streams import camera_info, image, make_synchronizer, MS
import pytest

from thermal_nerf_loc.io.bags.topics import CameraTopics
from thermal_nerf_loc.tracking.bag_replay import Pace, Replay

FRAMES = 20
PERIOD_MS = 100


class Clock:
    """Time that passes only when somebody sleeps or works."""

    def __init__(self):
        self.now_s, self.slept_s = 500.0, 0.0

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        assert seconds > 0.0
        self.now_s += seconds
        self.slept_s += seconds


class Bag:
    """Pairs of images every 100 ms, from 1 s on, both of one moment."""

    topics: dict[str, str] = {}
    duration_ns = FRAMES * PERIOD_MS * MS

    def messages(self, topics):
        for index in range(FRAMES):
            now_ns = (1000 + index * PERIOD_MS) * MS
            for modality in ('thermal', 'rgb'):
                yield f'/{modality}', now_ns, image(modality, now_ns, value=index)
        yield '/rgb/info', now_ns, camera_info('rgb')


def replay(rate, work_s):
    """Replay with a tracker that takes so long; (stamps in ms, when each was done, task)."""
    clock, done = Clock(), []

    def step(robot_frame):
        clock.now_s += work_s
        done.append(clock.now_s - 500.0)
        return SimpleNamespace(stamp_ns=robot_frame.frame.stamp_ns)

    cameras = {m: CameraTopics(f'/{m}', f'/{m}/info', False) for m in ('rgb', 'thermal')}
    pace = None if rate is None else Pace(rate, clock, clock.sleep)
    task = Replay(Bag(), cameras, make_synchronizer(odometry_until_ms=4000),
                  SimpleNamespace(step=step),
                  [], pace)
    stamps = [update.stamp_ns // MS for update in task.updates()]
    return stamps, done, task, clock


def test_without_a_rate_every_frame_is_tracked_without_sleep():
    stamps, _, task, clock = replay(None, 10.0)
    assert stamps == list(range(1000, 1000 + FRAMES * PERIOD_MS, PERIOD_MS))
    assert task.synchronizer.counts['frames_dropped'] == clock.slept_s == 0


@pytest.mark.parametrize('rate', [0.5, 1.0, 2.0])
def test_a_fast_tracker_waits_for_each_frame(rate):
    stamps, done, task, clock = replay(rate, 0.01)
    assert len(stamps) == FRAMES
    assert task.synchronizer.counts['frames_dropped'] == 0
    due = [0.1 * k / rate for k in range(FRAMES)]
    assert done == pytest.approx([moment + 0.01 for moment in due])
    assert task.pace.latencies_s == pytest.approx([0.01] * FRAMES)
    assert clock.slept_s == pytest.approx(due[-1] - 0.01 * (FRAMES - 1))


def test_a_slow_tracker_gets_the_newest_frame_and_the_rest_is_counted():
    stamps, done, task, _ = replay(1.0, 0.25)
    assert len(stamps) + task.synchronizer.counts['frames_dropped'] == FRAMES
    assert stamps[:4] == [1000, 1200, 1500, 1700]  # the newest of 0.25, 0.50, 0.75 s
    assert stamps[-1] == 1000 + (FRAMES - 1) * PERIOD_MS
    assert task.synchronizer.counts['frames_dropped'] > FRAMES // 2
    waited = [moment - (stamp - 1000) / 1000 for moment, stamp in zip(done, stamps)]
    assert task.pace.latencies_s == pytest.approx(waited)
    assert min(waited) >= 0.25
    assert max(waited) < 0.25 + 0.1 + 1e-9


def test_half_the_rate_drops_less():
    fast, slow = (replay(rate, 0.25)[2].synchronizer.counts['frames_dropped'] for rate in (1.0,
                                                                                           0.5))
    assert 0 < slow < fast
