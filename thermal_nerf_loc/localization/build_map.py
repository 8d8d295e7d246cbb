# SPDX-License-Identifier: Apache-2.0
"""
Build a map to localize in: train, then add uncertainty, calibration and panoramas.

1. `train` learns the radiance field from the scene's training split.
2. Where poses were refined, held-out poses follow (`held_out_poses`).
3. Uncertainty: where the training images do not constrain the map; points there have less weight
   in an alignment, also during the calibration.
4. Calibration on held-out views: the scale of covariances, then the confidence of wrong poses.
5. Landmarks: keypoints that the training images share.
6. Panoramas for a search without a guess.

Held-out views are needed only by the calibration; without 8 of them a map has none.

What follows the training is planned as a share of it: so many views are localized, and so many
panoramas rendered. With `max_seconds` it has an end: the training stops early enough for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
import time

from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.io.atomic_files import check_writable
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization import warm_up
from thermal_nerf_loc.localization.confidence import covariance_calibration, false_positives
from thermal_nerf_loc.localization.confidence.covariance_calibration import calibrate, MIN_VIEWS
from thermal_nerf_loc.localization.confidence.false_positives import measure_tails
from thermal_nerf_loc.localization.confidence.verdict import ConfidenceConfig, least_confidence
from thermal_nerf_loc.localization.held_out_poses import poses_of, with_held_out
from thermal_nerf_loc.mapping.camera_poses.landmark_points import find_landmarks
from thermal_nerf_loc.mapping.map.landmarks import Landmarks
from thermal_nerf_loc.mapping.map.panoramas import find_panoramas, Panoramas
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.map.uncertainty import uncertainty_of
from thermal_nerf_loc.mapping.training.checkpoint import Checkpoint
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.pixel_sources import modalities_of
from thermal_nerf_loc.mapping.training.trainer import train, TrainingResult

_CALIBRATION_VIEWS = 24  # at most
_CALIBRATION_SHARE = 0.12  # of the training's steps: a localized image takes about as long as one
_UNCERTAINTY_STEPS = 40  # that take as long as the uncertainty, and saving
_RENDERING_COST = 0.2  # of a ray, rendered instead of trained on
_LANDMARK_STEPS = 3  # of an image: its keypoints, and matching them
_CALIBRATING, _TAILS = 0.3, 0.85  # of the time that is left, for each with a limit
_PANORAMA_SHARE = 0.25  # of the training's rays, at most, are spent on panoramas
_MIN_PANORAMAS = 40
_LOCALIZED_A_VIEW = (covariance_calibration.LOCALIZED_A_VIEW
                     + false_positives.LOCALIZED_A_VIEW)
_GOLDEN = 0.6180339887

OnTrained = Callable[[TrainingResult], None]


@dataclass(frozen=True, slots=True, eq=False)
class BuiltMap:
    """A complete map, and what its training took."""

    map: RadianceMap
    scene: Scene  # as given, or with refined cameras and held-out poses
    steps: int
    seconds: float  # of the training
    rays_per_second: float
    peak_memory_mb: float
    backend: str  # what read the hash grid

    def least_confidence(self, config: ConfidenceConfig = ConfidenceConfig()) -> dict[str, float]:
        """Confidence that a pose needs to be 'ok', by modalities; {} without calibration."""
        return {name: least_confidence(tail, config.false_confidence)
                for name, tail in self.map.false_positive_tails.items()}


def build_map(scene: Scene, config: TrainConfig = TrainConfig(), progress: Progress = silent, *,
              checkpoint: Checkpoint | None = None, on_trained: OnTrained = lambda result: None,
              began: float | None = None) -> BuiltMap:
    """
    Train and complete a map of the scene.

    `config.max_seconds` limit all of it, from `began` (`time.monotonic()`; None: now). Only
    kernels, where they are not compiled yet, are compiled before the clock starts.

    `on_trained` is called as soon as the training has ended: its result holds a map without
    uncertainty, calibration and panoramas. It should be saved, as the rest may take as long
    again. A `checkpoint` is kept; the caller removes it after saving the map.
    """
    began = time.monotonic() if began is None else began
    if config.max_seconds is not None and warm_up.why_not_ready():
        began += warm_up.compile_all(progress)

    def completion(steps: float) -> float:
        return completion_steps(steps, scene, config)

    result = train(scene, config, progress, checkpoint, began, completion)
    on_trained(result)
    ends = None
    if config.max_seconds is not None:  # the second is earlier where a training was resumed
        ends = config.max_seconds + min(began, time.monotonic() - result.seconds)
    trained, refined = result.map, result.scene
    if 'poses' in trained.info.refinement.get('what', ()) and scene.test:
        refined = with_held_out(scene, refined, trained, progress)
    progress(0.0, 1.0, 'uncertainty')
    weighed = replace(trained, uncertainty=uncertainty_of(trained, refined,
                                                          support=result.support))
    frames = [refined.load(index) for index in _spread(
        refined.test, calibration_views(result.steps, len(trained.modalities)))]
    calibrated = replace(weighed, calibration=calibrate(
        weighed, frames, progress=progress, seconds=_share_left(ends, _CALIBRATING)))
    complete = replace(
        calibrated, landmarks=_landmarks(trained, refined, config, progress),
        false_positive_tails=measure_tails(
            calibrated, frames, progress=progress, seconds=_share_left(ends, _TAILS)),
        panoramas=_panoramas(calibrated, refined, config, progress))
    return BuiltMap(complete, refined, result.steps, result.seconds, result.rays_per_second,
                    result.peak_memory_mb, result.backend)


def _landmarks(trained: RadianceMap, scene: Scene, config: TrainConfig, progress: Progress,
               ) -> dict[str, Landmarks]:
    """Landmarks of the modalities that have enough."""
    found = {name: find_landmarks(scene, name, config.landmarks, progress)
             for name in trained.modalities}
    return {name: landmarks for name, landmarks in found.items() if landmarks is not None}


def build_map_file(scene: Scene, path: Path, config: TrainConfig = TrainConfig(),
                   progress: Progress = silent, resume: bool = False,
                   on_trained: OnTrained = lambda result: None, began: float | None = None,
                   ) -> BuiltMap:
    """
    Build a map and save it at `path`; see `build_map`.

    While it trains, a checkpoint lies beside the file (`resume` continues it). The trained map is
    saved before it is completed: an interruption from then on costs only what is added.
    """
    check_writable(path)
    checkpoint = Checkpoint.beside(path, resume)

    def save(result: TrainingResult) -> None:
        result.map.save(path)
        checkpoint.remove()
        on_trained(result)

    built = build_map(scene, config, progress, checkpoint=checkpoint, on_trained=save,
                      began=began)
    built.map.save(path)
    return built


def calibration_views(steps: float, modalities: int) -> int:
    """How many held-out views are localized after so many steps."""
    sets = modalities + (modalities > 1)
    affordable = _CALIBRATION_SHARE * steps / (sets * _LOCALIZED_A_VIEW)
    return min(max(round(affordable), MIN_VIEWS), _CALIBRATION_VIEWS)


def completion_steps(steps: float, scene: Scene, config: TrainConfig) -> float:
    """Training steps that take as long as all that follows a training of so many steps."""
    modalities = len(modalities_of(scene, config))
    views = min(calibration_views(steps, modalities), len(scene.test))
    sets = modalities + (modalities > 1)
    localized = views * sets * _LOCALIZED_A_VIEW if views >= MIN_VIEWS else 0
    panoramas = (modalities * config.panoramas.rays
                 * _most_panoramas(steps, modalities, config) / config.rays)
    return (_UNCERTAINTY_STEPS + localized + _RENDERING_COST * panoramas
            + _LANDMARK_STEPS * modalities * len(scene.train) * (config.landmarks.most > 0))


def _share_left(ends: float | None, share: float) -> float | None:
    """A share of the seconds until then; None without a limit."""
    return None if ends is None else max(share * (ends - time.monotonic()), 0.0)


def _spread(indices: Sequence[int], most: int) -> list[int]:
    """At most so many, evenly spread, also those that are taken first."""
    chosen = list(indices[::max(1, -(-len(indices) // most))])
    return sorted(chosen, key=lambda index: (chosen.index(index) * _GOLDEN) % 1.0)


def _most_panoramas(steps: float, modalities: int, config: TrainConfig) -> int:
    """Panoramas for as many rays as the training can spare."""
    affordable = int(_PANORAMA_SHARE * steps * config.rays / (config.panoramas.rays * modalities))
    return min(config.panoramas.most, max(affordable, _MIN_PANORAMAS))


def _panoramas(radiance_map: RadianceMap, scene: Scene, config: TrainConfig, progress: Progress,
               ) -> Panoramas:
    most = _most_panoramas(radiance_map.info.steps, len(radiance_map.modalities), config)
    return find_panoramas(radiance_map, poses_of(scene, scene.train),
                          replace(config.panoramas, most=most), progress)
