# SPDX-License-Identifier: Apache-2.0
"""
Compare a map's renders with the images of a data set: image, temperature and depth errors.

Views are rendered and scored one by one, so that a data set may be larger than the memory. The
time is bounded: of many or large images a share of the pixels is rendered (`sampled_views.py`).
LPIPS (Zhang et al. 2018) is computed where the package `lpips` and its weights are on the machine;
it is no dependency, and nothing is ever downloaded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import importlib
import importlib.util
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
import torch

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.evaluation.sampled_views import (
    Patch, sample_view, shrunk, ViewSample)
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.rendering import render_image

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Perceptual = Callable[[Array32, Array32], float]  # two images (h, w, 3) in [0, 1] -> distance

DEPTH_WITHIN_M = 0.05  # of `depth_within_5cm`
MOST_RAYS = 1_000_000  # of a split: 10 to 20 s on two cores
FEWEST_RAYS = 12_000  # of a view, however many views there are
_SSIM_REACH_PX = 5  # of the window, 11 pixels wide
_WARM_UP_RAYS = 64  # the first rays also load the compiled kernels


@dataclass(frozen=True, slots=True)
class ViewScore:
    """One view of one camera; None where there is nothing to compare with."""

    name: str
    modality: str
    psnr: float  # dB: RGB against 1, thermal against the span of the temperatures seen
    ssim: float | None  # None: no patch has a valid pixel
    rays: int
    seconds: float
    lpips: float | None = None
    mae_celsius: float | None = None
    rmse_celsius: float | None = None
    depth_median_error_m: float | None = None
    depth_mean_error_m: float | None = None
    depth_within_5cm: float | None = None  # share of the pixels
    pixel_share: float = 1.0  # of the image that was compared


@dataclass(frozen=True, slots=True)
class MapQuality:
    """Means over the split's views; None where the scene has nothing to compare with."""

    frames: int
    rgb_psnr: float | None = None  # dB
    rgb_ssim: float | None = None
    rgb_lpips: float | None = None
    thermal_psnr: float | None = None  # dB, against the span of the temperatures seen
    thermal_ssim: float | None = None
    thermal_mae_celsius: float | None = None
    thermal_rmse_celsius: float | None = None
    depth_median_error_m: float | None = None
    depth_mean_error_m: float | None = None
    depth_within_5cm: float | None = None  # share of the pixels
    render_rays_per_second: float | None = None
    pixel_share: float | None = None  # of the images that was compared, mean over views


@dataclass(frozen=True, slots=True, eq=False)
class ViewComparison:
    """One rendered view and the image that was taken there."""

    name: str
    modality: str
    seen: SensorImage
    rendered: Array32  # (height, width, channels), units of the frame
    depth_m: Array32  # (height, width) along z
    seconds: float


def evaluate_map(renderer: LocalizationMap, scene: Scene, split: str = 'test',
                 perceptual: Perceptual | None = None, progress: Progress = silent,
                 most_rays: int | None = MOST_RAYS) -> MapQuality:
    """Render every view of a split that the map can show, compare, and take means."""
    return summarize(score_views(renderer, scene, split, perceptual, progress, most_rays))


