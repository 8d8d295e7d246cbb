# SPDX-License-Identifier: Apache-2.0
"""Geometry of maps that are known exactly: right ones pass, bent and foggy ones are caught."""

from pathlib import Path

from corner_map import corner_scene, CornerMap, WALL_Z_M
import numpy as np
import pytest

from thermal_nerf_loc.evaluation import geometry_quality
from thermal_nerf_loc.evaluation.geometry_quality import (
    check_geometry, choose_pairs, compare_views, geometry_lines, judge_geometry, point_errors,
    view_agreement, ViewPair)
from thermal_nerf_loc.evaluation.matched_points import MatchedPoints, measure_points
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.map.localization_map import MapInfo


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Nine photographs of a wall and a floor, three of them held out."""
    return corner_scene(tmp_path_factory.mktemp('corner') / 'images', 9)


@pytest.fixture(scope='module')
def measured(scene: Scene) -> MatchedPoints:
    """Its points."""
    return measure_points(scene, 'rgb')


def bulge(origins: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Waves of 10 % in the wall, which move with the camera."""
    waves = np.sin(3.0 * points[:, 0] + 2.0 * origins[:, 0])
    return 0.1 * waves * (points[:, 2] > WALL_Z_M - 1e-3)


def test_matched_points_lie_where_the_corner_is(scene: Scene, measured: MatchedPoints) -> None:
    """Against the planes themselves; sigma is about right."""
    found = measured
    assert len(found) > 200 and set(found.frame) == set(scene.test)
    truth = CornerMap().render_rays('rgb', found.origins, found.directions).distance_m
    off = np.abs(found.distance_m / truth - 1.0)
    assert np.median(off) < 0.002 and (off < 0.02).mean() > 0.97
    assert 0.3 < np.median(off / found.sigma) < 2.0


