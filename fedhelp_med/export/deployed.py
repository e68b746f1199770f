"""What a site of a finished run deploys, read from its run folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.federation.config import FederationFile
from fedhelp_med.federation.loading import SHIPPED_BUNDLES, read_federation_file
from fedhelp_med.federation.state import load_tensors
from fedhelp_med.federation.workspace import Workspace
from fedhelp_med.networks import MeanOfProbabilities, batch_norm_layers

TASK = ("class_names", "in_channels", "channel_dim", "image_size")
"""The bundle's constants that a run derives from its data."""

DEFINITIONS = (("network_def", "head"), ("large_network_def", "large_head"))


@dataclass(frozen=True)
class Deployed:
    """The networks that a site deploys, with the configuration that they belong to.

    Args:
        site: its name.
        role: ``small`` or ``large``.
        federation: the federation's name.
        names: of the networks (``surrogate``, ``global``, ...); the probabilities of several are averaged.
        definitions: the MONAI config of each network; references in it are the bundle's constants.
        heads: the name of each network's head.
        states: the weights of each.
        offset: added to their logits, one number a class; empty for nothing.
        bundle: the bundle that the site executed.
        changes: MONAI config by id that makes the bundle the run's: what followed from the data, and overrides.
        metrics: on the site's testing split.
        datalist: the site's, which may be elsewhere by now.
    """

    site: str
    role: str
    federation: str
    names: tuple[str, ...]
    definitions: tuple[Any, ...]
    heads: tuple[str, ...]
    states: tuple[dict[str, Tensor], ...]
    offset: tuple[float, ...]
    bundle: Path
    changes: Mapping[str, Any]
    metrics: Mapping[str, float]
    datalist: Path

    @property
    def combined(self) -> bool:
        """Whether it is more than one plain network: several, or one whose logits are shifted."""
        return len(self.names) > 1 or bool(self.offset)

    def parser(self, config: str) -> ConfigParser:
        """Return one of the bundle's config files under the run's changes; ids that it does not have are left out."""
        parser = ConfigParser(ConfigParser.load_config_file(str(self.bundle / "configs" / config)))
        for key, value in self.changes.items():
            if key.split("#")[0] in parser.config:
                parser[key] = value
        return parser

    def network(self) -> nn.Module:
        """Return the network with its weights, in evaluation mode: a single one, or the mean of probabilities."""
        parser = self.parser("train.json")
        networks = []
        for definition, state in zip(self.definitions, self.states, strict=True):
            parser["network_def"] = definition
            network = parser.get_parsed_content("network_def", instantiate=True)
            network.load_state_dict(state)
            networks.append(network)
        network = MeanOfProbabilities(*networks, offset=self.offset) if self.combined else networks[0]
        return network.eval()

    def merged(self) -> "Deployed | None":
        """Return one network with the mean of the networks' weights (as in Wortsman et al. 2022, arXiv 2203.05482).

        None where there is one only, they are of different kinds, or they have batch normalisation, whose statistics
        would not be those of the mean. Networks that went apart do not survive it: the caller has to compare.
        """
        kinds = zip(self.definitions, self.heads, strict=True)
        if len(self.names) < 2 or any(kind != (self.definitions[0], self.heads[0]) for kind in kinds):
            return None
        if batch_norm_layers(self.network()):
            return None
        mean = {key: _mean([state[key] for state in self.states]) for key in self.states[0]}
        names, definitions, heads = ("mean of weights",), self.definitions[:1], self.heads[:1]
        return replace(self, names=names, definitions=definitions, heads=heads, states=(mean,))

    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one input, ``C, H, W[, D]``: an image, or a window of one.

        Raises:
            FedHelpError: when the bundle names neither ``image_size`` nor ``roi_size``.
        """
        parser = self.parser("inference.json")
        for key in ("roi_size", "image_size"):
            size = parser.get_parsed_content(key, default=None) if key in parser else None
            if size is not None:
                return (int(parser.get_parsed_content("in_channels")), *map(int, size))
        raise FedHelpError(f"{self.bundle}: configs/inference.json has neither image_size nor roi_size; add one")


def read_deployed(run: Path, site: str) -> Deployed:
    """Read what ``site`` deploys in the finished run ``run``.

    Raises:
        InputError: when there is no such run or site, the run is not finished, or its bundle is gone.
    """
    workspace = Workspace(run)
    file = _federation(workspace)
    known = sorted(entry.name for entry in file.sites)
    if site not in known:
        raise InputError(f"{run}: has no site {site!r}; its sites are {', '.join(known)}")
    folder = workspace.site(site)
    meta_file = folder / "deployed" / "meta.json"
    if not meta_file.is_file():
        raise InputError(f"{run}: {site} has no deployed network yet; finish the run with `fedhelp run ... --resume`")
    meta = json.loads(meta_file.read_text(encoding="utf-8"))
    bundle = _bundle(Path(meta["bundle"]))
    overlay = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changes = {key: overlay[key] for key in TASK if key in overlay} | _overrides(file, run)
    states = tuple(load_tensors(folder / "deployed" / f"{name}.safetensors") for name in meta["networks"])
    found = [_definition(bundle, overlay, state, site) for state in states]
    return Deployed(
        site=site,
        role=meta["role"],
        federation=file.name,
        names=tuple(meta["networks"]),
        definitions=tuple(definition for definition, _ in found),
        heads=tuple(head for _, head in found),
        states=states,
        offset=tuple(meta.get("offset", ())),
        bundle=bundle,
        changes=changes,
        metrics={row.metric: row.value for row in workspace.final() if (row.site, row.model) == (site, "deployed")},
        datalist=Path(overlay["datalist"]),
    )


def _mean(tensors: list[Tensor]) -> Tensor:
    """Return the mean of weights; of whole numbers (positions, counters) the first."""
    return torch.stack(tensors).mean(0) if tensors[0].is_floating_point() else tensors[0]


def _federation(workspace: Workspace) -> FederationFile:
    if not workspace.federation_file.is_file():
        raise InputError(f"{workspace.root}: is not a run folder (no federation.yaml); name what `fedhelp run` wrote")
    return read_federation_file(workspace.federation_file)


def _overrides(file: FederationFile, run: Path) -> dict[str, Any]:
    """Return the run's overrides; training images that were prepared otherwise need another inference.json."""
    for key in file.overrides:
        if "preprocessing" in key.split("#"):
            raise InputError(
                f"{run}: its overrides change {key}, which the bundle's inference.json does not follow; "
                "put the change into a bundle of your own and run with `bundle: FOLDER`"
            )
    return file.overrides


def _bundle(path: Path) -> Path:
    """Return where the bundle is now: at its place, or the shipped one of that name."""
    for folder in (path, SHIPPED_BUNDLES / path.name):
        if (folder / "configs" / "inference.json").is_file():
            return folder
    raise InputError(f"{path}: the bundle of the run is gone or has no configs/inference.json; bring it back")


def _definition(bundle: Path, overlay: Mapping[str, Any], state: Mapping[str, Tensor], site: str) -> tuple[Any, str]:
    """Return config and head of the network that weights belong to: the exchanged one's, or the large one's."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.json"))
    for key, value in overlay.items():
        if key not in ("network_def", "head") or not str(value).startswith("@"):  # a method may swap them
            parser[key] = value
    shapes = {key: tensor.shape for key, tensor in state.items()}
    for definition, head in DEFINITIONS:
        if definition not in parser:
            continue
        with torch.device("meta"):
            own = parser.get_parsed_content(definition, instantiate=True).state_dict()
        if {key: tensor.shape for key, tensor in own.items()} == shapes:
            return parser.get(definition), str(parser[head])
    raise FedHelpError(f"{site}: its weights fit no network of {bundle}; the bundle was changed after the run")
