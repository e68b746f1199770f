import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.template import (
    GROUPS,
    MINIMUM_TISSUE,
    SLAB_SIZE,
    SLAB_SLICES,
    Anatomy,
    cells,
    find_template,
    load_template,
)

SHAPE = (197, 233, 189)


@pytest.fixture(scope="module")
def painted():
    """A template whose T1 map holds the number of the group (1, 2, ...) in its cells, 0 elsewhere."""
    template = np.zeros((3, *SHAPE), np.uint8)
    template[1:] = 255  # all of it counts as tissue
    for cell in cells():
        template[0][:, slice(*cell.y), slice(*cell.z)] = 1 + GROUPS.index(cell.group)
    return template


@pytest.fixture(scope="module")
def template():
    return load_template(find_template())


def test_cells_share_no_voxel_and_no_border():
    owner = np.zeros(SHAPE[1:], int)
    for number, cell in enumerate(cells(), start=1):
        (y0, y1), (z0, z1) = cell.y, cell.z
        grown = owner[y0 - 1 : y1 + 1, z0 - 1 : z1 + 1]  # one voxel around the cell must be free, too
        assert not grown.any()
        assert 0 <= y0 < y1 <= SHAPE[1]
        assert 0 <= z0 < z1 <= SHAPE[2]
        owner[y0:y1, z0:z1] = number


def test_every_group_sees_both_halves_and_several_heights():
    for group in GROUPS:
        own = [cell for cell in cells() if cell.group == group]
        assert len({cell.y for cell in own}) == 2
        assert len({cell.z for cell in own}) >= 2


@pytest.mark.parametrize("group", GROUPS)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_slab_reads_its_own_cells_only(group, painted, seed):
    maps = Anatomy(painted, group).draw(np.random.default_rng(seed)).maps
    assert maps.shape == (3, SLAB_SLICES, SLAB_SIZE, SLAB_SIZE)
    np.testing.assert_allclose(maps[0] * 255, 1 + GROUPS.index(group), rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_slab_never_reaches_past_its_cell(seed):
    """Coordinates painted as intensities stay between the block's own, so nothing was repeated at a border."""
    ramp = np.zeros((3, *SHAPE), np.uint8)
    ramp[0] = np.arange(SHAPE[0])[:, None, None]
    ramp[1] = np.arange(SHAPE[1])[None, :, None]
    ramp[2] = np.arange(SHAPE[2])[None, None, :]
    maps = Anatomy(ramp, "testing").draw(np.random.default_rng(seed)).maps * 255
    # steps between neighbours along x (and between slices) are never 0: a repeated border would make them so
    assert np.diff(maps[0], axis=2).min() > 0.5
    assert np.diff(maps[1], axis=1).min() > 0.5
    assert np.diff(maps[2], axis=0).min() > 0.9
    depth = maps[2].min(), maps[2].max()
    own = [cell.z for cell in cells() if cell.group == "testing"]
    assert any(first - 1e-3 <= depth[0] and depth[1] <= stop - 1 + 1e-3 for first, stop in own)


def test_the_template_is_symmetric(template):
    """Why a cell holds both hemispheres: one side is the mirror of the other."""
    np.testing.assert_array_equal(template, template[:, ::-1])


@pytest.mark.parametrize("group", GROUPS)
def test_slabs_hold_enough_brain(group, template):
    anatomy = Anatomy(template, group)
    shares = []
    for seed in range(20):
        maps = anatomy.draw(np.random.default_rng(seed)).maps
        shares.append((maps[1] + maps[2] > 0.5).mean())
    assert min(shares) > MINIMUM_TISSUE - 0.15  # the choice looks at the middle slice on a coarse grid
    assert np.mean(shares) > MINIMUM_TISSUE


def test_a_slab_depends_on_the_seed_only(template):
    anatomy = Anatomy(template, "training")
    first, again, other = (anatomy.draw(np.random.default_rng(seed)).maps for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.01


def test_missing_nilearn_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"nilearn.*extra `demo`.*fedhelp-med\[demo\]"):
        find_template()


def test_nilearn_without_the_template_is_named(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("nilearn", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(InputError, match=r"mni_icbm152_t1.*not in this nilearn.*upgrade"):
        find_template()
