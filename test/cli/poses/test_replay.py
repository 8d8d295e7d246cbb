# SPDX-License-Identifier: Apache-2.0
"""Replay from bag to report, and the demo: the exact simulated world stands for a good map."""

import json
from pathlib import Path
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from small_drive import renamed

from thermal_nerf_loc import cli
from thermal_nerf_loc.cli.headlines import HEADLINES
from thermal_nerf_loc.cli.poses import demo
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation.report.page import flatten
from thermal_nerf_loc.evaluation.study import drive_replay, live_replay
from thermal_nerf_loc.evaluation.study.drive_replay import ReplayRequest
from thermal_nerf_loc.evaluation.study.ground_truth import find_truth
from thermal_nerf_loc.evaluation.study.study import make_study
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.poses import MAX_GAP_S, PoseSource
from thermal_nerf_loc.io.bags.reader import BagReader, BagWriter
from thermal_nerf_loc.io.bags.transform_tree import FrameTree
from thermal_nerf_loc.io.trajectory import read_tum, Trajectory, write_tum
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.record import simulate_bag, SimulationConfig, START_NS
from thermal_nerf_loc.tracking.bag_replay import Pace, read_truth
from thermal_nerf_loc.tracking.robot_tracker import RobotTracker

PROMISED = {'ate_rmse_m', 'ate_rmse_deg', 'rpe_rmse_m', 'success_5cm_5deg', 'lost_share',
            'updates_hz', 'latency_p95_s'}


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp('bag') / 'drive'
    simulate_bag(path, SimulationConfig(seconds=2.0, size=(96, 72), rgb_hz=8.0, thermal_hz=16.0,
                                        supersampling=1))
    return path


@pytest.fixture(scope='module')
def short_bag(tmp_path_factory):
    path = tmp_path_factory.mktemp('bag') / 'short'
    simulate_bag(path, SimulationConfig(seconds=0.6, size=(64, 48), rgb_hz=8.0, thermal_hz=8.0,
                                        supersampling=1))
    return path


@pytest.fixture
def world_as_map(monkeypatch):
    world = make_world('room')
    monkeypatch.setattr(RadianceMap, 'load', lambda path, device='cpu': world)


def test_a_bag_becomes_a_trajectory_and_a_report(world_as_map, bag, tmp_path, capsys):
    out = tmp_path / 'result'
    figures = tmp_path / 'figures.json'
    assert cli.main(['replay', 'room.map', str(bag), '--out', str(out), '--json',
                     str(figures)]) == 0, capsys.readouterr().err
    told = json.loads(figures.read_text())
    assert set(told) >= PROMISED
    assert told['way'] == 'offline'
    assert told['ate_rmse_m'] < 0.03
    assert told['success_5cm_5deg'] > 0.8
    assert json.loads((out / 'metrics.json').read_text())['ate_rmse_m'] == told['ate_rmse_m']
    estimated, truth = read_tum(out / 'trajectory.tum'), read_tum(out / 'truth.tum')
    errors = [se3.distance(T, truth.at(int(t)))[0]
              for t, T in zip(estimated.stamps_ns, estimated.poses)]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(told['ate_rmse_m'], rel=1e-3)
    assert (out / 'trajectory.png').read_bytes().startswith(b'\x89PNG')
    assert (out / 'errors.png').read_bytes().startswith(b'\x89PNG')
    page = (out / 'report.html').read_text()
    assert 'ate_rmse_m' in page
    assert page.count('Thermal: seen, rendered') == 2 * 3  # best, median, worst; alt and caption
    assert {p.name for p in out.glob('*.pdf')} == {'trajectory.pdf', 'errors.pdf'}
    assert told['time_lost_s'] < 0.5
    assert told['relocalization_median_s'] is None
    assert told['latency_median_s'] <= told['latency_p95_s'] <= told['latency_max_s']
    assert 'position error, RMSE' in capsys.readouterr().out
    assert set(HEADLINES['replay']) <= set(told)


