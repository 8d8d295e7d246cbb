# SPDX-License-Identifier: Apache-2.0
"""Rays drawn from training images: what they saw, in memory or on disk, one image at a time."""

from dataclasses import replace
from pathlib import Path
import weakref

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.geometry.se3 import exp
from thermal_nerf_loc.io import atomic_files
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.mapping.training import pixel_sources
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.ray_sampler import PixelSource
from thermal_nerf_loc.sensing.frame import SensorImage
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

CAMERAS = (Camera.from_fov(8, 6, 70.0),
           Camera.from_fov(10, 4, 90.0, model=CameraModel.OPENCV, distortion=(-0.1, 0.0, 0, 0)),
           Camera.from_fov(8, 6, 70.0))
POSES = [exp(np.random.default_rng(i).normal(size=6)) for i in range(3)]


def image_of(i: int, masked: bool = True) -> SensorImage:
    """Random colours; the second image lacks depth, the third has a mask and a NaN."""
    rng = np.random.default_rng(100 + i)
    camera = CAMERAS[i]
    values = rng.random((camera.height, camera.width, 3), dtype=np.float32)
    depth = rng.uniform(1.0, 5.0, values.shape[:2]).astype(np.float32)
    depth[0, 0] = 0.0
    valid = None
    if i == 2 and masked:
        valid = rng.random(values.shape[:2]) > 0.5
        valid[3, 3] = True
        values[3, 3] = np.nan
    return SensorImage(camera, values, 0, valid=valid, depth_m=None if i == 1 else depth)


def source_of(masked: bool = True, allocate: atomic_files.Allocate = atomic_files.in_memory,
              ) -> PixelSource:
    """All three images."""
    return PixelSource(CAMERAS, POSES, lambda i: image_of(i, masked), 3, True, allocate)


def test_rays_show_what_the_images_hold() -> None:
    """Against each image, pixel by pixel, by the camera's own model."""
    source = source_of()
    flat = 0
    for i, (camera, T) in enumerate(zip(CAMERAS, POSES)):
        image, count = image_of(i), camera.width * camera.height
        batch = source.at(np.arange(flat, flat + count))
        flat += count
        rays = camera.rays()
        np.testing.assert_allclose(batch.directions, rays @ T[:3, :3].T, atol=1e-6)
        np.testing.assert_allclose(batch.origins, np.tile(T[:3, 3], (count, 1)), atol=1e-6)
        np.testing.assert_allclose(batch.truth, np.nan_to_num(image.values).reshape(-1, 3),
                                   atol=0.51 / 65535)
        z = np.zeros(count) if image.depth_m is None else image.depth_m.reshape(-1)
        np.testing.assert_allclose(batch.depth_m, z / rays[:, 2], rtol=1e-6)
        np.testing.assert_array_equal(batch.confidence, z > 0.0)
        np.testing.assert_array_equal(batch.image, i)
        off = camera.pixel_centers() - (0.5 * camera.width, 0.5 * camera.height)
        half = 0.5 * camera.width, 0.5 * camera.height
        np.testing.assert_allclose(batch.across.numpy() * half, off, atol=1e-4)


@pytest.mark.parametrize('masked', [False, True])
def test_rays_from_disk_equal_those_from_memory(masked: bool) -> None:
    """The same draws, and the same digest; a memory map holds the pixels."""
    memory, disk = source_of(masked), source_of(masked, atomic_files.on_disk)
    assert isinstance(disk._values, np.memmap)
    assert len(memory) == len(disk) and memory.digest == disk.digest
    one, other = (s.draw(500, np.random.default_rng(3)) for s in (memory, disk))
    for name in ('origins', 'directions', 'truth', 'depth_m', 'confidence', 'image',
                 'across'):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_only_usable_pixels_are_drawn() -> None:
    """Masked and NaN pixels never; every other pixel sometime, each equally likely."""
    source = source_of()
    usable = np.concatenate([image_of(i).valid.ravel() if i == 2 else
                             np.ones(CAMERAS[i].width * CAMERAS[i].height, bool)
                             for i in range(3)])
    usable[8 * 6 + 10 * 4 + 3 * 8 + 3] = False  # the NaN
    assert len(source) == usable.sum()
    drawn = source.draw(40_000, np.random.default_rng(0))
    counts = np.bincount(drawn.image, minlength=3)
    parts = [usable[:48].sum(), usable[48:88].sum(), usable[88:].sum()]
    np.testing.assert_allclose(counts / 40_000, np.array(parts) / usable.sum(), atol=0.01)
    seen = {tuple(row) for row in drawn.truth.numpy().round(6)}
    every = source.at(np.flatnonzero(usable)).truth.numpy().round(6)
    assert seen == {tuple(row) for row in every}


