"""The features before a network's head, read from outside."""

from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedhelp_med.networks.modules import named_module


class FeatureTap:
    """What enters the module ``head`` of ``network`` while the tap is open.

    Works for any network whose head is a named module. The hook exists only inside the ``with`` block: a
    permanent one would break TorchScript, and a deep copy of the network would write into the original's tap.

    Args:
        network: any module.
        head: the dotted name of its head, e.g. ``class_layers.out``.

    Raises:
        InputError: when ``network`` has no such module.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))
        >>> with FeatureTap(network, "2") as tap:
        ...     logits = network(torch.zeros(1, 1, 2, 2))
        >>> tap.features.shape
        torch.Size([1, 3])
    """

    def __init__(self, network: nn.Module, head: str) -> None:
        self._name = head
        self._head = named_module(network, head)
        self._seen: list[Tensor] = []
        self._hook: RemovableHandle | None = None

    def __enter__(self) -> Self:
        self._seen.clear()
        self._hook = self._head.register_forward_pre_hook(self._remember, with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _remember(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._seen.append(args[0] if args else next(iter(kwargs.values())))

    @property
    def features(self) -> Tensor:
        """The head's input, ``B, F[, spatial]``, with its graph.

        Raises:
            RuntimeError: when the head ran not exactly once while the tap was open.
        """
        if len(self._seen) != 1:
            raise RuntimeError(
                f"the head {self._name!r} ran {len(self._seen)} times while its tap was open; "
                "run the network's forward exactly once in the with block"
            )
        return self._seen[0]
