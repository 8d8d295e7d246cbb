# SPDX-License-Identifier: Apache-2.0
"""Keypoints of thermal images: the scene's, not those of the detector."""

import cv2
import numpy as np
import pytest

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.mapping.camera_poses import features
from thermal_nerf_loc.mapping.camera_poses.features import detect_features
from thermal_nerf_loc.sensing.frame import SensorImage

CAMERA = Camera.from_fov(160, 120, 60.0)
NOISE = 0.05  # deg C


def images(contrast: float, noise: float = NOISE, count: int = 6) -> list[SensorImage]:
    """Blobs that move over a detector with stripes, drift and noise; deg C."""
    rng = np.random.default_rng(0)
    blobs = cv2.GaussianBlur(rng.normal(size=(120, 400)), (0, 0), 3.0)
    blobs *= contrast / blobs.std()
    stripes = np.tile(rng.normal(0.0, 0.3, 160), (120, 1))
    out = []
    for k in range(count):
        values = 20.0 + blobs[:, 30 * k:30 * k + 160] + stripes + 0.5 * k
        values += rng.normal(0.0, noise, values.shape)
        out.append(SensorImage(CAMERA, values.astype(np.float32)[..., None], 0, np.eye(4)))
    return out


def found(made: list[SensorImage]) -> int:
    """Keypoints of all images."""
    return sum(len(f.uv) for f in detect_features('thermal', len(made), made.__getitem__))


def test_noise_is_measured_beside_pattern_and_scene() -> None:
    """Stripes of six times its size, and blobs, leave it alone."""
    made = images(1.0)
    detector = features._detector_of(len(made), made.__getitem__)
    assert detector.noise == pytest.approx(NOISE, rel=0.25)


def test_weak_contrast_counts_and_noise_does_not() -> None:
    """A fifth of the contrast keeps most keypoints; none of it keeps few."""
    strong, weak, nothing = (found(images(contrast)) for contrast in (3.0, 0.6, 0.0))
    assert weak > 0.5 * strong > 50
    assert nothing < 0.15 * strong


def test_an_image_that_shows_nothing_has_no_keypoint() -> None:
    """Without contrast and without noise."""
    flat = [SensorImage(CAMERA, np.full((120, 160, 1), 20.0, np.float32), 0, np.eye(4))] * 2
    assert found(flat) == 0


@pytest.mark.parametrize('width', [160, 320, 1920])
def test_a_keypoint_lies_where_its_blob_does(width: int) -> None:
    """Also after the detector has doubled or shrunk the image: pixel centres are at +0.5."""
    rng, camera = np.random.default_rng(0), Camera.from_fov(width, 3 * width // 4, 60.0)
    unit = width / 320
    at = np.stack(np.meshgrid(np.arange(30, 300, 40), np.arange(30, 220, 40)), axis=-1)
    at = (at.reshape(-1, 2) + rng.uniform(-1.0, 1.0, (35, 2))) * unit
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    grey = sum(np.exp(-((x - u)**2 + (y - v)**2) / (2.0 * (4.0 * unit)**2)) for u, v in at)
    values = np.repeat((0.2 + 0.6 * grey)[..., None], 3, axis=2).astype(np.float32)
    image = SensorImage(camera, values, 0, np.eye(4))
    found = detect_features('rgb', 1, lambda _: image)[0].uv
    off = found[:, None] - at[None]
    nearest = np.linalg.norm(off, axis=2).argmin(axis=0)
    off = off[nearest, np.arange(len(at))]
    assert np.abs(np.median(off, axis=0)).max() < 0.05 * unit
