# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own arithmetic: a wrong ratio would be worse than none."""

import json
import os
from pathlib import Path
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks'
PROGRAMS = ('against_sfm', 'candidates', 'depth_start', 'exact_poses', 'failure_detection',
            'gpu', 'import_bag', 'inertial', 'lens_and_poses', 'localization', 'map_cost',
            'map_geometry',
            'moving_things', 'pose_basin', 'pose_real_sets', 'ray_sampling', 'real_rig',
            'refinement', 'rendering_speed', 'roofline', 'scale', 'self_supervision', 'stereo',
            'thermal_depth',
            'training_curve', 'training_processes', 'training_throughput')


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a benchmark is run as a program."""
    monkeypatch.syspath_prepend(str(FOLDER))


def test_help_is_short_and_imports_nothing_heavy() -> None:
    """All in one process: each parser is built before anything is imported."""
    code = ('import sys, importlib\n'
            f'sys.path.insert(0, {str(FOLDER)!r})\n'
            f'for name in {PROGRAMS!r}:\n'
            '    sys.argv = [name, "--help"]\n'
            '    try:\n'
            '        importlib.import_module(name).main()\n'
            '    except SystemExit as end:\n'
            '        assert end.code == 0, name\n'
            'assert not {"torch", "numba", "matplotlib"} & set(sys.modules)\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('--json FILE') >= len(PROGRAMS)
    assert all(len(line) < 110 for line in done.stdout.splitlines())


def test_runs_take_turns_and_warm_ups_do_not_count() -> None:
    """A B A B, and as many figures as rounds."""
    from _bench import interleaved
    calls: list[str] = []
    seconds = interleaved({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, 3,
                          warm_up=2)
    assert calls == ['a', 'b'] * 5
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_the_torch_grid_draws_what_the_kernels_draw() -> None:
    """Same samples from the same random numbers: else two benchmarks compare nothing."""
    from _bench import torch_grid

    from thermal_nerf_loc.field.contraction import ContractedSpace
    from thermal_nerf_loc.field.density_grid import DensityGrid, SamplingConfig
    rng = np.random.default_rng(0)
    grid = DensityGrid(SamplingConfig(grid_cells=32, bins=64),
                       ContractedSpace((0., 0., 0.), (2., 2., 1.)))
    grid.values[:] = rng.gamma(0.3, 3.0, grid.values.shape)
    directions = rng.normal(size=(50, 3))
    directions = (directions / np.linalg.norm(directions, axis=1)[:, None]).astype(np.float32)
    origins = rng.uniform(-0.5, 0.5, (50, 3)).astype(np.float32)
    for exploring in (0.1, 1.0):
        ours = grid.sample(origins, directions, 12, exploring, np.random.default_rng(1))
        theirs = torch_grid(grid).sample(origins, directions, 12, exploring,
                                         np.random.default_rng(1))
        for a, b in zip(ours, theirs):
            # far bins are long and light: there a rounded share moves a sample
            assert np.median(np.abs(a - b)) < 1e-5
            assert np.mean(np.isclose(a, b, rtol=2e-3, atol=2e-3)) > 0.95


def test_operations_of_a_network_are_counted() -> None:
    """Two for each weight."""
    from roofline import branch_operations, density_operations

    from thermal_nerf_loc.field.contraction import ContractedSpace
    from thermal_nerf_loc.field.radiance_field import FieldConfig, RadianceField
    field = RadianceField(FieldConfig(), ContractedSpace((0., 0., 0.), (1., 1., 1.)),
                          {'rgb': 3, 'thermal': 1})

    def weights(module: object) -> int:
        return 2 * sum(p.numel() for p in module.parameters() if p.ndim == 2)

    assert density_operations(field.config) == weights(field.density_net)
    for modality in ('rgb', 'thermal'):
        assert branch_operations(field, modality) == weights(field.branches[modality])


def test_a_share_of_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    """1 us and 3 us after one another bound a ray to 250,000 a second."""
    from roofline import report, Stage
    stages = [Stage.of_memory('a', 'much', 1e-6), Stage('b', 'more', 1e-6, 2e-6, 3e-6)]
    found = report('drawing', stages, {'kernels': 1e5})
    assert found['torch_bound_rays_per_second'] == pytest.approx(2.5e5)
    assert found['hardware_bound_rays_per_second'] == pytest.approx(5e5)
    assert found['share_of_torch'] == pytest.approx(0.4)
    assert '250,000' in capsys.readouterr().out


def test_sparse_depth_is_sparse_noisy_and_for_training_alone(tmp_path: Path) -> None:
    """What training draws knows so many pixels of RGB, about right; the judge keeps all."""
    from training_curve import with_sparse_depth

    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
    from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig
    simulate_dataset(tmp_path / 'room', SimulationConfig(frames=3, size=(32, 24)))
    scene = load_scene(tmp_path / 'room')
    sparse = with_sparse_depth(scene, 40, 0.01, 0, tmp_path / 'sparse')
    sources, _ = load_sources(sparse, TrainConfig(depth_weight=0.1))
    everything = np.arange(3 * 32 * 24)
    drawn = sources['rgb'].at(everything)
    assert drawn.confidence.sum() == 3 * 40
    assert not sources['thermal'].at(np.arange(3 * 24 * 18)).confidence.any()
    dense = load_sources(scene, TrainConfig(depth_weight=0.1))[0]['rgb'].at(everything)
    known = drawn.confidence > 0
    off = (drawn.depth_m[known] / dense.depth_m[known] - 1.0).numpy()
    assert 0.005 < off.std() < 0.02
    assert (sparse.load(scene.test[0]).images['rgb'].depth_m > 0.0).sum() > 700


def test_figures_are_written_with_the_machine(tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    """A time without its machine says nothing."""
    from _bench import finish
    args = SimpleNamespace(json=tmp_path / 'a.json', threads=2, quick=True)
    assert finish(args, {'ratio': 5.5}) == 0
    figures = json.loads((tmp_path / 'a.json').read_text())
    assert figures['ratio'] == 5.5 and figures['quick'] is True
    assert {'processor', 'cores', 'load', 'torch', 'numba', 'instructions', 'torch_uses',
            'onednn_uses', 'numba_uses'} <= set(figures['machine'])
    told = capsys.readouterr().out
    assert 'load' in told and 'instructions: ' in told and '2 threads' in told


def test_instructions_are_named_as_people_do() -> None:
    """By LLVM's features; the emulation of a plain processor shows."""
    from _bench import instructions
    assert instructions({'avx2', 'fma', 'sse4.2'}) == 'AVX2 FMA'
    assert instructions({'avx512f', 'avx2', 'avx512bf16'}) == 'AVX2 AVX-512 bfloat16'
    assert instructions(()) == 'none of AVX'
    code = 'from _bench import instruction_sets; print(instruction_sets())'
    environment = os.environ | {'NUMBA_CPU_NAME': 'znver3', 'NUMBA_CPU_FEATURES': '',
                                'ATEN_CPU_CAPABILITY': 'avx2', 'ONEDNN_MAX_CPU_ISA': 'AVX2'}
    told = subprocess.run([sys.executable, '-c', code], env=environment, cwd=FOLDER,
                          capture_output=True, text=True, check=True).stdout
    assert "'numba_uses': 'znver3" in told and "'onednn_uses': 'AVX2'" in told


