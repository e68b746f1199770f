"""The mean training loss of a round."""

import pytest
import torch
from ignite.engine import Engine

from fedhelp_med.handlers import MeanLoss


def test_it_is_the_mean_over_the_iterations_of_the_last_run():
    values = iter([1.0, 2.0, 6.0, 10.0])
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(next(values), requires_grad=True)})
    handler = MeanLoss()
    handler.attach(engine)
    assert handler.average is None
    engine.run([0, 0, 0])
    assert handler.average == pytest.approx(3)
    engine.run([0])
    assert handler.average == pytest.approx(10)  # a new round begins anew


def test_decollated_output_repeats_one_loss_for_every_image():
    engine = Engine(lambda engine, batch: [{"loss": torch.tensor(4.0)}, {"loss": torch.tensor(4.0)}])
    handler = MeanLoss()
    handler.attach(engine)
    engine.run([0])
    assert handler.average == 4
