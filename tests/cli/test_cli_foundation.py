"""What `fedhelp foundation` does and says."""

import json

import numpy as np
import pytest
import torch
from conftest import write_site
from torch import nn

from fedhelp_med.cli.foundation_commands import _bytes
from fedhelp_med.cli.main import app
from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation import InputSpec, LocalFoundationModel


class Corner(nn.Module):
    """Tells the class by the brightness of the corner, surely."""

    def forward(self, images):
        bright = images[:, 0, :6, :6].mean((1, 2))
        return torch.stack([torch.zeros_like(bright), 90 * (bright - 0.6)], 1)


@pytest.fixture
def public(tmp_path):
    """A labelled public set of 10 images, and a model beside it."""
    datalist = write_site(tmp_path / "public", training=10, validation=0, testing=0, seed=9)
    content = {key: value for key, value in json.loads(datalist.read_text()).items() if value != []}
    datalist.write_text(json.dumps(content | {"public": True}))
    torch.jit.script(Corner()).save(str(tmp_path / "model.ts"))
    about = {"name": "corner", "version": "1", "classes": ["class 0", "class 1"], "torchscript": "model.ts"}
    about["input"] = InputSpec(1, (16, 16)).to_dict()
    (tmp_path / "foundation.json").write_text(json.dumps(about))
    return datalist


@pytest.fixture
def fedhelp(tmp_path, capsys, public, monkeypatch):
    """Run `fedhelp foundation ...` in the test's folder and return what it prints, on one line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> str:
        app(["foundation", *map(str, arguments)], standalone_mode=False)
        return " ".join(capsys.readouterr().out.split())

    return run


ACQUIRE = ("acquire", "--model", "foundation.json", "--public", "public/datalist.json", "--ledger", "k.sqlite")


def test_from_a_dry_run_to_another_sites_ledger(fedhelp, tmp_path):
    said = fedhelp(*ACQUIRE, "--dry-run", "--batch-size", 4)
    assert "Would be sent: 10 of 10 images in 3 calls, 10.2 kB as float32; nothing leaves this machine" in said
    assert "No private data named" in said
    assert not (tmp_path / "k.sqlite").exists()

    said = fedhelp(*ACQUIRE, "--max-images", 6, "--batch-size", 4, "--concurrency", 2, "--rate", 100)
    assert "k.sqlite: 6 images asked in 2 calls, 6.1 kB" in said
    assert "Stopped at --max-images: 4 images were not dealt with; the same command goes on" in said
    assert "6 of 10 images have an answer of corner 1+sha256." in said
    said = fedhelp(*ACQUIRE)
    assert "4 images asked in 1 call, 4.1 kB" in said and "6 were known already" in said
    assert "Quality on 10 labelled images: accuracy" in said and "Warning" not in said
    assert "0 images asked in 0 calls" in fedhelp(*ACQUIRE)

    said = fedhelp("show", "k.sqlite", "--public", "public/datalist.json")
    assert "k.sqlite: 10 answers corner 1+sha256." in said
    assert "logits (class 0, class 1) of images 1 x 16 x 16" in said
    assert "Cost: 3 calls, 3 requests, 10.2 kB sent, 80 B received" in said
    assert "10 of 10 images have an answer" in said and "calibration error" in said

    assert "k.safetensors: 10 answers of corner 1+sha256." in fedhelp("export", "k.sqlite", "k.safetensors")
    assert "there.sqlite: 10 new answers of corner" in fedhelp("import", "k.safetensors", "there.sqlite")
    assert "0 new answers" in fedhelp("import", "k.safetensors", "there.sqlite")
    assert "there.sqlite: 10 answers, 10 of them imported" in fedhelp("show", "there.sqlite")


def test_a_bad_teacher_is_announced(fedhelp, public):
    content = json.loads(public.read_text())
    for item in content["training"]:
        item["label"] = 1 - item["label"]
    public.write_text(json.dumps(content))
    said = fedhelp(*ACQUIRE)
    assert "Warning: its score -1" in said and "is below 0.2: such a teacher may do more harm than good" in said
    assert "Warning" not in fedhelp(*ACQUIRE, "--minimum-quality", -1)
    assert "Warning" in fedhelp("show", "k.sqlite", "--public", public)


def test_a_good_teacher_below_a_higher_minimum(fedhelp):
    assert "is below 2: " in fedhelp(*ACQUIRE, "--minimum-quality", 2)


def test_without_labels_quality_is_not_known(fedhelp, public):
    content = json.loads(public.read_text())
    content["training"] = [{"image": item["image"]} for item in content["training"]]
    public.write_text(json.dumps(content))
    assert "Quality: not known;" in fedhelp(*ACQUIRE)


def test_a_federation_file_says_what_is_public_and_what_private(fedhelp, federation_file, tmp_path):
    file = federation_file(public={"data": "public/datalist.json"}, foundation={"ledger": "k.sqlite"})
    content = file.read_text().replace("sites/hospital-b/", "/elsewhere/hospital-b/")
    file.write_text(content)
    said = fedhelp("acquire", "--model", "foundation.json", "--federation", file)
    assert "Not on this machine, so not compared: hospital-b" in said
    assert "clinic-a/datalist.json" in said and "10 images asked" in said
    (tmp_path / "public/images/training-4.png").write_bytes(
        (tmp_path / "sites/hospital-a/images/testing-1.png").read_bytes()
    )
    with pytest.raises(InputError, match=r"pixels of the private image .*hospital-a/images/testing-1\.png"):
        fedhelp("acquire", "--model", "foundation.json", "--federation", file)


def test_the_dry_run_ends_with_what_is_refused(fedhelp, tmp_path, capsys):
    private = write_site(tmp_path / "clinic", training=2, validation=0, testing=0, seed=9)  # the public set's first two
    with pytest.raises(InputError, match=r"(?s)guard refuses:\n.*training-0\.png is not sent.*training-1\.png is not"):
        fedhelp(*ACQUIRE, "--dry-run", "--private", private)
    assert "Would be sent: 8 of 10 images" in " ".join(capsys.readouterr().out.split())


def test_an_interruption_says_what_is_kept(fedhelp, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalFoundationModel, "predict", interrupted)
    with pytest.raises(FedHelpError, match=r"stopped; what was answered is in k\.sqlite, and the same command goes on"):
        fedhelp(*ACQUIRE)
    monkeypatch.undo()


@pytest.mark.parametrize("missing", ["--public", "--ledger"])
def test_what_is_needed_is_named(fedhelp, missing):
    place = ACQUIRE.index(missing)
    with pytest.raises(InputError, match=f"{missing} is missing"):
        fedhelp(*ACQUIRE[:place], *ACQUIRE[place + 2 :])


@pytest.mark.parametrize(
    ("text", "number"),
    [("500000", 500_000), ("20MB", 20_000_000), ("1.5 GB", 1_500_000_000), ("3k", 3000), ("7B", 7), (None, None)],
)
def test_sizes_in_words(text, number):
    assert _bytes(text) == number


@pytest.mark.parametrize("text", ["", "MB", "many", "inf", "1.5XB"])
def test_sizes_that_are_none(text):
    with pytest.raises(InputError, match="--max-bytes is"):
        _bytes(text)


def test_the_answers_are_the_models(fedhelp, tmp_path):
    fedhelp(*ACQUIRE)
    from fedhelp_med.foundation import PublicKnowledge

    items = PublicKnowledge(tmp_path / "public/datalist.json", tmp_path / "k.sqlite").items
    assert np.mean([item["knowledge"].argmax() == item["label"] for item in items]) >= 0.9
