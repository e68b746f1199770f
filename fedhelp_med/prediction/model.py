"""The network that predicts: what a site of a run deploys, a run's global network, or a bundle's."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import Invertd
from monai.utils import ensure_tuple
from torch import Tensor, nn

from fedhelp_med.common.errors import FedHelpError, InputError, first_line
from fedhelp_med.export.deployed import Deployed, read_deployed
from fedhelp_med.federation.loading import SHIPPED_BUNDLES
from fedhelp_med.federation.workspace import Workspace
from fedhelp_med.losses import as_categorical

Task = Literal["classification", "segmentation"]
LOADERS = ("LoadImaged", "LoadStudyd")
PREPARED = "fedhelp_prediction"


@dataclass(frozen=True)
class Model:
    """A network with what has to happen before and after it.

    Attributes:
        source: where it came from, in words.
        task: what its answer is about: the image, or each position.
        classes: the names of the classes.
        network: in evaluation mode.
        inferer: how it is applied (whole images, or windows).
        prepare: the evaluation transforms after loading.
        spatial_dims: of the network, 2 or 3.
        channels: of its input.
        slicewise: whether a volume is predicted slice by slice: a 2-D segmentation network of single images.
        device: where it computes.
    """

    source: str
    task: Task
    classes: tuple[str, ...]
    network: nn.Module
    inferer: Any
    prepare: Any
    spatial_dims: int
    channels: int
    slicewise: bool
    device: torch.device

    def probabilities(self, image: MetaTensor) -> Tensor:
        """Return the probability of each class, ``C`` for the image or ``C, W, H[, D]`` for its positions.

        Args:
            image: as ``LoadStudy`` gives it, ``W, H[, D][, C]``.

        Raises:
            FedHelpError: the image is not of the kind that the network takes.
        """
        if self.slicewise and image.ndim == 3:
            slices = [self.probabilities(MetaTensor(image.as_tensor()[..., k])) for k in range(image.shape[-1])]
            return torch.stack(slices, dim=-1)
        prepared = self._prepared(image)
        with torch.inference_mode():
            logits = self.inferer(prepared.as_tensor()[None].to(self.device), self.network)
            found = as_categorical(logits.float()).softmax(1)[0].cpu()
        if self.task == "classification":
            return found
        return self._inverted(prepared, found)

    def _prepared(self, image: MetaTensor) -> MetaTensor:
        expected = f"the network takes {self.channels} channel(s) in {self.spatial_dims} dimensions"
        plain = image.ndim == self.spatial_dims and self.channels == 1
        if not plain and not (image.ndim == self.spatial_dims + 1 and image.shape[-1] == self.channels):
            raise FedHelpError(f"the image has the shape {tuple(image.shape)}, but {expected}")
        try:
            prepared: MetaTensor = self.prepare({"image": image})["image"]
        except Exception as error:  # transforms raise what they like
            reason = first_line(error.__cause__ or error)
            raise FedHelpError(
                f"the image of shape {tuple(image.shape)} cannot be prepared ({reason}); {expected}"
            ) from None
        if prepared.shape[0] != self.channels:
            raise FedHelpError(f"the image has the shape {tuple(image.shape)}, but {expected}")
        return prepared

    def _inverted(self, prepared: MetaTensor, found: Tensor) -> Tensor:
        """Bring probabilities back to the positions of the loaded image."""
        answer = MetaTensor(found, meta=dict(prepared.meta), applied_operations=list(prepared.applied_operations))
        invert = Invertd(keys="pred", transform=self.prepare, orig_keys="image", nearest_interp=False, to_tensor=True)
        inverted = invert({"image": prepared, "pred": answer})["pred"]
        return torch.as_tensor(inverted)


def load_model(name: str, site: str | None = None) -> Model:
    """Load the model that ``--model`` names.

    Args:
        name: ``RUN``, ``RUN:SITE``, the name of a shipped bundle, or the folder of a bundle.
        site: the same as ``RUN:SITE``. Without a site the run's global network predicts.

    Raises:
        InputError: there is no such model, or it is incomplete.
    """
    path = Path(name)
    if not path.exists() and ":" in name and Path(name.rpartition(":")[0]).is_dir():
        folder, _, site = name.rpartition(":")
        path = Path(folder)
    if Workspace(path).federation_file.is_file():
        return _of_deployed(_global(path) if site is None else read_deployed(path, site), path)
    bundle = SHIPPED_BUNDLES / name if (SHIPPED_BUNDLES / name / "configs").is_dir() else path
    if (bundle / "configs" / "inference.json").is_file():
        if site is not None:
            raise InputError(f"--site {site}: {name} is a bundle, which has no sites; leave the site out")
        return _of_bundle(bundle)
    raise InputError(
        f"--model {name}: neither a run folder (federation.yaml) nor a bundle (configs/inference.json); name one, "
        "or a shipped bundle such as fedhelp_segmentation"
    )


def image_transforms(transforms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the MONAI config of the transforms that concern the image, without the one that loads it.

    Their effect on the pixels is the same; the metadata are kept, for the way back.
    """
    kept = []
    for transform in transforms:
        keys = ensure_tuple(transform.get("keys", "image"))
        if str(transform["_target_"]).rpartition(".")[2] in LOADERS or "image" not in keys:
            continue
        changed = {**transform, **({"keys": "image"} if "keys" in transform else {})}
        kept.append({**changed, "track_meta": True} if "track_meta" in transform else changed)
    return kept


