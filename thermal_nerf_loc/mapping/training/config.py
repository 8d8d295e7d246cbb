# SPDX-License-Identifier: Apache-2.0
"""Settings of training, each with its range and meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
import math
from typing import Any, ClassVar


from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.density_grid import SamplingConfig
from thermal_nerf_loc.field.device import find_device
from thermal_nerf_loc.field.kernels.grid_levels import NOMINAL_LOG2_ROWS
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.io.datasets.depth_maps import AUTO, SOURCES
from thermal_nerf_loc.mapping.camera_poses.features import FeatureConfig
from thermal_nerf_loc.mapping.map.landmarks import LandmarkConfig
from thermal_nerf_loc.mapping.map.panoramas import PanoramaConfig
from thermal_nerf_loc.mapping.stereo.stereo import StereoConfig

STRATEGIES = ('rgbx', 'scratch', 'finetune', 'separate')  # see `strategies.py`
REFINABLE = POSES, RIG, INTRINSICS, TIME = 'poses', 'rig', 'intrinsics', 'time'
METRIC, AFFINE, INVERSE = 'metric', 'affine', 'inverse'  # kinds of depth maps
RELATIVE_DEPTH_WEIGHT = 0.3  # where depth has no unit and no weight is given
METHODS = FEATURES, GRADIENT, BOTH, EDGES = 'features', 'gradient', 'both', 'edges'  # to refine

_ROOM_STEPS, _ROOM_IMAGES = 3000, 80  # that suit one room
_LARGEST_FACTOR = 4.0  # times a room's images
_FEWEST_FADING_STEPS = 1500  # in which the weight of depth fades
_GRID_CELLS = 96, 192  # of the density grid, fewest and most


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """When each stage of training begins, in steps; short runs shorten it in proportion."""

    uniform_steps: int = setting(400, 'steps whose samples are uniform along the ray', 0)
    adaptive_steps: int = setting(800, 'step from which samples follow the density grid', 1)
    direction_steps: int = setting(1000, 'step from which colour may depend on direction', 0)
    uniform_samples: int = setting(24, 'samples a ray while uniform', 4, 1024)
    adaptive_samples: int = setting(16, 'samples a ray afterwards', 4, 1024)
    exploring_share: float = setting(0.1, 'share of those that stay uniform', 0.0, 1.0)
    known_depth: float = setting(0.0, 'share of the pixels whose depth is known, set by the '
                                 'training: for their rays, the stages that find surfaces get as '
                                 'much shorter', 0.0, 1.0)
    depth_steps: int = setting(300, 'steps for which the density grid holds the surfaces of known '
                               'depth, until the field has them; 0: it does not begin with them',
                               0)
    depth_until: float = setting(0.5, 'share of the training at which the weight of depth has '
                                 'faded; 1: it stays', 0.0, 1.0)
    depth_floor: float = setting(0.02, 'share of the weight of depth that stays: it holds '
                                 'surfaces where images are flat, and gives way to all that they '
                                 'show', 0.0, 1.0)

    def uniform_until(self, steps: float, known: bool = True) -> float:
        """Last uniform step, at most a fifth of the run; `known`: of rays of known depth."""
        share = 1.0 - self.known_depth if known else 1.0
        return max(1.0, share * min(self.uniform_steps, steps / 5))

    def samples(self, step: float, steps: float) -> int:
        """Samples a ray at this step."""
        return self.uniform_samples if step < self.uniform_until(steps) else self.adaptive_samples

    def exploring(self, step: float, steps: float, known: bool = True) -> float:
        """Share of samples drawn uniformly: all at first, then less and less."""
        first = self.uniform_until(steps, known)
        share = 1.0 - self.known_depth if known else 1.0
        last = max(first + 1, share * min(self.adaptive_steps, 2 * steps / 5))
        fade = min(max((step - first) / (last - first), 0.0), 1.0)
        return 1.0 - fade * (1.0 - self.exploring_share)

    def holds_depth(self, step: float, steps: float) -> bool:
        """Whether the density grid still holds the surfaces that it began with."""
        return step < min(self.depth_steps, steps / 10)

    def depth_share(self, step: float, steps: float) -> float:
        """
        Factor of the weight of depth: half a cosine down to `depth_floor`.

        Short trainings keep most of it: their images do not hold the surfaces yet.
        """
        if self.depth_until >= 1.0:
            return 1.0
        done = min(step / max(self.depth_until * steps, _FEWEST_FADING_STEPS), 1.0)
        return self.depth_floor + (1.0 - self.depth_floor) * 0.5 * (1.0 + math.cos(math.pi * done))

    def direction_share(self, step: float, steps: float) -> float:
        """Factor of the viewing direction that the branches see: 0 hides it."""
        first = min(self.direction_steps, steps / 2)
        return min(max((step - first) / max(first, 1), 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class RefineConfig:
    """What of the cameras is estimated, and how."""

    removed: ClassVar[Mapping[str, Any]] = {'form': 'so3xr3'}

    what: tuple[str, ...] = setting((), 'any of poses, rig, intrinsics, time')
    method: str = setting(FEATURES, 'features: bundle adjustment before training; gradient: of '
                          'the images, while training; both: in turn; edges: the rig by '
                          'edges of heat on edges of colour, all else by gradient',
                          choices=METHODS)
    colour_map_share: float = setting(
        0.4, 'edges need a map of colour alone, made before the training with so large a share '
        'of its steps or time', 0.02, 0.8, formerly='look_ahead')
    lenses: str = setting('both', 'whose lens `intrinsics` refines',
                          choices=('both', 'rgb', 'thermal'))
    learning_rate: float = setting(2e-4, 'radians, or scene scales', 1e-7, 1.0)
    decay: float = setting(0.01, 'last learning rate over the first', 1e-6, 1.0)
    prior: float = setting(1e-4, 'weight of the pull towards where refinement began', 0.0, 100.0)
    first_levels: float = setting(4.0, 'hash levels read at first', 1.0, 32.0)
    coarse_until: float = setting(0.1, 'share of the training with those alone', 0.0, 1.0)
    fine_at: float = setting(0.4, 'share of the training from which all levels are read', 0.0, 1.0)
    features: FeatureConfig = setting(FeatureConfig(), 'points that images share')
    solver: str = setting('auto', 'of bundle adjustment; auto: Ceres (by pycolmap) where it is '
                          'installed and can do what is asked', choices=('auto', 'ceres', 'own'))

    def __post_init__(self) -> None:
        """Refuse unknown names, and edges without the rig."""
        unknown = [name for name in self.what if name not in REFINABLE]
        if unknown:
            raise InputError('cannot refine this', where='refine.what',
                             expected=', '.join(REFINABLE), got=', '.join(unknown))
        if self.method == EDGES and RIG not in self.what:
            raise InputError('edges refine the rig only', where='refine.method',
                             expected='rig among what is refined', got=', '.join(self.what))

    def lenses_of(self, modalities: Sequence[str]) -> tuple[str, ...]:
        """Those of the modalities whose lens is refined."""
        return tuple(name for name in modalities
                     if INTRINSICS in self.what and self.lenses in ('both', name))


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Training settings; with `max_seconds` the result depends on the machine's speed."""

    removed: ClassVar[Mapping[str, Any]] = {'balance': 'fixed', 'depth_points': False}

    strategy: str = setting('rgbx', 'how modalities share the field', choices=STRATEGIES)
    modality: str = setting('both', 'images to use', choices=('both', 'rgb', 'thermal'))
    steps: int | None = setting(None, 'optimisation steps; null: by the number of images', 1,
                                10_000_000)
    scene_bounds_steps: int = setting(
        150, 'steps of a coarse field that finds how far the cameras see, at most a tenth of the '
        'training; 0: guess from where they were', 0, formerly='extent_steps')
    max_seconds: float | None = setting(None, 'time from the start to the '
                                      'complete map; the schedule is fitted to it', 1.0)
    checkpoint_seconds: float = setting(60.0, 'training time between checkpoints; 0: none', 0.0)
    rays: int = setting(2048, 'rays a step, over all modalities', 16, 1_000_000)
    seed: int = setting(0, 'seed of every random choice', 0)
    device: str = setting('auto', 'where to train', choices=('auto', 'cpu', 'cuda'))
    learning_rate: float = setting(0.02, 'of the hash tables', 1e-6, 1.0)
    network_learning_rate: float = setting(0.005, 'of the networks', 1e-6, 1.0)
    decay: float = setting(0.03, 'last learning rate over the first', 1e-6, 1.0)
    memory_limit_mb: float = setting(1024.0, 'more pixels than this lie in a temporary file', 0.0)
    loss: str = setting('l2', 'loss of colours', choices=('l2', 'huber'))
    thermal_knee: float = setting(0.05, 'beyond this share of their contrast thermal errors count '
                                  'linearly, so that hot edges stay sharp; 0: squares', 0.0, 10.0)
    thermal_weight: float = setting(0.25, 'weight of the thermal loss; colour has 1', 0.0, 100.0)
    camera_response: bool = setting(True, 'learn what the cameras add: drift, exposure, '
                                    'vignetting', formerly='formation')
    camera_response_learning_rate: float = setting(0.001, 'of what the cameras add', 1e-7, 1.0,
                                                   formerly='formation_learning_rate')
    distortion: float = setting(0.003, 'weight of the spread of density along rays', 0.0, 10.0)
    depth_from: str = setting(AUTO, 'depth of the training images: measured, where the data set '
                              'has it; stereo, between the images; points that they share; auto: '
                              'the first of these that there is; none', choices=SOURCES)
    depth_weight: float = setting(0.1, 'weight of depth; 0 ignores it', 0.0, 10.0)
    depth_kind: str = setting(METRIC, 'what depth maps hold: metres; or depth (affine) or inverse '
                              'depth whose scale and shift are fitted for each image',
                              choices=(METRIC, AFFINE, INVERSE))
    near_gradient: float = setting(1.0, 'gradients shrink nearer than this, in scene scales',
                                   0.0, 10.0)
    refresh_share: float = setting(0.01, 'of the density grid, every 16 steps', 0.0, 1.0)
    bfloat16: bool = setting(True, 'networks in bfloat16 where the processor has it; '
                             'the compiled kernels train in float32')
    field: FieldConfig = setting(FieldConfig(), 'networks')
    sampling: SamplingConfig = setting(SamplingConfig(), 'sampling along rays')
    schedule: ScheduleConfig = setting(ScheduleConfig(), 'stages of training')
    panoramas: PanoramaConfig = setting(PanoramaConfig(), 'panoramas, made once the map is '
                                        'trained', formerly='places')
    refine: RefineConfig = setting(RefineConfig(), 'poses and rig')
    stereo: StereoConfig = setting(StereoConfig(), 'depth between the images')
    landmarks: LandmarkConfig = setting(LandmarkConfig(), 'points that keypoints find again')

    @property
    def planned_steps(self) -> int:
        """`steps`, or what suits a room where it is null."""
        return _ROOM_STEPS if self.steps is None else self.steps

    def filled(self, images: int, finest: int) -> 'TrainConfig':
        """
        The same with nulls filled in, for so many images of each modality.

        More images show more: more steps to learn it, more rows of the hash grid to keep it.
        """
        factor, encoding, sampling = capacity_factor(images), self.field.encoding, self.sampling
        encoding = replace(
            encoding, finest=encoding.finest or finest, log2_rows=encoding.log2_rows
            or NOMINAL_LOG2_ROWS + round(math.log2(factor)))
        cells = min(max(encoding.finest_points // 2, _GRID_CELLS[0]), _GRID_CELLS[1])
        return replace(self, steps=self.steps or round(_ROOM_STEPS * factor),
                       field=replace(self.field, encoding=encoding),
                       sampling=replace(sampling, grid_cells=sampling.grid_cells or cells))

    def of_colour_map(self) -> 'TrainConfig':
        """Settings of the map of colour alone that gives the rig by edges."""
        share, limit = self.refine.colour_map_share, self.max_seconds
        poses = tuple(name for name in self.refine.what if name == POSES)
        return replace(self, strategy='rgbx', modality='rgb',
                       steps=max(1, round(share * self.planned_steps)),
                       max_seconds=None if limit is None else max(1.0, share * limit),
                       refine=replace(self.refine, what=poses, method=GRADIENT))

    def identity(self) -> dict[str, Any]:
        """Every setting that the trained fields depend on."""
        return {name: value for name, value in asdict(self).items()
                if name not in ('checkpoint_seconds', 'memory_limit_mb', 'panoramas')}

    def resolved_device(self) -> str:
        """'cpu' or 'cuda'."""
        return find_device(self.device).type


def capacity_factor(images: int) -> float:
    """Steps and grid of a map over those of a room, by its images; limited by training time."""
    return min(max(images / _ROOM_IMAGES, 1.0), _LARGEST_FACTOR)
