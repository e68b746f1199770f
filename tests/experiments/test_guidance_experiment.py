"""The experiment on the worth of guidance, from its data to its table, in small."""

import dataclasses
import io
import zipfile
from pathlib import Path

import guidance
import numpy as np
import pytest
from mask_sites import write_crops
from PIL import Image

pytestmark = pytest.mark.integration


def write_medmnist(path: Path) -> Path:
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 160), ("val", 40), ("test", 12)):
        arrays[f"{split}_images"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez(path, **arrays)
    return path


def write_pictures(path: Path) -> Path:
    random = np.random.default_rng(1)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("Hand", "HeadCT", "CXR"):
            for index in range(6):
                picture = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (64, 64), np.uint8)).save(picture, "JPEG")
                archive.writestr(f"pictures/{name}/{index}.jpeg", picture.getvalue())
    return path


def pneumonia(folder: Path) -> tuple[Path, Path]:
    return write_medmnist(folder / "data.npz"), write_pictures(folder / "far.zip")


def cells(folder: Path) -> tuple[Path, Path]:
    return write_crops(folder / "stain", 80), write_crops(folder / "other", 60)


@pytest.mark.parametrize("inputs", [pneumonia, cells])
def test_every_condition_is_run_once_and_stands_in_the_table(inputs, tmp_path, monkeypatch, capsys):
    name = inputs.__name__
    quick = {"warm_start": 2, "server_steps": 1}
    task = guidance.TASKS[name]
    fewer = {"epoch_size": 4} if inputs is cells else {}
    task = dataclasses.replace(task, images=(2,), overrides=task.overrides | fewer)
    for key, value in {"ROUNDS": 1, "SETTINGS": quick, "STEPS": {"good": 2, "mediocre": 1}}.items():
        monkeypatch.setattr(guidance, key, value)
    monkeypatch.setitem(guidance.TASKS, name, task)
    data, far = inputs(tmp_path)
    out = tmp_path / "worth"
    monkeypatch.setattr("sys.argv", ["guidance.py", name, str(data), str(far), str(out), "--seeds", "1"])
    guidance.main()
    table = (out / "guidance.md").read_text()
    assert [line.split("|")[1:4] for line in table.splitlines()[2:]] == [
        [" 2 ", " far ", " good "],
        [" 2 ", " far ", " mediocre "],
        [" 2 ", " near ", " good "],
        [" 2 ", " near ", " mediocre "],
    ]
    conditions = ("local", "none", "near-good", "near-mediocre", "far-good", "far-mediocre")
    folders = [guidance.cell(out, 2, condition, 0) for condition in conditions]
    assert capsys.readouterr().out.count("/cells/") == len(folders)
    for cell in folders:
        results = guidance.deployed(cell)
        assert results.shape == (4,) and np.isfinite(results).all()
        assert (cell / "reference").is_symlink() == (cell.parent.name != "local")

    guidance.main()  # nothing is run again
    assert "/cells/" not in capsys.readouterr().out
    assert (out / "guidance.md").read_text() == table
