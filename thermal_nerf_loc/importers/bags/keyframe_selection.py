# SPDX-License-Identifier: Apache-2.0
"""Select keyframes of a drive: after each step of motion, the sharpest image around it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import check, setting
from thermal_nerf_loc.geometry.se3 import quaternion_from_matrix
from thermal_nerf_loc.io.images import opencv

Array = NDArray[np.float64]

_WINDOW_SHARE = 0.25  # of the step between keyframes: how far a sharper image may be away
_SHARPNESS_WIDTH_PX = 320  # sharpness is measured at this width: finer detail is noise
_TOLERANCE = 1e-9  # metres or degrees: rounding must not skip a keyframe


@dataclass(frozen=True, slots=True)
class KeyframeRule:
    """The motion from one keyframe to the next."""

    min_m: float = setting(0.1, 'metres from one keyframe to the next', 0.0, 1000.0)
    min_deg: float = setting(5.0, 'or degrees of turning, whatever comes first', 0.0, 180.0)
    max_frames: int = setting(400, 'at most so many: the steps grow until they fit', 2, 1_000_000)
    candidates: int = setting(9, 'images around a keyframe of which the sharpest is kept', 1, 1000)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check(self, 'keyframes')


def choose_windows(poses: Array, rule: KeyframeRule) -> list[range]:
    """
    Windows of images around keyframes along a path (n, 4, 4); one image of each is kept.

    They are disjoint and in order. A robot that stands still adds none.
    """
    path = _Path(poses)
    anchors = path.anchors(rule.min_m, rule.min_deg)
    scale = 1.0
    while len(anchors) > rule.max_frames:
        scale *= max(1.02, len(anchors) / rule.max_frames)
        # steps of zero cannot grow
        anchors = path.anchors(scale * max(rule.min_m, 1e-3), scale * max(rule.min_deg, 0.1))
        if scale > 1e6:
            break
    windows: list[range] = []
    reach, start = rule.candidates // 2, 0
    for k, anchor in enumerate(anchors):
        end = anchors[k + 1] if k + 1 < len(anchors) else len(poses)
        windows.append(path.nearby(anchor, max(start, anchor - reach),
                                   min(end, anchor + rule.candidates - reach),
                                   _WINDOW_SHARE * scale * rule.min_m,
                                   _WINDOW_SHARE * scale * rule.min_deg))
        start = windows[-1].stop
    return windows


def sharpness(image: NDArray[Any]) -> float:
    """
    Sharpness of an image (h, w) or (h, w, channels), comparable among images of one scene.

    The variance of the Laplacian over that of the image, which does not depend on the exposure.
    """
    cv2 = opencv()
    small = image if image.dtype in (np.uint8, np.uint16) else np.asarray(image, np.float32)
    width = _SHARPNESS_WIDTH_PX
    if small.shape[1] > width:
        height = max(1, round(small.shape[0] * width / small.shape[1]))
        small = cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA)
    grey = np.asarray(small, np.float32)
    grey = grey.mean(axis=2) if grey.ndim == 3 else grey
    contrast = float(grey.var())
    return float(cv2.Laplacian(grey, cv2.CV_32F).var()) / contrast if contrast > 0.0 else 0.0


class _Path:
    """Distances between the poses of a path."""

    def __init__(self, poses: Array) -> None:
        self._t = poses[:, :3, 3]
        self._q = quaternion_from_matrix(poses[:, :3, :3])

    def __len__(self) -> int:
        return len(self._t)

    def apart(self, i: int, others: slice) -> tuple[Array, Array]:
        """Metres and degrees from pose `i` to the others."""
        metres = np.linalg.norm(self._t[others] - self._t[i], axis=-1)
        cosine = np.clip(np.abs(self._q[others] @ self._q[i]), 0.0, 1.0)
        return metres, np.rad2deg(2.0 * np.arccos(cosine))

    def anchors(self, min_m: float, min_deg: float) -> list[int]:
        """The first pose, and then each that is a step away from the anchor before."""
        found = [0] if len(self) else []
        position, block = 1, 64
        while position < len(self):
            metres, degrees = self.apart(found[-1], slice(position, position + block))
            far = np.flatnonzero((metres >= min_m - _TOLERANCE)
                                 | (degrees >= min_deg - _TOLERANCE))
            if far.size:
                found.append(position + int(far[0]))
                position = found[-1] + 1
            else:
                position += block
        return found

    def nearby(self, anchor: int, start: int, end: int, most_m: float, most_deg: float) -> range:
        """The run of poses around an anchor that all lie within these distances of it."""
        metres, degrees = self.apart(anchor, slice(start, end))
        near = (metres <= most_m) & (degrees <= most_deg)
        first = last = anchor
        while first > start and near[first - 1 - start]:
            first -= 1
        while last + 1 < end and near[last + 1 - start]:
            last += 1
        return range(first, last + 1)
