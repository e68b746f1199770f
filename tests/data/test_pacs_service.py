"""Pulling from a real archive: Orthanc, over DICOMweb and the classic services, with and without TLS."""

import hashlib
import io
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import numpy as np
import pydicom
import pytest
import trustme
from archives import Orthanc, behind_tls, own_network

from fedhelp_med.cli.pull import pull_studies
from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.data.pacs import parse_query, pull
from fedhelp_med.data.pacs_dimse import ClassicArchive, Peer, tls_context
from fedhelp_med.data.pacs_web import Credentials, WebArchive
from fedhelp_med.data.pseudonyms import Pseudonyms
from fedhelp_med.data.simulated_scan import Scan, as_series
from fedhelp_med.prediction import load_model, predict_source
from fedhelp_med.transforms import LoadStudy, identifying_elements

pytestmark = pytest.mark.service

USER, PASSWORD, TOKEN = "clinic", "not-to-be-shown", "abc123"
CLI = "from fedhelp_med.cli.main import main; main()"
KEY = b"k" * 32
QUERY = parse_query(["PatientID=patient-1", "Modality=MR"])
FULL = {
    "user": None, "password_file": None, "token_file": None, "authority": None, "certificate": None, "plain": False,
    "title": "FEDHELP", "method": "get", "listen": None, "anonymise": False, "key_file": None, "dry_run": False,
}  # fmt: skip


def scan(seed, slices=6):
    voxels = np.random.default_rng(seed).integers(0, 4000, (slices, 16, 20)).astype(np.int16)
    return Scan(voxels, (0.9, 1.1, 1.5), (1.0, 2.0, 3.0))


SCANS = {"patient-1": scan(1), "patient-2": scan(2, slices=3)}
SERIES = {name: as_series(made, "site", name, 0) for name, made in SCANS.items()}


@pytest.fixture(scope="module")
def network():
    with own_network():
        yield


@pytest.fixture(scope="module")
def archive(network, tmp_path_factory):
    orthanc = Orthanc(tmp_path_factory.mktemp("orthanc"), AuthenticationEnabled=True, RegisteredUsers={USER: PASSWORD})
    with orthanc.running():
        for files in SERIES.values():
            orthanc.store(files.values(), f"{USER}:{PASSWORD}")
        yield orthanc