def test_the_same_bag_twice_gives_the_same_file(world_as_map, short_bag, tmp_path):
    for name in ('once', 'twice'):
        assert cli.main(['replay', 'm', str(short_bag), '--out', str(tmp_path / name)]) == 0
    assert ((tmp_path / 'once' / 'trajectory.tum').read_bytes()
            == (tmp_path / 'twice' / 'trajectory.tum').read_bytes())


def test_other_topic_names_and_odometry_on_a_topic_give_the_same_file(world_as_map, short_bag,
                                                                      tmp_path, capsys):
    other = renamed(short_bag, tmp_path / 'other', rgb='front', thermal='back', odom='wheels')
    parameters = tmp_path / 'p.yaml'
    parameters.write_text('/**: {ros__parameters: {odometry: topic}}')
    for name, bag, options in (
            ('usual', short_bag, []), ('other', other, []),
            ('topic', other, ['--params-file', str(parameters), '--odometry-topic', '/wheels'])):
        assert cli.main(['replay', 'm', str(bag), '--out', str(tmp_path / name), *options]) == 0
    written = {(tmp_path / name / 'trajectory.tum').read_bytes()
               for name in ('usual', 'other', 'topic')}
    assert len(written) == 1  # the odometry of a simulated bag is the same on tf and on its topic
    assert cli.main(['replay', 'm', str(other), '--out', str(tmp_path / 'none'),
                     '--params-file', str(parameters)]) == 2
    assert 'bag has no /odom' in capsys.readouterr().err


def test_bags_cameras_and_other_systems_come_into_one_table(world_as_map, short_bag, tmp_path,
                                                            capsys):
    bags = [short_bag, tmp_path / 'second']
    shutil.copytree(short_bag, bags[1])
    with BagReader(short_bag) as reader:
        truth = read_truth(reader)
    for bag in bags:
        write_tum(tmp_path / f'{bag.name}.tum', truth)
    out = tmp_path / 'out'
    assert cli.main(['replay', 'm', *map(str, bags), '--out', str(out), '--ablate', '--truth',
                     '/ground_truth/pose', '--compare', f'perfect={tmp_path}/{{bag}}.tum',
                     '--json', str(tmp_path / 'j')]) == 0, capsys.readouterr().err
    told = json.loads((tmp_path / 'j').read_text())
    rows = {(row['drive'], row['method']): row for row in told['runs']}
    assert set(rows) == {(drive, method) for drive in ('short', 'second', 'all')
                         for method in ('both', 'rgb', 'thermal', 'perfect')}
    assert rows['all', 'perfect']['ate_rmse_m'] == pytest.approx(0.0, abs=1e-9)
    assert rows['all', 'perfect']['updates_hz'] is None
    assert rows['all', 'both']['matched'] == 2 * rows['short', 'both']['matched']
    assert told['ate_rmse_m'] == rows['all', 'both']['ate_rmse_m'] > 0.0
    for drive in ('short', 'second'):
        assert (out / drive / 'errors.png').is_file()
        assert (out / drive / 'thermal' / 'trajectory.tum').is_file()
        assert len(read_tum(out / drive / 'truth.tum')) == len(truth)
    assert 'perfect' in (out / 'report.html').read_text()
    shown = capsys.readouterr().out
    assert 'thermal' in shown
    assert 'perfect' in shown


