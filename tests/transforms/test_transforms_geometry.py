"""The same voxels at the same places in the patient, from every format, whatever the order of files."""

import random

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_samples import LPS, MR, basic, item, oblique, ramp, set_pixels, write_enhanced, write_series
from pydicom.sequence import Sequence

from fedhelp_med.transforms import ImageError, LoadStudy

VOLUME, AFFINE = ramp((7, 6, 5)), oblique()
ERROR = 1e-3  # mm


def world(affine, index):
    return np.asarray(affine, float)[:3] @ np.array([*index, 1.0])


def assert_same_places(image, volume=VOLUME, affine=AFFINE, value=lambda stored: stored):
    """Every voxel, found by its value, lies where the volume has it."""
    pixels, own = image.numpy(), image.affine.numpy()
    assert sorted(pixels.ravel()) == sorted(value(volume.astype(np.float64)).ravel())
    where = {float(pixels[index]): index for index in np.ndindex(pixels.shape)}
    for index in np.ndindex(volume.shape):
        found = where[float(value(float(volume[index])))]
        assert np.abs(world(own, found) - world(affine, index)).max() < ERROR


def shuffled(folder, seed):
    """Names in another order than the slices, and instance numbers in a third."""
    order = list(range(VOLUME.shape[2]))
    random.Random(seed).shuffle(order)

    def edit(level, ds):
        ds.InstanceNumber = 1 + (level * 3 + seed) % 5

    return write_series(folder, VOLUME, AFFINE, names=lambda level: f"IM{order[level]}", edit=edit)


@pytest.mark.parametrize("seed", range(6))
def test_series_in_any_order(seed, tmp_path):
    paths = shuffled(tmp_path / "series", seed)
    assert_same_places(LoadStudy()(tmp_path / "series"))
    random.Random(seed).shuffle(paths)
    assert_same_places(LoadStudy()(paths))


def test_series_runs_along_its_normal(tmp_path):
    write_series(tmp_path, VOLUME, AFFINE)
    image = LoadStudy()(tmp_path)
    assert tuple(image.shape) == VOLUME.shape  # as MONAI's readers have it: column, row, slice
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    turned = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 4], [0, 0, 0, 1.0]])
    write_series(tmp_path / "back", VOLUME[:, :, ::-1], turned)
    np.testing.assert_allclose(LoadStudy()(tmp_path / "back").affine, AFFINE, atol=1e-6)


def test_enhanced_multi_frame_in_any_order(tmp_path):
    path = write_enhanced(tmp_path / "enhanced.dcm", [VOLUME], AFFINE, order=[3, 0, 4, 1, 2])
    assert_same_places(LoadStudy()(path), value=lambda stored: 2 * stored - 5)


def test_enhanced_with_several_volumes_has_channels(tmp_path):
    volumes = [VOLUME, VOLUME + 1000]
    image = LoadStudy()(write_enhanced(tmp_path / "times.dcm", volumes, AFFINE, slope=1, intercept=0))
    assert tuple(image.shape) == (*VOLUME.shape, 2)
    assert image.meta["original_channel_dim"] == -1
    np.testing.assert_array_equal(image.numpy(), np.stack(volumes, axis=-1))


def echo_times(own, level, time):
    own.MREchoSequence = item(EffectiveEchoTime=10.0 + 20 * time)


def dimension_indices(own, level, time):
    own.FrameContentSequence = item(DimensionIndexValues=[1, level + 1, time + 1])


def dimensions(_, ds):
    pointers = [0x00209056, 0x00209057, 0x00189082]  # stack, position in it, echo time
    ds.DimensionIndexSequence = Sequence([item(DimensionIndexPointer=pointer)[0] for pointer in pointers])