def test_normalised_errors_are_held_against_chi_square() -> None:
    """Honest poses lie inside the band; ten times too sure ones, and unbelieved ones, do not."""
    from _poses import Trial
    from localization import chi_square
    chi2 = np.random.default_rng(0).chisquare(6, 600)
    honest = [Trial(0.01, 0.1, 0.1, 'ok', value) for value in chi2]
    found = chi_square(honest)
    assert found['in_band']
    assert found['mean'] == pytest.approx(6.0, abs=0.5)
    assert found['within_95_share'] == pytest.approx(0.95, abs=0.03)
    assert not chi_square([Trial(0.01, 0.1, 0.1, 'ok', 10 * value) for value in chi2])['in_band']
    assert chi_square([Trial(0.01, 0.1, 0.1, 'lost', value) for value in chi2]) == {'count': 0}


def test_a_pose_is_wrong_and_ok() -> None:
    """Both at once; a view of another scene is wrong wherever it is put."""
    from _poses import summary, Trial
    from localization import as_wrong
    good, far, unsure = (Trial(0.01, 0.1, 0.2, 'ok', 6.0), Trial(0.2, 0.1, 0.4, 'ok', 6.0),
                         Trial(0.2, 9.0, 0.6, 'lost', 6.0))
    found = summary([good, far, unsure])
    assert found['wrong_but_ok'] == 1
    assert found['success_5cm_5deg'] == pytest.approx(1 / 3)
    assert (found['median_m'], found['median_seconds']) == (0.2, 0.4)
    assert as_wrong(good).wrong_but_ok
    assert not as_wrong(unsure).wrong_but_ok


