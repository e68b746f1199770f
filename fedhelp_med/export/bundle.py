"""A site's deployed network as a MONAI bundle: the run's bundle, made for the site's task, with its weights."""

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import save_net_with_metadata
from monai.networks.utils import convert_to_torchscript
from torch import nn

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.common.files import check_empty, replacing_folder, write_json, write_text
from fedhelp_med.data.datalist import read_datalist
from fedhelp_med.export.deployed import Deployed, read_deployed
from fedhelp_med.export.preprocessing import check_preparation, preparation
from fedhelp_med.transforms.sniff import is_dicom

IMPORT = "$from fedhelp_med.networks import MeanOfProbabilities"
PARTS = ("configs", "scripts", "docs", "LICENSE")
"""What is taken over from the run's bundle; whatever else lies in its folder may be a site's data."""

MEAN = "$MeanOfProbabilities(*@deployed_networks, offset=@deployed_offset)"


def export_bundle(run: Path, site: str, out: Path) -> Deployed:
    """Write the bundle of a finished site to ``out``.

    Nothing of the site's data or folders is in it: constants, networks and weights only.

    Raises:
        InputError: when the run has no such deployed network, its bundle prepares images for inference in another way
            than for validation, or ``out`` is not empty.
        FedHelpError: when the written bundle does not answer as the site's network does.
    """
    check_empty(out)
    deployed = read_deployed(run, site)
    check_preparation(deployed)
    with replacing_folder(out.absolute()) as folder:
        for part in PARTS:
            source = deployed.bundle / part
            if source.is_dir():
                shutil.copytree(source, folder / part)
            elif source.is_file():
                shutil.copy2(source, folder / part)
        network = deployed.network()
        _write_configs(deployed, folder / "configs", _channels(network, deployed))
        (folder / "models").mkdir()
        torch.save(network.state_dict(), folder / "models" / "model.pt")
        _check(network, deployed, folder)
        _write_torchscript(network, deployed, folder)
        write_text(folder / "docs" / "README.md", _readme(deployed))
    return deployed


def _channels(network: nn.Module, deployed: Deployed) -> int:
    with torch.inference_mode():
        return int(network(torch.zeros(1, *deployed.input_shape())).shape[1])


def _write_configs(deployed: Deployed, configs: Path, channels: int) -> None:
    definition: dict[str, Any] = {"network_def": deployed.definitions[0]}
    head = deployed.heads[0]
    if deployed.combined:
        definition = {
            "deployed_networks": list(deployed.definitions),
            "deployed_offset": list(deployed.offset),
            "network_def": MEAN,
        }
        head = f"networks.0.{head}"
    for name in ("train.json", "inference.json"):
        content = deployed.parser(name).config | definition
        if deployed.combined:
            content["imports"] = [*content.get("imports", []), IMPORT]
        if name == "train.json":
            content |= {"head": head, "standalone": True}
        write_json(configs / name, content)
    parallel = configs / "multi_gpu_train.json"
    if parallel.is_file():
        write_json(parallel, json.loads(parallel.read_text(encoding="utf-8")) | {"head": f"module.{head}"})
    write_json(configs / "metadata.json", _metadata(deployed, channels))


def _metadata(deployed: Deployed, channels_out: int) -> dict[str, Any]:
    """Return the bundle's metadata with what is the site's: names, channels, sizes, results."""
    content: dict[str, Any] = ConfigParser.load_config_file(str(deployed.bundle / "configs" / "metadata.json"))
    channels, *spatial = deployed.input_shape()
    classes = [str(name) for name in deployed.parser("inference.json").get_parsed_content("class_names")]
    listed = ", ".join(f"{index}: {name}" for index, name in enumerate(classes))
    formats = content["network_data_format"]
    source = next(iter(formats["inputs"].values()))
    if source["num_channels"] != channels:
        source["channel_def"] = _numbered("channel", channels)
    source |= {"num_channels": channels, "spatial_shape": spatial, "modality": "n/a"}
    target = next(iter(formats["outputs"].values()))
    named = classes if channels_out == len(classes) else classes[-channels_out:]  # one channel: the last class
    target |= {"num_channels": channels_out, "channel_def": {str(i): name for i, name in enumerate(named)}}
    if target["format"] == "segmentation":
        target["spatial_shape"] = spatial
    return content | {
        "version": "0.1.0",
        "changelog": {"0.1.0": f"Exported from a federated run ({', '.join(deployed.names)})."},
        "name": f"{deployed.federation}: {deployed.site}",
        "data_source": f"the federation {deployed.federation!r}",
        "image_classes": f"{channels} x {' x '.join(map(str, spatial))}",
        "label_classes": listed,
        "pred_classes": listed,
        "eval_metrics": dict(deployed.metrics),
        "intended_use": "What one site of a federation deploys. Not a medical device.",
    }


