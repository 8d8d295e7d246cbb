# SPDX-License-Identifier: Apache-2.0
"""Depth from one thermal image by a network distilled for the scene, and the network's file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
import torch

from thermal_nerf_loc.common import __version__
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.atomic_files import read_bytes, write_atomically
from thermal_nerf_loc.mapping.thermal_depth.network import DepthNetwork, WIDTH_PX
from thermal_nerf_loc.sensing.frame import Frame, SensorImage, THERMAL

Array32 = NDArray[np.float32]

FORMAT, VERSION = 'thermal_nerf_loc thermal depth', 2
_LENS_TOLERANCE = 0.02  # of focal length, width, height; depth would be wrong by as much


@dataclass(frozen=True, slots=True)
class TemperatureScaling:
    """From deg C to what the network reads: standard deviations of the scene's temperatures."""

    mean_celsius: float
    std_celsius: float

    def __call__(self, celsius: Array32) -> Array32:
        """Scaled values."""
        return np.asarray((celsius - self.mean_celsius) / self.std_celsius, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class DepthPrediction:
    """Depth along z and its standard deviation (height, width), metres."""

    depth_m: Array32
    spread_m: Array32


@dataclass(frozen=True, slots=True, eq=False)
class ThermalDepth:
    """A trained network, the lens that it was trained for, and how it was trained (`facts`)."""

    network: DepthNetwork
    camera: Camera  # as small as the network's images
    scale: TemperatureScaling
    facts: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, frame: Frame) -> DepthPrediction:
        """Predict depth for a frame's thermal image."""
        if THERMAL not in frame.images:
            raise InputError('frame has no thermal image', where=frame.name or frame.stamp_ns,
                             got=', '.join(frame.images))
        return self.predict_image(frame.images[THERMAL])

    def predict_image(self, image: SensorImage) -> DepthPrediction:
        """Predict depth for one thermal image."""
        self._check_lens(image.camera)
        with torch.no_grad():
            mean, log_scale = self.network(torch.from_numpy(
                self.scale(reduced(image, self.camera)))[None])
        size = image.camera.size
        depth = np.exp(_enlarged(mean[0].numpy(), size))
        b = np.exp(_enlarged(log_scale[0].numpy(), size))
        return DepthPrediction(depth, (np.sqrt(2.0) * b * depth).astype(np.float32))

    def save(self, path: Path) -> None:
        """Write weights and facts beside `path`, then rename."""
        facts = {'format': FORMAT, 'version': VERSION,
                 'made_by': f'thermal_nerf_loc {__version__}', 'camera': asdict(self.camera),
                 'scale': asdict(self.scale), 'log_depth': self.network.log_depth,
                 'facts': dict(self.facts)}
        tensors = {name: part.contiguous() for name, part in self.network.state_dict().items()}
        write_atomically(Path(path), save(tensors, {'thermal_depth': json.dumps(facts)}))

    @classmethod
    def load(cls, path: Path) -> 'ThermalDepth':
        """Read and check a file; nothing in it is executed."""
        data = read_bytes(Path(path))
        try:
            tensors = load(data)
            length = int.from_bytes(data[:8], 'little')
            metadata = json.loads(data[8:8 + length]).get('__metadata__', {})
            facts = json.loads(metadata.get('thermal_depth') or '{}')
        except (SafetensorError, ValueError) as error:
            raise InputError('file is truncated, corrupt or no depth network', where=path,
                             expected='a safetensors file', got=str(error)) from None
        if facts.get('format') != FORMAT or facts.get('version') != VERSION:
            raise InputError('file is no depth network', where=path,
                             expected=f'{FORMAT}, version {VERSION}',
                             got='a foreign safetensors file' if not facts else
                             f'version {facts.get("version")}',
                             hint='Make one with: thermal-nerf-loc distill-depth')
        try:
            network = DepthNetwork(float(facts['log_depth']))
            network.load_state_dict(tensors)
            lens = facts['camera'] | {'model': CameraModel(facts['camera']['model']),
                                      'distortion': tuple(facts['camera']['distortion'])}
            return cls(network.eval(), Camera(**lens), TemperatureScaling(**facts['scale']),
                       facts['facts'])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError('depth network is inconsistent', where=path,
                             got=' '.join(f'{type(error).__name__}: {error}'.split())[:200]
                             ) from None

    def _check_lens(self, camera: Camera) -> None:
        if not same_lens(camera, self.camera):
            raise InputError('thermal camera has another lens than the depth network knows',
                             expected=f'a focal length of {self.camera.fx / self.camera.width:.3f}'
                             ' image widths', got=f'{camera.fx / camera.width:.3f}, centre '
                             f'({camera.cx / camera.width:.3f}, {camera.cy / camera.height:.3f})',
                             hint='Distill a network for this camera.')


def same_lens(camera: Camera, other: Camera) -> bool:
    """Whether focal length and centre agree, relative to the image, whatever the resolutions."""
    small = camera.resized(*other.size)
    return (max(abs(small.fx / other.fx - 1.0), abs(small.fy / other.fy - 1.0)) <= _LENS_TOLERANCE
            and abs(small.cx - other.cx) <= _LENS_TOLERANCE * other.width
            and abs(small.cy - other.cy) <= _LENS_TOLERANCE * other.height)


def small_camera(camera: Camera) -> Camera:
    """The camera at the size that the network reads."""
    return camera.resized(WIDTH_PX, max(round(WIDTH_PX * camera.height / camera.width), 8))


def reduced(image: SensorImage, camera: Camera) -> Array32:
    """Thermal values at a small camera's size; unknown pixels get the mean of the others."""
    values = image.values[..., 0]
    known = np.isfinite(values) if image.valid is None else np.isfinite(values) & image.valid
    fill = float(values[known].mean()) if known.any() else 0.0
    return np.asarray(cv2.resize(np.where(known, values, np.float32(fill)), camera.size,
                                 interpolation=cv2.INTER_AREA), np.float32)


def _enlarged(values: Array32, size: tuple[int, int]) -> Array32:
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_LINEAR), np.float32)
