"""Entries of a zip that are not read, by name, kind and flag."""

import stat
import zipfile

import pytest

from fedhelp_med.data.zip_entries import unsafe


@pytest.mark.parametrize("name", ["a/1.png", "a/b/", "./", "a..b/1.png", "1.png", "a/C:1.png"])
def test_ordinary_names(name):
    assert unsafe(zipfile.ZipInfo(name)) is None


LEAVING = ("../1.png", "a/../../1.png", "../", "/a/1.png", "\\a\\1.png", "a\\..\\1.png", "C:/1.png", "C:\\1.png")


@pytest.mark.parametrize("name", ["", ".", *LEAVING])
def test_names_that_leave_the_folder(name):
    reason = unsafe(zipfile.ZipInfo(name))
    assert reason == f"the zip's entry {name!r} leads outside its folder; use a zip from a source you trust"


def test_links_and_encrypted_entries():
    link, secret = zipfile.ZipInfo("a/link.png"), zipfile.ZipInfo("a/secret.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    secret.flag_bits |= 1
    assert "is a symbolic link; put the file itself" in str(unsafe(link))
    assert "is encrypted; unpack the zip with its password" in str(unsafe(secret))