def _numbered(word: str, count: int) -> dict[str, str]:
    return {"0": "image"} if count == 1 else {str(index): f"{word} {index}" for index in range(count)}


def _check(network: nn.Module, deployed: Deployed, folder: Path) -> None:
    """Build the network as a user of the bundle would, and compare the answers."""
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"] = str(folder)
    rebuilt = parser.get_parsed_content("network_def", instantiate=True).eval()
    rebuilt.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    image = torch.randn(2, *deployed.input_shape(), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.equal(network(image), rebuilt(image)):
            raise FedHelpError(f"{deployed.site}: the exported bundle answers differently from the site's network")


def _write_torchscript(network: nn.Module, deployed: Deployed, folder: Path) -> None:
    """Write ``model.ts`` with the configs in it, as ``ckpt_export`` does; a network without one is traced."""
    image = torch.zeros(1, *deployed.input_shape())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says at each call that TorchScript has a successor
        try:
            script = convert_to_torchscript(network)
        except Exception:  # whatever the compiler does not know
            script = convert_to_torchscript(network, inputs=(image,), use_trace=True)
        metadata, extra = _extra_files(folder / "configs", ("inference.json", "train.json"))
        save_net_with_metadata(
            script,
            str(folder / "models" / "model.ts"),
            include_config_vals=False,
            meta_values=metadata,
            more_extra_files=extra,
        )


def _extra_files(configs: Path, names: Sequence[str]) -> tuple[Mapping[str, Any], dict[str, bytes]]:
    metadata: dict[str, Any] = json.loads((configs / "metadata.json").read_text(encoding="utf-8"))
    return metadata, {name: (configs / name).read_bytes() for name in names}


def _limits(deployed: Deployed) -> str:
    """Say which images the command of the README reads as the network learned them."""
    text = "`IMAGES` is a folder of NIfTI, PNG or JPEG files. "
    if any(step["_target_"].rpartition(".")[2].startswith("LoadStudy") for step in preparation(deployed)):
        told = (
            "DICOM is another matter: MONAI's reader does not turn MONOCHROME1 over, may order slices and frames "
            "otherwise, and reads palettes and padding as stored; of PNG with a palette it gives the indices. "
            "`fedhelp predict --model . --input IMAGES --out RESULTS` reads everything as in training.\n\n"
        )
        loud = "**This site learned from DICOM: use `fedhelp predict`, not this command.** "
        text = f"{loud if _holds_dicom(deployed.datalist) else ''}{text}{told}"
    else:
        text += "\n\n"
    parser = deployed.parser("inference.json")
    flat = all(key in parser for key in ("spatial_dims", "channel_dim", "roi_size"))
    if flat and parser.get_parsed_content("spatial_dims") == 2 and parser["channel_dim"] == "no_channel":
        text += (
            "The network sees single slices: with this command, and in MONAI Label, an image has two axes. Volumes, of "
            "one slice too, fail in `Resized`; `fedhelp predict` takes them slice by slice.\n\n"
        )
    return text


def _holds_dicom(datalist: Path) -> bool:
    """Whether a site's images are DICOM, files or folders; a datalist that is elsewhere by now says nothing."""
    try:
        items = [item for items in read_datalist(datalist, require=()).splits.values() for item in items]
    except InputError:
        return False
    return any(Path(item["image"]).is_dir() or is_dicom(Path(item["image"])) for item in items)


def _readme(deployed: Deployed) -> str:
    networks = " and ".join(f"`{name}`" for name in deployed.names)
    mean = (
        "`fedhelp_med.networks.MeanOfProbabilities` averages their probabilities"
        f"{' and corrects for how frequent each class was at the site' if deployed.offset else ''}: the environment "
        "needs `fedhelp-med`, of which `pip install --no-deps` suffices beside MONAI.\n\n"
        if deployed.combined
        else ""
    )
    metrics = "".join(f"| {name} | {value:.3f} |\n" for name, value in sorted(deployed.metrics.items()))
    results = f"On the site's testing studies:\n\n| metric | value |\n|---|---|\n{metrics}\n" if metrics else ""
    return (
        f"# {deployed.federation}: {deployed.site}\n\n"
        f"What the {deployed.role} site `{deployed.site}` deploys after a federated run: {networks}.\n\n{mean}{results}"
        "```sh\n"
        "python -m monai.bundle run --bundle_root . --config_file configs/inference.json --dataset_dir IMAGES\n"
        "```\n\n"
        f"{_limits(deployed)}"
        "The other configs are those of the bundle that the federation ran. Not a medical device.\n"
    )
