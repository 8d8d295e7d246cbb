# SPDX-License-Identifier: Apache-2.0
"""`eval-map` and `compare-strategies` from the command line, on a tiny simulated room."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.evaluation import map_quality
from thermal_nerf_loc.evaluation.map_quality import evaluate_map
from thermal_nerf_loc.evaluation.strategy_comparison import ranking
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.training.config import STRATEGIES
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

TINY = """
rays: 256
field: {encoding: {log2_rows: 12, finest: 64}}
sampling: {grid_cells: 32, bins: 32}
"""


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, `tiny.yaml`, and the outcome of `compare-strategies` on both."""
    folder = tmp_path_factory.mktemp('place')
    simulate_dataset(folder / 'data', SimulationConfig(frames=8, size=(32, 24)))
    (folder / 'tiny.yaml').write_text(TINY)
    assert main(['compare-strategies', str(folder / 'data'), '--config',
                 str(folder / 'tiny.yaml'), '--steps', '4', '--out', str(folder / 'out'),
                 '--json', str(folder / 'figures.json')]) == 0
    return folder


def test_all_strategies_are_measured_on_equal_terms(place: Path) -> None:
    """Same rays and seed for each; maps, sheets and figures are kept."""
    figures = json.loads((place / 'figures.json').read_text())
    rows = figures['strategies']
    assert [row['strategy'] for row in rows] == list(STRATEGIES)
    assert {row['rays'] for row in rows} == {4 * 256}
    kept = json.loads((place / 'out' / 'comparison.json').read_text())
    assert kept['strategies'] == rows
    for row in rows:
        radiance_map = RadianceMap.load(place / 'out' / f'{row["strategy"]}.safetensors')
        assert radiance_map.info.training['seed'] == figures['seed'] == 0
        assert radiance_map.info.training['strategy'] == row['strategy']
        assert cv2.imread(str(place / 'out' / f'{row["strategy"]}.png')).shape[0] > 500
    again = evaluate_map(RadianceMap.load(place / 'out' / 'scratch.safetensors'),
                         load_scene(place / 'data'))
    row, = (row for row in rows if row['strategy'] == 'scratch')
    assert again.rgb_psnr == pytest.approx(row['rgb_psnr'])
    assert again.thermal_mae_celsius == pytest.approx(row['thermal_mae_celsius'])


def test_the_ranking_reads_the_rows() -> None:
    """Differences are rgbx minus scratch; without heat nobody is best at it."""
    rows = [{'strategy': name, 'thermal_psnr': heat, 'rgb_psnr': colour} for name, heat, colour
            in (('rgbx', 30.0, 25.0), ('scratch', 28.5, 25.5), ('separate', 31.0, 25.4))]
    assert ranking(rows) == {'best_thermal_psnr': 'separate',
                             'rgbx_over_scratch_thermal_db': 1.5,
                             'rgbx_over_scratch_rgb_db': -0.5}
    for row in rows:
        row['thermal_psnr'] = None
    assert ranking(rows)['best_thermal_psnr'] is None


def test_figures_sheet_and_views_of_a_map(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON holds the means and every view; the note says why a score is left out."""
    arguments = ['eval-map', str(place / 'out' / 'rgbx.safetensors'), str(place / 'data'),
                 '--sheet', str(place / 'sheet.png'), '--views', '2',
                 '--json', str(place / 'eval.json')]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    figures = json.loads((place / 'eval.json').read_text())
    assert 'depth error, median' in out and 'temperature error, mean' in out
    views = figures['views']
    assert len(views) == 2 * figures['frames'] > 2
    for name in ('rgb', 'thermal'):
        psnrs = [view['psnr'] for view in views if view['modality'] == name]
        assert figures[f'{name}_psnr'] == pytest.approx(np.mean(psnrs))
    assert 0.0 <= figures['depth_within_5cm'] <= 1.0
    assert (figures['rgb_lpips'] is None) == (figures['lpips_left_out'] is not None)
    assert (figures['rgb_lpips'] is None) == ('LPIPS is left out' in err)
    assert cv2.imread(str(place / 'sheet.png')).std() > 10.0
    check = figures['geometry_check']
    assert set(check) == {'rgb', 'thermal', 'seconds'} and figures['pixel_share'] == 1.0
    for name in ('rgb', 'thermal'):
        assert set(check[name]) == {'points', 'views', 'notes'}
        assert f'{name.replace("rgb", "RGB")} depth between held-out views' in err


def test_every_pixel_on_request(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the rays of all views together are bounded."""
    most = []
    monkeypatch.setattr(map_quality, 'score_views', lambda *args: most.append(args[-1]) or ())
    arguments = ['eval-map', str(place / 'out' / 'rgbx.safetensors'), str(place / 'data')]
    assert main(arguments) == main([*arguments, '--all-pixels']) == 0
    assert most == [map_quality.MOST_RAYS, None]


@pytest.mark.parametrize('option, told', [
    (['--views', '0'], 'out of range'), (['--sheet', 'sheet.jpg'], 'ends in .png'),
    (['--split', 'half'], 'invalid choice')])
def test_bad_options_are_named(place: Path, capsys: pytest.CaptureFixture[str],
                               option: list[str], told: str) -> None:
    """Before anything is rendered or written."""
    assert main(['eval-map', str(place / 'out' / 'rgbx.safetensors'), str(place / 'data'),
                 *option]) == 2
    assert told in capsys.readouterr().err


def test_outputs_are_not_written_over(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with an earlier comparison is refused before any training."""
    assert main(['compare-strategies', str(place / 'data'), '--out', str(place / 'out')]) == 2
    assert 'not empty' in capsys.readouterr().err
