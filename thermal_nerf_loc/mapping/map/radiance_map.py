# SPDX-License-Identifier: Apache-2.0
"""
The radiance map and its file.

One safetensors file holds weights, density grids and keyframes, and as metadata one JSON text with
the format version, every setting, the scene's space, the temperature range and a checksum.
Loading executes nothing and believes nothing: each tensor's name, type and shape is held against
what the settings imply.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open, SafetensorError
from safetensors.torch import save
import torch
from torch import Tensor

from thermal_nerf_loc import __version__
from thermal_nerf_loc.common.config import from_mapping
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.cpu_renderer import CpuRenderer, RayArrays, render_torch
from thermal_nerf_loc.field.density_grid import Array32, DensityGrid, SamplingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig, RadianceField
from thermal_nerf_loc.field.volume_rendering import render, Samples
from thermal_nerf_loc.io.atomic_files import write_atomically
from thermal_nerf_loc.mapping.map.keyframes import Keyframes
from thermal_nerf_loc.mapping.map.panoramas import Panoramas
from thermal_nerf_loc.mapping.map.uncertainty import Uncertainty
from thermal_nerf_loc.mapping.training.strategies import Learner
from thermal_nerf_loc.sensing.flat_field import radial, resized
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.rendering import RayRendering
from thermal_nerf_loc.sensing.thermal import TemperatureRange

FORMAT, VERSION = 'thermal_nerf_loc map', 2  # 1: another hash grid
_CHUNK_RAYS = 8192  # what lies between grid and networks then stays near the processor
RENDER_SAMPLES, RENDER_EXPLORING = 16, 0.05


@dataclass(frozen=True, slots=True)
class MapInfo:
    """Where a map comes from."""

    scene_name: str
    training: Mapping[str, Any]
    steps: int
    seconds: float
    made_by: str = f'thermal_nerf_loc {__version__}'
    refinement: Mapping[str, Any] = field(default_factory=dict)  # see `rig.CameraOptimizer.facts`
    zero: Mapping[str, float] = field(default_factory=dict)  # see `shutter.py`


class RadianceMap:
    """Colour, temperature and geometry of a place, to be looked at along rays."""

    def __init__(self, learners: tuple[Learner, ...], temperature_range: TemperatureRange | None,
                 info: MapInfo, keyframes: Keyframes | None = None, name: str = '',
                 flat_fields: Mapping[str, Array32] | None = None) -> None:
        """
        Join trained fields; `temperature_range` is due when there is a thermal branch.

        `flat_fields` are what the cameras add to their pixels (`sensing/flat_field.py`).
        """
        self.learners, self.temperature_range, self.info = learners, temperature_range, info
        self.keyframes = keyframes or Keyframes(np.empty((0, 4, 4)), {})
        self.name = name or info.scene_name
        self.flat_fields = dict(flat_fields or {})
        # (factor, floor m) of covariances by modalities; see `covariance_calibration.py`
        self.calibration: dict[str, tuple[float, float]] = {}
        # (offset, scale, shape) of wrong poses by modalities; see `false_confidence.py`
        self.false_confidence: dict[str, tuple[float, float, float]] = {}
        self.places: Panoramas | None = None  # to be found again: see `mapping/map/panoramas.py`
        self.uncertainty: Uncertainty | None = None  # see `mapping/map/uncertainty.py`
        self._of = {name: learner for learner in learners for name in learner.modalities}
        self._fast: dict[str, CpuRenderer] = {}
        for learner in learners:
            learner.field.requires_grad_(False)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the map can show, RGB first."""
        return tuple(sorted(self._of, key=lambda name: name != RGB))

    @property
    def backend(self) -> str:
        """What reads the hash grid where the map lies now."""
        return self.learners[0].field.encoding.backend

    @property
    def scene_name(self) -> str:
        """Name of the data set the map was trained on."""
        return self.info.scene_name

    @property
    def viewpoints(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Poses (n, 4, 4) of training cameras."""
        return self.keyframes.poses

    @property
    def space(self) -> ContractedSpace:
        """The space of the fields; all share one."""
        return self.learners[0].field.space

    @property
    def bounds(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Corners of the box at full resolution, world metres: (2, 3)."""
        return self.space.bounds

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        """Look along unit rays (n, 3); see `sensing/rendering.py`."""
        pieces = range(0, max(len(origins), 1), _CHUNK_RAYS)
        chunks = [self._look(modality, *(np.ascontiguousarray(rays[i:i + _CHUNK_RAYS], np.float32)
                                         for rays in (origins, directions))) for i in pieces]
        values, distance, spread, opacity = (np.concatenate(part)
                                             for part in zip(*chunks, strict=True))
        return RayRendering(self._to_sensor(modality, values), distance, spread, opacity)

    def added(self, modality: str, size: tuple[int, int]) -> Array32 | None:
        """What the map's own camera adds to images of this size (h, w, 1); None: nothing."""
        field = self.flat_fields.get(modality)
        return None if field is None else resized(field, size)[..., None]

    def render_differentiable(self, modality: str, origins: Tensor, directions: Tensor) -> Tensor:
        """Values (n, channels) in sensor units, differentiable in origins and directions."""
        learner = self.learner(modality)
        device = learner.field.encoding.table.device
        distances, widths = (torch.from_numpy(drawn).to(device) for drawn in learner.grid.sample(
            origins.detach().cpu().numpy(), directions.detach().cpu().numpy(), RENDER_SAMPLES,
            RENDER_EXPLORING))
        values = render(learner.field, modality, origins.to(device), directions.to(device),
                        Samples(distances, widths)).values.to(origins.device)
        if modality == THERMAL and self.temperature_range is not None:
            low, high = self.temperature_range.low_celsius, self.temperature_range.high_celsius
            values = low + (high - low) * values
        return values

    def save(self, path: Path) -> None:
        """Write the map beside `path`, then rename."""
        tensors = _tensors(self.learners, self.keyframes, self.places, self.uncertainty,
                           self.flat_fields)
        facts = {'format': FORMAT, 'version': VERSION, 'name': self.name,
                 'info': asdict(self.info), 'space': asdict(self.space),
                 'field': asdict(self.learners[0].field.config),
                 'sampling': asdict(self.learners[0].grid.config),
                 'learners': [{'channels': learner.field.channels,
                               'detached': sorted(learner.detached)}
                              for learner in self.learners],
                 'temperature_range': (asdict(self.temperature_range)
                                       if self.temperature_range else None),
                 'calibration': self.calibration,
                 'false_confidence': self.false_confidence,
                 'checksum': _checksum(tensors)}
        write_atomically(Path(path), save(tensors, {'map': json.dumps(facts)}))

    @classmethod
    def load(cls, path: Path) -> 'RadianceMap':
        """Read and check a map file."""
        facts, tensors = _read(Path(path))
        try:
            return cls._assemble(facts, tensors, Path(path))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError('map file is inconsistent', where=path,
                             got=f'{type(error).__name__}: {error}',
                             hint='Train the map again.') from None

    @classmethod
    def _assemble(cls, facts: dict[str, Any], tensors: dict[str, Tensor], path: Path,
                  ) -> 'RadianceMap':
        space = ContractedSpace(tuple(facts['space']['center_m']),
                                tuple(facts['space']['half_extent_m']))
        field_config = from_mapping(FieldConfig, facts['field'], f'{path}: field')
        sampling = from_mapping(SamplingConfig, facts['sampling'], f'{path}: sampling')
        keyframes = Keyframes(tensors['keyframes.poses'].numpy(),
                              {key.removeprefix('keyframes.'): value.float().numpy()
                               for key, value in tensors.items()
                               if key.startswith('keyframes.') and key != 'keyframes.poses'})
        places = _under('places.', tensors)
        learners = []
        for i, entry in enumerate(facts['learners']):
            field = RadianceField(field_config, space, entry['channels'])
            field.load_state_dict({key.removeprefix(f'field{i}.'): value
                                   for key, value in tensors.items()
                                   if key.startswith(f'field{i}.')})
            grid = DensityGrid(sampling, space)
            grid.values[:] = tensors[f'grid{i}'].numpy()
            learners.append(Learner(field, grid, tuple(entry['channels']),
                                    frozenset(entry['detached'])))
        panoramas = Panoramas.from_tensors(places) if places else None
        uncertainty = (Uncertainty(tensors['uncertainty'].float().numpy(), space)
                       if 'uncertainty' in tensors else None)
        flat_fields = _under('flat_field.', tensors)
        if not learners or set(tensors) != set(_tensors(tuple(learners), keyframes, panoramas,
                                                        uncertainty, flat_fields)):
            raise ValueError('weights and settings tell of different fields')
        celsius = facts['temperature_range']
        made = cls(tuple(learners), TemperatureRange(**celsius) if celsius else None,
                   MapInfo(**facts['info']), keyframes, facts['name'],
                   {name: _flat_field(field) for name, field in flat_fields.items()})
        for name, pair in facts.get('vignetting', {}).items():  # of earlier maps
            made.flat_fields[name] = _flat_field(radial(*pair))
        made.calibration = {name: _calibration(pair)
                            for name, pair in facts.get('calibration', {}).items()}
        made.false_confidence = {name: _tail(pair)
                                 for name, pair in facts.get('false_confidence', {}).items()}
        made.places, made.uncertainty = panoramas, uncertainty
        return made

    def learner(self, modality: str) -> Learner:
        """Field and density grid that show a modality."""
        if modality not in self._of:
            raise InputError(f'map {self.name!r} does not show {modality}',
                             expected=' or '.join(self.modalities), got=modality)
        return self._of[modality]

    def _to_sensor(self, modality: str, values: Array32) -> Array32:
        if modality == THERMAL and self.temperature_range is not None:
            return self.temperature_range.to_celsius(values)
        return values

    def _look(self, modality: str, origins: Array32, directions: Array32) -> RayArrays:
        learner = self.learner(modality)
        if learner.field.encoding.table.device.type != 'cpu':
            return render_torch(learner.field, learner.grid, modality, origins, directions,
                                RENDER_SAMPLES, RENDER_EXPLORING)
        if modality not in self._fast:
            self._fast[modality] = CpuRenderer(learner.field, learner.grid, modality)
        return self._fast[modality].render(origins, directions, RENDER_SAMPLES,
                                           RENDER_EXPLORING)


def _flat_field(field: Array32) -> Array32:
    if field.ndim != 2 or not np.isfinite(field).all():
        raise ValueError('flat field is no image')
    return field.astype(np.float32)


def _calibration(pair: Any) -> tuple[float, float]:
    factor, floor_m = (float(value) for value in pair)
    if not (0.0 < factor < 1e6 and 0.0 <= floor_m < 100.0):
        raise ValueError(f'calibration {pair} is none')
    return factor, floor_m


def _tail(values: Any) -> tuple[float, float, float]:
    offset, scale, *rest = (float(value) for value in values)
    shape = rest[0] if rest else 0.0  # earlier maps knew none
    if not (abs(offset) < 1e3 and 0.0 < scale < 1e3 and -1.0 < shape <= 0.0):
        raise ValueError(f'false confidence {values} is none')
    return offset, scale, shape


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {key.removeprefix(prefix): value.numpy() for key, value in tensors.items()
            if key.startswith(prefix)}


def _tensors(learners: tuple[Learner, ...], keyframes: Keyframes, places: Panoramas | None,
             uncertainty: Uncertainty | None, flat_fields: Mapping[str, Array32],
             ) -> dict[str, Tensor]:
    out = {'keyframes.poses': torch.from_numpy(keyframes.poses)}
    out |= {f'flat_field.{name}': torch.from_numpy(field).half()
            for name, field in flat_fields.items()}
    if uncertainty is not None:
        out['uncertainty'] = torch.from_numpy(uncertainty.values).half()
    if places is not None:
        out |= {f'places.{name}': torch.from_numpy(part)
                for name, part in places.tensors().items()}
    for name, images in keyframes.thumbnails.items():
        out[f'keyframes.{name}'] = torch.from_numpy(images).half()
    for i, learner in enumerate(learners):
        out |= {f'field{i}.{key}': value.detach().cpu().contiguous()
                for key, value in learner.field.state_dict().items()}
        out[f'grid{i}'] = torch.from_numpy(learner.grid.values)
    return out


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes: a flipped bit must not become a wrong wall."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors, or what is wrong with the file."""
    if not path.is_file():
        raise InputError('no such map file', where=path,
                         hint='Build one with: thermal-nerf-loc train DATA --map FILE')
    try:
        with safe_open(str(path), framework='pt') as file:
            text = (file.metadata() or {}).get('map')
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError('map file is truncated, corrupt or no map', where=path,
                         expected='a safetensors file', got=str(error)) from None
    try:
        facts = json.loads(text or '{}')
    except json.JSONDecodeError:
        facts = {}
    if not isinstance(facts, dict) or facts.get('format') != FORMAT:
        raise InputError('file is no radiance map', where=path, expected=FORMAT,
                         got='a foreign safetensors file')
    version = facts.get('version')
    if version != VERSION:
        older = isinstance(version, int) and version < VERSION
        raise InputError('map file has another format version', where=path, expected=VERSION,
                         got=version, hint='Train the map again: the hash grid of an older '
                         'version is read otherwise.' if older else
                         'Upgrade thermal_nerf_loc, or train the map again.')
    if facts.get('checksum') != _checksum(tensors):
        raise InputError('map file is corrupt: its checksum does not fit', where=path,
                         hint='Copy it again, or train the map again.')
    return facts, tensors