def test_a_camera_that_is_not_there_is_missed_before_anything_runs(tmp_path, capsys):
    with BagWriter(tmp_path / 'bare') as writer:
        writer.image('/rgb/image_raw', 0, 'rgb', np.zeros((4, 4, 3), np.uint8), 'rgb8')
        writer.camera_info('/rgb/camera_info', 0, 'rgb', make_camera())
    assert cli.main(['replay', 'no.map', str(tmp_path / 'bare'), '--ablate', '--out',
                     str(tmp_path / 'out')]) == 2
    assert '--thermal-topic' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_truth_comes_from_a_topic_from_tf_or_from_a_file(short_bag, tmp_path):
    with BagReader(short_bag) as reader:
        poses = find_truth(reader, None)
        write_tum(tmp_path / 'truth.tum', poses)
        from_file = find_truth(reader, str(tmp_path / 'truth.tum'))
        np.testing.assert_allclose(from_file.poses, poses.poses, atol=1e-12)
        odometry, tf = find_truth(reader, '/odom'), find_truth(reader, 'tf:odom:base_link')
        np.testing.assert_array_equal(odometry.stamps_ns, tf.stamps_ns)
        np.testing.assert_allclose(odometry.poses, tf.poses, atol=1e-12)
        camera = find_truth(reader, 'tf:odom:rgb_optical_frame')
        assert len(camera) == len(tf)
        assert (camera.poses[:, 2, 3] - tf.poses[:, 2, 3]).min() > 0.02  # above the base
        for source, message in (('/nothing', 'topics with poses: /ground_truth/pose, /odom'),
                                ('/rgb/image_raw', 'no poses'), ('tf:map', 'tf:MAP:BASE'),
                                ('tf:map:moon', "no frame 'map' and no frame 'moon'"),
                                ('nowhere.tum', 'does not exist')):
            with pytest.raises(InputError, match=message):
                find_truth(reader, source)


def test_no_truth_lies_in_a_gap_of_tf(tmp_path):
    """As in an import: odometry goes on at 10 Hz while the map's correction pauses for 2 s."""
    with BagWriter(tmp_path / 'gap') as writer:
        for tenth in range(41):
            stamp = START_NS + tenth * 10**8
            edges = [('odom', 'base', se3.exp([0.01 * tenth, 0, 0, 0, 0, 0]))]
            if not 10 < tenth < 30:
                edges.append(('map', 'odom', se3.exp([0, 0.1 * tenth, 0, 0, 0, 0])))
            writer.transforms(stamp, edges)
    with BagReader(tmp_path / 'gap') as reader:
        known = find_truth(reader, 'tf:map:base')
        bridged = find_truth(reader, 'tf:map:base', max_gap_s=3.0)
        tree = FrameTree()
        for _, _, message in reader.messages(['/tf']):
            tree.add(message, False)
    tenths = (known.stamps_ns - START_NS) // 10**8
    assert tenths.tolist() == [*range(11), *range(30, 41)]
    assert len(bridged) == 41
    np.testing.assert_allclose(bridged.poses[20, :3, 3], [0.2, 2.0, 0.0], atol=1e-9)
    source = PoseSource('', 'map', '', None, tree, round(MAX_GAP_S * 1e9))
    for tenth in range(41):  # an import knows the same, and no more
        T = source.at('base', START_NS + tenth * 10**8)
        assert (T is None) == (10 < tenth < 30)
        if T is not None:
            np.testing.assert_allclose(T, known.poses[tenths.tolist().index(tenth)], atol=1e-12)


def test_the_tolerance_says_which_gaps_of_tf_are_bridged(tmp_path):
    request = ReplayRequest(tmp_path, tmp_path, tmp_path)
    for options, gap_s in (({}, MAX_GAP_S), ({'tolerance_s': 2.0}, 4.0),
                           ({'tolerance_s': 2.0, 'associate': 'nearest'}, MAX_GAP_S)):
        plan = make_study(request, [Path('bag')], [], [], False, options)
        assert plan.drives['bag'][0].truth_gap_s == gap_s


@pytest.mark.parametrize('arguments, message', [
    (['--truth', 'a', '--truth', 'b'], 'one for all or 1; got 2'),
    (['--compare', 'other'], 'NAME=FILE.tum'),
    (['--compare', 'both=x.tum'], 'one name'),
    (['--compare', 'a=x.tum'], 'x.tum: does not exist'),
    (['--ablate', '--modality', 'rgb'], '--modality'),
    (['--tolerance', '0'], 'tolerance_s'),
    (['--rpe-unit', 'f', '--rpe-delta', '0.5'], 'whole'),
    (['BAG'], 'same bag twice')])
