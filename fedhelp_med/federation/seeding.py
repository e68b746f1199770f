"""Each (seed, site, round) starts every random stream anew.

A round then does not depend on what happened before it in the process: a resumed round equals an undisturbed one.
"""

from typing import Any

from monai.bundle import ConfigWorkflow
from monai.data.utils import set_rnd

from fedhelp_med.common.seeds import derive_seed, seed_everything


def seed_round(trainer: Any, seed: int) -> None:
    """Seed everything random in one round of ``trainer``: batch order, transforms, dropout.

    The private and the public loader have streams of their own, so that the order of the private batches is the same
    whether or not a method uses a public set. A loader without a generator of its own follows torch's global one.

    Args:
        trainer: a MONAI trainer.
        seed: derived from the federation's seed, the site and the round.
    """
    reseed_loader(trainer.data_loader, derive_seed(seed, "private"))
    seed_everything(derive_seed(seed, "global"))


def reseed_loader(loader: Any, seed: int) -> None:
    """Seed a data loader's order and its transforms."""
    generator = getattr(loader, "generator", None)
    if generator is not None:
        generator.manual_seed(seed)
    set_rnd(getattr(loader, "dataset", None), derive_seed(seed, "transforms"))


class SeededWorkflow(ConfigWorkflow):  # type: ignore[misc]
    """A bundle's training workflow whose networks start from seeds of their own.

    The exchanged network starts from the same weights at every site and under every method; the large network's
    start is the site's own, and the same whether it trains alone or with a proxy.

    Args:
        network_seed: for ``network_def``.
        large_seed: for ``large_network_def``; None where the site has none.
        kwargs: those of MONAI's ``ConfigWorkflow``.
    """

    def __init__(self, *, network_seed: int, large_seed: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._starts = {"large_network_def": large_seed, "network_def": network_seed}

    def initialize(self) -> Any:
        """Parse the config anew and build the networks first."""
        result = super().initialize()
        for name, seed in self._starts.items():
            if seed is not None and name in self.parser:
                seed_everything(seed)
                self.parser.get_parsed_content(name)
        return result
