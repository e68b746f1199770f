"""What a server says about a model, against its description."""

import pytest
from foundation_phantoms import CLASSES, SPEC

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation import InputSpec, ModelDescription
from fedhelp_med.foundation.negotiation import model_path, negotiate


def tensor(name, shape, datatype="FP32"):
    return {"name": name, "shape": shape, "datatype": datatype}


IMAGE, SCORES = tensor("image", [-1, 3, 8, 8]), tensor("scores", [-1, 2])


def contract(
    inputs=(IMAGE,), outputs=(SCORES,), extensions=("binary_tensor_data",), config=None, model=None, size=None, **names
):
    model = model or ModelDescription("tiny", "1", CLASSES, SPEC)
    metadata = {"inputs": list(inputs), "outputs": list(outputs)}
    return negotiate(
        model, "/v2/models/tiny", extensions, metadata, config or {}, size=size or model.input.size, **names
    )


def test_what_is_agreed():
    agreed = contract(config={"max_batch_size": 16})
    assert (agreed.input_name, agreed.output_name, agreed.datatype) == ("image", "scores", "FP32")
    assert (agreed.binary, agreed.batched, agreed.limit) == (True, True, 16)
    assert contract(config={"max_batch_size": 0}).limit is None
    assert not contract(extensions=["model_configuration"]).binary


def test_free_axes_fit_and_fixed_batches_limit():
    assert contract([tensor("image", [-1, 3, -1, -1])]).limit is None
    assert contract([tensor("image", [-1, -1, 8, 8])]).batched
    assert contract([tensor("image", [1, 3, 8, 8])]).limit == 1


def test_a_model_without_a_batch_axis_gets_one_image_at_a_time():
    agreed = contract([tensor("image", [3, 8, 8])], [tensor("scores", [2])])
    assert (agreed.batched, agreed.limit) == (False, 1)


def test_names_choose_among_several_tensors():
    agreed = contract([IMAGE, tensor("age", [-1, 1])], [SCORES, tensor("features", [-1, 9])], input_name="image",
                      output_name="scores")  # fmt: skip
    assert (agreed.input_name, agreed.output_name) == ("image", "scores")
    agreed = contract([], [], input_name="x", output_name="y")
    assert (agreed.input_name, agreed.output_name, agreed.datatype) == ("x", "y", "FP32")


def test_masks_and_embeddings():
    masks = ModelDescription("tiny", "1", CLASSES, InputSpec(1, (8, 8, 4)), "mask logits")
    given, taken = tensor("image", [-1, 1, 8, 8, 4], "FP16"), tensor("masks", [-1, 2, 8, 8, 4])
    assert contract([given], [taken], model=masks).datatype == "FP16"
    embedding = ModelDescription("tiny", "1", (), SPEC, "embedding")
    assert contract(outputs=[tensor("features", [-1, 512])], model=embedding).output_name == "features"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": []}, "the server does not name its input: give input_name"),
        ({"inputs": [IMAGE, IMAGE | {"name": "other"}]}, "it has the inputs image, other: choose one with input_name"),
        ({"output_name": "logits"}, "output_name is 'logits', the server has scores"),
        ({"inputs": [tensor("image", [-1, 3, 8, 8], "UINT8")]}, "takes UINT8: serve it with one of FP16, FP32, FP64"),
        ({"inputs": [tensor("image", [-1, 192])]}, r"has shape \? x 192, an image 3 x 8 x 8: correct input"),
        ({"inputs": [tensor("image", [-1, 1, 8, 8])]}, "1 channels and not 3: correct input.channels"),
        ({"inputs": [tensor("image", [-1, 8, 8, 3])]}, "8 channels and not 3: serve it with channels first"),
        ({"inputs": [tensor("image", [-1, 3, 16, 8])]}, "takes images of 3 x 16 x 8, not 3 x 8 x 8"),
        ({"inputs": [tensor("image", [4, 3, 8, 8])]}, "exactly 4 images at a time"),
        (
            {"outputs": [tensor("scores", [-1, 14])]},
            r"has 14 channels, the description 2 classes \(no lesion, lesion\)",
        ),
        ({"outputs": [tensor("scores", [-1, 2, 8, 8])]}, r"has shape \? x 2 x 8 x 8, logits have 2 axes"),
    ],
)
def test_another_model_than_described_is_named(changes, message):
    with pytest.raises(InputError, match=f"^model tiny: .*{message}"):
        contract(**changes)


def test_values_that_half_precision_cannot_hold():
    model = ModelDescription("tiny", "1", CLASSES, InputSpec(3, (8, 8), (0, 100_000)))
    with pytest.raises(InputError, match=r"value_range is \(0\.0, 100000\.0\), more than its FP16 input can hold"):
        contract([tensor("image", [-1, 3, 8, 8], "FP16")], model=model)


def test_versions():
    assert model_path("tiny", "2", {"versions": ["1", "2"]}) == "/v2/models/tiny/versions/2"
    assert model_path("tiny", "2026-01", {"versions": []}) == "/v2/models/tiny"
    assert model_path("tiny", "2026-01", {}) == "/v2/models/tiny"
    with pytest.raises(InputError, match="version is '3', the server has 1, 2: name one"):
        model_path("tiny", "3", {"versions": ["1", "2"]})
