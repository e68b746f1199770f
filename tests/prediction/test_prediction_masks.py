"""Masks in the geometry of their images, with the shipped segmentation bundle and a 3-D network."""

import csv
import io
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
import yaml
from dicom_samples import MR, basic, oblique, set_pixels, write_enhanced, write_radiograph
from mask_sites import SEGMENTATION, TINY, write_mask_site
from monai.bundle import ConfigParser
from PIL import Image

from fedhelp_med.data.simulated_scan import Scan, as_series
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.prediction import load_model, predict_source
from fedhelp_med.prediction.model import image_transforms
from fedhelp_med.transforms import LoadStudy

pytestmark = pytest.mark.integration

AFFINE = np.array([[0.9, 0.1, 0.05, -20], [-0.12, 1.1, 0.2, 11.5], [0.02, -0.25, 2.5, 7.25], [0, 0, 0, 1.0]])
CLASSES = ("background", "grey matter", "white matter")


@pytest.fixture(scope="module")
def model():
    return load_model("fedhelp_segmentation")


def brain(shape=(40, 52, 5), seed=0):
    """A bright ball in a grey one, with noise: the network finds something of every class in it."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    radius = np.sqrt((grid[:2] ** 2).sum(0))
    values = np.where(radius < 0.5, 900, np.where(radius < 0.8, 500, 50))
    return (values + np.random.default_rng(seed).normal(0, 30, shape)).clip(0, 3000).astype(np.int16)


def write_series(folder, voxels, **options):
    folder.mkdir(parents=True)
    scan = Scan(voxels.T, (0.9, 1.1, 2.5), (10.0, -5.0, 3.0))
    for name, content in as_series(scan, "site", folder.name, 0).items():
        (folder / name).write_bytes(content)
    return folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_nifti_mask_has_the_shape_and_the_affine_of_its_image(model, tmp_path):
    image = nibabel.Nifti1Image(brain(), AFFINE)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "oblique.nii.gz")
    predict_source(model, tmp_path / "oblique.nii.gz", tmp_path / "out")
    mask = nibabel.load(tmp_path / "out/masks/oblique.nii.gz")
    original = nibabel.load(tmp_path / "oblique.nii.gz")
    assert mask.shape == original.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, original.affine)
    for code in ("qform_code", "sform_code", "xyzt_units"):
        assert mask.header[code] == original.header[code]
    voxels = np.asanyarray(mask.dataobj)
    assert set(np.unique(voxels)) == {0, 1, 2}
    (row,) = rows(tmp_path / "out/predictions.csv")
    assert int(row["voxels(white matter)"]) == (voxels == 2).sum()
    volume = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    assert float(row["ml(white matter)"]) == pytest.approx((voxels == 2).sum() * volume, rel=1e-3)


def test_no_volume_in_ml_where_the_file_does_not_say_how_far_slices_are_apart(model, tmp_path):
    for name, elements in {"unknown": {}, "known": {"SpacingBetweenSlices": 4, "PixelSpacing": [2, 2]}}.items():
        ds = basic(MR, "NM", name, f"1.2.3.{len(name)}", 0)
        set_pixels(ds, brain().T.astype(np.uint16))
        ds.NumberOfFrames = 5
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        (tmp_path / "in").mkdir(exist_ok=True)
        ds.save_as(tmp_path / f"in/{name}.dcm", enforce_file_format=True)
    predict_source(model, tmp_path / "in", tmp_path / "out")
    known, unknown = rows(tmp_path / "out/predictions.csv")
    assert float(known["ml(white matter)"]) == pytest.approx(int(known["voxels(white matter)"]) * 0.016)
    assert unknown["ml(white matter)"] == "" and int(unknown["voxels(white matter)"])


def test_a_volume_is_predicted_slice_by_slice_by_a_network_of_slices(model):
    volume = torch.as_tensor(brain().astype(np.float32))
    whole = model.probabilities(LoadedLike(volume))
    assert whole.shape == (3, *volume.shape)
    single = model.probabilities(LoadedLike(volume[..., 2]))
    assert torch.equal(whole[..., 2], single)
    np.testing.assert_allclose(whole.sum(0), 1, atol=1e-5)


def LoadedLike(tensor):
    from monai.data import MetaTensor

    return MetaTensor(tensor, affine=torch.eye(4))


@pytest.mark.parametrize("bundle", ["fedhelp_classification", "fedhelp_segmentation"])
def test_inference_and_evaluation_prepare_images_alike(bundle, tmp_path):
    """A bundle predicts by its inference.json, a run by the evaluation transforms of its train.json."""
    shape = (70, 80, 8) if bundle.endswith("classification") else (70, 80)
    image = LoadedLike(torch.as_tensor(np.random.default_rng(0).normal(500, 90, shape).astype(np.float32)))
    prepared = []
    for file, key in (("inference.json", "preprocessing"), ("train.json", "validate#preprocessing")):
        parser = ConfigParser()
        parser.read_config(str(SEGMENTATION.parent / bundle / "configs" / file))
        parser["device"] = "cpu"
        parser.resolve_macro_and_relative_ids()
        parser["own"] = {"_target_": "Compose", "transforms": image_transforms(parser.get(f"{key}#transforms"))}
        prepared.append(parser.get_parsed_content("own")({"image": image})["image"])
    assert torch.equal(prepared[0].as_tensor(), prepared[1].as_tensor())


def test_a_dicom_series_gets_a_segmentation_object_that_readers_understand(model, tmp_path):
    """Read by highdicom, and by hand: each frame by its segment, its position and its source instance."""
    import highdicom

    folder = write_series(tmp_path / "series", brain())
    predict_source(model, folder, tmp_path / "out")
    (path,) = (tmp_path / "out/masks").glob("*.dcm")
    nifti = nibabel.load(path.with_suffix(".nii.gz"))
    mask = np.asanyarray(nifti.dataobj)
    loaded = LoadStudy()(folder)
    assert mask.shape == tuple(loaded.shape)
    np.testing.assert_allclose(nifti.affine, loaded.affine, atol=1e-5)
    slices = {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, sorted(folder.iterdir()))}
    first = next(iter(slices.values()))

    seg = highdicom.seg.segread(path)
    assert [seg.get_segment_description(n).segment_label for n in (1, 2)] == list(CLASSES[1:])
    assert {uid for _, _, uid in seg.get_source_image_uids()} == set(slices)
    uids = sorted(slices, key=lambda uid: slices[uid].ImagePositionPatient[2])
    frames = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(frames.transpose(2, 1, 0), mask)

    plain = pydicom.dcmread(path)
    assert (plain.Modality, plain.StudyInstanceUID, plain.PatientID) == ("SEG", first.StudyInstanceUID, "series")
    assert plain.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert plain.SeriesInstanceUID != first.SeriesInstanceUID
    referred = plain.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == first.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referred.ReferencedInstanceSequence} == set(slices)
    rebuilt = np.zeros_like(mask)
    inverse = np.linalg.inv(nifti.affine)
    for pixels, item in zip(plain.pixel_array, plain.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float) * (-1, -1, 1)
        level = (inverse @ [*position, 1])[2]
        assert level == pytest.approx(round(level), abs=1e-3)
        rebuilt[..., round(level)][pixels.T > 0] = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(
            [float(v) for v in slices[source].ImagePositionPatient], position * (-1, -1, 1), atol=1e-6
        )
    np.testing.assert_array_equal(rebuilt, mask)


def test_a_run_in_three_dimensions(tmp_path):
    """Trained and evaluated on NIfTI volumes, it finds in them what it was evaluated with, and reads DICOM as well."""
    site = write_mask_site(tmp_path / "site", shape=(16, 16, 8), affine=AFFINE)
    content = {
        "name": "volumes", "rounds": 1, "method": "fedavg", "bundle": "fedhelp_segmentation",
        "overrides": {**TINY, "spatial_dims": 3, "image_size": [16, 16, 16], "roi_size": [16, 16, 16]},
        "sites": [{"name": "a", "role": "small", "data": str(site)}],
    }  # fmt: skip
    (tmp_path / "federation.yaml").write_text(yaml.safe_dump(content))
    run_federation(load_federation(tmp_path / "federation.yaml"), tmp_path / "run")
    images = tmp_path / "in"
    images.mkdir()
    for path in (tmp_path / "site/images").glob("testing-*"):
        shutil.copy(path, images)
    write_series(images / "series", np.asanyarray(nibabel.load(images / "testing-0.nii").dataobj))
    predict_source(load_model(f"{tmp_path / 'run'}:a"), images, tmp_path / "out")
    masks = {path.name: nibabel.load(path) for path in (tmp_path / "out/masks").glob("*.nii.gz")}
    assert set(masks) == {"testing-0.nii.gz", "testing-1.nii.gz", "series.nii.gz"}
    np.testing.assert_array_equal(masks["testing-0.nii.gz"].affine, nibabel.load(images / "testing-0.nii").affine)
    assert all(mask.shape == (16, 16, 8) for mask in masks.values())
    series, twin = (np.asanyarray(masks[f"{name}.nii.gz"].dataobj) for name in ("series", "testing-0"))
    np.testing.assert_array_equal(series, twin)
    assert (tmp_path / "out/masks/series.dcm").is_file()


def test_the_same_prediction_is_the_same_object(model, tmp_path):
    folder = write_series(tmp_path / "series", brain(shape=(24, 24, 2)))
    uids = []
    for name in ("one", "two"):
        predict_source(model, folder, tmp_path / name)
        uids.append(pydicom.dcmread(next((tmp_path / name / "masks").glob("*.dcm"))).SOPInstanceUID)
    assert uids[0] == uids[1]


def test_a_multi_frame_image_whose_frames_are_not_in_order(model, tmp_path):
    import highdicom

    order = [3, 0, 4, 2, 1]
    path = write_enhanced(tmp_path / "enhanced.dcm", [brain().astype(np.int32)], oblique(), order=order)
    predict_source(model, path, tmp_path / "out")
    nifti = nibabel.load(tmp_path / "out/masks/enhanced.nii.gz")
    np.testing.assert_allclose(nifti.affine, LoadStudy()(path).affine, atol=1e-5)
    mask = np.asanyarray(nifti.dataobj)
    seg = highdicom.seg.segread(tmp_path / "out/masks/enhanced.dcm")
    uid = pydicom.dcmread(path).SOPInstanceUID
    assert {found for _, _, found in seg.get_source_image_uids()} == {uid}
    frames = seg.get_pixels_by_source_frame(
        uid, list(range(1, 6)), combine_segments=True, assert_missing_frames_are_empty=True
    )
    source = LoadStudy()(path)
    assert {int(v) for v in np.unique(mask)} == {0, 1, 2}
    for frame, plane in enumerate(pydicom.dcmread(path).PerFrameFunctionalGroupsSequence):
        position = np.array(plane.PlanePositionSequence[0].ImagePositionPatient, float) * (-1, -1, 1)
        level = round((np.linalg.inv(np.asarray(source.affine)) @ [*position, 1])[2])
        np.testing.assert_array_equal(frames[frame].T, mask[..., level])


@pytest.mark.parametrize("name", ["MR_small.dcm", "CT_small.dcm"])
def test_a_single_slice_has_a_flat_mask(model, name, tmp_path):
    path = Path(pydicom.data.get_testdata_file(name))
    predict_source(model, path, tmp_path / "out")
    stem = path.stem
    mask = np.asanyarray(nibabel.load(tmp_path / f"out/masks/{stem}.nii.gz").dataobj)
    assert mask.shape == LoadStudy()(path).shape
    seg = pydicom.dcmread(tmp_path / f"out/masks/{stem}.dcm")
    assert seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == (
        pydicom.dcmread(path).SOPInstanceUID
    )
    assert int(seg.pixel_array.sum()) == (mask > 0).sum()


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        (("PatientBirthDate", "PatientName", "StudyID"), None),
        (("FrameOfReferenceUID",), "Frame Of Reference"),
        (("StudyInstanceUID",), "StudyInstanceUID"),
    ],
)
def test_what_an_image_lacks_may_cost_the_object_and_never_the_mask(model, missing, why, tmp_path):
    dataset = pydicom.dcmread(pydicom.data.get_testdata_file("MR_small.dcm"))
    for keyword in missing:
        dataset.pop(keyword)
    (tmp_path / "in").mkdir()
    dataset.save_as(tmp_path / "in/image.dcm")
    predict_source(model, tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/masks/image.nii.gz").is_file()
    assert (tmp_path / "out/masks/image.dcm").is_file() == (why is None)
    reasons = [row["reason"] for row in rows(tmp_path / "out/rejected.csv")]
    assert [reason.startswith("no DICOM SEG: ") and why in reason for reason in reasons] == ([True] if why else [])


def test_a_radiograph_needs_no_frame_of_reference(model, tmp_path):
    path = write_radiograph(tmp_path / "dx.dcm", (brain()[..., 0].T).astype(np.uint16))
    predict_source(model, path, tmp_path / "out")
    assert rows(tmp_path / "out/rejected.csv") == []
    mask = np.asanyarray(nibabel.load(tmp_path / "out/masks/dx.nii.gz").dataobj)
    assert mask.any() and int(pydicom.dcmread(tmp_path / "out/masks/dx.dcm").pixel_array.sum()) == (mask > 0).sum()


def test_a_zip_of_mixed_images(model, tmp_path):
    nibabel.save(nibabel.Nifti1Image(brain(), AFFINE), tmp_path / "volume.nii.gz")
    buffer = io.BytesIO()
    Image.fromarray((brain()[..., 0] / 4).clip(0, 255).astype(np.uint8)).save(buffer, format="PNG")
    folder = write_series(tmp_path / "mr", brain(shape=(24, 24, 2)))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.write(tmp_path / "volume.nii.gz", "a/volume.nii.gz")
        archive.writestr("a/photo.png", buffer.getvalue())
        archive.writestr("notes.txt", "nothing")
        for file in folder.iterdir():
            archive.write(file, f"b/{file.name}")
    predict_source(model, tmp_path / "in.zip", tmp_path / "out")
    assert sorted(row["study"] for row in rows(tmp_path / "out/predictions.csv")) == ["a_photo", "a_volume", "b"]
    assert sorted(path.name for path in (tmp_path / "out/pictures").iterdir()) == [
        "a_photo.png", "a_volume.png", "b.png",
    ]  # fmt: skip
    (rejected,) = rows(tmp_path / "out/rejected.csv")
    assert rejected["path"] == "notes.txt"
    for row in rows(tmp_path / "out/predictions.csv"):
        assert str(tmp_path) not in row["file"]
