"""Every public image is asked once; what the model gets wrong is refused."""

import json
import shutil

import numpy as np
import pytest
from foundation_phantoms import CountingNetwork, make_model, write_image, write_public
from torch import nn

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation import InputSpec, Ledger, acquire, content_key


@pytest.fixture
def path(tmp_path):
    return tmp_path / "knowledge.sqlite"


def test_what_is_acquired_is_what_the_model_answers(tmp_path, path):
    datalist = write_public(tmp_path, range(7))
    network, seen = CountingNetwork(), []
    summary = acquire(datalist, make_model(network), path, batch_size=3, progress=lambda *done: seen.append(done))
    assert (summary.asked, summary.already_known, summary.calls) == (7, 0, 3)
    assert network.batches == [3, 3, 1]
    assert seen == [(3, 7), (6, 7), (7, 7)]
    model = make_model()
    with Ledger(path, readonly=True) as ledger:
        for file in (tmp_path / "images").iterdir():
            pixels = model.input.preprocess(file)
            answer = ledger.answers([content_key(pixels, model)]).popitem()[1]
            np.testing.assert_allclose(answer, model.predict(pixels[None])[0], atol=1e-6)


def test_a_second_acquisition_asks_nothing(tmp_path, path):
    datalist = write_public(tmp_path)
    acquire(datalist, make_model(), path)
    network = CountingNetwork()
    summary = acquire(datalist, make_model(network), path)
    assert (summary.asked, summary.already_known, summary.calls) == (0, 6, 0)
    assert network.batches == []


def test_copies_are_asked_once(tmp_path, path):
    datalist = write_public(tmp_path, [1, 2, 1, 3, 3, 2, 1])
    network = CountingNetwork()
    summary = acquire(datalist, make_model(network), path, batch_size=2)  # copies within a batch and across
    assert (summary.asked, summary.already_known) == (3, 4)
    assert sum(network.batches) == 3


def test_other_places_are_not_other_images(tmp_path, path):
    datalist = write_public(tmp_path / "here")
    acquire(datalist, make_model(), path)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert acquire(tmp_path / "there" / "datalist.json", make_model(), path).asked == 0


def test_changed_pixels_or_another_version_are_asked_again(tmp_path, path, monkeypatch):
    datalist = write_public(tmp_path)
    monkeypatch.setattr("fedhelp_med.foundation.addresses.SETTLED_SECONDS", -1e9)  # so that keys are remembered
    acquire(datalist, make_model(), path)
    write_image(tmp_path / "images" / "training-002.nii.gz", seed=99)
    network = CountingNetwork()
    assert acquire(datalist, make_model(network), path).asked == 1
    assert network.batches == [1]
    assert acquire(datalist, make_model(version="2"), path).asked == 6


class CountingSpec(InputSpec):
    """Remembers what it read."""

    def fit(self, pixels):
        READ.append(pixels)
        return super().fit(pixels)


READ: list[np.ndarray] = []


def test_known_files_are_not_read_again(tmp_path, path, monkeypatch):
    datalist = write_public(tmp_path)
    model = make_model(spec=CountingSpec(3, (8, 8)))
    acquire(datalist, model, path)  # the files are too young to be remembered
    monkeypatch.setattr("fedhelp_med.foundation.addresses.SETTLED_SECONDS", -1e9)
    for reads in (6, 0):
        READ.clear()
        assert acquire(datalist, model, path).asked == 0
        assert len(READ) == reads


def test_only_training_items_are_read(tmp_path, path):
    datalist = write_public(tmp_path, range(2), validation=[10], testing=[11])
    for split in ("validation", "testing"):
        (tmp_path / "images" / f"{split}-000.nii.gz").write_bytes(b"reading this would fail")
    assert acquire(datalist, make_model(), path).asked == 2


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (CountingNetwork(classes=3), "3 channels, but has 2 classes"),
        (CountingNetwork(fill=float("nan")), "not finite"),
        (nn.Flatten(0), "axes"),
        (nn.Linear(5, 2), "failed on 6 images"),
    ],
)
def test_unusable_answers_are_refused_and_nothing_is_kept(tmp_path, path, network, message):
    datalist = write_public(tmp_path)
    with pytest.raises(FedHelpError, match=message):
        acquire(datalist, make_model(network), path)
    with Ledger(path, readonly=True) as ledger:
        summary = ledger.summary()
    assert (summary.images, summary.calls, summary.failed, summary.uncertain) == (0, 1, 1, 0)
    assert acquire(datalist, make_model(version="mended"), path).asked == 6


def test_batches_before_a_failure_are_kept(tmp_path, path):
    class Failing(CountingNetwork):
        def forward(self, images):
            if len(self.batches) == 2:
                raise RuntimeError("out of memory")
            return super().forward(images)

    datalist = write_public(tmp_path)
    with pytest.raises(FedHelpError, match="out of memory"):
        acquire(datalist, make_model(Failing()), path, batch_size=2)
    summary = acquire(datalist, make_model(), path, batch_size=2)
    assert (summary.asked, summary.already_known) == (2, 4)


def test_an_interruption_stays_visible(tmp_path, path):
    class Interrupted(CountingNetwork):
        def forward(self, images):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        acquire(write_public(tmp_path), make_model(Interrupted()), path)
    with Ledger(path, readonly=True) as ledger:
        assert ledger.summary().uncertain == 1


def test_an_image_that_cannot_be_read_is_named(tmp_path, path):
    datalist = write_public(tmp_path)
    content = json.loads(datalist.read_text())
    file = tmp_path / content["training"][4]["image"]
    file.write_bytes(b"no image")
    with pytest.raises(InputError, match=file.name):
        acquire(datalist, make_model(), path, batch_size=2)
    write_image(file, seed=4)
    assert acquire(datalist, make_model(), path, batch_size=2).asked == 2


def test_wrong_batch_size(tmp_path, path):
    with pytest.raises(InputError, match="batch_size is 0"):
        acquire(write_public(tmp_path), make_model(), path, batch_size=0)
    assert not path.exists()
