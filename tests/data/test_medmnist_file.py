import pickle

import numpy as np
import pytest

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.medmnist_file import read_medmnist


def arrays(**changes):
    content = {}
    for split in ("train", "val", "test"):
        content[f"{split}_images"] = np.zeros((4, 6, 5), np.uint8)
        content[f"{split}_labels"] = np.arange(4, dtype=np.uint8)[:, None] % 3
    content.update(changes)
    return {key: value for key, value in content.items() if value is not None}


def test_reads_a_file(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", **arrays(val_labels=np.array([0, 1, 2, 3])))
    source = read_medmnist(tmp_path / "x.npz")
    assert source.class_count == 4
    assert (source.mode, source.is_volume, source.suffix) == ("L", False, ".png")
    np.testing.assert_array_equal(source.labels["train"], [0, 1, 2, 0])


# changes, then words of the message: the key, its value, the remedy
WRONG = {
    "missing key": ({"val_labels": None}, ["val_labels", "missing", "test_images", "a MedMNIST file has"]),
    "float images": ({"train_images": np.zeros((4, 6, 5))}, ["train_images", "float64", "are uint8"]),
    "flat images": ({"train_images": np.zeros((4, 30), np.uint8)}, ["train_images", "(4, 30)", "N,H,W"]),
    "empty images": ({"train_images": np.zeros((4, 0, 5), np.uint8)}, ["train_images", "(4, 0, 5)", "N,H,W"]),
    "fewer labels": ({"test_labels": np.zeros((3, 1), int)}, ["test_images", "4 images and 3 labels", "one label"]),
    "no studies": (
        {"test_images": np.zeros((0, 6, 5), np.uint8), "test_labels": np.zeros((0, 1), int)},
        ["test_images", "0 images", "at least one image"],
    ),
    "another size": ({"val_images": np.zeros((4, 5, 5), np.uint8)}, ["val_images", "(5, 5)", "(6, 5)", "one shape"]),
    "multi-label": ({"train_labels": np.zeros((4, 14), np.uint8)}, ["train_labels", "14 labels", "not supported"]),
    "fractions": ({"train_labels": np.zeros((4, 1))}, ["train_labels", "float64", "must be integers"]),
    "negative": ({"train_labels": np.full((4, 1), -1)}, ["train_labels", "from -1", "0 to"]),
    "huge": ({"train_labels": np.full((4, 1), 2**40)}, ["train_labels", str(2**40), "0 to"]),
    "objects": ({"train_labels": np.array([{}] * 4)}, ["cannot be read", "download it again"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_gets_one_message(case, tmp_path):
    changes, words = WRONG[case]
    path = tmp_path / "x.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(InputError) as raised:
        read_medmnist(path)
    message = str(raised.value)
    assert "\n" not in message
    assert [word for word in [str(path), *words] if word not in message] == []


def damaged(path):
    np.savez_compressed(path, **arrays(train_images=np.random.default_rng(0).integers(0, 255, (4, 60, 50), np.uint8)))
    return path.read_bytes()


@pytest.mark.parametrize("case", ["text", "empty", "half", "flipped", "pickle", "array"])
def test_damaged_files_get_one_message(case, tmp_path):
    path = tmp_path / "x.npz"
    whole = damaged(path)
    flipped = whole[:3000] + bytes(byte ^ 255 for byte in whole[3000:3100]) + whole[3100:]
    content = {
        "text": b"not an archive",
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "flipped": flipped,
        "pickle": pickle.dumps({"train_images": 1}),
    }
    if case == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(content[case])
    with pytest.raises(InputError, match=r"x\.npz: .*(download it again|give a MedMNIST)") as raised:
        read_medmnist(path)
    assert "\n" not in str(raised.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"x\.npz: this MedMNIST file does not exist; correct the path"):
        read_medmnist(tmp_path / "x.npz")
