# SPDX-License-Identifier: Apache-2.0
"""A depth network and a data set: examples to train on, and depth maps that it predicts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.thermal_depth import teacher
from thermal_nerf_loc.mapping.thermal_depth.model import same_lens, small_camera, ThermalDepth
from thermal_nerf_loc.mapping.thermal_depth.onnx_network import OnnxDepth
from thermal_nerf_loc.mapping.thermal_depth.teacher import DepthExample
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.rendering import sureness

Array32 = NDArray[np.float32]

MAP_TEACHER, NO_TEACHER = 'map', 'none'
DEFAULT_VIEWS = 400


@dataclass(frozen=True, slots=True)
class TeacherChoice:
    """Where the depth comes from that a network is trained on."""

    teacher: str = MAP_TEACHER  # the map, 'none' (measured depth alone), or an ONNX file
    teacher_kind: str = 'inverse'  # what an ONNX network gives: 'metric', 'affine' or 'inverse'
    labels: int | None = None  # frames with measured depth; None: 0, without a teacher all
    views: int = DEFAULT_VIEWS  # rendered by the map, from poses that no image was taken from


@dataclass(frozen=True, slots=True, eq=False)
class TrainingExamples:
    """What a network is trained on."""

    camera: Camera  # the small thermal camera of all examples
    labels: list[DepthExample]  # with measured depth
    examples: list[DepthExample]  # with the depth of the teacher


def collect_examples(renderer: RadianceMap, scene: Scene, choice: TeacherChoice, seed: int,
                     progress: Progress = silent) -> TrainingExamples:
    """Label the training frames of a scene with measured depth and with that of the teacher."""
    scene.require(THERMAL)
    renderer.learner(THERMAL)
    frames = tuple(i for i in scene.train if THERMAL in scene.frames[i].records)
    camera = common_camera(scene, frames)
    measured = [i for i in frames if scene.frames[i].records[THERMAL].depth_path is not None]
    count = choice.labels
    if count is None:
        count = len(measured) if choice.teacher == NO_TEACHER else 0
    labels = teacher.measured_examples(scene, _spread(measured, count, scene), camera)
    if choice.teacher == NO_TEACHER:
        unlabelled = teacher.measured_examples(_without_depth(scene), frames, camera)
        return TrainingExamples(camera, labels, unlabelled)
    if choice.teacher == MAP_TEACHER:
        examples = teacher.map_examples(renderer, scene, frames, camera, progress)
    else:
        examples = teacher.rgb_examples(OnnxDepth(Path(choice.teacher)), choice.teacher_kind,
                                        renderer, scene, _with_rgb(scene, frames), camera,
                                        progress)
    rng = np.random.default_rng(seed)
    unseen = teacher.novel_view_examples(renderer, scene, frames, camera, choice.views, rng,
                                         progress)
    return TrainingExamples(camera, labels, examples + unseen)


def common_camera(scene: Scene, frames: tuple[int, ...]) -> Camera:
    """The small camera of the thermal images of all these frames; they must share a lens."""
    if not frames:
        raise InputError('no training frame has a thermal image', where=scene.root)
    camera = small_camera(scene.frames[frames[0]].records[THERMAL].camera)
    for index in frames:
        if not same_lens(scene.frames[index].records[THERMAL].camera, camera):
            raise InputError('thermal images have several lenses', where=scene.root,
                             expected='one: a depth network knows a single lens',
                             got=f'another one at {scene.frames[index].name}')
    return camera


def predict_depth_maps(model: ThermalDepth, scene: Scene, split: str,
                       progress: Progress = silent) -> Iterator[tuple[str, Array32, Array32]]:
    """For each thermal image: its path in the data set, depth and confidence (h, w)."""
    frames = [i for i in scene.split(split) if THERMAL in scene.frames[i].records]
    for done, index in enumerate(frames):
        record = scene.frames[index].records[THERMAL]
        found = model.predict_image(load_image(THERMAL, record))
        confidence = sureness(found.depth_m, found.spread_m, np.ones_like(found.depth_m),
                              found.depth_m > 0.0)
        path = record.path.relative_to(scene.root) if record.path.is_relative_to(
            scene.root) else Path(record.path.name)
        yield str(path.with_suffix('')), found.depth_m, confidence
        progress(done + 1, len(frames), f'{done + 1} of {len(frames)} images')


def _spread(measured: list[int], count: int, scene: Scene) -> tuple[int, ...]:
    """So many of the frames with measured depth, evenly spread."""
    if count > len(measured):
        raise InputError('too few training frames have measured thermal depth', where=scene.root,
                         expected=count, got=len(measured))
    return tuple(measured[k] for k in np.linspace(0, len(measured) - 1, count).round().astype(int))


def _with_rgb(scene: Scene, frames: tuple[int, ...]) -> tuple[int, ...]:
    scene.require(RGB)
    return tuple(i for i in frames if RGB in scene.frames[i].records)


def _without_depth(scene: Scene) -> Scene:
    return replace(scene, frames=tuple(replace(frame, records={
        name: replace(record, depth_path=None) for name, record in frame.records.items()})
        for frame in scene.frames))