def score_views(renderer: LocalizationMap, scene: Scene, split: str = 'test',
                perceptual: Perceptual | None = None, progress: Progress = silent,
                most_rays: int | None = MOST_RAYS) -> tuple[ViewScore, ...]:
    """
    Render and score every view of a split that the map can show.

    `most_rays` are shared by all views (None: every pixel of each). With `perceptual`, RGB views
    are rendered whole: LPIPS is defined on images.
    """
    indices = scene.split(split)
    if not indices:
        raise InputError(f'the {split} split is empty', where=scene.root)
    views = [(index, modality) for index in indices
             for modality in scene.frames[index].records if modality in renderer.modalities]
    if not views:
        raise InputError('map and data set share no modality', where=scene.root,
                         expected=' or '.join(renderer.modalities),
                         got=' and '.join(scene.modalities))
    progress(0.0, len(views), 'loading')
    span = thermal_span(scene, indices) if THERMAL in renderer.modalities else 1.0
    _warm_up(renderer, scene)
    share = None if most_rays is None else max(most_rays // len(views), FEWEST_RAYS)
    scores: list[ViewScore] = []
    for done, (index, modality) in enumerate(views):
        def tick(part: float, done: int = done) -> None:
            progress(done + part, len(views), f'view {done + 1} of {len(views)}')

        frame = scene.frames[index]
        image = load_image(modality, frame.records[modality])
        whole = perceptual is not None and modality == RGB
        sample = sample_view(renderer, frame.name, modality, image,
                             frame.T_world_cam @ image.T_cam_sensor, done,
                             None if whole else share, tick)
        scores.append(score_sample(sample, 1.0 if modality == RGB else span,
                                   perceptual if whole else None))
    return tuple(scores)


def compare_frame(renderer: LocalizationMap, scene: Scene, index: int,
                  widest: int | None = None) -> list[ViewComparison]:
    """Render the images of one frame from the poses of its cameras, at most `widest` pixels."""
    frame = scene.load(index)
    assert frame.T_world_cam is not None  # scenes are posed
    return [_compare(renderer, frame.name, modality,
                     image if widest is None else shrunk(image, widest),
                     frame.T_world_cam @ image.T_cam_sensor)
            for modality, image in frame.images.items() if modality in renderer.modalities]


def score_view(view: ViewComparison, span: float, perceptual: Perceptual | None = None,
               ) -> ViewScore:
    """Score one whole view; `span` is the range of values that a PSNR is measured against."""
    return score_sample(whole_sample(view), span, perceptual)


def whole_sample(view: ViewComparison) -> ViewSample:
    """All pixels of a view."""
    seen, channels = view.seen, view.rendered.shape[-1]
    known = np.ones(view.depth_m.shape, np.bool_) if seen.valid is None else seen.valid
    return ViewSample(
        view.name, view.modality, view.rendered.reshape(-1, channels),
        seen.values.reshape(-1, channels), known.ravel(), view.depth_m.ravel(),
        None if seen.depth_m is None else seen.depth_m.ravel(),
        (Patch(view.rendered, seen.values, seen.valid, True),), seen.radiometric,
        view.depth_m.size, 1.0, view.seconds)


def score_sample(sample: ViewSample, span: float, perceptual: Perceptual | None = None,
                 ) -> ViewScore:
    """Score the rendered pixels of one view; a `perceptual` score needs the whole view."""
    off = difference(sample)
    depth = depth_errors(sample)
    celsius = sample.modality == THERMAL and sample.radiometric
    return ViewScore(
        sample.name, sample.modality, psnr(off, span), patches_ssim(sample.patches, span),
        sample.rays, sample.seconds,
        lpips=(_perceptual_distance(sample.patches[0], perceptual)
               if sample.modality == RGB and perceptual else None),
        mae_celsius=float(np.abs(off).mean()) if celsius else None,
        rmse_celsius=float(np.sqrt((off**2).mean())) if celsius else None,
        depth_median_error_m=float(np.median(depth)) if depth.size else None,
        depth_mean_error_m=float(depth.mean()) if depth.size else None,
        depth_within_5cm=float((depth <= DEPTH_WITHIN_M).mean()) if depth.size else None,
        pixel_share=sample.share)


def summarize(scores: Sequence[ViewScore]) -> MapQuality:
    """Means over views; depth over the views of one modality, RGB where it has any."""
    rgb = [s for s in scores if s.modality == RGB]
    thermal = [s for s in scores if s.modality == THERMAL]
    with_depth = next((group for group in (rgb, thermal)
                       if any(s.depth_median_error_m is not None for s in group)), [])
    return MapQuality(
        frames=len({s.name for s in scores}),
        rgb_psnr=_mean([s.psnr for s in rgb]),
        rgb_ssim=_mean([s.ssim for s in rgb]),
        rgb_lpips=_mean([s.lpips for s in rgb]),
        thermal_psnr=_mean([s.psnr for s in thermal]),
        thermal_ssim=_mean([s.ssim for s in thermal]),
        thermal_mae_celsius=_mean([s.mae_celsius for s in thermal]),
        thermal_rmse_celsius=_mean([s.rmse_celsius for s in thermal]),
        depth_median_error_m=_mean([s.depth_median_error_m for s in with_depth]),
        depth_mean_error_m=_mean([s.depth_mean_error_m for s in with_depth]),
        depth_within_5cm=_mean([s.depth_within_5cm for s in with_depth]),
        render_rays_per_second=(sum(s.rays for s in scores)
                                / max(sum(s.seconds for s in scores), 1e-9)),
        pixel_share=_mean([s.pixel_share for s in scores]))


def psnr(difference: Array, span: float) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(20.0 * np.log10(span / max(float(np.sqrt((difference**2).mean())), 1e-9)))


def ssim(a: Array32, b: Array32, span: float, valid: NDArray[np.bool_] | None = None) -> float:
    """
    Structural similarity (Wang et al. 2004): Gaussian window of sigma 1.5, mean over pixels.

    Pixels that are not `valid` (height, width) count as equal and are left out of the mean.
    """
    score = _ssim_map(a, b, span, valid)
    return float(score.mean() if valid is None else score[valid].mean())


def patches_ssim(patches: Sequence[Patch], span: float) -> float | None:
    """SSIM of a view by its patches: mean over the pixels whose whole window was rendered."""
    parts = []
    for patch in patches:
        score = _ssim_map(patch.rendered, patch.seen, span, patch.valid)
        inner = slice(None) if patch.is_whole else slice(_SSIM_REACH_PX, -_SSIM_REACH_PX)
        kept = score[inner, inner]
        parts.append(kept.reshape(-1, kept.shape[-1]) if patch.valid is None
                     else kept[patch.valid[inner, inner]])
    found = np.concatenate(parts)
    return float(found.mean()) if found.size else None


def _ssim_map(a: Array32, b: Array32, span: float, valid: NDArray[np.bool_] | None) -> Array:
    """SSIM (height, width, channels) of the window around each pixel."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    if valid is not None:
        y = np.where(valid[..., None], y, x)
    c1, c2 = (0.01 * span)**2, (0.03 * span)**2
    width = 2 * _SSIM_REACH_PX + 1

    def blur(image: Array) -> Array:
        return np.asarray(cv2.GaussianBlur(image, (width, width), 1.5),
                          np.float64).reshape(x.shape)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    return np.asarray((2 * mx * my + c1) * (2 * cov + c2)
                      / ((mx * mx + my * my + c1) * (vx + vy + c2)))


def difference(sample: ViewSample) -> Array:
    """Rendered minus seen, valid pixels only: (n, channels)."""
    off = sample.rendered.astype(np.float64) - sample.seen
    keep = np.isfinite(off).all(axis=1) & sample.valid
    if not keep.any():
        raise InputError('view has no valid pixel to compare', where=sample.name)
    return np.asarray(off[keep])


def depth_errors(sample: ViewSample) -> Array:
    """Absolute depth errors where the truth is known; empty where there is none."""
    truth = sample.true_depth_m
    if truth is None:
        return np.empty(0)
    known = np.isfinite(truth) & (truth > 0.0)
    return np.asarray(np.abs(sample.depth_m[known].astype(np.float64) - truth[known]))


def thermal_span(scene: Scene, indices: Sequence[int]) -> float:
    """Range of the thermal values seen: what a thermal PSNR is measured against."""
    low, high = np.inf, -np.inf
    for index in indices:
        record = scene.frames[index].records.get(THERMAL)
        if record is not None:
            image = load_image(THERMAL, record)
            values = image.values if image.valid is None else image.values[image.valid]
            if values.size:
                low, high = min(low, float(values.min())), max(high, float(values.max()))
    return max(high - low, 1e-6)


def _warm_up(renderer: LocalizationMap, scene: Scene) -> None:
    """Let kernels compile or load before any time is measured."""
    eye = np.zeros((_WARM_UP_RAYS, 3), np.float32) + scene.frames[0].T_world_cam[:3, 3]
    ahead = np.broadcast_to(scene.frames[0].T_world_cam[:3, 2], eye.shape)
    for modality in renderer.modalities:
        renderer.render_rays(modality, eye.astype(np.float32), ahead.astype(np.float32))


def _compare(renderer: LocalizationMap, name: str, modality: str, image: SensorImage,
             T_world_sensor: Array) -> ViewComparison:
    found = render_image(renderer, modality, image.camera, T_world_sensor, sweep=image.sweep,
                         offset=renderer.flat_field_offset(modality, image.camera.size))
    return ViewComparison(name, modality, image, found.values, found.depth_m, found.seconds)


def _perceptual_distance(view: Patch, perceptual: Perceptual) -> float:
    seen = view.seen
    if view.valid is not None:
        seen = np.where(view.valid[..., None], seen, view.rendered)
    return perceptual(view.rendered, seen)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


_BACKBONE = 'alexnet-owt-7be5be79.pth'  # torchvision's name of the network under LPIPS (alex)


@dataclass(frozen=True, slots=True)
class LpipsSearch:
    """The score, or why there is none."""

    score: Perceptual | None
    reason: str = ''


def find_lpips() -> LpipsSearch:
    """Load LPIPS (alex) from what is installed."""
    missing = [name for name in ('lpips', 'torchvision')
               if importlib.util.find_spec(name) is None]
    if missing:
        return LpipsSearch(None, f'not installed: {" and ".join(missing)}')
    weights = Path(torch.hub.get_dir()) / 'checkpoints' / _BACKBONE
    if not weights.is_file():
        return LpipsSearch(None, f'no backbone weights at {weights}')
    try:
        network = importlib.import_module('lpips').LPIPS(net='alex', verbose=False).eval()
    except (ImportError, OSError, RuntimeError) as error:  # torchvision of another torch
        return LpipsSearch(None, f'lpips does not load: {" ".join(str(error).split())}')

    @torch.no_grad()
    def score(a: Array32, b: Array32) -> float:
        pair = [torch.from_numpy(np.clip(image, 0.0, 1.0).astype(np.float32) * 2.0 - 1.0)
                .permute(2, 0, 1)[None] for image in (a, b)]
        return float(network(*pair))

    return LpipsSearch(score)
