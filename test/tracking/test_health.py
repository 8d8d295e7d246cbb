# SPDX-License-Identifier: Apache-2.0
"""What the node says of itself; it needs no ROS."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.tracking import health
from thermal_nerf_loc.tracking.health import NodeHealth
from thermal_nerf_loc.tracking.robot_tracker import RobotUpdate


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns."""
    class Clock:
        now_s = 100.0

    monkeypatch.setattr(health.time, 'monotonic', lambda: Clock.now_s)
    return Clock


def update(state='tracking', reason='', sigma_m=0.02, posed=True):
    covariance = np.diag([sigma_m**2, 0.01**2, 0.01**2, *3 * [np.deg2rad(0.5)**2]])
    return RobotUpdate(0, state, reason, np.eye(4) if posed else None, None,
                       covariance if posed else None, 0.1, ('rgb', 'thermal'),
                       inlier_share=0.8, carried_by={'rgb': 0.25, 'thermal': 0.75},
                       ignored={})


def test_before_the_first_image_it_waits(clock):
    told = NodeHealth('room').figures({'rgb_received': 3}, 5.0)
    assert told['state'] == 'waiting for images'
    assert (told['sigma_m'], told['inlier_share'], told['latency_p95_s']) == ('', '', '')
    assert told['frames_dropped'] == '0' and told['rgb_received'] == '3'


def test_the_last_pose_is_told_with_its_sigmas(clock):
    made = NodeHealth('room')
    for k in range(5):
        clock.now_s = 100.0 + 0.2 * k
        made.note_update(update(), 0.1 * (k + 1), 0.05)
    clock.now_s = 101.0
    told = made.figures({}, 5.0)
    assert (told['state'], told['carried_by']) == ('tracking', 'thermal 75% rgb 25%')
    assert float(told['sigma_m']) == pytest.approx(0.02)
    assert float(told['sigma_deg']) == pytest.approx(0.5)
    assert float(told['updates_hz']) == pytest.approx(5.0)
    assert float(told['latency_median_s']) == pytest.approx(0.3)
    assert told['updates_tracking'] == '5'


def test_doubt_is_told_with_its_reason_and_sigma(clock):
    made = NodeHealth('room')
    made.note_update(update('degraded', 'images and map disagree', 0.4), 0.1, 0.05)
    told = made.figures({}, 5.0)
    assert (told['state'], told['reason']) == ('degraded', 'images and map disagree')
    assert float(told['sigma_m']) == pytest.approx(0.4)
    made.note_update(update('lost', 'images and map disagree', posed=False), 0.1, 0.05)
    told = made.figures({}, 5.0)
    assert (told['state'], told['sigma_m']) == ('lost', '')


@pytest.mark.parametrize('silent_s, state', [(1.0, 'tracking'), (3.0, 'degraded'), (6.0, 'lost')])
def test_silence_wears_the_state_down(clock, silent_s, state):
    made = NodeHealth('room')
    made.note_update(update(), 0.1, 0.05)
    clock.now_s += silent_s
    told = made.figures({}, 5.0)
    assert told['state'] == state
    assert ('no usable image' in told['reason']) == (state != 'tracking')
    made.paused = True
    assert made.figures({}, 5.0)['state'] == 'paused'


def test_what_frames_cost_is_told_since_the_last_figures(clock, monkeypatch):
    cpu_s = [10.0]
    monkeypatch.setattr(health.time, 'process_time', lambda: cpu_s[0])
    made = NodeHealth('room')
    made.effort, made.facts = 0.7, {'odometry': 'tf', 'publishes': 'map -> odom'}
    told = made.figures({}, 5.0)
    assert (told['frame_rays'], told['frame_cpu_s'], told['frames_dropped_share']) == ('', '', '')
    for rays in (1000, 1400, 3000):
        made.note_update(replace(update(), rays=rays), 0.1, 0.05)
    clock.now_s, cpu_s[0] = clock.now_s + 2.0, 13.0
    told = made.figures({'frames_dropped': 1}, 5.0)
    assert told['frame_rays'] == '1400' and float(told['frame_cpu_s']) == pytest.approx(1.0)
    assert float(told['cores_used']) == pytest.approx(1.5)
    assert (told['effort'], told['frames_dropped_share']) == ('70%', '25%')
    assert (told['odometry'], told['publishes']) == ('tf', 'map -> odom')
    clock.now_s += 2.0
    told = made.figures({'frames_dropped': 1}, 5.0)
    assert float(told['cores_used']) == 0.0 and told['frames_dropped_share'] == ''


def test_a_problem_is_told_in_so_many_words():
    made = NodeHealth('room')
    made.note_problem('problems', 'x' * 10**6)
    assert len(made.figures({}, 5.0)['last_problem']) < 1000
