"""The Open Inference Protocol client, adapters and their descriptions, against a small server."""

import base64
import json
import threading

import numpy as np
import pytest
from foundation_phantoms import CLASSES, SPEC
from foundation_server import HEADER_LENGTH, OipServer, as_json, reset, scores_of, silence
from triton_service import script_of_docs

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation import FoundationModel, LocalFoundationModel, open_model
from fedhelp_med.foundation.rest import RestModel
from fedhelp_med.foundation.transport import Request

BATCH = np.random.default_rng(0).random((5, *SPEC.shape), dtype=np.float32)


@pytest.fixture
def opened(tmp_path):
    """Open the model of a server by a foundation.json; keywords change its keys (None removes one)."""
    models = []

    def make(server, **changes):
        content = {
            "kind": "oip",
            "url": server.url,
            "model": "tiny",
            "version": "1",
            "classes": list(CLASSES),
            "input": SPEC.to_dict(),
            "first_pause": 0.001,
        } | changes
        file = tmp_path / "foundation.json"
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        models.append(open_model(file))
        return models[-1]

    yield make
    for model in models:
        model.close()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", ["FP32", "FP16", "FP64"])
def test_answers_by_negotiation(opened, binary, datatype):
    with OipServer(binary=binary, datatype=datatype) as server:
        model = opened(server)
        assert isinstance(model, FoundationModel)
        assert server.requests == []  # nothing is sent before there is an image to ask about
        answer = model.predict(BATCH)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, scores_of(BATCH)[:, :2], atol=1e-3 if datatype == "FP16" else 1e-6)
    assert (HEADER_LENGTH in server.requests[-1][2]) == binary
    assert model.contract().binary == binary


def test_batches_are_as_large_as_both_sides_allow(opened):
    with OipServer(maximum=2) as server:
        model = opened(server)
        attempts = []
        model.on_attempt = attempts.append
        np.testing.assert_allclose(model.predict(BATCH), scores_of(BATCH)[:, :2], atol=1e-6)
        assert [attempt.images for attempt in attempts if attempt.images] == [2, 2, 1]
        assert opened(server, batch_size=1).batch_limit() == 1
    assert all(attempt.sent_bytes > attempt.images * 4 * 192 for attempt in attempts if attempt.images)
    assert all(attempt.received_bytes > 0 and attempt.seconds > 0 for attempt in attempts)


def test_one_image_at_a_time_where_there_is_no_batch_axis(opened):
    with OipServer(shape=[3, 8, 8]) as server:
        np.testing.assert_allclose(opened(server).predict(BATCH), scores_of(BATCH)[:, :2], atol=1e-6)
        assert server.asked == len(BATCH)


def test_rows_first(opened):
    wide = {"channels": 3, "size": [8, 6]}
    batch = BATCH[..., :6]
    with OipServer(shape=[-1, 3, 6, 8]) as server:
        model = opened(server, input=wide, rows_first=True)
        model.predict(batch)
        np.testing.assert_array_equal(np.stack(server.images), batch.swapaxes(2, 3))
        assert model.version == "1+rows-first"  # the answers are others
        with pytest.raises(InputError, match="takes images of 3 x 6 x 8, not 3 x 8 x 6"):
            opened(server, input=wide).predict(batch)


def test_the_version_that_is_asked(opened):
    with OipServer() as server:
        opened(server, version="2").predict(BATCH)
        assert server.requests[-1][1] == "/v2/models/tiny/versions/2/infer"
        with pytest.raises(InputError, match="version is '3', the server has 1, 2"):
            opened(server, version="3").predict(BATCH)
        server.versions = []
        opened(server, version="of May").predict(BATCH)
        assert server.requests[-1][1] == "/v2/models/tiny/infer"


def test_another_model_is_refused_before_an_image_leaves(opened):
    with OipServer(classes=3) as server:
        with pytest.raises(InputError, match="has 3 channels, the description 2 classes"):
            opened(server).predict(BATCH)
        with pytest.raises(InputError, match=r"it answers 404 \(unknown model\); check url, model and version"):
            opened(server, model="huge", name="tiny").predict(BATCH)
        with pytest.raises(FedHelpError, match=r"takes images of shape \(3, 8, 8\), not \(1, 8, 8\)"):
            opened(server).predict(BATCH[:, :1])
        assert server.images == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"inputs": [{"shape": [1]}]},
        {"inputs": "all"},
        {"inputs": [{"name": "x", "shape": 3}], "outputs": [{"name": "y"}]},
    ],
)
def test_metadata_that_make_no_sense(opened, metadata):
    with OipServer() as server:
        server.acts_on_all = True
        server.acts = [lambda handler, answer: answer, *[lambda handler, answer: as_json(metadata)] * 9]
        with pytest.raises(InputError, match="do not follow the Open Inference Protocol"):
            opened(server, version="1").predict(BATCH)


