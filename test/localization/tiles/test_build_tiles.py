# SPDX-License-Identifier: Apache-2.0
"""Two tiny tiles of a small hall: built, resumed, added to, rendered and searched as one map."""

from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
import json
from pathlib import Path
import shutil
import threading

import numpy as np
import pytest

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.localization.localizer import Localizer
from thermal_nerf_loc.localization.tiles.build_tiles import build_tiles
from thermal_nerf_loc.localization.tiles.job_runners import DaskCluster, LocalProcesses
from thermal_nerf_loc.localization.tiles.tile_job import facts_of, TileJob, train_tile
from thermal_nerf_loc.mapping.map.panoramas import PanoramaConfig
from thermal_nerf_loc.mapping.tiles.division import DivisionConfig
from thermal_nerf_loc.mapping.tiles.map_loading import load_map
from thermal_nerf_loc.mapping.tiles.tile_index import INDEX, TileFolder
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.sensing.rendering import render_image
from thermal_nerf_loc.simulation.plant import PlantConfig
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

CONFIG = TrainConfig(steps=30, rays=256, scene_bounds_steps=0, depth_from='none',
                     field=FieldConfig(EncodingConfig(4, 4, 11, 4, 40)),
                     panoramas=PanoramaConfig(rays=200, most=10))
DIVISION = DivisionConfig(views=20, overlap_m=0.8)


class InThisProcess:
    """Jobs one after the other; `die` is called before each."""

    def __init__(self, die=lambda job: None):
        self.die, self.names = die, []

    def run(self, jobs, progress=None):
        for job in jobs:
            self.die(job)
            self.names.append(job.name)
            state = train_tile(json.loads(json.dumps(facts_of(job))))
            assert state['state'] == 'done', state


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('plant')
    for name, seed in (('first', 0), ('second', 1)):
        simulate_dataset(folder / name, SimulationConfig(
            scene='plant', plant=PlantConfig((6.0, 5.0)), frames=24 if seed == 0 else 4,
            size=(32, 24), seed=seed, clean=True, supersampling=1, laps=1.0 if seed == 0 else 0.1))
    return folder


@pytest.fixture(scope='module')
def built(data):
    path = data / 'plant.map'
    return path, build_tiles([data / 'first'], path, CONFIG, DIVISION, InThisProcess(),
                             cache_gb=0.01)


def test_the_folder_holds_what_the_index_says(built):
    path, found = built
    index = TileFolder(path).read_index()
    assert len(index.tiles) == len(found.trained) == 2
    assert len(index.poses) == 24 and set(index.modalities) == {'rgb', 'thermal'}
    assert index.tiles[0].neighbours == ('tile_0001',)
    for tile in index.tiles:
        assert (path / tile.file).stat().st_size == tile.bytes
        assert tile.sha256[:12] in tile.file and tile.version == 1
    assert [file.name for file in (path / 'work').iterdir()] == ['images']
    assert not list((path / 'work' / 'images').iterdir())
    assert json.loads((path / INDEX).read_text())['floors']


def test_it_renders_as_one_map(built, data):
    path, _ = built
    tiled, scene = load_map(path), load_scene(data / 'first')
    frame = scene.load(0)
    image = render_image(tiled, 'rgb', frame.images['rgb'].camera, frame.T_world_cam)
    assert image.values.shape == (24, 32, 3) and np.isfinite(image.values).all()
    # where both tiles count each renders its share of the rays, as it does alone
    ends = [tiled.index.poses[tiled.index.owner == k, :3, 3] for k in (0, 1)]
    a, b = min(((p, q) for p in ends[0] for q in ends[1]),
               key=lambda pair: np.linalg.norm(pair[0] - pair[1]))
    weights = tiled._weights.at(0.5 * (a + b))
    assert set(weights) == {0, 1}
    directions = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    origins = np.tile(0.5 * (a + b), (400, 1)).astype(np.float32)
    both = tiled.render_rays('thermal', origins, directions).values
    alone = [tiled._by_tile(k, 'thermal', origins, directions).values for k in (0, 1)]
    of_first = np.isclose(both, alone[0], atol=1e-4)[:, 0]
    of_second = np.isclose(both, alone[1], atol=1e-4)[:, 0]
    assert (of_first | of_second).all()
    assert abs(of_first.mean() - weights[0]) < 0.15


def test_temperatures_agree_where_tiles_overlap(built):
    _, found = built
    assert found.steps_left['thermal'] < 1e-3  # two tiles: one offset explains all
    offsets = [tile.celsius_offset for tile in found.index.tiles]
    assert abs(sum(offsets)) < 1e-3


def test_a_frame_is_localized_and_searched_for(built, data):
    path, _ = built
    tiled, frame = load_map(path), load_scene(data / 'first').load(3)
    localizer = Localizer(tiled)
    assert np.isfinite(localizer.localize(frame, frame.T_world_cam).T_world_cam).all()
    candidates = localizer.source.candidates(frame, 8)
    assert candidates
    low, high = tiled.bounds
    for candidate in candidates:
        assert (candidate.T_world_cam[:3, 3] > low - 2.0).all()
        assert (candidate.T_world_cam[:3, 3] < high + 2.0).all()
    assert localizer.localize_anywhere(frame).verdict in ('ok', 'ambiguous', 'lost')


def test_nothing_is_trained_again_without_need(built, data):
    path, _ = built
    runner = InThisProcess()
    again = build_tiles([data / 'first'], path, CONFIG, DIVISION, runner)
    assert runner.names == [] and again.trained == ()


