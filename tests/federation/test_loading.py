"""A wrong federation file gets one message that names key, value and remedy, and nothing is written."""

import json
import re
import sys

import pytest
import yaml

from fedhelp_med.cli.main import main
from fedhelp_med.common.errors import InputError
from fedhelp_med.federation.loading import load_federation, parse_yaml


def test_the_minimal_file_has_the_documented_defaults(federation_file):
    path = federation_file(preset=None, overrides=None, seed=None, bundle=None, method=None)
    file = load_federation(path).file
    assert (file.seed, file.local_epochs, file.method, file.bundle) == (0, 1, "fedhelp", "fedhelp_classification")
    assert (file.runtime.threads, file.runtime.workers) == (1, 1)
    assert file.aggregation.weighting == "samples"


def test_relative_paths_count_from_the_files_own_folder(federation_file, monkeypatch, tmp_path):
    path = federation_file()
    monkeypatch.chdir("/")
    federation = load_federation(path)
    assert federation.file.sites[0].data == str(tmp_path / "sites/clinic-a/datalist.json")


def test_sites_are_ordered_by_name(federation_file):
    path = federation_file()
    content = yaml.safe_load(path.read_text())
    content["sites"].reverse()
    path.write_text(yaml.safe_dump(content))
    assert [site.name for site in load_federation(path).sites] == ["clinic-a", "clinic-b", "hospital-a", "hospital-b"]


def change(content, key, value):
    *parents, last = key.split(".")
    for parent in parents:
        content = content[int(parent)] if parent.isdigit() else content.setdefault(parent, {})
    place = int(last) if last.isdigit() else last
    if value is None:
        del content[place]
    else:
        content[place] = value


DENSE = "monai.networks.nets.DenseNet"
DENSE_NET = {"_target_": "monai.networks.nets.DenseNet121", "spatial_dims": 2, "in_channels": 1}

WRONG = {
    "unknown key": ("round", 3, r"round: 3: unknown key; did you mean 'rounds'\?"),
    "unknown key inside": ("sites.1.rol", "x", r"\(clinic-b\)\.rol: 'x': unknown key; did you mean 'role'\?"),
    "unknown key far from any": ("zzz", 1, r"zzz: 1: unknown key; known keys are name, seed,"),
    "missing key": ("rounds", None, r"rounds: is missing; add it"),
    "missing path": ("sites.0.data", "nowhere.json", r"sites \(clinic-a\)\.data: .*nowhere\.json.*"),
    "missing public": ("public.data", "nowhere.json", r"public\.data: .*nowhere\.json.*"),
    "ledger without public": ("foundation.ledger", "k.sqlite", r"foundation: .*without a public set.*add public\.data"),
    "unknown role": ("sites.2.role", "medium", r"\(hospital-a\)\.role: 'medium' is unknown; choose 'small' or 'large'"),
    "unknown method": ("method", "fedmagic", r"method: 'fedmagic' is unknown; choose one of .*fedhelp.*"),
    "unknown preset": ("preset", "best", r"preset: 'best' is unknown; choose 'paper' or 'recommended'"),
    "unknown bundle": ("bundle", "spleen", r"bundle: .*spleen.* is neither a shipped bundle \(.*\) nor a folder"),
    "unknown setting": ("settings.aplha", 1, r"settings\.aplha: 1: unknown key"),
    "setting out of range": ("settings.temperature", 0, r"settings\.temperature: 0 is too small; .*more than 0"),
    "unknown weighting": ("aggregation.weighting", "fair", r"\.weighting: 'fair' is unknown; choose 'samples'"),
    "quorum above sites": ("aggregation.minimum_sites", 5, r"minimum_sites: 5 is more than the 4 sites; lower"),
    "duplicate names": ("sites.1.name", "Clinic-A", r"sites\.name: 'clinic-a' is used 2 times; give every site"),
    "unusable name": ("sites.1.name", "../etc", r"'\.\./etc' is not a usable name; use up to 64 letters"),
    "zero rounds": ("rounds", 0, r"rounds: 0 is too small; it has to be at least 1"),
    "negative epochs": ("local_epochs", -1, r"local_epochs: -1 is too small"),
    "text for a number": ("rounds", "ten", r"rounds: 'ten' is not a whole number; write a whole number without quotes"),
    "quoted number": ("rounds", "10", r"rounds: '10' is not a whole number"),
    "fraction for a count": ("rounds", 2.5, r"rounds: 2\.5 is not a whole number"),
    "true for a number": ("rounds", True, r"rounds: True is not a whole number"),
    "text for the sites": ("sites", "all", r"sites: 'all' is not a list; write a list here"),
    "no sites": ("sites", [], r"sites: \[\] is empty; give at least one entry"),
    "text for a site": ("sites.0", "clinic", r"sites\[0\].*'clinic' is not a mapping"),
    "head that does not exist": (
        "roles.small",
        {"network": {**DENSE_NET, "out_channels": 2}, "head": "fc"},
        r"roles\.small\.head: DenseNet121 has no module named 'fc'; name its last layer, one of: .*class_layers\.out",
    ),
    "network that does not exist": (
        "roles.large",
        {"network": {"_target_": "monai.networks.nets.DenseNet9000"}, "head": "fc"},
        r"roles\.large\.network: cannot be built \(.*DenseNet9000.*\); correct its _target_",
    ),
    "network with other classes": (
        "roles.large",
        {
            "network": {**DENSE_NET, "_target_": DENSE, "out_channels": 5, "block_config": [1]},
            "head": "class_layers.out",
        },
        r"roles\.large\.network: gives 5 channels for 2 classes; set out_channels: 2",
    ),
    "override of nothing": (
        "overrides",
        {"batchsize": 4},
        r"overrides\.batchsize: the bundle fedhelp_classification has no 'batchsize'; did you mean 'batch_size'\?",
    ),
    "predictions without public images": ("method", "fedmd", r"method: fedmd exchanges predictions .*add public\.data"),
}  # fmt: skip