def test_no_pixel_left_is_named() -> None:
    """All masked, and no image at all."""
    empty = replace(image_of(0), valid=np.zeros((6, 8), bool))
    with pytest.raises(InputError, match='leave no pixel'):
        PixelSource(CAMERAS[:1], POSES[:1], lambda i: empty, 3)
    with pytest.raises(InputError, match='no training image'):
        PixelSource([], [], image_of, 3)


def test_one_image_is_in_memory_at_a_time() -> None:
    """When the next one is asked for, the last ones are gone."""
    given: list[weakref.ref[np.ndarray]] = []

    def load(i: int) -> SensorImage:
        assert sum(ref() is not None for ref in given) <= 1
        image = image_of(i)
        given.append(weakref.ref(image.values))
        return image

    PixelSource(CAMERAS, POSES, load, 3)
    assert len(given) == 3


def test_memory_limit_moves_the_pixels_to_disk(tmp_path: Path) -> None:
    """By size alone; temperatures span the training images, with head room."""
    simulate_dataset(tmp_path / 'room', SimulationConfig(frames=4, size=(32, 24)))
    scene = load_scene(tmp_path / 'room')
    small, _ = pixel_sources.load_sources(scene, TrainConfig())
    large, temperatures = pixel_sources.load_sources(scene, TrainConfig(memory_limit_mb=0.01))
    for name in ('rgb', 'thermal'):
        assert not isinstance(small[name]._values, np.memmap)
        assert isinstance(large[name]._values, np.memmap)
        assert small[name].digest == large[name].digest
    celsius = np.stack([scene.load(i).images['thermal'].values for i in scene.train])
    batch = large['thermal'].at(np.arange(celsius.size))
    np.testing.assert_allclose(temperatures.to_celsius(batch.truth.numpy()).ravel(),
                               celsius.ravel(), atol=2e-3)
    assert temperatures.low_celsius < celsius.min() - 0.4
    assert temperatures.high_celsius > celsius.max() + 0.4


def test_scratch_leaves_nothing_and_needs_its_folder(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file in sight, even while in use; no folder or no space is an error before any write."""
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    array = atomic_files.on_disk((10, 3), np.uint16)
    array[:] = 7
    assert (array == 7).all() and not list(tmp_path.iterdir())
    with pytest.raises(RunError, match='no space left'):
        atomic_files.on_disk((2**42,), np.uint16)
    monkeypatch.setenv('TMPDIR', str(tmp_path / 'absent'))
    with pytest.raises(InputError, match='absent'):
        atomic_files.on_disk((10, 3), np.uint16)


def test_rays_of_known_depth_come_image_by_image() -> None:
    """As many as there are, or evenly fewer; the image without depth has none."""
    source = source_of()
    share = source.known_depth()
    assert share[0] == pytest.approx(47 / 48) and share[1] == 0.0 and share[2] > 0.9
    batches = list(source.rays_of_known_depth(10_000))
    assert [int(batch.image[0]) for batch in batches] == [0, 2]
    assert len(batches[0].truth) == 47 and 10 < len(batches[1].truth) < 40  # the rest is masked
    assert all((batch.confidence > 0.0).all() for batch in batches)
    few = sum(len(batch.truth) for batch in source.rays_of_known_depth(20))
    assert 15 <= few <= 25
