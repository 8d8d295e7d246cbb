# SPDX-License-Identifier: Apache-2.0
"""
A map's content and its file.

One safetensors file holds weights, density grids, keyframes, landmarks, panoramas and uncertainty,
and as metadata one JSON text with the format version, every setting, the scene's space, the
temperature range and a checksum. Density grids are kept as 16-bit logarithms (off by 0.4 % at
most): they only place samples. Loading executes nothing and trusts nothing: each tensor's name,
type and shape is checked against what the settings imply.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
import hashlib
import json
from pathlib import Path
import re
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open, SafetensorError
from safetensors.torch import save as encoded
import torch
from torch import Tensor

from thermal_nerf_loc.common.config import from_mapping
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.density_grid import Array32, DensityGrid, SamplingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig, RadianceField
from thermal_nerf_loc.io.atomic_files import write_atomically
from thermal_nerf_loc.mapping.map import landmarks as landmark_tensors
from thermal_nerf_loc.mapping.map.keyframes import Keyframes
from thermal_nerf_loc.mapping.map.landmarks import Landmarks
from thermal_nerf_loc.mapping.map.localization_map import CovarianceScale, MapInfo, Tail
from thermal_nerf_loc.mapping.map.panoramas import Panoramas
from thermal_nerf_loc.mapping.map.uncertainty import Uncertainty
from thermal_nerf_loc.mapping.training.strategies import Learner
from thermal_nerf_loc.sensing.flat_field import radial
from thermal_nerf_loc.sensing.thermal import TemperatureRange

_LEAST_DENSITY = 1e-30  # per metre; its logarithm is still finite
_FORMER_GRID = re.compile('^grid(?=[0-9])')  # of earlier maps: densities in 32 bits
FORMAT, VERSION = 'thermal_nerf_loc map', 2  # 1: another hash grid


def _no_keyframes() -> Keyframes:
    return Keyframes(np.empty((0, 4, 4)), {})


@dataclass(frozen=True, slots=True, eq=False)
class MapContent:
    """All that a map file holds; `temperature_range` is due with a thermal branch in deg C."""

    learners: tuple[Learner, ...]
    temperature_range: TemperatureRange | None
    info: MapInfo
    keyframes: Keyframes = field(default_factory=_no_keyframes)
    name: str = ''  # '': that of the scene
    flat_fields: Mapping[str, Array32] = field(default_factory=dict)  # `sensing/flat_field.py`
    panoramas: Panoramas | None = None
    uncertainty: Uncertainty | None = None
    calibration: Mapping[str, CovarianceScale] = field(default_factory=dict)
    false_positive_tails: Mapping[str, Tail] = field(default_factory=dict)
    landmarks: Mapping[str, Landmarks] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze mappings and weights."""
        object.__setattr__(self, 'name', self.name or self.info.scene_name)
        for member in ('flat_fields', 'calibration', 'false_positive_tails', 'landmarks'):
            object.__setattr__(self, member, MappingProxyType(dict(getattr(self, member))))
        for learner in self.learners:
            learner.field.requires_grad_(False)


Content = TypeVar('Content', bound=MapContent)


def save(content: MapContent, path: Path) -> None:
    """Write the file beside `path`, then rename."""
    tensors = _tensors(content.learners, content.keyframes, content.panoramas,
                       content.uncertainty, content.flat_fields, content.landmarks)
    first, celsius = content.learners[0], content.temperature_range
    facts = {'format': FORMAT, 'version': VERSION, 'name': content.name,
             'info': _info_facts(content.info), 'space': asdict(first.field.space),
             'field': asdict(first.field.config), 'sampling': asdict(first.grid.config),
             'learners': [{'channels': learner.field.channels,
                           'detached': sorted(learner.detached)}
                          for learner in content.learners],
             'temperature_range': asdict(celsius) if celsius else None,
             'calibration': dict(content.calibration),
             'false_confidence': dict(content.false_positive_tails),
             'checksum': _checksum(tensors)}
    write_atomically(path, encoded(tensors, {'map': json.dumps(facts)}))


def load(path: Path, kind: type[Content]) -> Content:
    """Read and check a file; returns an object of `kind`."""
    facts, tensors = _read(path)
    try:
        return kind(**_members(facts, tensors, path))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError('map file is inconsistent', where=path,
                         got=f'{type(error).__name__}: {error}',
                         hint='Train the map again.') from None


def read_panoramas(path: Path, rows: NDArray[np.int64]) -> Panoramas:
    """Some of the panoramas of a map file, without reading the rest of it."""
    try:
        with safe_open(str(path), framework='np') as file:
            names = [name for name in file.keys() if name.startswith('places.')]  # noqa: SIM118
            parts = {}
            for name in names:
                key = name.removeprefix('places.')
                parts[key] = (file.get_tensor(name) if key in ('up', 'camera_ups') else
                              np.concatenate([file.get_slice(name)[int(row):int(row) + 1]
                                              for row in rows]))
        return Panoramas.from_tensors(parts)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError('map file holds no such panoramas', where=path,
                         got=f'{type(error).__name__}: {error}') from None