def test_inerf_is_judged_by_its_best_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """First success, then error; time against that one alone."""
    from _poses import Trial
    from localization import report_inerf
    found = report_inerf({'align': [Trial(0.01, 0.1, 0.1, 'ok', 6.0)],
                          'inerf, rate 1': [Trial(0.2, 0.1, 2.0, 'ok', 6.0)],
                          'inerf, rate 2': [Trial(0.02, 0.1, 7.0, 'ok', 6.0)]})
    assert (found['best'], found['time_ratio']) == ('inerf, rate 2', pytest.approx(70.0))
    assert '1/70' in capsys.readouterr().out


def test_starts_of_the_paper_stay_within_their_limits() -> None:
    """Up to 40 deg, up to 0.2 m along each axis, the same on every run."""
    from ray_sampling import paper_start
    starts = np.array([paper_start(np.eye(4), 40.0, 0.2, (0, k)) for k in range(200)])
    angles = np.rad2deg(np.arccos(0.5 * (np.trace(starts[:, :3, :3], axis1=1, axis2=2) - 1.0)))
    assert 35.0 < angles.max() <= 40.0 + 1e-6
    shifts = np.linalg.norm(starts[:, :3, 3], axis=1)
    assert 0.2 < shifts.max() < 0.2 * 3**0.5 + 1e-6
    assert (paper_start(np.eye(4), 40.0, 0.2, (0, 7)) == starts[7]).all()


def test_basin_is_swept_and_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    """Each level once, from 5 to 60 deg and 0.05 to 1 m; curves become a table and a PNG."""
    from pose_basin import levels, picture, report
    starts = levels(quick=False)
    assert {value for name, value, _ in starts if name == 'angle_deg'} >= {5.0, 60.0}
    assert {value for name, value, _ in starts if name == 'distance_m'} >= {0.05, 1.0}
    assert {start[1] for name, _, start in starts if name == 'angle_deg'} == {0.1}
    curves = [{'method': 'align', 'modality': 'rgb', 'sweep': name, 'start': value, 'trials': 4,
               'success_5cm_5deg': 0.75} for name, value, _ in starts]
    report(curves)
    assert capsys.readouterr().out.count('75') >= len(starts)
    assert picture(curves).startswith(b'\x89PNG')


def test_only_modalities_of_both_map_and_views_are_tried() -> None:
    """A thermal map, or one view without RGB, leaves thermal; nothing in common is named."""
    from _poses import modalities_of

    from thermal_nerf_loc.common.errors import InputError
    both = SimpleNamespace(modalities=('rgb', 'thermal'), images={'rgb': 0, 'thermal': 0})
    thermal = SimpleNamespace(modalities=('thermal',), images={'thermal': 0})
    rgb = SimpleNamespace(images={'rgb': 0})
    assert modalities_of(both, [both, both]) == ['both', 'rgb', 'thermal']
    assert modalities_of(thermal, [both]) == modalities_of(both, [both, thermal]) == ['thermal']
    with pytest.raises(InputError, match='no modality in common'):
        modalities_of(thermal, [rgb])


def test_what_was_found_is_told_beside_what_could_be(capsys: pytest.CaptureFixture[str]) -> None:
    """Three maps in a row, and the accepted poses in centimetres."""
    from self_supervision import report
    quality = {'rgb_psnr': 22.5, 'rgb_ssim': 0.6, 'thermal_psnr': 28.5,
               'thermal_mae_celsius': 0.5, 'depth_median_error_m': 0.04}
    figures = {'before': quality, 'after': quality, 'true_poses': quality,
               'views': {'before': 20, 'after': 33, 'true_poses': 40}, 'tried': 20,
               'accepted_share': 0.65, 'refused': {'lost': 5, 'unstable': 2},
               'accepted_truth': {'median_m': 0.011, 'median_deg': 0.25, 'worst_m': 0.0296,
                                  'worst_deg': 0.8, 'worse_than_5cm_2deg': 0}}
    report(SimpleNamespace(steps=1000, unposed=0.5, pattern='spread'), figures)
    told = capsys.readouterr().out
    for part in ('with those found', '33', '22.5', '65', '5 lost, 2 unstable', '2.96', '0.8'):
        assert part in told


