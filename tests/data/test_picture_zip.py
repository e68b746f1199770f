import stat
import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fedhelp_med.common.errors import InputError
from fedhelp_med.data import picture_zip
from fedhelp_med.data.picture_zip import ZippedPicture, list_pictures, read_pictures


def png(shape=(4, 5), value=7) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.full(shape, value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


GOOD = {"b/2.png": png(), "a/1.PNG": png((4, 5, 3)), "a/0.png": png()}


def test_folders_are_classes_and_other_files_are_ignored(tmp_path):
    path = write_zip(tmp_path / "x.zip", {**GOOD, "README.txt": b"", "__MACOSX/a/._0.png": b"", "a/.thumb.png": b""})
    classes, pictures = list_pictures(path)
    assert classes == ("a", "b")
    assert pictures == [ZippedPicture("a/0.png", 0), ZippedPicture("a/1.PNG", 0), ZippedPicture("b/2.png", 1)]


def test_a_folder_around_the_classes_is_fine(tmp_path):
    path = write_zip(tmp_path / "x.zip", {f"top/{name}": content for name, content in GOOD.items()})
    assert list_pictures(path)[0] == ("a", "b")


@pytest.mark.parametrize(("mode", "shape"), [("L", (4, 5)), ("RGB", (4, 5, 3))])
def test_pictures_take_the_asked_colour_mode(mode, shape, tmp_path):
    path = write_zip(tmp_path / "x.zip", GOOD)
    images = list(read_pictures(path, list_pictures(path)[1], mode))
    assert len(images) == 3
    for image in images:
        assert image.shape == shape
        assert (image == 7).all()


@pytest.mark.parametrize(
    "name", ["../a/1.png", "a/../../1.png", "/a/1.png", "\\a\\1.png", "a\\..\\..\\1.png", "C:/a/1.png"]
)
def test_names_that_leave_the_folder(name, tmp_path):
    path = write_zip(tmp_path / "x.zip", {**GOOD, name: png()})
    with pytest.raises(InputError, match=r"x\.zip: .*leads outside its folder; use a zip from a source"):
        list_pictures(path)


def test_links(tmp_path):
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match=r"'a/link\.png' is a symbolic link; put the file itself"):
        list_pictures(tmp_path / "x.zip")


def test_one_entry_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_zip, "MAXIMUM_FILE_BYTES", 1000)
    path = write_zip(tmp_path / "x.zip", {**GOOD, "a/bomb.png": b"0" * 1001})
    with pytest.raises(InputError, match=r"bomb\.png': 1001 bytes; the limit is 1000: remove"):
        list_pictures(path)


def test_too_large_together(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_zip, "MAXIMUM_TOTAL_BYTES", 1500)
    path = write_zip(tmp_path / "x.zip", {f"a/{i}.png": b"0" * 600 for i in range(3)})
    with pytest.raises(InputError, match="1800 bytes unpacked; the limit is 1500: give a smaller zip"):
        list_pictures(path)


def test_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_zip, "MAXIMUM_FILES", 2)
    with pytest.raises(InputError, match="3 entries; the limit is 2"):
        list_pictures(write_zip(tmp_path / "x.zip", GOOD))


def test_an_entry_larger_than_it_says(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "x.zip", {"a/0.png": b"0" * 5000})
    monkeypatch.setattr(picture_zip, "MAXIMUM_FILE_BYTES", 1000)
    with pytest.raises(InputError, match=r"a/0\.png: cannot be read as a picture \(larger than 1000 bytes"):
        next(read_pictures(path, [ZippedPicture("a/0.png", 0)], "L"))


def test_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_zip, "MAXIMUM_PIXELS", 19)
    path = write_zip(tmp_path / "x.zip", GOOD)
    with pytest.raises(InputError, match=r"5 x 4 pixels are more than 19.*replace or remove"):
        next(read_pictures(path, [ZippedPicture("a/0.png", 0)], "L"))


@pytest.mark.parametrize("content", [b"", b"a text", png()[:40]])
def test_damaged_pictures(content, tmp_path):
    path = write_zip(tmp_path / "x.zip", {**GOOD, "a/bad.png": content})
    with pytest.raises(InputError, match=r"a/bad\.png: cannot be read as a picture .*; replace or remove it"):
        next(read_pictures(path, [ZippedPicture("a/bad.png", 0)], "L"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"0.png": png()}, r"0\.png: lies in no folder; put every picture"),
        ({"a/0.png": png()}, r"1 folder\(s\) with pictures \(a\); give one folder per class"),
        ({}, r"0 folder\(s\) with pictures \(none\)"),
        ({"x/a/0.png": png(), "y/a/0.png": png()}, r"a second folder 'a' beside x/a; keep one"),
    ],
)
def test_other_layouts(entries, message, tmp_path):
    with pytest.raises(InputError, match=message):
        list_pictures(write_zip(tmp_path / "x.zip", entries))


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_not_a_zip(content, tmp_path):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.zip: cannot be read as a zip .*; give a zip of picture folders"):
        list_pictures(tmp_path / "x.zip")
    with pytest.raises(InputError, match="cannot be read as a zip"):
        list_pictures(tmp_path / "none.zip")
