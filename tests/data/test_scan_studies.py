"""What is found in a folder, and what is refused, file by file."""

import gzip
import os
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_samples import oblique, ramp, uid, write_enhanced, write_radiograph, write_segmentation, write_series
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.fileset import FileSet

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.scan import ScanOptions, scan
from fedhelp_med.data.studies import discover, find_studies
from fedhelp_med.transforms import LoadStudy


def picture(path, seed=0, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, np.uint8)).save(path)
    return path


def mixed_folder(root):
    """One of every kind, none of them named as what it is; returns how many images it holds."""
    write_series(root / "disk/a", ramp(), oblique(), modality="CT", patient="P1", names=lambda n: f"IM{7 - n}")
    write_series(root / "disk/a", ramp(), oblique(), modality="MR", patient="P1", names=lambda n: f"MR{n}")
    write_enhanced(root / "disk/enhanced", [ramp()], oblique())
    write_radiograph(root / "disk/xray.txt")
    (root / "research").mkdir()
    (root / "research/volume.dat").write_bytes(nibabel.Nifti1Image(ramp(), oblique()).to_bytes())
    (root / "research/packed.bin").write_bytes(gzip.compress(nibabel.Nifti2Image(ramp() + 1, oblique()).to_bytes()))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ramp()), root / "research/volume.nrrd")
    nibabel.save(nibabel.Nifti1Pair(ramp() + 2, oblique()), root / "research/pair.hdr")
    picture(root / "pictures/one.png").rename(root / "pictures/one")
    picture(root / "pictures/two.jpg")
    shutil.copy(get_testdata_file("examples_ybr_color.dcm", download=False), root / "disk/ultrasound")
    return 11


def test_by_content_not_by_extension(tmp_path):
    expected = mixed_folder(tmp_path)
    (tmp_path / "disk/notes.dcm").write_text("this is only a text")
    studies, rejected = find_studies(tmp_path)
    assert len(studies) == expected
    assert {study.kind for study in studies} == {"dicom", "nifti", "nrrd", "picture"}
    assert [(item.path.name, item.reason) for item in rejected] == [("notes.dcm", "a text, not an image")]
    assert sorted(len(study.files) for study in studies if study.modality in ("CT", "MR")) == [1, 5, 5]
    for study in studies:
        assert LoadStudy()(study.files).numel() > 0  # what is found can be loaded


def test_every_file_is_in_a_study_or_named_with_a_reason(tmp_path):
    mixed_folder(tmp_path)
    (tmp_path / "junk").write_bytes(b"\xff\xfe\x00junk")
    found = discover(tmp_path)
    files = {path for study in found.studies for path in study.files}
    named = {item.path for item in found.rejected} | {label.path for label in found.labels}
    every = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert every == files | named | {tmp_path / "research/pair.img"}  # read with its header
    assert not files & named


def test_slices_come_in_the_order_of_their_positions(tmp_path):
    write_series(tmp_path, ramp(), oblique(), names=lambda level: f"{(level * 2) % 5}")
    study = find_studies(tmp_path)[0][0]
    positions = [float(dcmread(path).InstanceNumber) for path in study.files]
    assert positions == sorted(positions, reverse=positions[0] > positions[-1])
    assert (study.patient, study.modality, study.description) == ("P1", "MR", "MR test")


