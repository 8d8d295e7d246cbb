# SPDX-License-Identifier: Apache-2.0
"""
Pose agreement: whether images agree with the poses and the lens that a data set states.

A few groups of images that overlap are matched. Matches x, x' of two images must lie on each
other's epipolar lines, x'^T [t]x R x = 0; how far they do not is compared with what is left once
the poses, or poses and lens, of these images are adjusted (`bundle_adjustment.py`). Where cameras
only turn, one rotation explains each pair, and no image tells depth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.field.contraction import space_around_cameras
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.mapping.camera_poses.bundle_adjustment import (
    BundleAdjustment, FreeParameters, OWN)
from thermal_nerf_loc.mapping.camera_poses.feature_tracks import (
    FeatureMatches, image_rays, nearest_views, NOMINAL_WIDTH_PX, Pair)
from thermal_nerf_loc.mapping.camera_poses.features import detect_features, FeatureConfig
from thermal_nerf_loc.mapping.camera_poses.lens import adjusted_camera
from thermal_nerf_loc.mapping.camera_poses.pose_initialization import sensor_of
from thermal_nerf_loc.mapping.camera_poses.reprojection import CameraEstimate, Sensor

Array = NDArray[np.float64]

_GROUPS, _IN_A_GROUP = 4, 5  # images that are matched, all pairs of a group
_STRIDE = 3  # every third of the nearest
_FEATURES = FeatureConfig(per_image=200)
_LOOSE = 3.0  # times the tolerance of matches: the lens may be wrong
_FEWEST_POINTS, _FEWEST_PAIRS = 60, 4  # less tells nothing
_LEAST_GAIN = 1.4  # residual over that of adjusted cameras: less is no error of theirs
_LENS_GAIN = 0.03, 75.0  # as a share, of the lens beside poses (which hide much of it); / points
_LEAST_GAIN_PX = 0.08  # in images 160 wide: 0.04 deg of a usual lens
_EXACT_PX = 0.12  # in images 160 wide: nothing to gain
_LEAST_SHARE_OF_TURN = 0.15  # of the pixels that poses turn by, as a residual before
_CONTRADICTING_PX = 6.0  # in images 160 wide, unless a small adjustment halves it:
_CONTRADICTING_DEG = 6.0  # this is none
_TURNING_PX = 0.3  # of nine pairs in ten, once turned: no parallax
_TURNING_ROUNDS = 5  # each without the matches that fit least
_SAME_LENS = 0.015  # relative change of the focal length, or of the image's corners


class Verdict(str, Enum):
    """What the images say about poses and lens."""

    AGREE = 'agree'
    POSES = 'poses'
    LENS = 'lens'
    LENS_AND_POSES = 'lens and poses'
    CONTRADICT = 'contradict'
    TURNING = 'turning'
    TOO_FEW_POINTS = 'too few points'
    ONE_IMAGE = 'one image'


@dataclass(frozen=True, slots=True)
class PoseAgreement:
    """A verdict with its figures; pixels are those of the images."""

    verdict: Verdict
    modality: str
    points: int = 0  # matches
    pairs: int = 0
    residual_px: float | None = None  # median distance from the epipolar line
    adjusted_px: float | None = None  # once poses, and lens, are adjusted
    pose_deg: float | None = None  # by how much they were turned for that, RMS
    focal_factor: float | None = None  # stated focal length over that of the images

    @property
    def figures(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), 'verdict': self.verdict.value}

    @property
    def text(self) -> str:
        """One line for the user."""
        measured = (f'{self.residual_px or 0.0:.1f} px (median of {self.points} points in '
                    f'{self.pairs} pairs)')
        of_adjusted = f'{measured}, {self.adjusted_px or 0.0:.1f} px once adjusted'
        return {
            Verdict.AGREE: f'poses agree with {self.modality} images: {measured}',
            Verdict.POSES: f'poses are off by about {self.pose_deg or 0.0:.1f} deg: '
                           f'--refine poses would help; {of_adjusted}',
            Verdict.LENS: f'the {self.modality} lens looks wrong ({self._lens}): '
                          f'--refine intrinsics would help; {of_adjusted}',
            Verdict.LENS_AND_POSES:
                f'the {self.modality} lens looks wrong ({self._lens}) and poses are off by about '
                f'{self.pose_deg or 0.0:.1f} deg: --refine poses,intrinsics would help; '
                f'{of_adjusted}',
            Verdict.CONTRADICT: f'poses contradict the {self.modality} images: {measured}; are '
                                'they of these images, and in the right convention?',
            Verdict.TURNING: f'cameras only turn ({self.modality} images have no parallax): depth '
                             'cannot be seen',
            Verdict.TOO_FEW_POINTS: f'{self.modality} images share too few points to check poses '
                                    f'({self.points} in {self.pairs} pairs)',
            Verdict.ONE_IMAGE: f'one {self.modality} image: nothing to check poses with, and '
                               'depth cannot be seen'}[self.verdict]

    @property
    def _lens(self) -> str:
        percent = 100.0 * ((self.focal_factor or 1.0) - 1.0)
        if abs(percent) < 100.0 * _SAME_LENS:
            return 'its distortion'
        return f'focal length about {abs(percent):.0f} % too {"long" if percent > 0 else "short"}'


def check_poses(scene: Scene, modalities: Sequence[str], progress: Progress) -> PoseAgreement:
    """Check the training images of the first modality whose images share points enough."""
    found = [PoseAgreement(Verdict.ONE_IMAGE, modalities[0])]
    for name in modalities:
        progress(0.0, 1.0, f'do {name} images agree with poses')
        found.append(_check(scene, name))
        if found[-1].verdict not in (Verdict.ONE_IMAGE, Verdict.TOO_FEW_POINTS):
            return found[-1]
    return found[1] if len(found) > 1 else found[0]


def _check(scene: Scene, name: str) -> PoseAgreement:
    members = [i for i in scene.train if name in scene.frames[i].records]
    if len(members) < 2:
        return PoseAgreement(Verdict.ONE_IMAGE, name)
    poses = _sensor_poses(scene, name, members)
    sample = _Sample(scene, name, members, _groups_by_pose(poses))
    if not sample.is_enough:  # wrong poses choose images that share nothing
        in_order = _Sample(scene, name, members, _groups_in_order(len(members)))
        sample = in_order if in_order.points > sample.points else sample
    if not sample.is_enough:
        return PoseAgreement(Verdict.TOO_FEW_POINTS, name, sample.points, len(sample.matches))
    return sample.verdict()


class _Sample:
    """A few groups of images, their matches, and how these fit cameras."""

    def __init__(self, scene: Scene, name: str, members: Sequence[int],
                 groups: Sequence[Sequence[int]]) -> None:
        """Match all pairs of each group; `groups` count in `members`."""
        chosen = sorted({i for group in groups for i in group})
        place = {i: k for k, i in enumerate(chosen)}
        self.groups = [[place[i] for i in group] for group in groups]
        self.scene = replace(scene, train=tuple(members[i] for i in chosen))
        self.name = name
        records = [scene.frames[i].records[name] for i in self.scene.train]
        self.cameras = [record.camera for record in records]
        self.poses = np.stack([scene.frames[i].T_world_cam for i in self.scene.train])
        features = detect_features(name, len(records), lambda k: load_image(name, records[k]),
                                   _FEATURES)
        pairs = sorted({(min(a, b), max(a, b)) for group in self.groups
                        for a in group for b in group if a != b})
        self.features = FeatureMatches(features, pairs, _FEATURES)
        self.matches: Mapping[Pair, NDArray[np.int64]] = self.features.verified(slack=_LOOSE)
        self.points = sum(len(match) for match in self.matches.values())

    @property
    def is_enough(self) -> bool:
        """Whether there are matches to tell anything from."""
        return self.points >= _FEWEST_POINTS and len(self.matches) >= min(
            _FEWEST_PAIRS, len(self.features.alike))

    def verdict(self) -> PoseAgreement:
        """Residuals as given and as adjusted, and what they say."""
        sensor = sensor_of(self.scene, self.name, self.features.joined(self.matches))
        as_given = CameraEstimate.given(self.poses, (self.name,))
        given_px, turned_px = self._distances(as_given, sensor)
        to_pixels = self.cameras[0].width / NOMINAL_WIDTH_PX
        found = PoseAgreement(Verdict.AGREE, self.name, self.points, len(self.matches),
                              given_px * to_pixels)
        if turned_px < _TURNING_PX:
            return replace(found, verdict=Verdict.TURNING)
        if given_px < _EXACT_PX:
            return found
        found = replace(found, **self._explained(sensor, given_px, to_pixels))
        fits = ((found.adjusted_px or 0.0) < 0.5 * given_px * to_pixels
                and (found.pose_deg or 0.0) < _CONTRADICTING_DEG)  # else it fits by chance
        if given_px > _CONTRADICTING_PX and not fits:
            found = replace(found, verdict=Verdict.CONTRADICT)
        return found

    def _explained(self, sensor: Sensor, given_px: float, to_pixels: float) -> dict[str, Any]:
        """
        What explains the residual with the fewest parameters: the lens, poses, or both.

        Poses of a few images hide much of a wrong lens: a little is enough for it.
        """
        lens_alone, posed, both = (self._adjusted(sensor, free) for free in (
            FreeParameters(lenses=(self.name,)), FreeParameters(poses=True),
            FreeParameters(poses=True, lenses=(self.name,))))
        alone_px, posed_px, both_px = (self._distances(cameras, sensor)[0]
                                       for cameras in (lens_alone, posed, both))
        best, best_px, verdict = posed, posed_px, Verdict.POSES
        if _gains(given_px, alone_px) and not _gains(alone_px, both_px):
            best, best_px, verdict = lens_alone, alone_px, Verdict.LENS
        elif (posed_px / both_px > 1.0 + max(_LENS_GAIN[0], _LENS_GAIN[1] / self.points)
              and self._differs(both)):
            best, best_px, verdict = both, both_px, Verdict.LENS_AND_POSES
        pose_deg = self._turned_deg(best.poses)
        if not _gains(given_px, best_px):
            verdict = Verdict.AGREE
        elif given_px < _LEAST_SHARE_OF_TURN * np.deg2rad(pose_deg) * sensor.focal_px[0]:
            verdict = Verdict.TOO_FEW_POINTS  # to hold so large a turn
        wrong_lens = verdict in (Verdict.LENS, Verdict.LENS_AND_POSES)
        return {'verdict': verdict, 'adjusted_px': best_px * to_pixels,
                'pose_deg': pose_deg,
                'focal_factor': float(np.exp(-best.lenses[self.name][0])) if wrong_lens else None}

    def _differs(self, cameras: CameraEstimate) -> bool:
        """Whether the lens is another one, at the centre or half-way to a corner."""
        a = self.cameras[0]
        b = adjusted_camera(a, cameras.lenses[self.name])
        half_way = np.array([[0.25 * a.width, 0.25 * a.height]])
        off = np.abs(a.unproject(half_way) - b.unproject(half_way)).max()
        return bool(abs(b.fx / a.fx - 1.0) > _SAME_LENS or off > _SAME_LENS)

    def _adjusted(self, sensor: Sensor, free: FreeParameters) -> CameraEstimate:
        """By our own solver: its priors hold a few views, which determine little, in place."""
        scale_m = space_around_cameras(self.poses[:, :3, 3]).scale_m
        return BundleAdjustment({self.name: sensor}, self.poses, np.zeros((len(self.poses), 6)),
                                scale_m, free, solver=OWN).solve().cameras

    def _distances(self, cameras: CameraEstimate, sensor: Sensor) -> tuple[float, float]:
        """
        Median distance from epipolar lines, and how far one rotation alone leaves matches.

        Of nine pairs in ten; pixels of images 160 wide.
        """
        poses = cameras.poses @ sensor.T_cam_sensor
        rays = [image_rays(adjusted_camera(camera, cameras.lenses[self.name]), feature.uv)
                for camera, feature in zip(self.cameras, self.features.features)]
        epipolar, turned = [], []
        for (a, b), match in self.matches.items():
            x, y = rays[a][match[:, 0]], rays[b][match[:, 1]]
            by_rotation = sensor.focal_px[a] * _off_rotation(x, y)
            T = se3.inverse(poses[b]) @ poses[a]
            moves = np.linalg.norm(T[:3, 3]) > 1e-9
            epipolar.append(sensor.focal_px[a] * _off_epipolar(x, y, T) if moves else by_rotation)
            turned.append(np.median(by_rotation))
        return float(np.median(np.concatenate(epipolar))), float(np.quantile(turned, 0.9))

    def _turned_deg(self, poses: Array) -> float:
        """RMS rotation of the poses of each group against each other."""
        squares = []
        for group in self.groups:
            change = poses[group, :3, :3] @ self.poses[group, :3, :3].transpose(0, 2, 1)
            U, _, Vt = np.linalg.svd(change.sum(axis=0))
            common = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
            squares.extend((se3.so3_log(change @ common.T)**2).sum(axis=1))
        return float(np.rad2deg(np.sqrt(np.mean(squares))))


def _gains(before_px: float, after_px: float) -> bool:
    """Whether an adjustment helps by more than its freedom alone would."""
    return before_px > _LEAST_GAIN * after_px and before_px - after_px > _LEAST_GAIN_PX


def _off_epipolar(x: Array, y: Array, T: Array) -> Array:
    """Sampson distance (n,) of points (n, 3), z = 1, from epipolar lines; T from x to y."""
    E = se3.hat(T[:3, 3]) @ T[:3, :3]
    Ex, Ey = x @ E.T, y @ E
    slope = np.sqrt((Ex[:, :2]**2).sum(axis=1) + (Ey[:, :2]**2).sum(axis=1))
    return np.asarray(np.abs((y * Ex).sum(axis=1)) / np.maximum(slope, 1e-12))


def _off_rotation(x: Array, y: Array) -> Array:
    """Distance (n,) at focal length 1 of y from x, once it is turned as well as most allow."""
    a, b = (p / np.linalg.norm(p, axis=1, keepdims=True) for p in (x, y))
    off = np.zeros(len(a))
    for _ in range(_TURNING_ROUNDS):
        kept = off <= np.quantile(off, 0.7)
        U, _, Vt = np.linalg.svd(b[kept].T @ a[kept])
        R = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
        off = np.linalg.norm(a @ R.T - b, axis=1)
    return np.asarray(off)


def _sensor_poses(scene: Scene, name: str, members: Sequence[int]) -> Array:
    return np.stack([scene.frames[i].T_world_cam @ scene.frames[i].records[name].T_cam_sensor
                     for i in members])


def _groups_by_pose(poses: Array) -> list[list[int]]:
    """Groups of images that see the same; not the very nearest, which share all but parallax."""
    seeds = np.unique(np.linspace(0, len(poses) - 1, _GROUPS).round().astype(int))
    if len(poses) <= _IN_A_GROUP:
        return [list(range(len(poses)))]
    return [[int(seed), *nearest_views(poses, int(seed), _STRIDE * (_IN_A_GROUP - 1))[::_STRIDE]]
            for seed in seeds]


def _groups_in_order(count: int) -> list[list[int]]:
    """Groups of images that follow each other."""
    last = max(count - _IN_A_GROUP, 0)
    starts = np.unique(np.linspace(0, last, _GROUPS).round().astype(int))
    return [list(range(start, min(start + _IN_A_GROUP, count))) for start in starts.tolist()]