def _members(facts: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """Members of `MapContent` by name."""
    space = ContractedSpace(tuple(facts['space']['center_m']),
                            tuple(facts['space']['half_extent_m']))
    keyframes = Keyframes(tensors['keyframes.poses'].numpy(),
                          {key.removeprefix('keyframes.'): value.float().numpy()
                           for key, value in tensors.items()
                           if key.startswith('keyframes.') and key != 'keyframes.poses'})
    learners = _learners(facts, tensors, space, path)
    parts = _under('places.', tensors)
    panoramas = Panoramas.from_tensors(parts) if parts else None
    uncertainty = (Uncertainty(tensors['uncertainty'].float().numpy(), space)
                   if 'uncertainty' in tensors else None)
    flat_fields = _under('flat_field.', tensors)
    landmarks = landmark_tensors.from_tensors(_under('landmarks.', tensors))
    written = set(_tensors(learners, keyframes, panoramas, uncertainty, flat_fields, landmarks))
    former = {name for name in written if name.startswith('landmarks.')}  # had fewer parts
    found = {_FORMER_GRID.sub('log_grid', name) for name in tensors}
    if not learners or not written - former <= found <= written:
        raise ValueError('weights and settings tell of different fields')
    flat_fields |= {name: radial(*pair)  # of earlier maps
                    for name, pair in facts.get('vignetting', {}).items()}
    celsius = facts['temperature_range']
    return {'learners': learners,
            'temperature_range': TemperatureRange(**celsius) if celsius else None,
            'info': _info_from(facts['info']), 'keyframes': keyframes, 'name': facts['name'],
            'flat_fields': {name: _flat_field(image) for name, image in flat_fields.items()},
            'panoramas': panoramas, 'uncertainty': uncertainty, 'landmarks': landmarks,
            'calibration': {name: _calibration(pair)
                            for name, pair in facts.get('calibration', {}).items()},
            'false_positive_tails': {name: _tail(values) for name, values
                                     in facts.get('false_confidence', {}).items()}}


def _learners(facts: dict[str, Any], tensors: dict[str, Tensor], space: ContractedSpace,
              path: Path) -> tuple[Learner, ...]:
    field_config = from_mapping(FieldConfig, facts['field'], f'{path}: field')
    sampling = from_mapping(SamplingConfig, facts['sampling'], f'{path}: sampling')
    learners = []
    for i, entry in enumerate(facts['learners']):
        radiance_field = RadianceField(field_config, space, entry['channels'])
        radiance_field.load_state_dict({key.removeprefix(f'field{i}.'): value
                                        for key, value in tensors.items()
                                        if key.startswith(f'field{i}.')})
        grid = DensityGrid(sampling, space)
        grid.values[:] = _densities(tensors, i)
        learners.append(Learner(radiance_field, grid, tuple(entry['channels']),
                                frozenset(entry['detached'])))
    return tuple(learners)


def _info_facts(info: MapInfo) -> dict[str, Any]:
    """The file calls the temperature offset `zero`."""
    facts = asdict(info)
    facts['zero'] = facts.pop('temperature_offset')
    return facts


def _info_from(facts: Mapping[str, Any]) -> MapInfo:
    members = dict(facts)
    if 'zero' in members:  # earlier maps have none
        members['temperature_offset'] = members.pop('zero')
    return MapInfo(**members)


def _flat_field(image: Array32) -> Array32:
    if image.ndim != 2 or not np.isfinite(image).all():
        raise ValueError('flat field is no image')
    return image.astype(np.float32)


def _calibration(pair: Any) -> CovarianceScale:
    factor, floor_m = (float(value) for value in pair)
    if not (0.0 < factor < 1e6 and 0.0 <= floor_m < 100.0):
        raise ValueError(f'calibration {pair} is none')
    return factor, floor_m


def _tail(values: Any) -> Tail:
    offset, scale, *rest = (float(value) for value in values)
    shape = rest[0] if rest else 0.0  # earlier maps have none
    if not (abs(offset) < 1e3 and 0.0 < scale < 1e3 and -1.0 < shape <= 0.0):
        raise ValueError(f'false confidence {values} is none')
    return offset, scale, shape


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {key.removeprefix(prefix): value.numpy() for key, value in tensors.items()
            if key.startswith(prefix)}


def _tensors(learners: tuple[Learner, ...], keyframes: Keyframes, panoramas: Panoramas | None,
             uncertainty: Uncertainty | None, flat_fields: Mapping[str, Array32],
             landmarks: Mapping[str, Landmarks]) -> dict[str, Tensor]:
    """Everything in the file by name; the panoramas' prefix is `places.`."""
    out = {'keyframes.poses': torch.from_numpy(keyframes.poses)}
    out |= {f'flat_field.{name}': torch.from_numpy(image).half()
            for name, image in flat_fields.items()}
    out |= {f'landmarks.{name}': torch.from_numpy(part)
            for name, part in landmark_tensors.tensors_of(landmarks).items()}
    if uncertainty is not None:
        out['uncertainty'] = torch.from_numpy(uncertainty.values).half()
    if panoramas is not None:
        out |= {f'places.{name}': torch.from_numpy(part)
                for name, part in panoramas.tensors().items()}
    for name, images in keyframes.thumbnails.items():
        out[f'keyframes.{name}'] = torch.from_numpy(images).half()
    for i, learner in enumerate(learners):
        out |= {f'field{i}.{key}': value.detach().cpu().contiguous()
                for key, value in learner.field.state_dict().items()}
        out[f'log_grid{i}'] = _log_densities(learner.grid.values)
    return out


def as_kept(densities: Array32) -> Array32:
    """Densities of a grid as they come back from a file."""
    return np.asarray(_log_densities(densities).float().exp().numpy(), np.float32)


def _log_densities(densities: Array32) -> Tensor:
    return torch.from_numpy(densities).clamp_min(_LEAST_DENSITY).log().half()


def _densities(tensors: Mapping[str, Tensor], i: int) -> Array32:
    """Densities of a grid; earlier maps hold them as they are."""
    former = tensors.get(f'grid{i}')
    densities = tensors[f'log_grid{i}'].float().exp() if former is None else former
    return np.asarray(densities.numpy(), np.float32)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes, so that a damaged file is never used."""
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
