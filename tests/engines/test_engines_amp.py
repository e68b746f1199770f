"""Mixed precision: one GradScaler, two optimisers. What needs CUDA is skipped without it."""

import copy
import math
from typing import Any

import pytest
import torch
from engines_toys import alone, large_network, make_batches, proxy_network, same, together
from monai.engines.utils import IterationEvents

from fedhelp_med.engines import LARGE_LOSS, LARGE_PRED
from fedhelp_med.handlers import ForwardDistillation, RankingDistillation


@pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning", "ignore:.*CUDA is not available")
@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA, amp really mixes precisions")
def test_amp_without_cuda_changes_nothing_as_in_monais_trainer() -> None:
    proxy, large, batches = proxy_network(), large_network(), make_batches()
    expected = copy.deepcopy(proxy), copy.deepcopy(large)
    for network in expected:
        alone(network, batches, amp=True).run()
    trainer = together(proxy, large, batches, amp=True)
    trainer.run()
    assert not trainer.scaler.is_enabled()
    assert same(proxy, expected[0])
    assert same(large, expected[1])
    assert trainer.state.output["pred"].dtype == torch.float32


def use_a_scaler_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let amp scale losses where there is no CUDA: torch's own GradScaler, of which MONAI makes one in ``run``."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: scaler)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_one_scaler_serves_both_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, large, batches = proxy_network(), large_network(), make_batches()
    expected = copy.deepcopy(proxy), copy.deepcopy(large)
    together(*expected, batches).run()
    use_a_scaler_of_the_cpu(monkeypatch)
    trainer, scaled = together(proxy, large, batches, amp=True), []

    @trainer.on(IterationEvents.BACKWARD_COMPLETED)
    def _(engine: Any) -> None:
        scaled.append(max(p.grad.abs().max().item() for n in (proxy, large) for p in n.parameters()))

    trainer.run()
    assert trainer.scaler.is_enabled()
    assert min(scaled) > 2  # the gradients were 1024 times as large until the scaler's step
    assert same(proxy, expected[0])  # a power of two costs no bit
    assert same(large, expected[1])


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_an_overflow_skips_the_step_of_its_network_only(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, large, batches = proxy_network(), large_network(), make_batches(1)
    initial = copy.deepcopy(proxy), copy.deepcopy(large)
    use_a_scaler_of_the_cpu(monkeypatch)
    trainer = together(proxy, large, batches, amp=True, max_epochs=1)

    @trainer.on(IterationEvents.BACKWARD_COMPLETED)
    def _(engine: Any) -> None:
        next(proxy.parameters()).grad[0] = math.inf

    trainer.run()
    assert all(torch.equal(a, b) for a, b in zip(proxy.parameters(), initial[0].parameters(), strict=True))
    assert not same(large, initial[1])
    assert trainer.scaler.get_scale() == 2.0**9  # one update: halved once


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning")
def test_amp_on_cuda_trains_both_networks_near_full_precision() -> None:
    proxy, large, batches = proxy_network().cuda(), large_network().cuda(), make_batches()
    expected = copy.deepcopy(proxy), copy.deepcopy(large)
    initial = copy.deepcopy(proxy), copy.deepcopy(large)
    handlers = [ForwardDistillation(1.0), RankingDistillation(0.2)]
    together(*expected, batches, device="cuda", train_handlers=[copy.deepcopy(h) for h in handlers]).run()

    trainer, types = together(proxy, large, batches, device="cuda", amp=True, train_handlers=handlers), set()

    @trainer.on(IterationEvents.FORWARD_COMPLETED)
    def _(engine: Any) -> None:
        types.update({engine.state.output["pred"].dtype, engine.state.output[LARGE_PRED].dtype})

    trainer.run()
    assert types == {torch.float16}
    assert trainer.scaler.is_enabled()
    for network, wanted, before in zip((proxy, large), expected, initial, strict=True):
        assert not same(network, before)
        for value, reference in zip(network.parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(value, reference, atol=0.05, rtol=0.05)
    assert math.isfinite(trainer.state.output["loss"].item() + trainer.state.output[LARGE_LOSS].item())
