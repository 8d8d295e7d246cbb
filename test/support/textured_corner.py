# SPDX-License-Identifier: Apache-2.0
"""A wall and a floor with texture, photographed from known poses, and a tag on the wall."""

from pathlib import Path

import cv2
import numpy as np

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera

CAMERA = Camera.from_fov(320, 240, 65.0)
TAG_M = 0.5  # edge of the black square

_SIZE_M, _PX_PER_M = 6.0, 100.0
_TAG_AT_M = (2.4, 2.2)  # its corner on the wall
_WALL_Z_M, _FLOOR_Y_M = 3.0, 1.0


def poses(count: int) -> np.ndarray:
    """Camera poses on an arc in front of the wall (OpenCV axes: the floor lies at +y)."""
    shares = np.linspace(-1.0, 1.0, count)
    return np.stack([se3.from_parts(se3.so3_exp([-0.15, -0.25 * s, 0.0]),
                                    [1.2 * s, -0.2 + 0.2 * s * s, 0.3 * abs(s)])
                     for s in shares])


def textures(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Wall (with tag 7 of AprilTag's 36h11) and floor."""
    rng = np.random.default_rng(seed)
    count = int(_SIZE_M * _PX_PER_M)
    made = []
    for _ in range(2):
        coarse = cv2.resize(rng.uniform(0, 255, (60, 60, 3)).astype(np.float32), (count, count),
                            interpolation=cv2.INTER_CUBIC)
        fine = cv2.resize(rng.uniform(-60, 60, (200, 200, 3)).astype(np.float32), (count, count))
        made.append(np.clip(coarse + fine, 0, 255))
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    edge = int(TAG_M * _PX_PER_M)
    tag = cv2.aruco.generateImageMarker(dictionary, 7, edge).astype(np.float32)
    margin = edge // 5
    x, y = (int(value * _PX_PER_M) for value in _TAG_AT_M)
    made[0][y - margin:y + edge + margin, x - margin:x + edge + margin] = 255.0
    made[0][y:y + edge, x:x + edge] = tag[..., None]
    return made[0], made[1]


def photograph(T_world_cam: np.ndarray, wall: np.ndarray, floor: np.ndarray,
               camera: Camera = CAMERA) -> np.ndarray:
    """One image, 8 bits RGB, each pixel the mean of 2 x 2 rays."""
    fine = camera.resized(2 * camera.width, 2 * camera.height)
    directions = fine.rays() @ T_world_cam[:3, :3].T
    origin = T_world_cam[:3, 3]
    with np.errstate(divide='ignore', invalid='ignore'):
        to_wall = (_WALL_Z_M - origin[2]) / directions[:, 2]
        to_floor = (_FLOOR_Y_M - origin[1]) / directions[:, 1]
    to_wall, to_floor = (np.where(t > 0.0, t, np.inf) for t in (to_wall, to_floor))
    on_wall = to_wall < to_floor
    hit = origin + np.where(on_wall, to_wall, to_floor)[:, None] * directions
    u = (hit[:, 0] + _SIZE_M / 2) * _PX_PER_M - 0.5
    v = np.where(on_wall, hit[:, 1] + _SIZE_M / 2, hit[:, 2] + 2.0) * _PX_PER_M - 0.5
    shape = (fine.height, fine.width)
    maps = u.astype(np.float32).reshape(shape), v.astype(np.float32).reshape(shape)
    both = [cv2.remap(t, *maps, cv2.INTER_LINEAR, borderValue=(90, 90, 90))
            for t in (wall, floor)]
    image = np.where(on_wall.reshape(*shape, 1), *both)
    mean = image.reshape(camera.height, 2, camera.width, 2, 3).mean(axis=(1, 3))
    return np.rint(mean).astype(np.uint8)


def write_photographs(folder: Path, count: int) -> np.ndarray:
    """Write 00.png, 01.png, ...; returns the poses."""
    folder.mkdir(parents=True)
    wall, floor = textures()
    T = poses(count)
    for index, pose in enumerate(T):
        cv2.imwrite(str(folder / f'{index:02d}.png'), photograph(pose, wall, floor)[..., ::-1])
    return T
