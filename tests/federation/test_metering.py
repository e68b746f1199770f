"""Arithmetic is counted where it happens."""

import json

import pytest
import torch
from conftest import write_site
from torch import nn

from fedhelp_med.federation.comparison import make_cells, run_cells
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.metering import FlopMeter, forward_flops, read_flops


class Silent:
    def started(self, *_):
        pass

    cell_done = started


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Dropout(), nn.Flatten(), nn.Linear(3 * 16, 5))


CONVOLUTION = 2 * (4 * 4) * 3 * (2 * 3 * 3)
LINEAR = 2 * (3 * 16) * 5


def test_one_image_by_hand():
    assert forward_flops(network(), (2, 4, 4)) == CONVOLUTION + LINEAR


def test_a_forward_with_gradients_counts_three_times():
    one, other, images = network(), network(), torch.zeros(6, 2, 4, 4)
    with FlopMeter(one, other) as meter:
        one(images)
        one(input=images[:1])
        with torch.no_grad():
            other(images)
    one(images)  # no longer counted
    assert meter.flops == (3 * 7 + 6) * (CONVOLUTION + LINEAR)
    assert not one._forward_pre_hooks and not other._forward_pre_hooks


def test_counting_changes_neither_the_mode_nor_a_random_stream():
    counted = network().train()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with FlopMeter(counted) as meter:
        pass
    assert meter.flops == 0
    forward_flops(counted, (2, 4, 4))
    assert torch.rand(1) == expected and counted.training


@pytest.mark.integration
def test_a_run_counts_every_round_of_both_networks(federation_file, tmp_path):
    cells = make_cells(load_federation(federation_file()), ["local", "fedavg", "fedhelp"], 1, tmp_path / "out")
    run_cells(cells, tmp_path / "out", 1, Silent())
    local, fedavg, fedhelp = (
        {site: read_flops(cell.workspace.site(site)) for site in ("clinic-a", "hospital-a")} for cell in cells
    )
    assert fedavg["clinic-a"] == local["clinic-a"] == fedhelp["clinic-a"] > 0
    assert fedavg["hospital-a"] == 2 * fedavg["clinic-a"]  # twelve images, and six
    assert fedhelp["hospital-a"] == fedavg["hospital-a"] + local["hospital-a"]  # the proxy and the large network
    rounds = json.loads((cells[1].workspace.site("clinic-a") / "flops.json").read_text())
    assert list(rounds) == ["1", "2"] and rounds["1"] == rounds["2"]
    assert read_flops(tmp_path) is None


def test_the_predictions_that_fedmd_sends_count_as_well(federation_file, tmp_path):
    write_site(tmp_path / "public", training=8, seed=9)
    path = federation_file(public={"data": "public/datalist.json"}, rounds=1, method="fedmd")
    federation = load_federation(path)
    cells = make_cells(federation, ["local", "fedmd"], 1, tmp_path / "out")
    run_cells(cells, tmp_path / "out", 1, Silent())
    local, fedmd = (read_flops(cell.workspace.site("clinic-a")) for cell in cells)
    # six private images with gradients; no consensus to digest yet, and eight public ones without
    assert fedmd == pytest.approx(local * (3 * 6 + 8) / (3 * 6))


def test_the_fine_tuning_pass_counts_as_well(federation_file, tmp_path):
    cells = make_cells(load_federation(federation_file()), ["fedhelp@settings.choose=true"], 1, tmp_path / "out")
    run_cells(cells, tmp_path / "out", 1, Silent())
    passes = json.loads((cells[0].workspace.site("clinic-a") / "flops.json").read_text())
    assert list(passes) == ["1", "2", "fine-tuning"] and passes["fine-tuning"] == passes["1"]