def test_a_plane_is_even_and_a_bump_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    """An inclined plane is flat through a lens; waves of 1 % are measured as such."""
    from map_geometry import report, unevenness

    from thermal_nerf_loc.geometry.camera import Camera
    camera = Camera.from_fov(160, 120, 70.0, model='OPENCV', distortion=(-0.1, 0.02, 0.0, 0.0))
    rays = camera.rays().reshape(120, 160, 3)
    depth = 2.0 / (rays @ np.array([0.3, 0.2, 0.93])) * rays[..., 2]
    assert unevenness(depth, camera).max() < 1e-9
    waves = 1.0 + 0.01 * np.sin(np.arange(160) * 2.0 * np.pi / 10.0)
    assert np.median(unevenness(depth * waves, camera)) == pytest.approx(0.01 / 2**0.5, rel=0.1)
    row = {'points': None, 'views': {'median': 0.004, 'within_1pct': 0.765, 'within_2pct': 0.9},
           'uneven_median': 0.003, 'uneven_p90': 0.01, 'depth_median_error_m': None,
           'depth_within_5cm': None}
    report('rgb', {'some/map': row})
    told = capsys.readouterr().out
    assert 'some/map' in told and '76.5' in told and '-' in told


def test_marked_targets_tell_the_rig(tmp_path: Path) -> None:
    """Sightings of known points from known places give the rig back, and no pixel off."""
    from real_rig import marked_points, marks_off, median_off, reference_rig

    from thermal_nerf_loc.geometry import se3
    from thermal_nerf_loc.geometry.camera import Camera

    rng = np.random.default_rng(0)
    rgb, thermal = Camera.from_fov(640, 360, 60.0), Camera.from_fov(640, 512, 60.0)
    rig = se3.exp([-0.1, 0.02, 0.05, 0.01, 0.02, -0.01])
    poses = [se3.exp([0.5 * k, 0.1 * k, 0.0, 0.0, -0.05 * k, 0.0]) for k in range(4)]
    records = {'rgb': SimpleNamespace(camera=rgb), 'thermal': SimpleNamespace(camera=thermal)}
    scene = SimpleNamespace(frames=[SimpleNamespace(T_world_cam=T, records=records)
                                    for T in poses])

    def seen(camera: Camera, T: np.ndarray, point: np.ndarray) -> list[float]:
        return camera.project((se3.inverse(T) @ [*point, 1.0])[None, :3])[0][0].tolist()

    targets = [[[k, *seen(rgb, T, point), *seen(thermal, T @ rig, point)]
                for k, T in enumerate(poses)] for point in rng.uniform((-1, -1, 5), (2, 1, 9),
                                                                       (8, 3))]
    (tmp_path / 'marks.json').write_text(json.dumps(targets))
    marks = marked_points(scene, tmp_path / 'marks.json')
    assert marks_off(marks, rig).max() < 1e-6
    assert median_off(marks, np.eye(4)) > 3.0 and median_off(None, rig) is None
    np.testing.assert_allclose(reference_rig(marks), rig, atol=1e-4)


def test_marks_are_sightings_of_targets_in_several_frames() -> None:
    """The file for the frescoed room: each target two frames or more, pixels within the images."""
    targets = json.loads((FOLDER / 'arco_marks.json').read_text())
    assert sum(map(len, targets)) > 30
    for sightings in targets:
        rows = np.array(sightings)
        assert len(set(rows[:, 0])) == len(rows) > 1
        assert (rows[:, 1:] > 0).all() and (rows[:, 1:] < (640, 360, 640, 512)).all()