@pytest.mark.parametrize(("frame_edit", "edit"), [(echo_times, None), (dimension_indices, dimensions)])
def test_the_volumes_of_an_enhanced_file_are_paired_by_what_they_are_of(frame_edit, edit, tmp_path):
    volumes = [VOLUME, VOLUME + 1000, VOLUME + 2000]
    order = random.Random(0).sample(range(15), 15)  # at every place the echoes come in another order
    path = write_enhanced(
        tmp_path / "e.dcm", volumes, AFFINE, order=order, slope=1, intercept=0, frame_edit=frame_edit, edit=edit
    )
    np.testing.assert_array_equal(LoadStudy()(path).numpy(), np.stack(volumes, axis=-1))


def test_an_enhanced_file_with_other_echoes_at_every_place_is_refused(tmp_path):
    path = write_enhanced(
        tmp_path / "e.dcm",
        [VOLUME, VOLUME + 1000],
        AFFINE,
        frame_edit=lambda own, level, time: echo_times(own, level, time + level),
    )
    with pytest.raises(ImageError, match="its places do not have the same echoes, times or b-values"):
        LoadStudy()(path)


@pytest.mark.parametrize(
    ("elements", "spacing", "known"),
    [
        ({"PixelSpacing": [2, 3], "SpacingBetweenSlices": "-4.8"}, (3, 2, 4.8), True),  # as nuclear medicine has it
        ({"PixelSpacing": [2, 3]}, (3, 2, 1), False),
        ({"SpacingBetweenSlices": "4.8"}, (1, 1, 4.8), False),
    ],
)
def test_frames_without_a_place_have_the_spacing_of_the_header(elements, spacing, known, tmp_path):
    ds = basic(MR, "NM", "N1", "1.2.3", 0)
    set_pixels(ds, np.zeros((4, 6, 5), np.uint16))
    ds.NumberOfFrames = 4
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.save_as(tmp_path / "nm.dcm", enforce_file_format=True)
    image = LoadStudy()(tmp_path / "nm.dcm")
    assert tuple(np.linalg.norm(image.affine.numpy()[:3, :3], axis=0)) == pytest.approx(spacing)
    assert (image.meta["located"], image.meta["spacing_known"]) == (False, known)


@pytest.mark.parametrize("name", ["volume.nii", "volume.nii.gz", "named.dcm"])
@pytest.mark.parametrize("family", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti(family, name, tmp_path):
    (tmp_path / name).write_bytes(family(VOLUME, AFFINE).to_bytes())
    if name.endswith(".gz"):
        nibabel.save(family(VOLUME, AFFINE), tmp_path / name)
    assert_same_places(LoadStudy()(tmp_path / name))


@pytest.mark.parametrize("compressed", [False, True])
def test_nrrd(compressed, tmp_path):
    SimpleITK.WriteImage(as_itk(VOLUME, AFFINE), tmp_path / "volume.nrrd", compressed)
    (tmp_path / "volume.nrrd").rename(tmp_path / "volume.data")
    assert_same_places(LoadStudy()(tmp_path / "volume.data"))


def test_series_that_simpleitk_writes(tmp_path):
    image = as_itk(VOLUME, AFFINE)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    direction = image.GetDirection()
    cosines = "\\".join(f"{direction[i]:.12g}" for i in (0, 3, 6, 1, 4, 7))
    for level in range(image.GetDepth()):
        plane = image[:, :, level]
        for tag, text in {"0020|000e": "1.2.3.4", "0008|0060": "MR", "0020|0037": cosines, "0018|0050": "2.5"}.items():
            plane.SetMetaData(tag, text)
        position = image.TransformIndexToPhysicalPoint((0, 0, level))
        plane.SetMetaData("0020|0032", "\\".join(f"{x:.12g}" for x in position))
        writer.SetFileName(str(tmp_path / f"{9 - level}.dcm"))
        writer.Execute(plane)
    assert_same_places(LoadStudy()(tmp_path))


def as_itk(volume, affine):
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.transpose(2, 1, 0)))
    lps = LPS @ affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(lengths.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / lengths).ravel().tolist())
    return image