def _global(run: Path) -> Deployed:
    """What a newcomer without data of its own would use: the global network of the last round."""
    workspace = Workspace(run)
    number = workspace.committed()
    names = sorted(folder.parent.name for folder in run.glob("sites/*/deployed"))
    choose = f"name a site: {run}:SITE, of {', '.join(names) or 'a finished run'}"
    if number is None or not workspace.model(number).is_file():
        raise InputError(f"{run}: has no global network; {choose}")
    weights = workspace.load_global(number)
    shapes = {key: tensor.shape for key, tensor in weights.items()}
    for site in names:
        deployed = read_deployed(run, site)
        for definition, head, state in zip(deployed.definitions, deployed.heads, deployed.states, strict=True):
            if {key: tensor.shape for key, tensor in state.items()} == shapes:
                return dataclasses.replace(
                    deployed, site="", names=("global",), definitions=(definition,), heads=(head,), states=(weights,),
                    offset=(),
                )  # fmt: skip
    raise InputError(f"{run}: no site deploys a network of the global one's form; {choose}")


def _of_deployed(deployed: Deployed, run: Path) -> Model:
    parser = deployed.parser("train.json")
    who = f"{deployed.site} of {run}" if deployed.site else str(run)
    return _model(f"{' + '.join(deployed.names)}, {who}", parser, "validate#", deployed.network())


def _of_bundle(bundle: Path) -> Model:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    if (metadata := bundle / "configs" / "metadata.json").is_file():
        parser.read_meta(str(metadata))
    weights = bundle / "models" / "model.pt"
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        network = parser.get_parsed_content("network_def", instantiate=True)
        network.load_state_dict(state.get("model", state))
    except FileNotFoundError:
        raise InputError(f"{weights}: missing; a bundle predicts with its own weights, so add them") from None
    except Exception as error:  # whatever a config or a file of weights can be wrong in
        reason = first_line(error.__cause__ or error)
        raise InputError(f"{bundle}: its network cannot be built with {weights.name} ({reason})") from None
    return _model(f"bundle {bundle.name}", parser, "", network)


def _model(source: str, parser: ConfigParser, prefix: str, network: nn.Module) -> Model:
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    parser["device"] = str(device)
    parser.resolve_macro_and_relative_ids()
    parser[PREPARED] = {
        "_target_": "Compose",
        "transforms": image_transforms(parser.get(f"{prefix}preprocessing#transforms")),
    }
    channels = int(_value(parser, "in_channels", 1))
    spatial_dims = int(_value(parser, "spatial_dims", 2))
    network = network.to(device).eval()
    inferer = parser.get_parsed_content(f"{prefix}inferer", default=None) or SimpleInferer()
    size = _value(parser, "roi_size", None) or _value(parser, "image_size", None) or [64] * spatial_dims
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = as_categorical(network(torch.zeros(1, channels, *size, device=device)))
    task: Task = "segmentation" if answer.ndim > 2 else "classification"
    single = _value(parser, "channel_dim", "no_channel") == "no_channel" and channels == 1
    return Model(
        source, task, _classes(parser, answer.shape[1]), network, inferer, parser.get_parsed_content(PREPARED),
        spatial_dims, channels, task == "segmentation" and spatial_dims == 2 and single, device,
    )  # fmt: skip


def _value(parser: ConfigParser, key: str, default: Any) -> Any:
    return parser.get_parsed_content(key) if key in parser else default


def _classes(parser: ConfigParser, count: int) -> tuple[str, ...]:
    """The classes' names: the config's, else the metadata's, else numbers."""
    names = _value(parser, "class_names", None)
    if names is None:
        metadata: dict[str, Any] = parser.get("_meta_") or {}
        outputs: dict[str, dict[str, Any]] = metadata.get("network_data_format", {}).get("outputs", {})
        names = list(next(iter(outputs.values()), {}).get("channel_def", {}).values())
    return tuple(map(str, names)) if len(names) == count else tuple(map(str, range(count)))
