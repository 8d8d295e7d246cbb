# SPDX-License-Identifier: Apache-2.0
"""A box room with smooth analytic paint, rendered exactly and differentiably."""

import numpy as np
from stand_in_map import StandInMap
import torch

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.rendering import RayRendering

torch.set_num_threads(1)  # tiny batches

SIZE_M = (4.0, 4.0, 2.5)
RGB_CAMERA = Camera.from_fov(160, 120, 70.0)
THERMAL_CAMERA = Camera.from_fov(80, 64, 60.0)
T_CAM_THERMAL = se3.exp([0.06, 0.01, 0.0, 0.02, -0.03, 0.01])


class PaintedRoom(StandInMap):
    """A box room, rendered from inside; `bare`: walls of one colour, without paint."""

    modalities = (RGB, THERMAL)
    bounds = np.array([[0.0, 0.0, 0.0], SIZE_M])

    def __init__(self, bare=False, waves=60, seed=0):
        super().__init__()
        rng = np.random.default_rng(seed)
        direction = rng.normal(size=(waves, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length_m = np.exp(rng.uniform(np.log(0.25), np.log(2.0), (waves, 1)))
        self.waves = torch.tensor(2 * np.pi * direction / length_m)
        self.phases = torch.tensor(rng.uniform(0, 2 * np.pi, (waves, 4)))
        share = length_m / length_m.sum() * (0.0 if bare else 1.0)
        self.paint = torch.tensor(np.concatenate([2.0 * share] * 3 + [30.0 * share], axis=1))
        self.base_values = torch.tensor([0.5, 0.5, 0.5, 22.0], dtype=torch.float64)

    def render_rays(self, modality, origins, directions):
        """See `Renderer`."""
        o, d = (torch.as_tensor(np.asarray(x), dtype=torch.float64) for x in (origins, directions))
        distance = self._distance(o, d)
        values = self._values(modality, o + distance[:, None] * d)
        return RayRendering(values.numpy().astype(np.float32),
                            distance.numpy().astype(np.float32),
                            np.zeros(len(o), np.float32), np.ones(len(o), np.float32))

    def render_differentiable(self, modality, origins, directions):
        """Torch values (n, channels), differentiable in both arguments."""
        distance = self._distance(origins, directions)
        return self._values(modality, origins + distance[:, None] * directions)

    def _distance(self, o, d):
        far = torch.tensor(SIZE_M, dtype=o.dtype)
        safe = torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
        return torch.maximum(-o / safe, (far - o) / safe).min(dim=1).values

    def _values(self, modality, p):
        angle = p.double() @ self.waves.T
        channels = slice(0, 3) if modality == RGB else slice(3, 4)
        waves = torch.sin(angle[:, :, None] + self.phases[None, :, channels])
        values = (waves * self.paint[:, channels]).sum(dim=1) + self.base_values[channels]
        return (values.clamp(0.0, 1.0) if modality == RGB else values).to(p.dtype)


def look_at(eye, target):
    """Pose of a camera at `eye` that looks at `target`, world z up."""
    z = np.subtract(target, eye)
    z = z / np.linalg.norm(z)
    x = np.cross(z, (0.0, 0.0, 1.0))
    x /= np.linalg.norm(x)
    return se3.from_parts(np.stack([x, np.cross(z, x), z], axis=1), eye)


def make_poses(count, seed=0):
    """Poses in the middle of the room, looking all around."""
    rng = np.random.default_rng(seed)
    eyes = rng.uniform((1.2, 1.2, 0.8), (2.8, 2.8, 1.7), (count, 3))
    angle = rng.uniform(0, 2 * np.pi, count)
    targets = eyes + np.stack([np.cos(angle), np.sin(angle), rng.uniform(-.3, .3, count)], axis=1)
    return np.array([look_at(eye, target) for eye, target in zip(eyes, targets)])


def take_image(world, modality, T_world_cam, camera, T_cam_sensor=None, noise=0.0, seed=0,
               stamp_ns=0):
    """Render one image, with white noise."""
    T_cam_sensor = np.eye(4) if T_cam_sensor is None else T_cam_sensor
    T = T_world_cam @ T_cam_sensor
    directions = camera.rays() @ T[:3, :3].T
    values = world.render_rays(modality, np.repeat(T[None, :3, 3], len(directions), axis=0),
                               directions).values
    values = values + np.random.default_rng(seed).normal(0.0, 1.0, values.shape) * noise
    image = values.astype(np.float32).reshape(camera.height, camera.width, -1)
    return SensorImage(camera, image, stamp_ns, T_cam_sensor)


def take_frame(world, T_world_cam, noise=1.0, seed=0, modalities=(RGB, THERMAL), stamp_ns=0):
    """RGB 160x120 and thermal 80x64 on a rig, with the noise of simple sensors."""
    images = {}
    if RGB in modalities:
        images[RGB] = take_image(world, RGB, T_world_cam, RGB_CAMERA, None, 0.01 * noise, seed,
                                 stamp_ns)
    if THERMAL in modalities:
        images[THERMAL] = take_image(world, THERMAL, T_world_cam, THERMAL_CAMERA, T_CAM_THERMAL,
                                     0.05 * noise, seed + 1, stamp_ns)
    return Frame(stamp_ns, images, T_world_cam)


def perturbed(T, degrees, metres, seed):
    """`T` turned and shifted by exactly these amounts, in a random direction."""
    rng = np.random.default_rng(seed)
    v, w = rng.normal(size=(2, 3))
    return se3.plus(T, np.concatenate([v / np.linalg.norm(v) * metres,
                                       w / np.linalg.norm(w) * np.deg2rad(degrees)]))
