"""Damaged inputs: each gets a clear reason, the good studies beside it are kept, and nothing is raised."""

import csv
import gzip
import io
import re
import struct
import zipfile

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_samples import basic, oblique, place, ramp, set_pixels, uid, write_enhanced, write_radiograph, write_series
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, UID, JPEG2000Lossless, RLELossless

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.scan import ScanOptions, scan

NOISE = np.random.default_rng(0).integers(0, 4000, (48, 40, 3), np.int16)


def good_studies(root):
    write_series(root / "good/series", ramp(), oblique(), modality="CT", patient="GOOD-1")
    nibabel.save(nibabel.Nifti1Image(ramp(), oblique()), root / "good/volume.nii.gz")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(root / "good/picture.png")
    return 3


def scanned(root, source=None, options=None):
    """Scan and return the datalist's images and the reasons by file name, as they stand in the CSV."""
    result = scan(source or root, root.parent / "out/datalist.json", options or ScanOptions(split="100"))
    with result.rejected_file.open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["reason"] and "\n" not in row["reason"] and "Traceback" not in row["reason"] for row in rows)
    reasons = {row["path"].rpartition("/")[2]: row["reason"] for row in rows}
    return [item["image"] for items in result.splits.values() for item in items], reasons


def compressed_dicom(path, syntax):
    write_radiograph(path, np.abs(NOISE[:, :, 0]).astype(np.uint16))
    ds = dcmread(path)
    ds.compress(syntax, generate_instance_uid=False)
    ds.save_as(path)


WHOLE = {
    "ct.dcm": lambda p: write_series(p.parent, NOISE[:, :, :1], oblique(), modality="CT", names=lambda _: p.name),
    "rle.dcm": lambda p: compressed_dicom(p, RLELossless),
    "j2k.dcm": lambda p: compressed_dicom(p, JPEG2000Lossless),
    "v.nii": lambda p: nibabel.save(nibabel.Nifti1Image(NOISE, oblique()), p),
    "v.nii.gz": lambda p: nibabel.save(nibabel.Nifti1Image(NOISE, oblique()), p),
    "v.nrrd": lambda p: SimpleITK.WriteImage(SimpleITK.GetImageFromArray(NOISE), p),
    "packed.nrrd": lambda p: SimpleITK.WriteImage(SimpleITK.GetImageFromArray(NOISE), p, True),
    "p.png": lambda p: Image.fromarray(NOISE[:, :, 0].astype(np.uint8)).save(p),
    "p.jpg": lambda p: Image.fromarray(NOISE[:, :, 0].astype(np.uint8)).save(p),
}


@pytest.mark.parametrize("tenth", range(1, 10))
@pytest.mark.parametrize("name", WHOLE)
def test_cut_off_at_every_tenth(name, tenth, tmp_path):
    root = tmp_path / "data"
    expected = good_studies(root)
    path = root / "bad" / name
    path.parent.mkdir()
    WHOLE[name](path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    images, reasons = scanned(root)
    assert len(images) == expected
    assert list(reasons) == [name]
    assert any(word in reasons[name] for word in ("cut off", "no pixel data", "cannot be read", "damaged"))


def edited(**elements):
    def edit(level, ds):
        for keyword, value in elements.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)

    return edit


def one_file(**elements):
    return lambda root: [write_radiograph(root / "bad.dcm", edit=edited(**elements))]


def series(edit=None, remove=None, **options):
    def make(root):
        paths = write_series(root / "bad", ramp(), oblique(), edit=edit, **options)
        if remove is not None:
            paths.pop(remove).unlink()
        return paths

    return make


def at(level_wanted, **elements):
    return lambda level, ds: edited(**elements)(level, ds) if level == level_wanted else None


def of_bytes(name, content):
    def make(root):
        (root / name).write_bytes(content)
        return [root / name]

    return make


def nifti(name="bad.nii", shape=(4, 5, 3), dtype=np.int16, header=None, affine=None):
    def make(root):
        image = nibabel.Nifti1Image(np.ones(shape, dtype), np.eye(4) if affine is None else affine)
        content = bytearray(image.to_bytes())
        for offset, kind, value in header or ():
            struct.pack_into(kind, content, offset, value)
        (root / name).write_bytes(content)
        return [root / name]

    return make


