# SPDX-License-Identifier: Apache-2.0
"""AprilTags and ArUco markers in posed images: detection, triangulation, lengths of edges."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.images import opencv, read_rgb

Array = NDArray[np.float64]

FAMILIES = {'apriltag-36h11': 'DICT_APRILTAG_36h11', 'apriltag-25h9': 'DICT_APRILTAG_25h9',
            'apriltag-16h5': 'DICT_APRILTAG_16h5', 'aruco-4x4': 'DICT_4X4_250',
            'aruco-5x5': 'DICT_5X5_250', 'aruco-6x6': 'DICT_6X6_250',
            'aruco-original': 'DICT_ARUCO_ORIGINAL'}

_MIN_ANGLE_DEG = 2.0  # between the two outermost views of a tag
_MAX_ERROR_PX = 3.0  # more: the tag moved, or two tags have one number


class TagDetection(NamedTuple):
    """The four corners of one tag in one image, in pixels with centres at +0.5."""

    image: str
    corners: Array  # (4, 2)


def detect_tags(folder: Path, names: Sequence[str], family: str,
                report_count: Callable[[int], None]) -> dict[int, list[TagDetection]]:
    """Detections by the number of the tag; `report_count` gets how many images are done."""
    cv2 = opencv()
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    detector = cv2.aruco.ArucoDetector(
        cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, FAMILIES[family])), parameters)
    found: dict[int, list[TagDetection]] = {}
    for count, name in enumerate(names, start=1):
        grey = np.rint(read_rgb(folder / name).values.mean(axis=2) * 255.0).astype(np.uint8)
        corners, numbers, _ = detector.detectMarkers(grey)
        for quad, number in zip(corners, () if numbers is None else numbers.ravel()):
            found.setdefault(int(number), []).append(
                TagDetection(name, np.asarray(quad, dtype=np.float64).reshape(4, 2) + 0.5))
        report_count(count)
    return found


def tag_edges(tags: Mapping[int, Sequence[TagDetection]], poses: Mapping[str, Array],
              camera: Camera, where: object = None,
              ) -> tuple[Array, tuple[int, ...], tuple[str, ...]]:
    """
    Triangulate the tags from posed images.

    Returns the lengths of their edges (n,) in the unit of the poses, the numbers of the tags used,
    and a note about each tag that was left out.
    """
    edges, used, notes = [], [], []
    for number, detections in sorted(tags.items()):
        posed = [detection for detection in detections if detection.image in poses]
        reason, corners = _triangulated(posed, poses, camera)
        if corners is None:
            notes.append(f'tag {number} is not used: {reason}')
            continue
        used.append(number)
        edges.append(np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1))
    if not used:
        raise InputError('no tag gives the scale', where=where,
                         expected='a tag of this family in two or more images from different '
                                  'places (see --tag-family)',
                         got='; '.join(notes) or 'no tag in any image')
    return np.concatenate(edges), tuple(used), tuple(notes)


def _triangulated(detections: Sequence[TagDetection], poses: Mapping[str, Array], camera: Camera,
                  ) -> tuple[str, Array | None]:
    """The four corners (4, 3), or the reason why there are none."""
    if len({detection.image for detection in detections}) < 2:
        return 'seen in fewer than two images that have a pose', None
    if len({detection.image for detection in detections}) < len(detections):
        return 'seen twice in one image', None
    origins = np.stack([poses[detection.image][:3, 3] for detection in detections])  # (n, 3)
    rays = np.stack([camera.unproject(detection.corners) @ poses[detection.image][:3, :3].T
                     for detection in detections])
    axis = rays.mean(axis=1)
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    widest = float(np.rad2deg(np.arccos(np.clip((axis @ axis.T).min(), -1.0, 1.0))))
    if widest < _MIN_ANGLE_DEG:
        return f'its views are only {widest:.1f} deg apart', None
    corners = np.stack([nearest_point(origins, rays[:, k]) for k in range(4)])
    error = max(_error_px(detection, corners, poses[detection.image], camera)
                for detection in detections)
    if error > _MAX_ERROR_PX:
        return f'its corners disagree by {error:.1f} pixels', None
    return '', corners


def nearest_point(origins: Array, directions: Array) -> Array:
    """The point nearest to all rays, by least squares: sum (I - d d^T) (p - o) = 0."""
    projectors = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    return np.asarray(np.linalg.solve(projectors.sum(axis=0),
                                      np.einsum('nij,nj->i', projectors, origins)))


def _error_px(detection: TagDetection, corners: Array, T_world_cam: Array,
              camera: Camera) -> float:
    uv: Any
    uv, _ = camera.project(se3.transform(se3.inverse(T_world_cam), corners))
    return float(np.linalg.norm(uv - detection.corners, axis=1).max())