def test_threads_share_a_client(opened):
    with OipServer() as server:
        model = opened(server)
        answers = {}
        threads = [
            threading.Thread(target=lambda part=part: answers.update({part: model.predict(BATCH[part : part + 1])}))
            for part in range(len(BATCH))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(path == "/v2" for _, path, _ in server.requests) == 1
    np.testing.assert_allclose(np.concatenate([answers[part] for part in range(5)]), scores_of(BATCH)[:, :2], atol=1e-6)


def test_closing_wakes_those_who_wait(opened):
    with OipServer() as server:
        for act, options in ((silence, {}), (reset, {"first_pause": 60.0})):
            model = opened(server, **options)
            model.contract()
            server.acts = [act]
            waiting = threading.Event()
            server.on_request = waiting.set
            model.on_attempt = lambda attempt: None
            errors = []

            def ask(model=model, errors=errors):
                with pytest.raises(FedHelpError, match="closed") as error:
                    model.predict(BATCH)
                errors.append(error)

            thread = threading.Thread(target=ask)
            thread.start()
            assert waiting.wait(10)
            model.close()
            thread.join(10)
            assert len(errors) == 1


def test_a_proxy_is_asked_for_addresses_outside(opened, monkeypatch):
    with OipServer() as server:
        for name in ("http_proxy", "no_proxy"):
            monkeypatch.delenv(name.upper(), raising=False)
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", server.url)
        outside = type("Outside", (), {"url": "http://model.example"})
        np.testing.assert_allclose(opened(outside).predict(BATCH), scores_of(BATCH)[:, :2], atol=1e-6)
        assert server.asked == 1


class ScoreModel(RestModel):
    """The adapter of a service with an API of its own."""

    def encode(self, batch):
        body = json.dumps({"images": batch.tolist(), "scale": self.options["scale"]}).encode()
        return Request("POST", "/score", body, {"Content-Type": "application/json"}, len(batch))

    def decode(self, reply, images):
        return np.array(json.loads(reply.body)["scores"], dtype=np.float32)


class ScoreServer(OipServer):
    def infer(self, path, body, headers):
        content = json.loads(body)
        assert path == "/score"
        return as_json({"scores": (content["scale"] * scores_of(np.array(content["images"]))[:, :2]).tolist()})


def test_an_adapter_for_another_service(opened):
    with ScoreServer() as server:
        adapter = {"kind": "rest", "adapter": f"{__name__}.ScoreModel", "name": "scorer", "model": None}
        model = opened(server, batch_size=2, options={"scale": 2.0}, **adapter)
        server.acts = [reset, lambda handler, answer: as_json({"scored": []})]
        np.testing.assert_allclose(model.predict(BATCH), 2 * scores_of(BATCH)[:, :2], atol=1e-6)
        assert server.asked == 5  # two of three parts, one of them three times
        assert (model.name, model.version, model.kind) == ("scorer", "1", "logits")


class CloudServer(OipServer):
    def infer(self, path, body, headers):
        content = json.loads(body)
        images = [np.frombuffer(base64.b64decode(image), np.float32) for image in content["images"]]
        assert (path, content["task"]) == ("/score", "lesions")
        return as_json({"scores": scores_of(np.stack(images).reshape(-1, *content["shape"]))[:, :2].tolist()})


def test_the_adapter_of_the_page(opened, tmp_path, monkeypatch):
    script_of_docs("cloud_model.py", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with CloudServer() as server:
        adapter = {"kind": "rest", "adapter": "cloud_model.CloudModel", "name": "cloud", "model": None}
        model = opened(server, options={"task": "lesions"}, **adapter)
        np.testing.assert_allclose(model.predict(BATCH), scores_of(BATCH)[:, :2], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "ftp://x"}, "url is 'ftp://x'"),
        ({"version": None}, "'version' is missing"),
        ({"version": 1}, "version is 1: .*string"),
        ({"classes": "a, b"}, "classes is 'a, b'"),
        ({"input": {"channels": 3}}, "input lacks 'size'"),
        ({"knowledge": "labels"}, "knowledge is 'labels'"),
        ({"modle": "tiny"}, "unknown key 'modle': use .*model"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"token": "s3cret"}, "holds a token: a secret has no place there"),
        ({"token_env": "A", "token_file": "b"}, "name one of them"),
        ({"ca": "gone.pem", "url": "https://127.0.0.1:1"}, r"gone\.pem', which cannot be used"),
        ({"kind": "rest", "model": None, "name": "x", "adapter": "no.such.Adapter"}, "cannot be imported"),
        ({"kind": "rest", "model": None, "name": "x", "adapter": "Adapter"}, "cannot be imported"),
        ({"kind": "rest", "model": None, "name": "x", "adapter": "json.JSONDecoder"}, "is no RestModel"),
    ],
)
def test_a_wrong_description_is_named(opened, changes, message):
    server = type("Nowhere", (), {"url": "http://127.0.0.1:1"})
    with pytest.raises(InputError, match=f"foundation.json.*{message}") as error:
        opened(server, **changes)
    assert "s3cret" not in str(error.value)


def test_paths_count_from_the_description(opened, tmp_path):
    (tmp_path / "token").write_text("s3cret")
    with OipServer(token="s3cret") as server:
        opened(server, token_file="token").predict(BATCH)
        assert server.requests[-1][2]["Authorization"] == "Bearer s3cret"


def test_an_address_alone_is_no_description():
    with pytest.raises(InputError, match=r"tells neither the classes nor the input .* write a foundation\.json"):
        open_model("https://model.example/v2/models/tiny")


def test_what_runs_here_is_opened_as_before(tmp_path):
    import torch

    torch.jit.trace(torch.nn.Flatten(), torch.from_numpy(BATCH)).save(tmp_path / "foundation.ts")
    content = {"name": "flat", "version": "1", "classes": [], "input": SPEC.to_dict(), "kind": "embedding"}
    (tmp_path / "foundation.json").write_text(json.dumps({**content, "torchscript": "foundation.ts"}))
    assert isinstance(open_model(tmp_path), LocalFoundationModel)
    with pytest.raises(InputError, match="does not exist"):
        open_model(tmp_path / "gone")
