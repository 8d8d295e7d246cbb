# SPDX-License-Identifier: Apache-2.0
"""The exact round: poses get more exact, rays stay within their bound, and it ends by itself."""

from localization_room import make_poses, PaintedRoom, perturbed, take_frame, take_image
import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig
from thermal_nerf_loc.localization.refinement.coarse_to_fine import CoarseToFine, RefinementConfig
from thermal_nerf_loc.localization.refinement.exact_round import ExactConfig, joined
from thermal_nerf_loc.localization.refinement.rendered_points import RenderedPoints
from thermal_nerf_loc.sensing.frame import Frame, RGB, THERMAL

ROOM = PaintedRoom()
POSES = make_poses(6, seed=11)


def localizer(**exact):
    return Localizer(ROOM, LocalizerConfig(refinement=RefinementConfig(
        exact=ExactConfig(**exact))))


def located(found_by, k, modalities=(RGB, THERMAL)):
    frame = take_frame(ROOM, POSES[k], seed=k, modalities=modalities)
    return found_by.localize(frame, perturbed(POSES[k], 4.0, 0.04, seed=k))


@pytest.mark.parametrize('modalities', [(RGB,), (RGB, THERMAL)])
def test_poses_get_more_exact(modalities):
    errors = np.array([[se3.distance(located(one, k, modalities).T_world_cam, POSES[k])
                        for k in range(len(POSES))]
                       for one in (localizer(), localizer(rays=8000))])
    assert (np.median(errors[1], axis=0) < 0.75 * np.median(errors[0], axis=0)).all()


def test_none_unless_asked_for():
    first, second = located(Localizer(ROOM), 0), located(localizer(rays=0), 0)
    assert (first.T_world_cam == second.T_world_cam).all()
    assert first.rays == second.rays


def test_rays_stay_within_their_bound_and_verdict_as_it_was():
    plain = located(localizer(), 0)
    for rays in (50, 1500, 4000):
        found = located(localizer(rays=rays, gain=0.0), 0)
        assert plain.rays < found.rays <= plain.rays + 2 * rays
        assert (found.verdict, found.confidence) == (plain.verdict, plain.confidence)
        assert (found.covariance == plain.covariance).all()


def test_it_ends_where_more_pixels_bring_little():
    costs = [located(localizer(rays=16000, gain=gain), 1).rays for gain in (0.0, 0.25, 0.9)]
    assert costs[0] >= costs[1] > costs[2]


def test_same_pose_on_every_run():
    first, second = (located(localizer(rays=3000), 2).T_world_cam for _ in range(2))
    assert (first == second).all()


def test_another_place_is_left_as_it_is():
    frame = take_frame(PaintedRoom(seed=9), POSES[0], seed=0)
    plain, exact = (one.localize(frame, POSES[0]) for one in (localizer(), localizer(rays=2000)))
    assert plain.verdict == 'lost'
    assert (plain.T_world_cam == exact.T_world_cam).all()


def test_batches_are_joined_in_one_camera():
    T = se3.exp([0.1, -0.2, 0.3, 0.2, 0.1, -0.3])
    points = RenderedPoints(np.random.default_rng(0).normal(size=(5, 3)), np.ones((5, 1)),
                            np.ones(5))
    both = joined([points, points.seen_from(T)])
    assert len(both) == 10
    np.testing.assert_allclose(se3.transform(se3.inverse(T), both.points_cam[5:]),
                               points.points_cam, atol=1e-12)


def test_blur_is_in_own_pixels_up_to_the_detail_of_a_map():
    config = ExactConfig(blur_px=0.3, detail_px=320)
    assert [config.own_blur_px(width) for width in (160, 320, 640)] == [0.3, 0.3, 0.6]


def test_images_are_as_large_as_they_come(monkeypatch):
    """The rounds before take them halved."""
    seen = []
    original = CoarseToFine.refine_exactly

    def noted(self, T, covariance, images):
        seen.append((self.images[RGB].camera.width, images[RGB].camera.width))
        return original(self, T, covariance, images)

    monkeypatch.setattr(CoarseToFine, 'refine_exactly', noted)
    camera = Camera.from_fov(640, 480, 70.0)
    frame = Frame(0, {RGB: take_image(ROOM, RGB, POSES[0], camera)}, POSES[0])
    found = localizer(rays=1000).localize(frame, perturbed(POSES[0], 0.5, 0.01, seed=0))
    assert seen == [(320, 640)]
    assert se3.distance(found.T_world_cam, POSES[0])[0] < 0.01
