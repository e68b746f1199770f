"""A site's state survives the disk to the bit."""

import pytest
import torch

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.federation.state import load_state, load_tensors, save_state, save_tensors


def test_an_optimiser_continues_to_the_bit(tmp_path):
    def trained(steps, state=None):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, weight_decay=0.01)
        if state:
            layer.load_state_dict(state["layer"])
            optimizer.load_state_dict(state["optimizer"])
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
        return layer, optimizer

    layer, optimizer = trained(3)
    save_state(tmp_path, {"layer": layer.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "none": None})
    state = load_state(tmp_path)
    assert (state["epoch"], state["none"]) == (3, None)
    continued, _ = trained(2, state)
    undisturbed, _ = trained(5)
    assert torch.equal(continued.weight, undisturbed.weight)


def test_tensors_that_share_memory_and_views_are_kept(tmp_path):
    whole = torch.arange(6.0)
    save_tensors(tmp_path / "t.safetensors", {"whole": whole, "view": whole[::2], "again": whole})
    loaded = load_tensors(tmp_path / "t.safetensors")
    assert torch.equal(loaded["view"], torch.tensor([0.0, 2.0, 4.0])) and torch.equal(loaded["again"], whole)


def test_what_cannot_be_kept_is_named(tmp_path):
    with pytest.raises(TypeError, match="state/a/0: a object"):
        save_state(tmp_path, {"a": [object()]})


@pytest.mark.parametrize("damage", [b"", b"not safetensors at all", None])
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / "t.safetensors"
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(FedHelpError, match=r"t\.safetensors: cannot be read"):
        load_tensors(path)