def test_a_study_that_does_not_fit_is_refused_at_once(bag, tmp_path, capsys, arguments, message):
    more = [str(bag) if a == 'BAG' else a for a in arguments]
    assert cli.main(['replay', 'm', str(bag), *more, '--out', str(tmp_path / 'out')]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('modality', 'options', 'parameter'), [
    ('rgb', ['--modality', 'rgb'], 'both'), ('thermal', [], 'thermal')])
def test_one_modality_alone_is_enough(world_as_map, bag, tmp_path, modality, options, parameter):
    """Chosen by the option, or else by the parameter file, as for the node."""
    with BagReader(bag) as reader:
        T = read_truth(reader).poses[0]
    start = map(str, (*T[:3, 3], *se3.quaternion_from_matrix(T[:3, :3])))
    parameters = tmp_path / 'p.yaml'
    parameters.write_text(f'/**: {{ros__parameters: {{modality: {parameter}, tracker: '
                          '{initial_sigma_m: 0.05, initial_sigma_deg: 2.0}}}')
    assert cli.main(['replay', 'room.map', str(bag), '--out', str(tmp_path / 'r'),
                     *options, '--initial-pose', *start, '--params-file', str(parameters)]) == 0
    details = json.loads((tmp_path / 'r' / 'metrics.json').read_text())['details']
    assert [key for key in details if key.endswith('_received')] == [f'{modality}_received']


def test_at_a_rate_it_tells_what_was_dropped(world_as_map, short_bag, tmp_path, monkeypatch):
    """A tracker that takes 0.2 s a frame, eight frames a second, on a clock of its own."""
    now = [0.0]

    class Slow(RobotTracker):
        def step(self, observation):
            now[0] += 0.2
            return super().step(observation)

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(drive_replay, 'RobotTracker', Slow)
    monkeypatch.setattr(drive_replay, 'Pace', lambda rate: Pace(rate, lambda: now[0], sleep))
    assert cli.main(['replay', 'm', str(short_bag), '--out', str(tmp_path), '--rate', '1']) == 0
    told = json.loads((tmp_path / 'metrics.json').read_text())
    assert told['details']['rate'] == 1.0
    assert told['details']['frames_dropped'] >= 1
    assert told['updates'] + told['details']['frames_dropped'] == told['details']['rgb_received']
    assert told['latency_max_s'] >= 0.2


@pytest.mark.parametrize('arguments, message', [
    (['no.map', 'BAG'], 'no such map file'),
    (['no.map', 'nowhere'], 'bag does not exist'),
    (['no.map', 'BAG', '--rgb-topic', '/camera'], 'bag has no /camera'),
    (['no.map', 'BAG', '--initial-pose', '0', '0', '0', '0', '0', '0', '0'], 'quaternion'),
    (['no.map', 'BAG', '--truth', 'no.tum'], 'no.tum: does not exist'),
    (['no.map', 'BAG', '--params-file', 'no.yaml'], 'no.yaml: does not exist'),
    (['no.map', 'BAG', '--rate', '0'], '--rate')])
