# SPDX-License-Identifier: Apache-2.0
"""
Build a map to localize in: train, then add uncertainty, calibration and panoramas.

1. `train` learns the radiance field from the scene's training split.
2. Where poses were refined, held-out poses follow (`held_out_poses`).
3. Uncertainty: where the training images do not constrain the map; points there have less weight
   in an alignment, also during the calibration.
4. Calibration on held-out views: the scale of covariances, then the confidence of wrong poses.
5. Panoramas for a search without a guess.

Held-out views are needed only by the calibration; without 8 of them a map has none.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.io.atomic_files import check_writable
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization.confidence.covariance_calibration import calibrate
from thermal_nerf_loc.localization.confidence.false_positives import measure_tails
from thermal_nerf_loc.localization.confidence.verdict import ConfidenceConfig, least_confidence
from thermal_nerf_loc.localization.held_out_poses import poses_of, with_held_out
from thermal_nerf_loc.mapping.map.panoramas import find_panoramas, Panoramas
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.map.uncertainty import uncertainty_of
from thermal_nerf_loc.mapping.training.checkpoint import Checkpoint
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.trainer import train, TrainingResult

_CALIBRATION_VIEWS = 24  # at most; they take some seconds
_PANORAMA_SHARE = 0.25  # of the training's rays, at most, are spent on panoramas
_MIN_PANORAMAS = 40

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
              ) -> BuiltMap:
    """
    Train and complete a map of the scene.

    `on_trained` is called as soon as the training has ended: its result holds a map without
    uncertainty, calibration and panoramas. It should be saved, as the rest may take as long
    again. A `checkpoint` is kept; the caller removes it after saving the map.
    """
    result = train(scene, config, progress, checkpoint)
    on_trained(result)
    trained, refined = result.map, result.scene
    if 'poses' in trained.info.refinement.get('what', ()) and scene.test:
        refined = with_held_out(scene, refined, trained)
    weighed = replace(trained, uncertainty=uncertainty_of(trained, refined,
                                                          support=result.support))
    chosen = refined.test[::max(1, -(-len(refined.test) // _CALIBRATION_VIEWS))]
    frames = [refined.load(index) for index in chosen]
    calibrated = replace(weighed, calibration=calibrate(weighed, frames))
    complete = replace(calibrated, false_positive_tails=measure_tails(calibrated, frames),
                       panoramas=_panoramas(calibrated, refined, config, progress))
    return BuiltMap(complete, refined, result.steps, result.seconds, result.rays_per_second,
                    result.peak_memory_mb, result.backend)


def build_map_file(scene: Scene, path: Path, config: TrainConfig = TrainConfig(),
                   progress: Progress = silent, resume: bool = False,
                   on_trained: OnTrained = lambda result: None) -> BuiltMap:
    """
    Build a map and save it at `path`.

    While it trains, a checkpoint lies beside the file (`resume` continues it). The trained map is
    saved before it is completed: an interruption from then on costs only what is added.
    """
    check_writable(path)
    checkpoint = Checkpoint.beside(path, resume)

    def save(result: TrainingResult) -> None:
        result.map.save(path)
        checkpoint.remove()
        on_trained(result)

    built = build_map(scene, config, progress, checkpoint=checkpoint, on_trained=save)
    built.map.save(path)
    return built


def _panoramas(radiance_map: RadianceMap, scene: Scene, config: TrainConfig, progress: Progress,
               ) -> Panoramas:
    """Panoramas for as many rays as the training can spare."""
    trained_rays = radiance_map.info.steps * config.rays
    affordable = int(_PANORAMA_SHARE * trained_rays
                     / (config.panoramas.rays * len(radiance_map.modalities)))
    most = min(config.panoramas.most, max(affordable, _MIN_PANORAMAS))
    return find_panoramas(radiance_map, poses_of(scene, scene.train),
                          replace(config.panoramas, most=most), progress)
