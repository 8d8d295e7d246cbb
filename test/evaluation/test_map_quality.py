# SPDX-License-Identifier: Apache-2.0
"""Image scores against closed forms and scipy; depth against geometry."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from stand_in_map import StandInMap
import torch

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation import map_quality
from thermal_nerf_loc.evaluation.map_quality import (
    compare_frame, evaluate_map, psnr, score_view, score_views, ssim, summarize, ViewComparison,
    ViewScore)
from thermal_nerf_loc.evaluation.report.map_sheet import draw_sheet, pick_views, png
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.sensing.flat_field import radial, resized
from thermal_nerf_loc.sensing.frame import SensorImage
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig


def test_psnr_of_a_constant_error() -> None:
    """An error of a tenth of the span is 20 dB."""
    assert psnr(np.full((50, 3), 0.1), 1.0) == pytest.approx(20.0)
    assert psnr(np.full((50, 1), 2.0), 20.0) == pytest.approx(20.0)


def test_ssim_agrees_with_its_definition_by_scipy() -> None:
    """Same window, another library; borders apart, as the two pad differently."""
    rng = np.random.default_rng(0)
    a = gaussian_filter(rng.random((48, 64)), 2.0)
    a = (a - a.min()) / np.ptp(a)
    b = np.clip(a + 0.1 * rng.normal(size=a.shape), 0.0, 1.0)

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, truncate=5.0 / 1.5, mode='mirror')

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    expected = ((2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
                / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))).mean()
    ours = ssim(a[..., None].astype(np.float32), b[..., None].astype(np.float32), 1.0)
    assert ours == pytest.approx(expected, abs=1e-5)
    assert ssim(a[..., None].astype(np.float32), a[..., None].astype(np.float32),
                1.0) == pytest.approx(1.0)


def camera_view(modality: str = 'thermal', **seen: object) -> ViewComparison:
    """A render of 20 everywhere, 2.25 m away, beside an image of 20 that the caller changes."""
    camera = Camera.from_fov(8, 6, 60)
    channels = 3 if modality == 'rgb' else 1
    image = SensorImage(camera, **{'values': np.full((6, 8, channels), 20.0, np.float32),
                                   'stamp_ns': 0, **seen})
    return ViewComparison('a', modality, image, np.full((6, 8, channels), 20.0, np.float32),
                          np.full((6, 8), 2.25, np.float32), 0.5)


def test_masked_pixels_and_unknown_depth_do_not_count() -> None:
    """A wrong pixel behind the mask, and a depth of zero, change nothing."""
    values = np.full((6, 8, 1), 20.0, np.float32)
    values[0, 0], values[0, 1] = 30.0, 99.0
    valid = np.ones((6, 8), bool)
    valid[0, 1] = False
    depth = np.full((6, 8), 2.0, np.float32)
    depth[5, 5], depth[5, 6], depth[0] = 0.0, np.nan, 2.26
    score = score_view(camera_view(values=values, valid=valid, depth_m=depth), 10.0)
    quality = summarize([score])
    assert quality.thermal_mae_celsius == pytest.approx(10.0 / 47.0)
    assert quality.thermal_rmse_celsius == pytest.approx(10.0 / np.sqrt(47.0))
    assert quality.thermal_psnr == pytest.approx(20.0 * np.log10(np.sqrt(47.0)))
    assert quality.depth_median_error_m == pytest.approx(0.25)
    assert quality.depth_mean_error_m == pytest.approx((38 * 0.25 + 8 * 0.01) / 46, abs=1e-6)
    assert quality.depth_within_5cm == pytest.approx(8 / 46)
    assert quality.render_rays_per_second == pytest.approx(96.0)
    assert quality.rgb_psnr is None and quality.rgb_lpips is None


def test_masked_pixels_do_not_lower_the_ssim() -> None:
    """Noise behind the mask leaves a perfect score; the same noise in sight does not."""
    rng = np.random.default_rng(1)
    a = rng.random((32, 40, 3)).astype(np.float32)
    b, valid = a.copy(), np.ones((32, 40), bool)
    valid[5:15, 8:20] = False
    b[~valid] = rng.random((120, 3))
    assert ssim(a, b, 1.0, valid) == pytest.approx(1.0)
    assert ssim(a, b, 1.0) < 0.95


def test_a_camera_without_temperatures_gets_no_degrees() -> None:
    """Gray values of an AGC image have a PSNR, but no deg C."""
    values = np.full((6, 8, 1), 22.0, np.float32)
    score = score_view(camera_view(values=values, radiometric=False), 20.0)
    assert score.mae_celsius is None and score.rmse_celsius is None
    assert score.psnr == pytest.approx(20.0)


def test_views_without_depth_leave_the_depth_to_those_that_have_it() -> None:
    """RGB is asked first, but only where it knows."""
    shallow = score_view(camera_view('rgb'), 1.0)
    deep = score_view(camera_view(depth_m=np.full((6, 8), 2.0, np.float32)), 1.0)
    assert shallow.depth_median_error_m is None
    assert summarize([shallow, deep]).depth_median_error_m == pytest.approx(0.25)
    assert summarize([shallow]).depth_within_5cm is None


def test_a_view_that_is_all_masked_is_refused() -> None:
    """No mean over nothing."""
    with pytest.raises(InputError, match='no valid pixel'):
        score_view(camera_view(valid=np.zeros((6, 8), bool)), 1.0)


def test_an_exact_world_scores_near_perfectly(tmp_path: Path) -> None:
    """The simulated world held against its own clean images: what is left is anti-aliasing."""
    simulate_dataset(tmp_path / 'room', SimulationConfig(frames=4, size=(48, 36), clean=True))
    scene = load_scene(tmp_path / 'room')
    world = make_world('room')
    scores = score_views(world, scene, 'all')
    quality = summarize(scores)
    assert quality.frames == len(scene.frames) and len(scores) == 2 * quality.frames
    assert evaluate_map(world, scene, 'all').rgb_psnr == quality.rgb_psnr > 20.0
    assert quality.depth_median_error_m < 2e-3
    assert quality.depth_within_5cm > 0.9
    assert quality.thermal_mae_celsius < 0.2


def test_a_map_that_knows_its_lens_is_seen_through_it(tmp_path: Path) -> None:
    """What the renderer says of its cameras is added before images are compared, once."""
    simulate_dataset(tmp_path / 'room', SimulationConfig(frames=2, size=(48, 36), clean=True))
    scene = load_scene(tmp_path / 'room')

    class Lens(StandInMap):
        def flat_field_offset(self, modality: str, size: tuple[int, int]) -> np.ndarray:
            assert modality == 'thermal' and size[1] == 27
            return resized(radial(7.0, 0.0), size)[..., None]

    world = make_world('room')
    lens = Lens(modalities=('thermal',), render_rays=world.render_rays)
    plain, seen = (compare_frame(renderer, scene, scene.test[0])
                   for renderer in (world, lens))
    plain = [view for view in plain if view.modality == 'thermal']
    off = seen[0].rendered - plain[0].rendered
    assert off[0, 0, 0] == pytest.approx(7.0, rel=0.1)
    assert abs(off[13, 18, 0]) < 0.02


def test_lpips_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch,
                                           tmp_path: Path) -> None:
    """Missing package first, missing weights next; nothing is downloaded."""
    monkeypatch.setattr(map_quality.importlib.util, 'find_spec', lambda name: None)
    assert map_quality.find_lpips() == map_quality.LpipsSearch(
        None, 'not installed: lpips and torchvision')
    monkeypatch.setattr(map_quality.importlib.util, 'find_spec', lambda name: object())
    monkeypatch.setattr(map_quality.torch.hub, 'get_dir', lambda: str(tmp_path))
    search = map_quality.find_lpips()
    assert search.score is None and str(tmp_path) in search.reason


def test_lpips_sees_images_as_it_expects_them(monkeypatch: pytest.MonkeyPatch,
                                              tmp_path: Path) -> None:
    """Channels first, scaled to [-1, 1]; masked pixels differ in nothing."""
    class Network(torch.nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            assert a.shape == b.shape == (1, 3, 6, 8)
            assert a.max() == 1.0 and b.min() == -1.0
            return (a - b).abs().mean()

    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'checkpoints' / 'alexnet-owt-7be5be79.pth').write_bytes(b'')
    monkeypatch.setattr(map_quality.importlib.util, 'find_spec', lambda name: object())
    monkeypatch.setattr(map_quality.importlib, 'import_module',
                        lambda name: SimpleNamespace(LPIPS=Network))
    monkeypatch.setattr(map_quality.torch.hub, 'get_dir', lambda: str(tmp_path))
    score = map_quality.find_lpips().score
    assert score is not None
    seen = np.zeros((6, 8, 3), np.float32)
    assert score_view(camera_view('rgb', values=seen), 1.0, score).lpips == pytest.approx(2.0)
    assert score_view(camera_view(), 1.0, score).lpips is None


def test_the_sheet_picks_views_from_best_to_worst() -> None:
    """By the PSNR of the RGB camera, ends included."""
    psnrs = {'a': 20.0, 'b': 30.0, 'c': 25.0, 'd': 10.0}
    scores = [ViewScore(name, modality, value + 40.0 * (name == 'd') * (modality == 'thermal'),
                        0.5, 48, 0.1) for name, value in psnrs.items()
              for modality in ('rgb', 'thermal')]
    assert pick_views(scores, 2) == ['b', 'd']
    assert pick_views(scores, 9) == ['b', 'c', 'a', 'd']
    assert pick_views(scores, 1) == ['b']
    assert pick_views([], 3) == []


def test_the_sheet_has_a_row_a_view_and_nothing_beyond_its_edges() -> None:
    """Pictures, bars and labels lie inside the figure; thermal bars are in deg C."""
    depth = np.full((6, 8), 2.0, np.float32)
    views = [camera_view('rgb', depth_m=depth), camera_view(), camera_view(radiometric=False)]
    figure = draw_sheet(views, [score_view(view, 1.0) for view in views], 'a title')
    pictures = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in pictures[:2]] == ['RGB truth', 'RGB render']
    assert len(pictures) == 6 + 5 + 5
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels.count('°C') == 2 and labels.count('m') == 3 and labels.count('cm') == 1
    figure.canvas.draw()
    width, height = figure.bbox.size
    for artist in (*figure.axes, *figure.texts):
        box = artist.get_tightbbox()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    image = cv2.imdecode(np.frombuffer(png(figure), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(image.shape[:2], (height, width), atol=1.0)
