# SPDX-License-Identifier: Apache-2.0
"""Spatial uncertainty: what training images hold is sure, what none of them saw is not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from stand_in_map import StandInMap
import torch

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.density_grid import SamplingConfig
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.localization.refinement.rendered_points import RenderedPoints, weighed
from thermal_nerf_loc.mapping.map import uncertainty
from thermal_nerf_loc.mapping.map.localization_map import MapInfo
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.map.uncertainty import (
    CELLS, DepthSupport, Uncertainty, uncertainty_of)
from thermal_nerf_loc.mapping.training.ray_sampler import RayBatch
from thermal_nerf_loc.mapping.training.strategies import learners_for
from thermal_nerf_loc.visualization.panels import render_kinds, shown_kinds, UNCERTAINTY

SPACE = ContractedSpace((1.0, 0.0, -1.0), (2.0, 1.0, 0.5))
CAMERA = Camera.from_fov(24, 18, 70.0)


def small_scene(modalities: tuple[str, ...]) -> SimpleNamespace:
    """Two cameras in the middle of the space."""
    T = np.eye(4)
    T[:3, 3] = SPACE.center_m
    record = SimpleNamespace(camera=CAMERA, T_cam_sensor=np.eye(4))
    frame = SimpleNamespace(T_world_cam=T, records=dict.fromkeys(modalities, record))
    return SimpleNamespace(frames=[frame, frame], train=[0, 1])


def small_map() -> RadianceMap:
    """Untrained: random fog everywhere."""
    torch.manual_seed(0)
    field = FieldConfig(encoding=EncodingConfig(levels=2, log2_rows=8, coarsest=4, finest=16))
    learners = learners_for('rgbx', field, SamplingConfig(grid_cells=16), SPACE, {'rgb': 3})
    learners[0].field.encoding.table.data.normal_()
    return RadianceMap(learners, None, MapInfo('fog', {}, 0, 0.0))


def test_a_linear_field_is_read_back() -> None:
    """Trilinear look-up is exact for what is linear in the contracted coordinates."""
    axis = np.linspace(0.0, 1.0, CELLS, dtype=np.float32)
    values = axis[:, None, None] + 2.0 * axis[:, None] - axis
    points = np.random.default_rng(0).uniform((-1.0, -1.0, -1.5), (3.0, 1.0, -0.5), (200, 3))
    unit = (points - SPACE.center_m) / SPACE.half_extent_m * 0.25 + 0.5
    np.testing.assert_allclose(Uncertainty(values, SPACE).at(points), unit @ (1.0, 2.0, -1.0),
                               atol=1e-4)


def test_no_field_of_another_size() -> None:
    """Nor with holes."""
    for values in (np.zeros((4, 4, 4)), np.full((CELLS,) * 3, np.nan)):
        with pytest.raises(ValueError, match='finite cube'):
            Uncertainty(values.astype(np.float32), SPACE)


def test_what_rays_can_tell_is_surer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall whose paint changes on one side only; nobody looks behind the cameras."""
    def painted(learner: object, modality: str, origins: np.ndarray, directions: np.ndarray,
                ) -> tuple[np.ndarray, np.ndarray]:
        points = origins + directions / directions[:, 2:] * 0.4
        slopes = np.zeros_like(points)
        slopes[:, 0] = points[:, 0] > SPACE.center_m[0]
        return points, slopes

    monkeypatch.setattr(uncertainty, '_slopes', painted)
    monkeypatch.setattr(uncertainty, '_RAYS', 8192)
    seen = SimpleNamespace(space=SPACE, modalities=('rgb',), learner=lambda name: None)
    found = uncertainty_of(seen, small_scene(('rgb',)))
    x, y, z = SPACE.center_m
    told, bare, behind = found.at(np.array([[x + 0.12, y, z + 0.4], [x - 0.2, y, z + 0.4],
                                            [x + 0.12, y, z - 0.4]]))
    assert told < bare - 1.0
    assert bare == pytest.approx(behind, abs=1e-6)


def test_a_map_tells_its_uncertainty_only_where_it_is_asked(monkeypatch: pytest.MonkeyPatch,
                                                            ) -> None:
    """And the same on every run."""
    monkeypatch.setattr(uncertainty, '_RAYS', 2048)
    made, scene = small_map(), small_scene(('rgb',))
    with pytest.raises(InputError, match='no uncertainty'):
        shown_kinds(made, ['uncertainty'])
    found = uncertainty_of(made, scene)
    np.testing.assert_array_equal(uncertainty_of(made, scene).values, found.values)
    assert made.uncertainty is None
    made = replace(made, uncertainty=found)
    assert made.uncertainty.values.min() < made.uncertainty.values.max() - 0.1
    assert shown_kinds(made, ['uncertainty']) == (UNCERTAINTY,)
    assert UNCERTAINTY not in shown_kinds(made)
    image = render_kinds(made, CAMERA, scene.frames[0].T_world_cam, [UNCERTAINTY])[UNCERTAINTY]
    assert image.shape == (18, 24) and np.isfinite(image).all()


def test_the_aligner_weighs_by_it() -> None:
    """A tenth of the weight where sigma is ten times the median; none has more than before."""
    values = np.zeros((CELLS,) * 3, np.float32)
    values[3 * CELLS // 5:] = 1.0
    x, y, z = SPACE.center_m
    at = np.array([[x - 0.5, y, z], [x - 0.4, y, z], [x - 0.6, y, z], [x + 1.8, y, z]])
    points = RenderedPoints(at - (x, y, z), np.zeros((4, 1)), np.array([1.0, 0.5, 0.0, 1.0]))
    T = np.eye(4)
    T[:3, 3] = SPACE.center_m
    seen = StandInMap(uncertainty=Uncertainty(values, SPACE))
    np.testing.assert_allclose(weighed(points, T, seen).weight, (1.0, 0.5, 0.0, 0.1), atol=1e-3)
    assert weighed(points, T, StandInMap()) is points


def test_a_surface_that_depth_contradicts_is_less_sure() -> None:
    """Half of the rays know that the wall is elsewhere: there sigma grows tenfold at most."""
    x, y, z = SPACE.center_m
    origins = np.tile(np.float32([x, y, z]), (200, 1))
    directions = np.zeros_like(origins)
    directions[:100, 0], directions[100:, 0] = 1.0, -1.0
    known = np.where(directions[:, 0] > 0.0, 1.0, 1.3).astype(np.float32)
    batch = RayBatch(origins, directions, torch.zeros(200, 3), torch.from_numpy(known),
                     torch.ones(200), torch.zeros(200, dtype=torch.long), torch.zeros(200, 2),
                     directions)
    wall = SimpleNamespace(render_rays=lambda *_: SimpleNamespace(
        distance_m=np.ones(200, np.float32)))
    support = DepthSupport.of(wall, SPACE, [('rgb', batch)])
    share = Uncertainty(support.share.reshape((CELLS,) * 3), SPACE).at(
        np.array([[x + 1.0, y, z], [x - 1.0, y, z], [x, y, z]]))
    assert share[0] == pytest.approx(1.0) and share[2] == pytest.approx(1.0)
    assert 0.009 < share[1] < 0.5
    made, scene = small_map(), small_scene(('rgb',))
    plain, weighed_down = (uncertainty_of(made, scene, support=s) for s in (None, support))
    np.testing.assert_allclose(weighed_down.values - plain.values,
                               -0.5 * np.log10(support.share).reshape((CELLS,) * 3), atol=1e-5)