def fails(path, tmp_path, capsys, monkeypatch) -> str:
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["fedhelp", "run", str(path), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert stop.value.code == 2, captured
    assert sorted(tmp_path.rglob("*")) == before
    assert captured.out == "" and captured.err.startswith("fedhelp: ")
    assert "Traceback" not in captured.err
    assert (
        str(path) in captured.err or "overrides" in captured.err or "roles" in captured.err or "sites" in captured.err
    )
    return captured.err


@pytest.mark.parametrize("case", WRONG)
def test_wrong_keys(federation_file, tmp_path, capsys, monkeypatch, case):
    key, value, message = WRONG[case]
    path = federation_file()
    content = yaml.safe_load(path.read_text())
    change(content, key, value)
    path.write_text(yaml.safe_dump(content))
    assert re.search(message, fails(path, tmp_path, capsys, monkeypatch).replace("\n", " "))


def rewrite(datalist, edit):
    content = json.loads(datalist.read_text())
    edit(content)
    datalist.write_text(json.dumps(content))


WRONG_DATA = {
    "empty training list": (lambda c: c.update(training=[]), r"sites \(hospital-a\)\.data: .*training.*"),
    "no training list": (lambda c: c.pop("training"), r"sites \(hospital-a\)\.data: .*training.*"),
    "missing image": (lambda c: c["training"][0].update(image="gone.png"), r"gone\.png"),
    "more classes": (lambda c: c["labels"].update({"2": "x"}), r"different numbers of classes .*hospital-a: 3"),
    "other class names": (lambda c: c["labels"].update({"1": "x"}), r"name their classes differently .*`labels`"),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_wrong_datalists(federation_file, tmp_path, capsys, monkeypatch, case):
    edit, message = WRONG_DATA[case]
    path = federation_file()
    rewrite(tmp_path / "sites/hospital-a/datalist.json", edit)
    assert re.search(message, fails(path, tmp_path, capsys, monkeypatch).replace("\n", " "))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [a\nrounds: 1", r"is not valid YAML at line \d+, column \d+"),
        ("name: a\nname: b\nrounds: 1", r"the key 'name' stands twice"),
        ("name: \x01", r"is not valid YAML \(unacceptable character"),
        ("- a\n- b", r"file: \['a', 'b'\] is not a mapping"),
        ("", r"file: None is not a mapping"),
    ],
)
def test_what_is_not_a_federation_file(tmp_path, capsys, monkeypatch, text, message):
    path = tmp_path / "federation.yaml"
    path.write_text(text)
    assert re.search(message, fails(path, tmp_path, capsys, monkeypatch))


def test_no_file_and_a_binary_file(tmp_path):
    with pytest.raises(InputError, match="there is no such federation file; check the path"):
        load_federation(tmp_path / "none.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="cannot be read as text"):
        load_federation(tmp_path / "image.yaml")


def test_all_problems_of_the_keys_are_told_at_once(federation_file):
    path = federation_file(rounds=0, seed="x")
    with pytest.raises(InputError) as error:
        load_federation(path)
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == ["seed", "rounds"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2E5", -2e5),
        ("1.5e3", 1500.0),
        ("'1e-3'", "1e-3"),
        ("1e-3a", "1e-3a"),
        ("0x1e3", 483),
        ("e3", "e3"),
    ],
)
def test_a_number_with_an_exponent_is_a_number(text, value):
    assert parse_yaml(text) == value