def test_what_cannot_be_replayed_is_one_error(bag, tmp_path, capsys, arguments, message):
    arguments = [str(bag) if a == 'BAG' else a for a in arguments]
    assert cli.main(['replay', *arguments, '--out', str(tmp_path)]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith('error: ')
    assert message in err


def test_a_bag_without_truth_needs_an_initial_pose(world_as_map, tmp_path, capsys):
    with BagWriter(tmp_path / 'bare') as writer:
        writer.image('/rgb/image_raw', 0, 'rgb', np.zeros((4, 4, 3), np.uint8), 'rgb8')
        writer.camera_info('/rgb/camera_info', 0, 'rgb', make_camera())
    arguments = ['replay', 'm', str(tmp_path / 'bare'), '--out', str(tmp_path / 'out')]
    assert cli.main(arguments) == 2
    assert '--initial-pose X Y Z QX QY QZ QW' in capsys.readouterr().err
    assert cli.main([*arguments, '--initial-pose', *'0001']) == 2
    assert cli.main([*arguments, '--initial-pose', *'0000001']) == 1
    assert "no frame 'base_link' and no frame 'rgb'" in capsys.readouterr().err


def test_a_start_in_the_wrong_place_ends_without_a_pose(world_as_map, bag, tmp_path, capsys):
    assert cli.main(['replay', 'm', str(bag), '--out', str(tmp_path), '--modality', 'rgb',
                     '--initial-pose', '0.3', '-0.4', '1.2', '0', '0', '1', '0']) == 1
    assert 'no pose was found in 17 frames' in capsys.readouterr().err


def test_through_ros_the_gaps_of_tf_are_time_lost(world_as_map, bag, tmp_path, monkeypatch):
    with BagReader(bag) as reader:
        truth = read_truth(reader)
    elapsed_s = (truth.stamps_ns - truth.stamps_ns[0]) * 1e-9
    heard = (elapsed_s < 0.3) | (elapsed_s > 1.7)
    tf = Trajectory(truth.stamps_ns[heard], truth.poses[heard])
    runs = []

    def run_live(run, progress):
        runs.append(run)
        return SimpleNamespace(tf=tf, odometry_count=len(truth), updates=tf, diagnostics={
            'updates': '12', 'state': 'tracking'}, latencies_s=np.array([0.1, 0.2])), ('line',)

    monkeypatch.setattr(drive_replay, 'ros_is_here', lambda: True)
    monkeypatch.setattr(drive_replay, 'run_live', run_live)
    assert cli.main(['replay', 'm', str(bag), '--out', str(tmp_path), '--through-ros',
                     '--rate', '0.5', '--align', 'se3']) == 0
    assert (runs[0].rate, runs[0].seconds) == (0.5, pytest.approx(2.0, abs=0.01))
    told = json.loads((tmp_path / 'metrics.json').read_text())
    assert told['way'] == 'ros'
    assert told['ate_rmse_m'] == pytest.approx(0.0, abs=1e-6)
    assert told['time_lost_s'] == told['relocalization_max_s'] == pytest.approx(1.4, abs=0.05)
    assert told['lost_share'] == pytest.approx(1.0 - heard.mean())
    assert (told['losses'], told['updates']) == (1, 12)
    assert told['latency_max_s'] == pytest.approx(0.2)
    assert (tmp_path / 'node.log').read_text() == 'line\n'
    assert 'lost once after the start' in (tmp_path / 'report.html').read_text()


def test_through_ros_is_refused_where_there_is_none(bag, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(drive_replay, 'ros_is_here', lambda: False)
    assert cli.main(['replay', 'm', str(bag), '--out', str(tmp_path), '--through-ros']) == 2
    assert 'rclpy' in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_without_ros_says_so_and_leaves_everything(world_as_map, tmp_path, capsys,
                                                            monkeypatch):
    monkeypatch.setattr(live_replay, 'ros_is_here', lambda: False)
    monkeypatch.setattr(demo, 'QUICK', demo.Size(frames=6, steps=30, bag_s=1.5))
    out = tmp_path / 'demo'
    for _ in range(2):  # a second demo may write over the first
        assert cli.main(['demo', '--quick', '--out', str(out)]) == 0, capsys.readouterr().err
        assert 'replayed offline' in ' '.join(capsys.readouterr().err.split())
    told = json.loads((out / 'metrics.json').read_text())
    assert set(told) >= PROMISED
    assert set(HEADLINES['demo']) <= set(dict(flatten(told)))
    assert told['map']['steps'] > 0
    assert (out / 'map.safetensors').stat().st_size > 1000
    assert {p.name for p in out.glob('*.png')} == {'trajectory.png', 'errors.png', 'renders.png'}
    assert 'What the map learned' in (out / 'report.html').read_text()
    assert (out / 'dataset' / 'transforms.json').is_file()


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path, capsys):
    (tmp_path / 'thesis.txt').write_text('years of work')
    assert cli.main(['demo', '--quick', '--out', str(tmp_path)]) == 2
    assert 'not empty' in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']


def make_camera():
    from thermal_nerf_loc.geometry.camera import Camera
    return Camera.from_fov(4, 4, 60.0)
