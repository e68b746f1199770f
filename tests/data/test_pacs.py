"""What a pull does around the network; the network itself is in test_pacs_service."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from fedhelp_med.cli.pull import pull_studies
from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.data.pacs import Query, RemoteInstance, RemoteSeries, agrees, answer_keys, parse_query, pull
from fedhelp_med.data.pacs_dimse import ClassicArchive, Peer, parse_peer, tls_context
from fedhelp_med.data.pacs_web import Credentials, WebArchive
from fedhelp_med.data.simulated_scan import Scan, as_series

OPTIONS = {
    "user": None, "password_file": None, "token_file": None, "authority": None, "certificate": None, "plain": False,
    "title": "FEDHELP", "method": "get", "listen": None, "anonymise": False, "key_file": None, "dry_run": False,
}  # fmt: skip


class Shelf:
    """Series in memory, which lose instances on their way or fail."""

    def __init__(self, series, lost=(), failing=()):
        self.series, self.lost, self.failing, self.asked = series, lost, failing, []

    def find(self, query):
        yield from self.series

    def instances(self, series):
        return [RemoteInstance(uid) for uid in self.series[series]]

    def fetch(self, series, instances, whole, store):
        self.asked.append((series.series, len(instances), whole))
        for instance in instances:
            if instance.uid in self.failing:
                raise FedHelpError("the line was cut")
            if instance.uid not in self.lost:
                store(self.series[series][instance.uid])

    def close(self):
        pass


def shelf(modality="US", **options):
    series = {}
    for name in ("a", "b"):
        scan = Scan(np.zeros((3, 4, 4), np.int16), (1, 1, 1), (0, 0, 0))
        slices = [pydicom.dcmread(io.BytesIO(content)) for content in as_series(scan, "site", name, 0).values()]
        kind = modality if name == "b" else "MR"
        remote = RemoteSeries(slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID, kind)
        series[remote] = {str(dataset.SOPInstanceUID): dataset for dataset in slices}
    return Shelf(series, **options)


ALL = Query({}, {"Modality": "MR"})


def test_a_series_that_fails_is_named_and_the_others_come(tmp_path):
    source = shelf()
    bad, good = source.series
    source.failing = list(source.series[bad])[1:]
    report = pull(source, ALL, tmp_path)
    assert report.failed == {bad.series: "the line was cut"}
    assert (report.series, report.fetched) == (2, 4)
    assert len(list((tmp_path / good.study / good.series).iterdir())) == 3
    source.failing = ()
    again = pull(source, ALL, tmp_path)
    assert (again.fetched, again.present, again.failed) == (2, 4, {})
    assert source.asked == [(bad.series, 3, True), (good.series, 3, True), (bad.series, 2, False)]


def test_what_did_not_arrive_is_counted(tmp_path):
    source = shelf()
    first = next(iter(source.series))
    source.lost = list(source.series[first])[:1]
    report = pull(source, ALL, tmp_path)
    assert report.failed == {first.series: "1 of 3 instances did not arrive; repeat the command to go on"}


@pytest.mark.parametrize("modality", ["US", "DX", "MG", "XA"])
def test_series_that_may_show_text_are_pointed_at(modality, tmp_path):
    source = shelf(modality=modality)
    _, other = source.series
    assert pull(source, ALL, tmp_path).look_at == [tmp_path / other.study / other.series]


@pytest.mark.parametrize(
    ("keyword", "value"), [("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), ("BurnedInAnnotation", "YES")]
)
def test_captures_and_declared_text_of_any_modality_are_pointed_at(keyword, value, tmp_path):
    source = shelf(modality="CT")
    _, other = source.series
    instance = list(source.series[other].values())[1]
    setattr(instance, keyword, value)
    instance.file_meta.MediaStorageSOPClassUID = instance.SOPClassUID
    for _ in range(2):  # also where all of it is there already
        assert pull(source, ALL, tmp_path).look_at == [tmp_path / other.study / other.series]


@pytest.mark.parametrize("uid", ["../../etc", "..", "1", "", "1.2/3", "/tmp", "1..2", "1.2\n"])
def test_a_name_that_is_no_uid_never_becomes_a_path(uid, tmp_path):
    source = Shelf({RemoteSeries("1.2.3", uid): {}, RemoteSeries(uid, "1.2.3"): {}})
    report = pull(source, ALL, tmp_path / "out")
    assert set(report.failed) == {uid, "1.2.3"} and all("is not a UID" in why for why in report.failed.values())
    assert not (tmp_path / "out").exists()


def test_instances_that_were_not_asked_for_are_not_written(tmp_path):
    source = shelf()
    a, b = source.series

    def everything(series, instances, whole, store):
        for datasets in source.series.values():
            for dataset in datasets.values():
                store(dataset)

    source.fetch = everything
    assert pull(source, ALL, tmp_path).fetched == 6
    for series in (a, b):
        assert len(list((tmp_path / series.study / series.series).iterdir())) == 3


def test_queries_are_split_by_level():
    query = parse_query(["PatientID=7", "Modality=MR", "StudyDate=20240101-", "SeriesDescription=T1 *"])
    assert query == Query({"PatientID": "7", "StudyDate": "20240101-"}, {"Modality": "MR", "SeriesDescription": "T1 *"})


@pytest.mark.parametrize(
    ("matches", "message"),
    [
        ([], "--match: missing"),
        (["Patient=7"], "'Patient' is not a key"),
        (["PixelData=7"], "is not a key"),
        (["PatientID"], "has no value"),
        (["PatientID= "], "has no value"),
    ],
)
def test_queries_that_are_wrong(matches, message):
    with pytest.raises(InputError, match=message):
        parse_query(matches)


@pytest.mark.parametrize(
    ("wanted", "found", "result"),
    [
        ({"Modality": "MR"}, {"Modality": "MR"}, True),
        ({"Modality": "MR"}, {"Modality": "CT"}, False),
        ({"Modality": "MR"}, {}, True),
        ({"PatientName": "Doe*"}, {"PatientName": "Roe^Richard"}, True),
        ({"Modality": "MR"}, {"Modality": ""}, False),
        ({"Modality": "MR\\CT"}, {"Modality": "CT"}, True),
        ({"PatientID": "a*"}, {"PatientID": "abc"}, True),
        ({"PatientID": "a?"}, {"PatientID": "abc"}, False),
        ({"StudyDate": "20240101-20240630"}, {"StudyDate": "20240630"}, True),
        ({"StudyDate": "20240101-20240630"}, {"StudyDate": "20240701"}, False),
        ({"StudyDate": "-20240630"}, {"StudyDate": "19991231"}, True),
        ({"StudyDate": "20240101-"}, {"StudyDate": "20231231"}, False),
        ({"ModalitiesInStudy": "MR"}, {"ModalitiesInStudy": ["CT", "MR"]}, True),
        ({"ModalitiesInStudy": "MR"}, {"ModalitiesInStudy": ["CT", "US"]}, False),
    ],
)
def test_answers_are_checked_against_the_query(wanted, found, result):
    dataset = Dataset()
    for key, value in found.items():
        setattr(dataset, key, value)
    assert agrees(wanted, dataset) is result


def test_keys_that_are_asked_for_are_empty():
    identifier = answer_keys(("StudyInstanceUID", "PatientID"), {"PatientID": "7"})
    assert identifier.PatientID == "7" and not identifier.StudyInstanceUID


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("dicom://pacs.example:104/ARCHIVE", ("pacs.example", 104, "ARCHIVE", False)),
        ("dicoms://[::1]:2762/A", ("::1", 2762, "A", True)),
    ],
)
def test_classic_addresses(address, expected):
    assert parse_peer(address) == expected


@pytest.mark.parametrize(
    "address", ["dicom://host/A", "dicom://host:104", "dicom://:104/A", "dicom://host:x/A", f"dicom://h:1/{'A' * 17}"]
)
def test_classic_addresses_that_are_wrong(address):
    with pytest.raises(InputError, match="is not the address of a classic archive; write dicom://HOST:PORT/TITLE"):
        parse_peer(address)


def test_credentials_are_not_sent_in_the_open():
    secret = Credentials("user", "pass word")
    with pytest.raises(InputError, match="use https, or accept it") as error:
        WebArchive("http://pacs.example/dicom-web", secret)
    assert "pass word" not in str(error.value) and "pass word" not in repr(secret)
    for url in ("https://pacs.example/dicom-web", "http://127.0.0.1/dicom-web", "http://localhost/dicom-web"):
        WebArchive(url, secret).close()
    WebArchive("http://pacs.example/dicom-web", secret, plain=True).close()
    with pytest.raises(InputError, match=r"the address of pacs\.example holds credentials") as error:
        WebArchive("https://user:secret@pacs.example/", Credentials())
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("wanted", "told", "answer", "found"),
    [
        ({"PatientID": "17"}, {"PatientID": "17"}, {"PatientID": "17"}, True),
        ({"PatientName": "Doe^J*"}, {"PatientName": "Doe^J*"}, {"PatientName": "Doe^Jane"}, True),
        ({"StudyDescription": "knee left"}, {}, {"StudyDescription": "knee left"}, True),
        ({"StudyDescription": "knee left"}, {}, {"StudyDescription": "knee right"}, False),
        ({"StudyDescription": "knee left"}, {}, {}, False),  # neither asked nor told: it may be anybody's
    ],
)
def test_what_is_not_asked_has_to_be_told(wanted, told, answer, found, monkeypatch):
    archive = WebArchive("https://pacs.example/dicom-web")
    asked = []

    def studies(search_filters, offset, **_):
        asked.append(search_filters)
        dataset = Dataset()
        dataset.StudyInstanceUID = "1.2.3"
        for key, value in answer.items():
            setattr(dataset, key, value)
        return [] if offset else [dataset.to_json_dict()]

    series = Dataset()
    series.SeriesInstanceUID = "1.2.3.4"
    monkeypatch.setattr(archive._client, "search_for_studies", studies)
    monkeypatch.setattr(archive._client, "search_for_series", lambda *_, **options: [series.to_json_dict()])
    assert [entry.series for entry in archive.find(Query(wanted, {}))] == (["1.2.3.4"] if found else [])
    assert asked[0] == told


def test_a_move_needs_a_place():
    with pytest.raises(InputError, match="add --listen HOST:PORT"):
        ClassicArchive(Peer("127.0.0.1", 104, "A", method="move"))


def test_certificates_that_are_none(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(InputError, match="not usable"):
        tls_context(tmp_path / "ca.pem", None)


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ("ftp://x", {}, "is no archive"),
        ("https://x", {"user": "a"}, "has no password; set FEDHELP_PACS_PASSWORD"),
        ("https://x", {"key_file": "k"}, "goes with --anonymise"),
        ("https://x", {"authority": "nothing.pem"}, "--ca nothing.pem: this file does not exist"),
        ("https://x", {"password_file": "p"}, "whose password"),
        ("https://x", {"token_file": "nothing"}, "cannot be read"),
        ("dicom://h:104/A", {"method": "move", "listen": "nowhere"}, "is not HOST:PORT"),
    ],
)
def test_options_that_do_not_go_together(source, changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDHELP_PACS_PASSWORD", raising=False)
    (tmp_path / "p").write_text("secret")
    paths = ("key_file", "authority", "password_file", "token_file")
    changes = {
        key: tmp_path.joinpath(value).relative_to(tmp_path) if key in paths else value for key, value in changes.items()
    }
    with pytest.raises(InputError, match=message):
        pull_studies(source, ["PatientID=1"], tmp_path / "out", **OPTIONS | changes)