@pytest.fixture(scope="module")
def secure(network, tmp_path_factory):
    """An archive behind TLS that asks for a bearer token (a script in Orthanc checks it) or a client's certificate."""
    folder = tmp_path_factory.mktemp("secure")
    authority, stranger = trustme.CA(), trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    stranger.cert_pem.write_to_path(folder / "stranger.pem")
    server.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    server.private_key_pem.write_to_path(folder / "server.key")
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(folder / "client.pem")
    (folder / "filter.lua").write_text(
        "function IncomingHttpRequestFilter(method, uri, ip, username, headers)\n"
        f"  return method == 'POST' or headers['authorization'] == 'Bearer {TOKEN}'\nend\n"
    )
    orthanc = Orthanc(
        folder / "orthanc",
        LuaScripts=[str(folder / "filter.lua")],
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(folder / "server.pem"),
        DicomTlsPrivateKey=str(folder / "server.key"),
        DicomTlsTrustedCertificates=str(folder / "ca.pem"),
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")
    with orthanc.running(), behind_tls(orthanc.http, context) as port:
        orthanc.store([content for files in SERIES.values() for content in files.values()])
        yield orthanc, folder, f"https://127.0.0.1:{port}/dicom-web"


@pytest.fixture
def sources(archive):
    """The three ways to the same images."""
    host, own = "127.0.0.1", ("127.0.0.1", archive.move)
    return {
        "web": lambda: WebArchive(archive.web, Credentials(USER, PASSWORD)),
        "get": lambda: ClassicArchive(Peer(host, archive.dicom, "ORTHANC")),
        "move": lambda: ClassicArchive(Peer(host, archive.dicom, "ORTHANC", method="move", listen=own)),
    }


WAYS = pytest.mark.parametrize("way", ["web", "get", "move"])


def pulled(source, query, out, **options):
    opened = source()
    try:
        return pull(opened, query, out, **options)
    finally:
        opened.close()


def series_folder(out):
    (folder,) = out.glob("*/*")
    return folder


@WAYS
def test_a_series_comes_whole_and_exact(sources, way, tmp_path):
    report = pulled(sources[way], QUERY, tmp_path)
    assert (report.series, report.fetched, report.present, report.failed) == (1, 6, 0, {})
    folder = series_folder(tmp_path)
    for content in SERIES["patient-1"].values():
        sent = pydicom.dcmread(io.BytesIO(content))
        got = pydicom.dcmread(folder / f"{sent.SOPInstanceUID}.dcm")
        assert got.PixelData == sent.PixelData
        assert got == sent
        assert folder == tmp_path / sent.StudyInstanceUID / sent.SeriesInstanceUID
    np.testing.assert_array_equal(LoadStudy()(folder).numpy(), SCANS["patient-1"].voxels.T)


@WAYS
def test_a_repeated_pull_fetches_only_what_is_missing(sources, way, tmp_path):
    pulled(sources[way], QUERY, tmp_path)
    files = sorted(series_folder(tmp_path).iterdir())
    before = {file: hashlib.sha256(file.read_bytes()).digest() for file in files}
    for file in files[1:3]:
        file.unlink()
    kept = {file: file.stat().st_mtime_ns for file in files if file.exists()}
    report = pulled(sources[way], QUERY, tmp_path)
    assert (report.fetched, report.present) == (2, 4)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert {file: hashlib.sha256(file.read_bytes()).digest() for file in files} == before
    assert pulled(sources[way], QUERY, tmp_path).fetched == 0


@WAYS
def test_anonymised_instances_belong_together_and_name_nobody(sources, way, tmp_path):
    pseudonyms = Pseudonyms(KEY)
    report = pulled(sources[way], parse_query(["PatientID=patient-*"]), tmp_path, pseudonyms=pseudonyms)
    assert (report.series, report.fetched) == (2, 9)
    original = pydicom.dcmread(io.BytesIO(SERIES["patient-1"]["0001.dcm"]))
    folder = tmp_path / pseudonyms.uid(original.StudyInstanceUID) / pseudonyms.uid(original.SeriesInstanceUID)
    np.testing.assert_array_equal(LoadStudy()(folder).numpy(), SCANS["patient-1"].voxels.T)
    for file in folder.iterdir():
        assert b"patient-1" not in file.read_bytes()
        assert identifying_elements(file, dates=False) == []
        dataset = pydicom.dcmread(file)
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.PatientID == pseudonyms.patient("patient-1")
        assert file.stem == dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
    again = pulled(sources[way], QUERY, tmp_path, pseudonyms=pseudonyms)
    assert (again.fetched, again.present) == (0, 6)


def test_a_killed_pull_goes_on(archive, sources, tmp_path):
    """The process is killed as soon as some files are there; no file is ever a part of one."""
    big = {f"big-{n}": as_series(scan(n, slices=15), "site", f"big-{n}", 0) for n in range(4)}
    for files in big.values():
        archive.store(files.values(), f"{USER}:{PASSWORD}")
    command = [sys.executable, "-c", CLI, "data", "pull", archive.web, "--match", "PatientID=big-*"]
    command += ["--user", USER, "--out", str(tmp_path)]
    environment = {**os.environ, "FEDHELP_PACS_PASSWORD": PASSWORD}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while len(list(tmp_path.glob("*/*/[0-9]*.dcm"))) < 10 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/*/[0-9]*.dcm")}
    assert 10 <= len(found) < 60
    for file in found:
        assert pydicom.dcmread(file).PixelData
    report = pulled(sources["web"], parse_query(["PatientID=big-*"]), tmp_path)
    assert (report.present, report.fetched) == (len(found), 60 - len(found))
    assert len(list(tmp_path.glob("*/*/[0-9]*.dcm"))) == 60
    assert {file: file.stat().st_mtime_ns for file in found} == found


@pytest.mark.parametrize("credentials", [Credentials(), Credentials(USER, "wrong"), Credentials(token="wrong")])
def test_refused_credentials_are_said_and_not_shown(archive, credentials, tmp_path):
    with pytest.raises(InputError, match=r"refuses these credentials \(HTTP 401\)") as error:
        pulled(lambda: WebArchive(archive.web, credentials), QUERY, tmp_path)
    assert "wrong" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_title_that_the_archive_does_not_know(archive, tmp_path):
    for peer in (
        Peer("127.0.0.1", archive.dicom, "OTHER"),
        Peer("127.0.0.1", archive.dicom, "ORTHANC", own_title="STRANGER"),
    ):
        with pytest.raises(FedHelpError, match=r"(OTHER|ORTHANC) at 127\.0\.0\.1"):
            pulled(lambda peer=peer: ClassicArchive(peer), QUERY, tmp_path)


def test_the_command_line_tells_what_came_and_no_secret(archive, tmp_path, capsys, monkeypatch):
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    options = {**FULL, "user": USER, "password_file": secret}
    pull_studies(archive.web, ["PatientID=patient-1"], tmp_path / "out", **options | {"dry_run": True})
    assert "1 series match; nothing was fetched" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    pull_studies(archive.web, ["PatientID=patient-1"], tmp_path / "out", **options | {"anonymise": True})
    text = capsys.readouterr().out
    assert "1 series: 6 instances fetched, 0 were there" in text
    assert "Text in the pixels was not looked for" in text
    assert PASSWORD not in text and "patient-1" not in text
    key = tmp_path / "config/fedhelp-med/pseudonyms.key"
    assert key.stat().st_mode & 0o777 == 0o600 and key.stat().st_size == 32
    with pytest.raises(FedHelpError, match="no series matches"):
        pull_studies(archive.web, ["PatientID=nobody"], tmp_path / "out", **options)


def test_dicomweb_over_tls_with_a_token(secure, tmp_path):
    _, folder, address = secure
    with pytest.raises(InputError, match="certificate is not trusted"):
        pulled(lambda: WebArchive(address, Credentials(token=TOKEN)), QUERY, tmp_path)
    with pytest.raises(InputError, match="certificate is not trusted"):
        stranger = Credentials(token=TOKEN, authority=folder / "stranger.pem")
        pulled(lambda: WebArchive(address, stranger), QUERY, tmp_path)
    with pytest.raises(InputError, match="HTTP 403"):
        pulled(lambda: WebArchive(address, Credentials(token="wrong", authority=folder / "ca.pem")), QUERY, tmp_path)
    good = Credentials(token=TOKEN, authority=folder / "ca.pem")
    report = pulled(lambda: WebArchive(address, good), parse_query(["PatientID=patient-2"]), tmp_path)
    assert report.fetched == 3


def test_the_classic_services_over_tls(secure, tmp_path):
    orthanc, folder, _ = secure

    def source(ca, certificate):
        context = tls_context(folder / ca, certificate and folder / certificate)
        return lambda: ClassicArchive(Peer("127.0.0.1", orthanc.dicom, "ORTHANC", context=context))

    assert pulled(source("ca.pem", "client.pem"), QUERY, tmp_path / "good").fetched == 6
    for ca, certificate in (("stranger.pem", "client.pem"), ("ca.pem", None)):
        with pytest.raises(FedHelpError, match="does not answer"):
            pulled(source(ca, certificate), QUERY, tmp_path / "bad")
    plain = Peer("127.0.0.1", orthanc.dicom, "ORTHANC")
    with pytest.raises(FedHelpError):
        pulled(lambda: ClassicArchive(plain), QUERY, tmp_path / "bad")


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "MR_small_RLE.dcm"])
@WAYS
def test_compressed_images_come_as_they_are_stored(archive, sources, way, name, tmp_path):
    path = Path(pydicom.data.get_testdata_file(name))
    sent = pydicom.dcmread(path)
    archive.store([path.read_bytes()], f"{USER}:{PASSWORD}")
    report = pulled(sources[way], parse_query([f"SeriesInstanceUID={sent.SeriesInstanceUID}"]), tmp_path)
    assert report.failed == {} and report.fetched >= 1
    (file,) = tmp_path.rglob(f"{sent.SOPInstanceUID}.dcm")
    got = pydicom.dcmread(file)
    np.testing.assert_array_equal(got.pixel_array, sent.pixel_array)
    if way == "web":
        assert got.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID


