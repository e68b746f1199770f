"""What a client keeps over a restart, and which weights from outside fit its network."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.engines import ReciprocalTrainer


def trainer_state(trainer: Any, handlers: Sequence[Any]) -> dict[str, Any]:
    """Return networks, optimisers, auxiliary heads and counters of a trainer with the method's handlers.

    MONAI makes a new gradient scaler for every run of a trainer, so there is none to keep.
    """
    state: dict[str, Any] = {
        "epoch": trainer.state.epoch,
        "iteration": trainer.state.iteration,
        "network": trainer.network.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "handlers": [handler.state_dict() if hasattr(handler, "state_dict") else None for handler in handlers],
    }
    if isinstance(trainer, ReciprocalTrainer):
        state["large_network"] = trainer.large_network.state_dict()
        state["large_optimizer"] = trainer.large_optimizer.state_dict()
    return state


def restore_trainer(trainer: Any, handlers: Sequence[Any], state: Mapping[str, Any]) -> None:
    """Continue from what ``trainer_state`` returned."""
    trainer.state.epoch, trainer.state.iteration = state["epoch"], state["iteration"]
    trainer.network.load_state_dict(state["network"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    for handler, content in zip(handlers, state["handlers"], strict=True):
        if content is not None:
            handler.load_state_dict(content)
    if isinstance(trainer, ReciprocalTrainer):
        trainer.large_network.load_state_dict(state["large_network"])
        trainer.large_optimizer.load_state_dict(state["large_optimizer"])


def fitting_weights(
    weights: Mapping[str, Any], own: Mapping[str, Tensor], keys: Iterable[str], name: str
) -> dict[str, Tensor]:
    """Return received weights as tensors, when they are exactly those that the site's network exchanges.

    Args:
        weights: what came.
        own: the state of the site's network.
        keys: those of it that are exchanged.
        name: the site's, for the message.

    Raises:
        FedHelpError: when a key or a shape differs.
    """
    tensors = {key: torch.as_tensor(value) for key, value in weights.items()}
    if differing := sorted(set(keys).symmetric_difference(tensors)):
        raise FedHelpError(
            f"{name}: the global weights and the site's network differ in the keys "
            f"{', '.join(differing[:3])}{' ...' if len(differing) > 3 else ''}; all sites need the same small network"
        )
    for key, tensor in tensors.items():
        if tensor.shape != own[key].shape:
            raise FedHelpError(
                f"{name}: {key} has the shape {tuple(tensor.shape)} in the global weights and "
                f"{tuple(own[key].shape)} at the site; all sites need the same small network"
            )
    return tensors


def load_partly(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights of some layers; the rest stays."""
    network.load_state_dict({**network.state_dict(), **weights})
