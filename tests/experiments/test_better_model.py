"""The experiment on a better model: its federation differs from the demo's in the model's answers only."""

import json
from pathlib import Path

import better_model
import pytest
import yaml

from fedhelp_med.data import make_tissue_sites
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.foundation import acquire, load_local_model, train_stand_in
from fedhelp_med.foundation.ledger import Ledger

pytestmark = pytest.mark.integration

FEW = {
    "small_sites": 1,
    "large_sites": 1,
    "small_training": 2,
    "large_training": 2,
    "small_validation": 2,
    "large_validation": 2,
    "testing": 2,
    "public": 4,
    "foundation": 4,
    "foundation_validation": 2,
}


def test_the_federation_differs_in_the_models_answers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "tissue" / "data"
    made = make_tissue_sites(data, seed=0, **FEW)
    model = train_stand_in(made.foundation, data / "foundation", seed=0, steps=1, batch_size=2, threads=1)
    acquire(made.public, load_local_model(model), data / "knowledge.sqlite")
    content = {
        "name": "tissue",
        "method": "fedhelp",
        "preset": "recommended",
        "rounds": 1,
        "bundle": "fedhelp_segmentation",
        "public": {"data": "public/datalist.json"},
        "foundation": {"ledger": "knowledge.sqlite"},
        "sites": [
            {"name": site.name, "role": site.role, "data": str(site.datalist.relative_to(data))} for site in made.sites
        ],
    }
    (data / "federation.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("sys.argv", ["better_model.py", str(tmp_path / "tissue"), "3"])
    better_model.main()
    assert "dice_mean 0." in capsys.readouterr().out

    longer = load_federation(data / "federation-3.yaml")
    before = load_federation(data / "federation.yaml")
    without = {"foundation": None}
    assert before.file.model_copy(update=without) == longer.file.model_copy(update=without)
    for steps, folder, ledger in ((1, "foundation", "knowledge"), (3, "foundation-3", "knowledge-3")):
        assert json.loads((data / folder / "foundation.json").read_text())["provenance"]["steps"] == steps
        with Ledger(data / f"{ledger}.sqlite", readonly=True) as filled:
            assert filled.summary().images == FEW["public"]