def test_a_zip_and_a_dicomdir_hold_the_same_studies_as_their_folder(tmp_path):
    write_series(tmp_path / "plain", ramp(), oblique(), modality="CT")
    with zipfile.ZipFile(tmp_path / "disk.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "plain").iterdir():
            archive.write(path, f"inner/{path.name}")
    studies, rejected = find_studies(tmp_path / "disk.zip", tmp_path / "unpacked")
    assert ([len(study.files) for study in studies], rejected) == ([5], [])
    with pytest.raises(InputError, match="a zip, and there is no folder to unpack it"):
        find_studies(tmp_path / "disk.zip")

    medium = FileSet()
    for path in (tmp_path / "plain").iterdir():
        ds = dcmread(path)
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.SeriesNumber = "20240101", "120000", "1", 1
        medium.add(ds)
    medium.write(tmp_path / "medium")
    (tmp_path / "medium/extra.txt").write_text("not listed")
    studies, rejected = find_studies(tmp_path / "medium/DICOMDIR")
    assert ([len(study.files) for study in studies], rejected) == ([5], [])
    (studies[0].files[2]).unlink()
    studies, rejected = find_studies(tmp_path / "medium/DICOMDIR")
    assert studies == []
    reasons = sorted({item.reason for item in rejected})
    assert "which is not there" in reasons[1] and "slice(s) missing" in reasons[0]


@pytest.mark.parametrize(
    "acquisition",
    [lambda level, time: level, lambda level, time: level % 2],
    ids=["a number a slice", "odd and even slices"],
)
def test_a_part_of_a_series_is_a_volume_only_if_it_visits_every_place_once(acquisition, tmp_path):
    volume = ramp((7, 6, 4))
    for time in range(5):
        write_series(
            tmp_path,
            volume + time * 1000,
            oblique(),
            names=lambda level, time=time: f"{level}-{time}",
            edit=lambda level, ds, time=time: (
                setattr(ds, "AcquisitionNumber", acquisition(level, time)),
                setattr(ds, "TemporalPositionIdentifier", time + 1),
                setattr(ds, "SOPInstanceUID", f"1.2.3.{time}.{level + 1}"),
            ),
        )
    studies, rejected = find_studies(tmp_path)
    assert rejected == []
    assert [study.description for study in studies] == [
        f"MR test (TemporalPositionIdentifier {time + 1})" for time in range(5)
    ]
    for time, study in enumerate(studies):
        np.testing.assert_array_equal(LoadStudy()(study.files).numpy(), volume + time * 1000)


def test_halves_of_a_series_are_no_volumes(tmp_path):
    for copy in range(2):  # nothing tells the copies apart, and the halves would have twice the spacing
        write_series(
            tmp_path,
            ramp((7, 6, 4)),
            oblique(),
            names=lambda level, copy=copy: f"{level}-{copy}",
            edit=lambda level, ds, copy=copy: (
                setattr(ds, "AcquisitionNumber", 2 * (level % 2) + (level // 2 + copy) % 2),
                setattr(ds, "SOPInstanceUID", f"1.2.3.{copy}.{level + 1}"),
            ),
        )
    studies, rejected = find_studies(tmp_path)
    assert studies == [] and len(rejected) == 8
    assert all("slices at the same position" in item.reason for item in rejected)


def test_the_volumes_of_one_series_are_told_apart(tmp_path):
    for echo in (1, 2):
        write_series(
            tmp_path,
            ramp() + echo * 1000,
            oblique(),
            series="1.2.3",
            names=lambda level, echo=echo: f"{level}-{echo}",
            edit=lambda level, ds, echo=echo: (
                setattr(ds, "EchoTime", 10 * echo),
                setattr(ds, "SOPInstanceUID", f"1.2.3.{echo}.{level + 1}"),
            ),
        )
    studies, rejected = find_studies(tmp_path)
    assert rejected == []
    assert sorted(study.description for study in studies) == ["MR test (EchoTime 10.0)", "MR test (EchoTime 20.0)"]
    assert all(LoadStudy()(study.files).shape == (7, 6, 5) for study in studies)


def test_label_objects_are_no_images(tmp_path):
    write_series(tmp_path, ramp(), oblique())
    mask = np.zeros((7, 6, 5), bool)
    mask[2:4, 2:4, 2] = True
    write_segmentation(tmp_path / "seg.dcm", {"lesion": mask}, oblique(), dcmread(tmp_path / "000.dcm"))
    assert [(label.kind, label.path.name) for label in discover(tmp_path).labels] == [("seg", "seg.dcm")]
    studies, rejected = find_studies(tmp_path)
    assert (len(studies), [item.path.name for item in rejected]) == (1, ["seg.dcm"])


def test_copies_and_radiographs(tmp_path):
    write_radiograph(tmp_path / "a.dcm", patient="A")
    shutil.copy(tmp_path / "a.dcm", tmp_path / "b.dcm")
    for name in ("c.dcm", "d.dcm"):  # two views of one series are two images
        write_radiograph(tmp_path / name, patient="B", edit=lambda _, ds: setattr(ds, "SeriesInstanceUID", uid("same")))
    studies, rejected = find_studies(tmp_path)
    assert len(studies) == 3
    assert [(item.path.name, item.reason[:16]) for item in rejected] == [("b.dcm", "a copy of a.dcm ")]


def test_links_loops_and_things_that_are_no_files(tmp_path):
    picture(tmp_path / "data/a.png")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/gone.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "data/pipe")
    (tmp_path / "elsewhere").mkdir()
    picture(tmp_path / "elsewhere/b.png", seed=1)
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    studies, rejected = find_studies(tmp_path / "data")
    assert [study.files[0].name for study in studies] == ["a.png", "b.png"]
    assert {item.path.name: item.reason.split(";")[0] for item in rejected} == {
        "loop": "a link to a folder that is read already",
        "gone.png": "a link to nothing",
        "pipe": "not a regular file",
    }


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_what_may_not_be_opened_is_named(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "locked.png", seed=1).chmod(0)
    picture(tmp_path / "closed/b.png", seed=2)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder.name.startswith(("test_", "pytest-", "popen-")):
            folder.chmod(0o755)
    (tmp_path / "closed").chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)  # root may open everything
        studies, rejected = find_studies(tmp_path)
    finally:
        if root:
            os.seteuid(0)
        (tmp_path / "closed").chmod(0o755)
    assert [study.files[0].name for study in studies] == ["a.png"]
    assert {item.path.name for item in rejected} == {"locked.png", "closed"}
    assert all("Permission denied" in item.reason for item in rejected)


def test_sources_that_do_not_exist(tmp_path):
    with pytest.raises(InputError, match="does not exist; name a folder"):
        find_studies(tmp_path / "none")


def test_captures_of_screens_are_no_images(tmp_path):
    def capture(modality, sop_class, name):
        def edit(_, ds):
            ds.Modality, ds.SOPClassUID, ds.file_meta.MediaStorageSOPClassUID = modality, sop_class, sop_class

        return write_radiograph(tmp_path / name, patient=name, edit=edit)

    capture("CT", "1.2.840.10008.5.1.4.1.1.7", "dose.dcm")
    capture("MR", "1.2.840.10008.5.1.4.1.1.7.2", "protocol.dcm")
    capture("XC", "1.2.840.10008.5.1.4.1.1.7.4", "photograph.dcm")
    capture("CT", "1.2.840.10008.5.1.4.1.1.77.1.4", "other.dcm")
    studies, rejected = find_studies(tmp_path)
    assert sorted(study.files[0].name for study in studies) == ["other.dcm", "photograph.dcm"]
    assert {item.path.name for item in rejected} == {"dose.dcm", "protocol.dcm"}
    assert all("a capture of a screen" in item.reason for item in rejected)


def test_images_that_say_they_show_who_it_is_are_not_scanned(tmp_path):
    for name, value in {"yes": "YES", "no": "NO"}.items():
        write_radiograph(
            tmp_path / f"data/{name}.dcm",
            patient=name,
            edit=lambda _, ds, value=value: setattr(ds, "BurnedInAnnotation", value),
        )
    result = scan(tmp_path / "data", tmp_path / "datalist.json", ScanOptions(split="100"))
    assert [item["patient"] for item in result.splits["training"]] == ["no"]
    assert [item.path.name for item in result.rejected] == ["yes.dcm"]
    assert "its pixels show who it is (BurnedInAnnotation YES)" in result.rejected[0].reason


def test_a_name_that_is_not_utf8_is_one_file_left_out(tmp_path):
    picture(tmp_path / "data/good.png")
    for name in (b"b\xe9.png", b"folder-\xff/a.png"):
        path = Path(os.fsdecode(os.fsencode(tmp_path / "data") + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "data/good.png", path)
    result = scan(tmp_path / "data", tmp_path / "datalist.json", ScanOptions(split="100"))
    assert result.images == 1
    told = result.rejected_file.read_text(encoding="utf-8")
    assert 'b\\xe9.png,"its name is not UTF-8' in told and "folder-\\xff" in told
