"""Regions of label objects: what is packed comes out again, and what cannot belong is named."""

import numpy as np
import pytest
from dicom_samples import oblique, write_segmentation, write_series
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pydicom import dcmread

from fedhelp_med.data.labels_objects import Structure, read_structures
from fedhelp_med.data.studies import LabelObject
from fedhelp_med.transforms.errors import ImageError


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.booleans()))
def test_a_packed_region_is_the_region(mask):
    again = Structure.of("liver", mask).mask
    assert again.dtype == np.bool_
    np.testing.assert_array_equal(again, mask)


def test_a_region_is_kept_in_less_than_a_hundredth_of_its_voxels():
    """A scan of 50 CTs with 30 organs each would need 100 GB as they are."""
    x, y, z = np.ogrid[-1:1:128j, -1:1:128j, -1:1:64j]
    organ = (x / 0.7) ** 2 + (y / 0.5) ** 2 + (z / 0.8) ** 2 < 1
    assert len(Structure.of("liver", organ).packed) < organ.size / 100


def test_a_frame_of_a_segment_that_is_not_described_is_refused(tmp_path):
    write_series(tmp_path / "series")
    source = dcmread(tmp_path / "series/000.dcm")
    mask = np.zeros((7, 6, 5), np.bool_)
    mask[1, 1, 1] = True
    path = write_segmentation(tmp_path / "seg.dcm", {"a": mask, "b": mask}, oblique(), source)
    dataset = dcmread(path)
    dataset.SegmentSequence = dataset.SegmentSequence[:1]
    dataset.save_as(path)
    with pytest.raises(ImageError, match="frames of segment 2, which it does not describe"):
        read_structures(LabelObject("seg", path, "P1"), mask.shape, oblique())