def test_a_predicted_segmentation_is_stored_and_returned_unchanged(archive, sources, tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    voxels = np.random.default_rng(5).integers(0, 900, (3, 24, 24)).astype(np.int16)
    voxels[:, 6:18, 6:18] += 900
    for name, content in as_series(Scan(voxels, (1, 1, 2), (0, 0, 0)), "site", "segmented", 0).items():
        (folder / name).write_bytes(content)
    predict_source(load_model("fedhelp_segmentation"), folder, tmp_path / "out")
    (path,) = (tmp_path / "out/masks").glob("*.dcm")
    sent = pydicom.dcmread(path)
    assert sent.pixel_array.any()
    answer = archive.request("/instances", path.read_bytes(), f"{USER}:{PASSWORD}")
    stored = archive.request(f"/instances/{json.loads(answer)['ID']}/file", user=f"{USER}:{PASSWORD}")
    assert stored == path.read_bytes()
    archive.store([file.read_bytes() for file in folder.iterdir()], f"{USER}:{PASSWORD}")
    for way, source in sources.items():
        report = pulled(source, parse_query(["PatientID=segmented"]), tmp_path / way)
        assert (report.series, report.fetched, report.failed) == (2, 4, {})
        (file,) = (tmp_path / way).rglob(f"{sent.SOPInstanceUID}.dcm")
        got = pydicom.dcmread(file)
        assert got == sent and got.PixelData == sent.PixelData


def test_an_archive_that_is_not_there(network, tmp_path):
    with pytest.raises(FedHelpError, match="does not answer"):
        pulled(lambda: WebArchive("http://127.0.0.1:9/dicom-web"), QUERY, tmp_path)
    with pytest.raises(FedHelpError, match="does not answer"):
        pulled(lambda: ClassicArchive(Peer("127.0.0.1", 9, "NOBODY")), QUERY, tmp_path)


def test_the_test_archive_is_guarded(archive):
    with pytest.raises(urllib.error.HTTPError):
        archive.request("/patients")