def mislabelled(root):
    path = write_radiograph(root / "bad.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    return [path]


def video(root):
    def edit(_, ds):
        ds.file_meta.TransferSyntaxUID = MPEG2MPML
        ds.PixelData = encapsulate([b"\0" * 100])
        ds["PixelData"].is_undefined_length = True

    return [write_radiograph(root / "bad.dcm", edit=edit)]


def wrong_rows(rows):
    return lambda root: [write_radiograph(root / "bad.dcm", edit=edited(Rows=rows))]


def doubled(root):
    paths = write_series(root / "bad", ramp(), oblique())
    ds = dcmread(paths[2])
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    ds.save_as(root / "bad/again.dcm")
    return [*paths, root / "bad/again.dcm"]


def odd_size(root):
    paths = write_series(root / "bad", ramp(), oblique())
    ds = dcmread(paths[1])
    set_pixels(ds, np.zeros((9, 9), np.int16))
    ds.save_as(paths[1])
    return paths


def short_groups(root):
    path = write_enhanced(root / "bad.dcm", [ramp()], oblique())
    ds = dcmread(path)
    del ds.PerFrameFunctionalGroupsSequence[-1]
    ds.save_as(path)
    return [path]


def mosaic(root):
    ds = basic(UID("1.2.840.10008.5.1.4.1.1.4"), "MR", "M", uid("m"), 0)
    place(ds, oblique(), 0)
    set_pixels(ds, ramp()[:, :, 0].T.copy())
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    ds.save_as(root / "bad.dcm", enforce_file_format=True)
    return [root / "bad.dcm"]


def zipped(content: dict) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


CASES = {
    "empty file": (of_bytes("bad.dcm", b""), "empty: 0 bytes"),
    "empty picture": (of_bytes("bad.png", b""), "empty: 0 bytes"),
    "text named dcm": (of_bytes("bad.dcm", b"a note\n" * 200), "a text, not an image"),
    "text named nii.gz": (of_bytes("bad.nii.gz", b"a note\n" * 200), "a text, not an image"),
    "noise named nii": (of_bytes("bad.nii", bytes(range(256)) * 9), "cut off, damaged or misnamed"),
    "only a preamble": (of_bytes("bad.dcm", b"\0" * 128 + b"DICM"), "holds no pixel data"),
    "noise after the preamble": (of_bytes("bad.dcm", b"\0" * 128 + b"DICM" + b"\xfe\x81" * 99), "."),
    "tiff": (of_bytes("bad.png", b"II*\0" + b"\0" * 99), "a TIFF picture"),
    "pdf": (of_bytes("bad.pdf", b"%PDF-1.7\n" + b"\xe2\xe3" * 99), "a PDF document"),
    "gzip of something else": (of_bytes("bad.gz", gzip.compress(b"x" * 999)), "compressed with gzip"),
    "zip within": (of_bytes("bad.zip", zipped({"a.txt": "x"})), "a zip within the data"),
    "npz of another layout": (of_bytes("bad.npz", zipped({"weights.npy": b"\x93NUMPY"})), "not in MedMNIST's layout"),
    "no pixel data": (one_file(PixelData=None), "holds no pixel data"),
    "no rows": (one_file(Rows=None), "Rows is missing"),
    "zero columns": (one_file(Columns=0), "Columns is 0"),
    "no bits": (one_file(BitsAllocated=None), "BitsAllocated is missing"),
    "too many rows": (wrong_rows(60), "96 bytes of pixel data, but 1 x 60 x 8 pixels of 16 bits need 960"),
    "too few rows": (wrong_rows(3), "contradictory header"),
    "too many frames": (one_file(NumberOfFrames=4), "need 384"),
    "seven samples": (one_file(SamplesPerPixel=7), "SamplesPerPixel is 7"),
    "slope of zero": (one_file(RescaleSlope=0), "RescaleSlope is 0"),
    "spacing of zero": (one_file(ImagerPixelSpacing=[0, 1]), "ImagerPixelSpacing is .* must be above 0"),
    "negative spacing": (series(at(1, PixelSpacing=[-1, 1])), "must be above 0"),
    "encapsulation that is none": (mislabelled, "cut off|damaged"),
    "video": (video, "a video"),
    "missing slice": (series(remove=2), r"1 slice\(s\) missing between"),
    "first slice but one missing": (series(remove=1), "missing between"),
    "doubled slice": (doubled, "2 slices at the same position"),
    "slice of another size": (odd_size, "has 9 x 9 pixels"),
    "no position": (series(at(1, ImagePositionPatient=None)), "no position or orientation"),
    "no orientation": (series(at(0, ImageOrientationPatient=None)), "no position or orientation"),
    "a position of two numbers": (series(at(1, ImagePositionPatient=[1, 2])), "not 3 numbers"),
    "an orientation that is none": (series(at(1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])), "no pair of unit"),
    "turned slice": (series(at(1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])), "several orientations"),
    "two spacings": (series(at(1, PixelSpacing=[3, 3])), "slices with pixels of"),
    "far slice": (series(at(4, ImagePositionPatient=[900, 0, 0])), "slice|line|normal"),
    "two patients": (series(at(1, PatientID="OTHER")), "2 patients"),
    "functional groups missing": (short_groups, "5 frames, but functional groups for 4"),
    "mosaic": (mosaic, "a Siemens mosaic"),
    "report": (lambda root: [write_radiograph(root / "bad.dcm", edit=edited(Modality="SR"))], "a DICOM structured"),
    "nifti of zero spacing": (nifti(header=[(80, "<f", 0.0)]), "gives the spacing"),
    "nifti of NaN spacing": (nifti(header=[(84, "<f", float("nan"))]), "gives the spacing"),
    "nifti of negative size": (nifti(header=[(42, "<h", -4)]), "NIfTI header"),
    "nifti of unknown type": (nifti(header=[(70, "<h", 12345)]), "NIfTI header cannot be read"),
    "nifti larger than its file": (nifti(header=[(42, "<h", 4000)]), "cut off: "),
    "nifti with a flat affine": (nifti(header=[(254, "<h", 1), (252, "<h", 0), (320, "<f", 0.0)]), "be inverted"),
    "complex nifti": (nifti(dtype=np.complex64), "complex voxels"),
    "nifti of six axes": (nifti(shape=(2, 2, 2, 2, 2, 2)), "6 axes"),
    "half of a pair": (
        lambda root: (
            nibabel.save(nibabel.Nifti1Pair(ramp(), np.eye(4)), root / "bad.hdr"),
            (root / "bad.img").unlink(),
            [root / "bad.hdr"],
        )[2],
        "bad.img, which should hold its voxels, is not there",
    ),
    "nrrd without sizes": (of_bytes("bad.nrrd", b"NRRD0004\ntype: short\ndimension: 3\n\n"), "NRRD header cannot be"),
    "nrrd of nothing": (of_bytes("bad.nrrd", b"NRRD0004\n"), "NRRD header cannot be"),
    "png of nothing": (of_bytes("bad.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40), "cannot be read as a picture"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_clear_reason_and_the_good_ones_are_kept(name, tmp_path):
    make, reason = CASES[name]
    root = tmp_path / "data"
    expected = good_studies(root)
    bad = make(root)
    images, reasons = scanned(root)
    assert len(images) == expected
    assert set(reasons) == {path.name for path in bad}
    for path in bad:
        assert re.search(reason, reasons[path.name])


def hostile_zip(path, name, content=b"x", attributes=None, flags=0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for study in sorted((path.parent / "data/good").rglob("*")):
            if study.is_file():
                archive.write(study, study.relative_to(path.parent / "data").as_posix())
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = attributes or info.external_attr
        archive.writestr(info, content)
    if flags:
        packed = bytearray(path.read_bytes())
        entry = packed.rfind(b"PK\x01\x02")
        packed[entry + 8] |= flags
        path.write_bytes(packed)


ZIPS = {
    "path traversal": ({"name": "../../escaped.txt"}, "leads outside its folder"),
    "absolute path": ({"name": "/tmp/escaped.txt"}, "leads outside its folder"),
    "drive": ({"name": "C:\\escaped.txt"}, "leads outside its folder"),
    "symbolic link": ({"name": "link", "attributes": 0o120777 << 16}, "a symbolic link"),
    "nameless": ({"name": ""}, "leads outside"),
    "bomb": ({"name": "bomb.nii", "content": bytes(80 * 2**20)}, "a zip bomb"),
    "encrypted": ({"name": "secret.dcm", "flags": 1}, "is encrypted"),
    "the same name twice": ({"name": "good/picture.png"}, "stands twice"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ZIPS)
def test_hostile_zips(name, tmp_path):
    options, reason = ZIPS[name]
    expected = good_studies(tmp_path / "data")
    path = tmp_path / "disk.zip"
    hostile_zip(path, **options)
    images, reasons = scanned(tmp_path / "data", path)
    assert len(images) == expected
    assert len(reasons) == 1 and reason in next(iter(reasons.values()))
    assert not list(tmp_path.parent.rglob("escaped.txt"))


def test_a_damaged_zip_is_one_readable_error(tmp_path):
    content = zipped({"a.png": b"x" * 5000})
    (tmp_path / "disk.zip").write_bytes(content[:-30] + b"\0" * 30)
    with pytest.raises(InputError):
        scan(tmp_path / "disk.zip", tmp_path / "out/datalist.json")


def test_the_battery_is_large_enough():
    assert len(WHOLE) * 9 + len(CASES) + len(ZIPS) >= 60