def test_points_that_training_could_know_are_left_out(
        scene: Scene, measured: MatchedPoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two training images that show a point could have told its depth to a map of points."""
    unseen = measure_points(scene, 'rgb', unseen_by_training=True)
    assert len(unseen) < 0.5 * len(measured)
    asked = []

    def measure(*_: object, unseen_by_training: bool, **__: object) -> MatchedPoints:
        asked.append(unseen_by_training)
        return measured

    monkeypatch.setattr(geometry_quality, 'measure_points', measure)
    for known in (True, False):
        info = MapInfo('corner', {}, 1, 1.0, geometry={'source': 'points' if known else 'stereo'})
        judge_geometry(CornerMap(info=info), scene, 'rgb')
    assert asked == [True, False]


def test_an_exact_map_is_exact(scene: Scene) -> None:
    """Distances agree to single precision; points to their own noise; in few rays."""
    renderer = CornerMap()
    figures = check_geometry(renderer, scene)
    points, views = figures['rgb']['points'], figures['rgb']['views']
    assert views['median'] < 1e-5 and views['within_1pct'] == views['within_2pct'] == 1.0
    assert views['occluded'] == 0.0 and views['pixels'] > 2000 and views['pairs'] == 6
    assert points['median'] < 0.002 and points['within_2pct'] > 0.97
    assert figures['rgb']['notes'] == () and figures['seconds'] > 0.0
    assert renderer.rays < 40_000


def test_a_map_at_a_wrong_distance_is_measured(measured: MatchedPoints) -> None:
    """Every distance 4 % too long."""
    found = point_errors(CornerMap(lambda o, p: 0.04), 'rgb', measured)
    assert found.median == pytest.approx(0.04, abs=0.003)
    assert found.within_2pct < 0.03 and found.within_5pct > 0.9


def test_a_bent_wall_is_caught_by_both(scene: Scene, measured: MatchedPoints) -> None:
    """A wall that stands elsewhere for each camera, as one that hides behind its colours does."""
    pairs = choose_pairs(CornerMap(), scene, 'rgb')
    bent, right = (point_errors(renderer, 'rgb', measured)
                   for renderer in (CornerMap(bulge), CornerMap()))
    assert bent.median > 0.02 and bent.within_2pct < 0.6
    assert right.median < 0.1 * bent.median and right.within_2pct > 0.97
    views = view_agreement(CornerMap(bulge), scene, 'rgb', pairs)
    assert views is not None and views.within_1pct < 0.5 and views.within_2pct < 0.7


def test_what_stands_between_is_an_occlusion_and_fog_is_not(scene: Scene) -> None:
    """A post that both views see hides what is behind it; one that only the other sees is fog."""
    pair = ViewPair(scene.test[1], scene.test[2])
    eyes = [scene.frames[i].T_world_cam[:3, 3] for i in (pair.frame, pair.other)]

    def post(seen_by: list[np.ndarray]) -> CornerMap:
        def error(origins: np.ndarray, points: np.ndarray) -> np.ndarray:
            away = points - origins
            share = (2.0 - origins[:, 2]) / away[:, 2]  # where the ray crosses z = 2 m
            x = origins[:, 0] + share * away[:, 0]
            near = np.any([np.linalg.norm(origins - eye, axis=1) < 1e-3 for eye in seen_by],
                          axis=0)
            hit = near & (np.abs(x - 0.2) < 0.15) & (share > 0.0) & (share < 1.0)
            return np.where(hit, share - 1.0, 0.0)
        return CornerMap(error)

    off, occluded = compare_views(post(eyes), scene, 'rgb', pair)
    assert occluded > 20 and (off > 1e-4).mean() < 0.05  # those before the floor just behind
    off, occluded = compare_views(post(eyes[1:]), scene, 'rgb', pair)
    assert occluded == 0 and (off > 0.1).mean() > 0.02
    off, occluded = compare_views(post(eyes[:1]), scene, 'rgb', pair)
    assert occluded == 0 and (off > 0.1).mean() > 0.02


def test_pairs_see_the_same_from_aside(scene: Scene) -> None:
    """Held-out views first; another one, neither beside it nor at the far end."""
    pairs = choose_pairs(CornerMap(), scene, 'rgb')
    assert {pair.frame for pair in pairs} == set(scene.test)
    for pair in pairs:
        baseline = np.linalg.norm(np.subtract(*(scene.frames[i].T_world_cam[:3, 3]
                                                for i in (pair.frame, pair.other))))
        assert 0.2 < baseline < 1.0


def test_views_from_one_spot_tell_nothing(tmp_path: Path, scene: Scene) -> None:
    """A camera that only turns, and no image held out: said, not guessed."""
    from dataclasses import replace
    turned = replace(scene, frames=tuple(
        replace(frame, T_world_cam=scene.frames[0].T_world_cam) for frame in scene.frames))
    assert view_agreement(CornerMap(), turned, 'rgb', choose_pairs(
        CornerMap(), turned, 'rgb')) is None
    found = check_geometry(CornerMap(), turned)
    assert found['rgb']['points'] is None and found['rgb']['views'] is None
    assert len(found['rgb']['notes']) == 2
    assert 'points matched' in geometry_lines(found)[0]
    none = check_geometry(CornerMap(), replace(scene, test=()))
    assert 'no image is held out' in geometry_lines(none)[0]


def test_lines_are_plain() -> None:
    """One sentence a figure, and one for what is missing."""
    figures = {'rgb': {'points': {'count': 431, 'median': 0.0052, 'p90': 0.021,
                                  'within_2pct': 0.91}, 'views': None, 'notes': ('a note',)},
               'thermal': {'points': None, 'notes': (),
                           'views': {'within_1pct': 0.88, 'within_2pct': 0.941}}, 'seconds': 3.0}
    assert geometry_lines(figures) == [
        'RGB depth at 431 matched points that were held out: 0.5 % off (90 %: 2.1 %), '
        '91 % within 2 %', 'RGB geometry: a note',
        'thermal depth between held-out views: 88 % of the pixels agree to 1 %, 94 % to 2 %']
