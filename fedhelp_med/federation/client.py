"""The FL client of either role: a MONAI ``ClientAlgo`` without the pitfalls of the stock one."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from monai.bundle import ConfigParser
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlPhase, FlStatistics, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.federation.client_state import fitting_weights, load_partly, restore_trainer, trainer_state
from fedhelp_med.federation.recognition import count_by_class, predictions
from fedhelp_med.federation.seeding import SeededWorkflow, reseed_loader, seed_round
from fedhelp_med.federation.site_networks import SiteNetworks
from fedhelp_med.handlers import MeanLoss, Messenger
from fedhelp_med.networks import LocalLayers, local_keys

Split = Literal["training", "validation", "testing"]

ROUND, ROUNDS = "fedhelp_round", "fedhelp_rounds"
"""Keys of ``extra``: the 1-based round and their number. Without them the client counts its own rounds."""

SIGNALS = "fedhelp_signals"
"""Key of ``train``'s ``extra``: what the server tells the site with a round, for ``engine.state.signals``."""

MODEL, SPLIT = "fedhelp_model", "fedhelp_split"
"""Keys of ``evaluate``'s ``extra``: which network, on which split. By default the weights that come with the call
(``global``) on the validation split."""


class FedHelpAlgo(MonaiAlgo):  # type: ignore[misc]
    """Runs a small or a large site from a bundle.

    What it does otherwise than ``MonaiAlgo``: every round is seeded by (seed, site, round); weights are copies, never
    live parameters; a key or shape that does not fit stops the round; the optimiser's state for the exchanged network
    is kept or forgotten on purpose; one workflow serves training and evaluation; a personal large network is evaluated
    as well, kept in ``state_dict`` and never sent; ``abort`` and ``finalize`` stop the evaluator too.

    Args:
        bundle_root: the bundle's folder.
        config_train_filename: its config files in order, and any overlay by absolute path.
        config_evaluate_filename: the overlay that makes ``validate`` read the testing split.
        seed: the federation's.
        local_epochs: per round.
        send_weight_diff: differences to the downloaded weights instead of weights.
        has_large: whether this site's config has a large network that starts from the site's own seed.
        trained, deployed, offset: those of ``SiteNetworks``.
        keep_optimizer: keep the optimiser's state of the exchanged network across rounds.
        local_layers: layers that are not exchanged: ``none``, ``batch-norm`` or all ``normalization``.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        *,
        config_train_filename: Sequence[str] = ("configs/train.json",),
        config_evaluate_filename: str = "configs/evaluate.json",
        seed: int = 0,
        local_epochs: int = 1,
        send_weight_diff: bool = False,
        has_large: bool = False,
        trained: str | None = None,
        deployed: Sequence[str] = (),
        offset: Sequence[float] = (),
        keep_optimizer: bool = False,
        local_layers: LocalLayers = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            bundle_root=str(bundle_root),
            local_epochs=local_epochs,
            send_weight_diff=send_weight_diff,
            config_train_filename=list(config_train_filename),
            config_evaluate_filename=None,
            **kwargs,
        )
        self.testing_config = config_evaluate_filename
        self.seed = seed
        self.has_large = has_large
        self._name_networks = partial(SiteNetworks, trained=trained, deployed=deployed, offset=offset)
        self.keep_optimizer = keep_optimizer
        self.local_layers: LocalLayers = local_layers
        self.round = 0
        self._received: dict[str, Tensor] = {}
        self._loaders: dict[str, Any] = {}

    def initialize(self, extra: dict[str, Any] | None = None) -> None:
        """Build trainer and evaluator from the bundle; the site's name is ``extra[ExtraItems.CLIENT_NAME]``."""
        extra = dict(extra or {})
        name = extra.get(ExtraItems.CLIENT_NAME, "noname")
        stats_sender = extra.pop(ExtraItems.STATS_SENDER, None)
        root = Path(extra.get(ExtraItems.APP_ROOT, "")) / self.bundle_root
        self._configs = [str(root / file) for file in self.config_train_filename]
        self.train_workflow = SeededWorkflow(
            config_file=self._configs,
            logging_file=False,
            network_seed=derive_seed(self.seed, "network"),
            large_seed=derive_seed(self.seed, name, "large network") if self.has_large else None,
            **self.train_kwargs,
        )
        super().initialize(extra)
        self.evaluator = self.train_workflow.evaluator
        if stats_sender is not None:
            stats_sender.attach(self.trainer)
            stats_sender.attach(self.evaluator)

        network = self.trainer.network
        large = getattr(self.trainer, "large_network", None)
        self.networks = self._name_networks(str(self.client_name), network, large=large)
        personal = local_keys(network, self.local_layers)
        self.shared_keys = tuple(key for key in network.state_dict() if key not in personal)
        self.handlers: list[Any] = self.train_workflow.parser.get_parsed_content("method_handlers")
        self._loss = MeanLoss()
        self._loss.attach(self.trainer)
        self._messenger = next((handler for handler in self.handlers if isinstance(handler, Messenger)), None)

    @property
    def loss_terms(self) -> dict[str, float]:
        """The mean weighted value of each term that the method added in the last round."""
        return {handler.name: handler.average for handler in self.handlers if hasattr(handler, "average")}

    @property
    def mean_loss(self) -> float | None:
        """The mean training loss of the last round, with the method's terms; None before the first."""
        return self._loss.average

    def train(self, data: ExchangeObject, extra: dict[str, Any] | None = None) -> None:
        """Train one round from the downloaded weights in ``data``.

        Where ``data.weights`` is None (a method without exchange) the site goes on from its own. Where a handler of the
        method is a ``Messenger``, they are its message and no weights.
        """
        extra = extra or {}
        self._set_cuda_device()
        self.phase = FlPhase.TRAIN
        self.round = int(extra.get(ROUND, self.round + 1))
        self._begin_round(extra.get(ROUNDS), extra.get(SIGNALS, {}))
        if data.weights is not None and self._messenger is not None:
            self._messenger.incoming(data.weights)
        elif data.weights is not None:
            weights = self._incoming(data, extra)
            self._received = {key: tensor.clone() for key, tensor in weights.items()}
            load_partly(self.trainer.network, weights)
        state = self.trainer.state
        state.max_epochs = state.epoch + self.local_epochs
        self.iter_of_start_time = state.iteration
        self.trainer.run()
        if not self.keep_optimizer:  # what is forgotten need not be kept on disk either
            for parameter in self.trainer.network.parameters():
                self.trainer.optimizer.state.pop(parameter, None)

    def get_weights(self, extra: dict[str, Any] | None = None) -> ExchangeObject:
        """Return a copy of the shared weights, their differences to what came, or a ``Messenger``'s message.

        Args:
            extra: with ``ExtraItems.MODEL_TYPE`` MONAI's answer is given: a checkpoint on disk.

        Returns:
            ExchangeObject: ``weights`` on the CPU, their ``weight_type``, and the trainer's ``statistics``.

        Raises:
            FedHelpError: when a value is not finite.
        """
        extra = extra or {}
        if ExtraItems.MODEL_TYPE in extra:
            return super().get_weights(extra)
        self.phase = FlPhase.GET_WEIGHTS
        if self._messenger is not None:
            weights = self._messenger.outgoing(self.trainer)
        else:
            state = self.trainer.network.state_dict()
            weights = {key: state[key].detach().cpu().clone() for key in self.shared_keys}
        for key, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise FedHelpError(f"{self.client_name}: {key} is not finite after training; lower the learning rate")
        if self.send_weight_diff and self._messenger is None:
            weights = {key: tensor - self._received[key] for key, tensor in weights.items()}
        statistics = self.trainer.get_stats()
        statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] = self.trainer.state.iteration - self.iter_of_start_time
        result = ExchangeObject(
            weights=weights,
            weight_type=WeightType.WEIGHT_DIFF if self.send_weight_diff else WeightType.WEIGHTS,
            statistics=statistics,
        )
        for apply in self.post_weight_filters or ():
            result = apply(result, extra)
        return result

    def evaluate(self, data: ExchangeObject, extra: dict[str, Any] | None = None) -> ExchangeObject:
        """Evaluate a network of this site (``extra[MODEL]``) on a split (``extra[SPLIT]``).

        Returns:
            ExchangeObject: ``metrics`` by name; empty where the site has no image in the split.
        """
        extra = extra or {}
        self._set_cuda_device()
        if data.weights is not None:
            self.receive_global(data, extra)
        self.phase = FlPhase.EVALUATE
        self.evaluator.network = self.networks[extra.get(MODEL, "global")]
        self.evaluator.data_loader = loader = self._loader(extra.get(SPLIT, "validation"))
        metrics: dict[str, float] = {}
        if len(loader) > 0:
            self.evaluator.state.epoch_length = len(loader)
            self.evaluator.state.evaluated = extra.get(MODEL, "global"), extra.get(SPLIT, "validation")
            self.evaluator.run(self.trainer.state.epoch + 1)
            metrics = {key: float(value) for key, value in self.evaluator.state.metrics.items()}
        result = ExchangeObject(metrics=metrics)
        for apply in self.post_evaluate_filters or ():
            result = apply(result, extra)
        return result

    @property
    def studies(self) -> tuple[tuple[str, ...], Tensor]:
        """Header and table (``N, columns``) of the last evaluation, a row a study in the datalist's order.

        Empty where the bundle's evaluator has no ``StudyResults``.
        """
        state = self.evaluator.state
        return getattr(state, "study_columns", ()), getattr(state, "studies", torch.empty(0, 0))

    def receive_global(self, data: ExchangeObject, extra: dict[str, Any] | None = None) -> None:
        """Load the weights in ``data`` into ``global``; layers that stay at the site are the trained network's."""
        load_partly(self.networks.received, {**self.trainer.network.state_dict(), **self._incoming(data, extra or {})})

    def count_recognised(self, data: ExchangeObject) -> list[tuple[int, int]]:
        """Return, for each class, how many training images the weights in ``data`` recognise and how many there are.

        For segmentation voxels are counted. Empty where the site has no image.
        """
        self.receive_global(data)
        loader = self._loader("training")
        if not len(loader):
            return []
        return count_by_class(lambda: predictions(self.networks.received, loader, self.trainer, self.evaluator.inferer))

    def fine_tune(self, data: ExchangeObject, extra: dict[str, Any]) -> None:
        """Make ``fine-tuned`` known: the weights in ``data`` after one more round on the site's own images.

        Everything else is afterwards as it was.
        """
        before = copy.deepcopy(self.state_dict())
        self.train(data, extra)
        tuned = copy.deepcopy(self.trainer.network)
        self.load_state_dict(before)
        self.networks.added["fine-tuned"] = tuned

    def state_dict(self) -> dict[str, Any]:
        """Return what has to survive a restart: networks, optimisers, auxiliary heads, counters."""
        return {"round": self.round, **trainer_state(self.trainer, self.handlers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        self.round = state["round"]
        restore_trainer(self.trainer, self.handlers, state)

    def abort(self, extra: dict[str, Any] | None = None) -> None:
        """Stop training and evaluation after the current iteration."""
        for engine in (self.trainer, self.evaluator):
            if engine is not None:
                engine.terminate()

    def finalize(self, extra: dict[str, Any] | None = None) -> None:
        """Stop, and run the bundle's own finalisation."""
        self.abort(extra)
        if self.train_workflow is not None:
            self.train_workflow.finalize()

    def _incoming(self, data: ExchangeObject, extra: dict[str, Any]) -> dict[str, Tensor]:
        """Apply the filters and check that the weights are exactly those of the exchanged network."""
        if not isinstance(data, ExchangeObject):
            raise FedHelpError(f"{self.client_name}: expected an ExchangeObject, received a {type(data).__name__}")
        for apply in self.pre_filters or ():
            data = apply(data, extra)
        own = self.trainer.network.state_dict()
        return fitting_weights(data.weights or {}, own, self.shared_keys, str(self.client_name))

    def _begin_round(self, rounds: int | None, signals: Mapping[str, Any]) -> None:
        trainer = self.trainer
        trainer.state.signals = dict(signals)
        seed = derive_seed(self.seed, self.client_name, self.round)
        seed_round(trainer, seed)
        for handler in self.handlers:
            if (public := getattr(handler, "public_loader", None)) is not None:
                reseed_loader(public, derive_seed(seed, "public"))
        trainer.state.federated_round, trainer.state.federated_rounds = self.round, rounds

    def _loader(self, split: Split) -> Any:
        if not self._loaders:
            self._loaders["validation"] = self.evaluator.data_loader
        if split not in self._loaders:
            parser = ConfigParser()
            root = Path(self._configs[0]).parent.parent
            parser.read_config([*self._configs, str(root / self.testing_config)])
            parser.update(pairs=self.train_kwargs)
            if split == "training":
                parser["validate#dataset#data"] = "%train#dataset#data"
            self._loaders[split] = parser.get_parsed_content("validate#dataloader")
        return self._loaders[split]
