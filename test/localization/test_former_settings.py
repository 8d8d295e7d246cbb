# SPDX-License-Identifier: Apache-2.0
"""Settings files written for earlier versions mean the same as today's."""

from textwrap import dedent

import pytest

from thermal_nerf_loc.common.config import from_mapping, load_yaml, to_mapping
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.localization.alternatives.particles import ParticleConfig
from thermal_nerf_loc.localization.alternatives.pose_regression import RegressionConfig
from thermal_nerf_loc.localization.localizer import LocalizerConfig
from thermal_nerf_loc.localization.unposed_images import AcceptanceConfig
from thermal_nerf_loc.tracking.node_config import read_parameter_file

LOCALIZER = {
    'old': """
        seed: 3
        descent: {sigmas_px: [4.0, 2.0], contenders: 5, align: {iterations: 7}}
        relocalize:
          candidates: 9
          places: {aligned: 20, apart_m: 0.3, apart_deg: 11.0, step_deg: 12.0}
        """,
    'new': """
        seed: 3
        refinement: {sigmas_px: [4.0, 2.0], refined: 5, align: {iterations: 7}}
        global_search:
          candidates: 9
          panoramas: {hypotheses: 20, separation_m: 0.3, separation_deg: 11.0, step_deg: 12.0}
        """}


def written(path, text):
    path.write_text(dedent(text))
    return path


def test_a_localizer_file_with_former_names_still_works(tmp_path):
    old, new = (load_yaml(LocalizerConfig, written(tmp_path / f'{name}.yaml', text))
                for name, text in LOCALIZER.items())
    assert old == new
    assert (old.refinement.refined, old.refinement.align.iterations) == (5, 7)
    assert (old.global_search.candidates, old.global_search.panoramas.hypotheses) == (9, 20)
    assert (old.global_search.panoramas.separation_m,
            old.global_search.panoramas.separation_deg) == (0.3, 11.0)
    assert from_mapping(LocalizerConfig, to_mapping(old)) == old


def test_so_does_a_parameter_file_with_dotted_names(tmp_path):
    config = read_parameter_file(written(tmp_path / 'node.yaml', """
        /**:
          ros__parameters:
            localizer.descent.rays: 700
            localizer.relocalize.places.aligned: 20
            localizer:
              descent: {last_rays: 1500}
              relocalize.candidates: 9
        """))
    refinement, search = config.localizer.refinement, config.localizer.global_search
    assert (refinement.rays, refinement.last_rays) == (700, 1500)
    assert (search.candidates, search.panoramas.hypotheses) == (9, 20)


def test_old_and_new_name_at_once_are_refused(tmp_path):
    path = written(tmp_path / 'both.yaml', 'descent: {rays: 700}\nrefinement: {last_rays: 900}\n')
    with pytest.raises(InputError, match="'descent' and 'refinement'"):
        load_yaml(LocalizerConfig, path)


@pytest.mark.parametrize('cls, old, new', [
    (AcceptanceConfig, {'second_look_m': 0.1, 'second_look_deg': 2.0, 'longest_gap_s': 1.0},
     {'recheck_m': 0.1, 'recheck_deg': 2.0, 'max_gap_s': 1.0}),
    (ParticleConfig, {'first': 50, 'inverted': 8}, {'initial_particles': 50,
                                                    'inversion_poses': 8}),
    (RegressionConfig, {'aside_share': 0.2}, {'validation_share': 0.2})])
def test_former_names_of_the_other_settings(cls, old, new):
    assert from_mapping(cls, old) == from_mapping(cls, new) == cls(**new)
