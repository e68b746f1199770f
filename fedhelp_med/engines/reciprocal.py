"""Training a large network and its proxy side by side (arXiv 2412.19654, asymmetrical dual distillation)."""

from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.optim import Optimizer

from fedhelp_med.common.errors import InputError

LARGE_PRED = "large_pred"
"""Key of the large network's logits in ``engine.state.output``."""

LARGE_LOSS = "large_loss"
"""Key of the large network's loss in ``engine.state.output``."""


class ReciprocalTrainer(SupervisedTrainer):  # type: ignore[misc]
    """Trains a proxy and a large network on the same batches; handlers let them teach each other.

    ``network`` is the *proxy*: it is what MONAI's FL client reads and sends. ``large_network`` never leaves the
    site. Each iteration runs one forward of each network, fires ``FORWARD_COMPLETED``, computes both task losses
    (``Keys.LOSS`` for the proxy, ``LARGE_LOSS`` for the large network) and fires ``LOSS_COMPLETED``: there
    ``ForwardDistillation`` and ``RankingDistillation`` add their terms. Without handlers both train as if alone: the
    two graphs share no tensor, so one backward of the sum gives each network the gradient of its own loss.

    With ``amp`` (CUDA only) one ``GradScaler`` serves both optimisers.

    Args:
        large_network: the site's personal network; must not share a parameter with ``network``.
        large_optimizer: its optimiser.
        kwargs: those of ``monai.engines.SupervisedTrainer``; ``network`` and ``optimizer`` are the proxy's.

    Raises:
        InputError: when the two networks share a parameter, or gradient accumulation or ``compile`` is asked for.
    """

    def __init__(self, *, large_network: nn.Module, large_optimizer: Optimizer, **kwargs: Any) -> None:
        for option, neutral in (("accumulation_steps", 1), ("compile", False)):
            if kwargs.get(option, neutral) != neutral:
                raise InputError(
                    f"ReciprocalTrainer: {option}={kwargs[option]!r} is not supported; leave it at {neutral!r}"
                )
        super().__init__(**kwargs)
        own = {id(parameter) for parameter in self.network.parameters()}
        if any(id(parameter) in own for parameter in large_network.parameters()):
            raise InputError("ReciprocalTrainer: large_network shares parameters with network; build it separately")
        self.large_network = large_network
        self.large_optimizer = large_optimizer

    def _iteration(self, engine: Any, batchdata: dict[str, Tensor]) -> dict[str, Any]:
        """One step of both networks; ``engine.state.output`` gets IMAGE, LABEL and both PRED and LOSS."""
        if batchdata is None:
            raise ValueError("Must provide batch data for current iteration.")
        batch = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        inputs, targets, args, kwargs = batch if len(batch) == 4 else (*batch, (), {})
        output: dict[str, Any] = {Keys.IMAGE: inputs, Keys.LABEL: targets}
        engine.state.output = output

        optimizers = (engine.optimizer, engine.large_optimizer)
        for network in (engine.network, engine.large_network):
            network.train()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=engine.optim_set_to_none)

        scaler = engine.scaler if engine.amp else None
        with torch.autocast("cuda", enabled=scaler is not None, **engine.amp_kwargs):
            output[Keys.PRED] = engine.inferer(inputs, engine.network, *args, **kwargs)
            output[LARGE_PRED] = engine.inferer(inputs, engine.large_network, *args, **kwargs)
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            output[Keys.LOSS] = engine.loss_function(output[Keys.PRED], targets).mean()
            output[LARGE_LOSS] = engine.loss_function(output[LARGE_PRED], targets).mean()
            engine.fire_event(IterationEvents.LOSS_COMPLETED)

        total = output[Keys.LOSS] + output[LARGE_LOSS]
        (total if scaler is None else scaler.scale(total)).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        for optimizer in optimizers:
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
        if scaler is not None:
            scaler.update()

        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output  # type: ignore[no-any-return]