def test_new_data_trains_the_tiles_that_they_touch(built, data, tmp_path):
    path = tmp_path / 'plant.map'
    shutil.copytree(built[0], path)
    runner = InThisProcess()
    added = build_tiles([data / 'first', data / 'second'], path, CONFIG, DIVISION, runner)
    assert len(added.trained) == 1 and runner.names == list(added.trained)
    changed = next(tile for tile in added.index.tiles if tile.name in added.trained)
    assert changed.version == 2
    former, = added.index.history
    assert (path / former['file']).is_file() and former['version'] == 1
    with pytest.raises(InputError, match='no frames in these data sets'):
        build_tiles([data / 'second'], path, CONFIG, DIVISION, runner)


def test_an_interruption_costs_no_finished_tile(data, tmp_path):
    def power_cut(job):
        if job.name == 'tile_0001':
            raise KeyboardInterrupt

    path = tmp_path / 'plant.map'
    with pytest.raises(KeyboardInterrupt):
        build_tiles([data / 'first'], path, CONFIG, DIVISION, InThisProcess(power_cut))
    assert not (path / INDEX).exists()
    runner = InThisProcess()
    assert len(build_tiles([data / 'first'], path, CONFIG, DIVISION, runner).index.tiles) == 2
    assert runner.names == ['tile_0001']


def test_tiles_come_from_a_server_once(built, data, tmp_path, monkeypatch):
    path, _ = built
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, text, *arguments):
            asked.append(arguments[0])

    monkeypatch.setenv('THERMAL_NERF_LOC_CACHE', str(tmp_path / 'cache'))
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=str(path.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = Path(f'http://127.0.0.1:{server.server_port}/plant.map')  # as the options make it
        here, there = load_map(path), load_map(url)
        frame = load_scene(data / 'first').load(0)
        camera = frame.images['rgb'].camera
        one, other = (render_image(a_map, 'rgb', camera, frame.T_world_cam).values
                      for a_map in (here, there))
        np.testing.assert_array_equal(one, other)
        before = len(asked)
        render_image(load_map(url), 'rgb', camera, frame.T_world_cam)
        assert len(asked) == before + 1  # the index alone
    finally:
        server.shutdown()
        server.server_close()


def test_memory_is_bounded_and_a_robot_does_not_wait(built):
    path, _ = built
    tiled = load_map(path, memory_mb=0.01, waits=False)
    ends = [tiled.index.poses[tiled.index.owner == k, :3, 3][0] for k in (0, 1)]
    down = np.tile(np.array([[0.0, 0.0, -1.0]], np.float32), (4, 1))
    for end in (*ends, *ends):
        tiled.keep_near(end)
        tiled.render_rays('rgb', np.tile(end, (4, 1)).astype(np.float32), down)
        tiled.cache.settle()
        assert len(tiled.cache.numbers) == 1


@pytest.mark.parametrize('content, told', [('{', 'JSON'), ('{}', 'no tiled map'),
                                           (None, 'no tiled map')])
def test_a_broken_folder_is_told(tmp_path, content, told):
    folder = tmp_path / 'plant.map'
    folder.mkdir()
    if content is not None:
        (folder / INDEX).write_text(content)
    with pytest.raises(InputError, match=told):
        load_map(folder)


def test_a_job_of_other_views_begins_anew(tmp_path):
    job = TileJob('tile', ('x',), (), (), str(tmp_path / 'tile.map'), 'digest', {})
    (tmp_path / 'tile.json').write_text('{"state": "done", "views": "other"}')
    assert job.state() == {} and not job.is_done


@pytest.mark.slow
def test_a_killed_worker_is_followed_by_another(data, tmp_path):
    class Killer(LocalProcesses):
        killed = False

        def _started(self, job):
            process = super()._started(job)
            if not self.killed:
                type(self).killed = True
                threading.Timer(4.0, process.kill).start()
            return process

    runner = Killer(2)
    config = replace(CONFIG, steps=400, checkpoint_seconds=1.0)
    built = build_tiles([data / 'first'], tmp_path / 'plant.map', config, DIVISION, runner)
    assert len(built.index.tiles) == 2 and runner.restarts == 1


@pytest.mark.slow
def test_a_cluster_survives_a_killed_worker(data, tmp_path):
    distributed = pytest.importorskip('distributed', reason='the cluster needs Dask distributed')
    config = replace(CONFIG, steps=400, checkpoint_seconds=1.0)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True,
                                  dashboard_address=None) as cluster:
        runner = DaskCluster(cluster.scheduler_address)
        victim = next(iter(cluster.workers.values()))
        threading.Timer(4.0, lambda: victim.process.process._process.kill()).start()
        built = build_tiles([data / 'first'], tmp_path / 'plant.map', config, DIVISION, runner)
        runner.close()
    assert len(built.index.tiles) == 2 and len(built.trained) == 2


def test_the_command_line_knows_folders(built, data, tmp_path):
    path, _ = built
    figures = tmp_path / 'f.json'
    assert main(['info', str(path), '--json', str(figures)]) == 0
    assert json.loads(figures.read_text())['tiles'] == 2
    assert main(['localize', str(path), str(data / 'first'), '--frames', '1', '--exact-rays', '0',
                 '--json', str(figures)]) == 0
    assert len(json.loads(figures.read_text())['frames']) == 1
    assert main(['eval-map', str(path), str(data / 'first'), '--json', str(figures)]) == 0
    assert json.loads(figures.read_text())['views']
    out = tmp_path / 'one.png'
    assert main(['render', str(path), '--pose', '2 2 1.2 -0.5 0.5 -0.5 0.5', '--size', '32x24',
                 '--out', str(out)]) == 0
    assert out.is_file()