def test_features_that_match_are_mutual_and_distinct() -> None:
    """A copy of each in another order is found; one that looks like two others is not."""
    from _sfm import Features, match
    values = np.abs(np.random.default_rng(0).normal(size=(40, 128))).astype(np.float32) ** 3
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    order = np.random.default_rng(1).permutation(40)
    both = Features(np.zeros((40, 2)), values), Features(np.zeros((40, 2)), values[order])
    pairs = match(*both)
    assert len(pairs) == 40 and (order[pairs[:, 1]] == pairs[:, 0]).all()
    doubled = Features(np.zeros((41, 2)), np.concatenate([values[order], values[3:4]]))
    assert set(range(40)) - set(match(both[0], doubled)[:, 0].tolist()) == {3}
    assert match(both[0], Features(np.zeros((0, 2)), np.zeros((0, 128)))).shape == (0, 2)


def test_poses_that_were_not_found_count_as_worst() -> None:
    """The median and the 90 % of a list with gaps; success needs both errors small."""
    from against_sfm import quantile, summary
    assert quantile([3.0, 1.0, None, 2.0, None], 0.5) == 3.0
    assert quantile([1.0, 2.0], 0.5) == 1.5
    assert quantile([1.0, None], 0.5) is None and quantile([1.0, None], 0.9) is None
    rows = [{'error_m': error_m, 'error_deg': error_deg, 'seconds': 1.0}
            for error_m, error_deg in ((0.01, 1.0), (0.01, 9.0), (0.2, 1.0), (None, None))]
    found = summary(rows, 4.0, 0.05)
    assert (found['success'], found['p90_m']) == (0.25, None)


def test_thermal_contrast_is_evened(tmp_path: Path) -> None:
    """Weak structure beside a hot spot uses many grey levels."""
    from _sfm import stretched
    values = np.tile(np.linspace(20.0, 20.5, 160, dtype=np.float32), (120, 1))
    values[:20, :20] = 60.0
    grey = stretched(values)
    assert grey.dtype == np.uint8 and np.ptp(grey[40:]) > 3


def test_counts_come_out_of_a_radiometric_jpeg(tmp_path: Path) -> None:
    """All segments APP3, joined; a JPEG without them is refused."""
    from pose_real_sets import counts_of_rjpeg, SIZE

    from thermal_nerf_loc.common.errors import InputError
    counts = np.random.default_rng(0).integers(18_000, 20_000, SIZE[::-1], dtype=np.uint16)
    data = counts.astype('<u2').tobytes()
    segments = b''.join(b'\xff\xe3' + (len(part) + 2).to_bytes(2, 'big') + part for part in (
        data[start:start + 65_532] for start in range(0, len(data), 65_532)))
    other = b'\xff\xe1\x00\x06EXIF'
    (tmp_path / 'a.JPG').write_bytes(b'\xff\xd8' + other + segments + b'\xff\xda\xff\xd9')
    assert (counts_of_rjpeg(tmp_path / 'a.JPG') == counts).all()
    (tmp_path / 'b.JPG').write_bytes(b'\xff\xd8' + other + b'\xff\xda\xff\xd9')
    with pytest.raises(InputError, match='no raw counts'):
        counts_of_rjpeg(tmp_path / 'b.JPG')


@pytest.mark.slow
def test_posed_images_are_mapped_and_found_by_sfm(tmp_path: Path) -> None:
    """Held-out views of the simulated room, within 3 cm and a degree."""
    pytest.importorskip('pycolmap')
    from _sfm import build, grey

    from thermal_nerf_loc.geometry import se3
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig
    simulate_dataset(tmp_path / 'room', SimulationConfig(frames=16, size=(160, 120), clean=True))
    scene = load_scene(tmp_path / 'room')

    def seen(index: int) -> tuple[object, object, object]:
        frame = scene.load(index)
        return grey(frame.images['rgb'].values), frame.images['rgb'].camera, frame.T_world_cam

    found = build(tmp_path, [seen(index) for index in scene.train], lambda *args: None)
    assert found.points > 100 and found.size_bytes > 1e5
    errors = []
    for index in scene.test:
        image, camera, T_true = seen(index)
        T, _ = found.localize(image, camera)
        errors.append((9.9, 99.0) if T is None else se3.distance(T, T_true))
    assert (np.median(errors, axis=0) < (0.03, 1.0)).all(), errors
