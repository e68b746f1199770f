"""The server's side of a round: the global weights, the public set, and what it may ask the sites."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from monai.bundle import ConfigParser
from torch import Tensor, nn

from fedhelp_med.common.seeds import derive_seed, seed_everything
from fedhelp_med.federation.loading import Federation, local_layers
from fedhelp_med.federation.seeding import reseed_loader
from fedhelp_med.federation.task import site_overlay
from fedhelp_med.federation.workspace import Workspace, key_results
from fedhelp_med.handlers.guidance import cycled
from fedhelp_med.networks import local_keys

Counts = Mapping[str, list[tuple[int, int]]]
"""By site, for each class: how many images were recognised, and how many there are."""


class Server:
    """What the server knows, and what a method's server steps may use.

    It never sees a private image: it holds the exchanged weights, the public set and its knowledge, and counts that
    the sites report.

    Args:
        federation: the federation.
        constants: the task's.
        workspace: the run folder.
        ask: asks every site for its counts under the current weights.
    """

    def __init__(
        self,
        federation: Federation,
        constants: Mapping[str, Any],
        workspace: Workspace,
        ask: Callable[[], Counts],
    ) -> None:
        self.round = 0
        self.weights: dict[str, Tensor] = {}
        self.signals: dict[str, Any] = {}
        self.updates: dict[str, Mapping[str, Tensor]] = {}
        self.seed = federation.file.seed
        self.rounds = federation.file.rounds
        self.classes = federation.classes
        self.local_layers = local_layers(federation)
        self._workspace = workspace
        self._ask = ask
        site = federation.sites[0]
        self._parser = ConfigParser()
        configs = federation.method.plan(site.role).configs
        self._parser.read_config([str(federation.bundle / config) for config in configs])
        self._parser.update(pairs=site_overlay(federation, site, constants))

    def record(self, event: str, **details: Any) -> None:
        """Write a line to ``events.jsonl``."""
        self._workspace.record(event, round=self.round, **details)

    def initial_weights(self) -> dict[str, Tensor]:
        """Return the shared weights that the exchanged network starts from, the same at every site."""
        network = self._build()
        local = local_keys(network, self.local_layers)
        return {key: tensor.detach().clone() for key, tensor in network.state_dict().items() if key not in local}

    def network(self, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Return the exchanged network with ``weights``, the current global ones by default."""
        network = self._build()
        network.load_state_dict({**network.state_dict(), **(self.weights if weights is None else weights)})
        return network

    @property
    def knowledge(self) -> Any:
        """The public set with the foundation model's answers (``PublicKnowledge``), None without a public set."""
        return self._parser.get_parsed_content("public#knowledge")

    def public_batches(self, purpose: str) -> Iterator[dict[str, Any]]:
        """Yield public batches without end, in an order that belongs to this round and purpose.

        Raises:
            InputError: when the public set gives no batch.
        """
        loader = self._parser.get_parsed_content("public#dataloader")
        seed = derive_seed(self.seed, "server", self.round, purpose)
        reseed_loader(loader, seed)
        seed_everything(seed)
        yield from cycled(loader)

    def validation(self, number: int) -> Mapping[str, float]:
        """Return how the global network of a round does on the sites' validation splits, in the key metric, by site.

        The sites report it after every round. Empty for a round that is not committed.
        """
        rows = [row for row in self._workspace.round_rows(number) if row.model == "global"]
        return {name: key_results(rows, name)["global"] for name in sorted({row.site for row in rows})}

    def count_recognised(self) -> Counts:
        """Ask every site how many of its own training images of each class the current weights recognise."""
        return self._ask()

    def _build(self) -> nn.Module:
        seed_everything(derive_seed(self.seed, "network"))
        self._parser.ref_resolver.remove_resolved_content("network_def")
        network = self._parser.get_parsed_content("network_def", instantiate=True)
        assert isinstance(network, nn.Module)
        return network