def test_simpleitk_reads_the_series_at_the_same_places(tmp_path):
    write_series(tmp_path, VOLUME, AFFINE)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    theirs, ours = reader.Execute(), LoadStudy()(tmp_path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(theirs).transpose(2, 1, 0), ours.numpy())
    for index in ((0, 0, 0), (6, 5, 4), (2, 5, 1)):
        place = LPS[:3, :3] @ theirs.TransformIndexToPhysicalPoint(index)
        assert np.abs(place - world(ours.affine.numpy(), index)).max() < ERROR


def test_gantry_tilt_is_found_and_kept_in_the_affine(tmp_path):
    tilted = AFFINE.copy()
    tilted[:3, 2] += AFFINE[:3, 1] / np.linalg.norm(AFFINE[:3, 1]) * 0.9  # each slice is shifted by 0.9 mm
    write_series(tmp_path, VOLUME, tilted)
    image = LoadStudy()(tmp_path)
    assert image.meta["gantry_tilt"] == pytest.approx(np.degrees(np.arctan(0.9 / 2.5)), abs=0.01)
    assert_same_places(image, affine=tilted)
    write_series(tmp_path / "straight", VOLUME, AFFINE)
    assert LoadStudy()(tmp_path / "straight").meta["gantry_tilt"] == 0


def moved(level_to_move, by):
    def edit(level, ds):
        if level == level_to_move:
            ds.ImagePositionPatient = [float(part) + by[axis] for axis, part in enumerate(ds.ImagePositionPatient)]

    return edit


def changed(level_to_change, **elements):
    def edit(level, ds):
        if level == level_to_change:
            for keyword, value in elements.items():
                if value is None:
                    delattr(ds, keyword)
                else:
                    setattr(ds, keyword, value)

    return edit


NORMAL = -(LPS @ AFFINE)[:3, 2]
BROKEN = {
    "gap": (lambda folder: write_series(folder, VOLUME, AFFINE)[2].unlink(), r"1 slice\(s\) missing between"),
    "duplicate": (
        lambda folder: write_series(folder, VOLUME, AFFINE, edit=moved(2, NORMAL)),
        "2 slices at the same position",
    ),
    "uneven": (
        lambda folder: write_series(folder, VOLUME, AFFINE, edit=moved(4, NORMAL * -0.37)),
        r"uneven slices: 3\.42 mm apart",
    ),
    "bent": (lambda folder: write_series(folder, VOLUME, AFFINE, edit=moved(2, (3, 3, 0))), "contradictory|uneven"),
    "two series": (
        lambda folder: (
            write_series(folder, VOLUME, AFFINE),
            write_series(folder, VOLUME, AFFINE, series="1.2.9", names=lambda level: f"other{level}"),
        ),
        "2 series",
    ),
    "orientations": (
        lambda folder: write_series(folder, edit=changed(1, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])),
        "several orientations",
    ),
    "spacings": (lambda folder: write_series(folder, edit=changed(1, PixelSpacing=[1, 1])), "slices with pixels of"),
    "no position": (
        lambda folder: write_series(folder, edit=changed(1, ImagePositionPatient=None)),
        "001.dcm has no position",
    ),
    "zero spacing": (
        lambda folder: write_series(folder, edit=changed(1, PixelSpacing=[0, 1])),
        "spacing must be above",
    ),
    "wrong vectors": (
        lambda folder: write_series(folder, edit=changed(1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])),
        "no pair of unit vectors",
    ),
    "other size": (
        lambda folder: (
            write_series(folder, VOLUME, AFFINE)[2].unlink(),
            write_series(folder, ramp((9, 6, 5)), AFFINE, names=lambda level: f"00{level}b")[4].unlink(),
        ),
        "remove the odd one",
    ),
    "patients": (lambda folder: write_series(folder, edit=changed(1, PatientID="P2")), "2 patients"),
    "zero slope": (lambda folder: write_series(folder, edit=changed(1, RescaleSlope=0)), "RescaleSlope is 0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_one_volume_is_refused(name, tmp_path):
    make, reason = BROKEN[name]
    make(tmp_path / "series")
    with pytest.raises(ImageError, match=reason) as raised:
        LoadStudy()(tmp_path / "series")
    assert "\n" not in str(raised.value)
