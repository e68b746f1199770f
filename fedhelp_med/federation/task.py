"""What the data say about the task, and the config that each site executes on top of the bundle's."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from fedhelp_med.common.errors import InputError, first_line
from fedhelp_med.data import describe_image
from fedhelp_med.federation.config import Site
from fedhelp_med.federation.labels import check_labels
from fedhelp_med.federation.loading import Federation, local_layers
from fedhelp_med.methods import ROLES, Role, RolePlan
from fedhelp_med.methods.base import TRAIN, TRAIN_LARGE
from fedhelp_med.networks import local_keys, named_module

LARGEST_IMAGE = 128
"""Images are resized to at most this many pixels a side unless ``overrides.image_size`` says otherwise."""


def task_constants(federation: Federation) -> dict[str, Any]:
    """Return the bundle's constants that follow from the data, unless the file overrides them.

    ``class_names`` from the datalists; ``in_channels``, ``channel_dim`` and ``image_size`` from the first training
    image of each site.

    Raises:
        InputError: when the sites' images have different channels, or the labels do not fit the bundle.
    """
    check_labels(federation)
    _check_overrides(federation)
    bundle = ConfigParser.load_config_file(str(federation.bundle / "configs" / "train.json"))
    overrides = federation.file.overrides
    spatial_dims = overrides.get("spatial_dims", bundle.get("spatial_dims", 2))
    images = {
        site.name: describe_image(Path(federation.datalists[site.name].splits["training"][0]["image"]), spatial_dims)
        for site in federation.sites
    }
    derived: dict[str, Any] = {"class_names": list(federation.classes)}
    for key in ("in_channels", "channel_dim"):
        if key in overrides:
            continue
        values = {name: getattr(image, key) for name, image in images.items()}
        if len(set(values.values())) > 1:
            found = ", ".join(f"{name}: {value}" for name, value in values.items())
            raise InputError(
                f"sites.data: the sites' images differ in {key} ({found}); bring them to one form, "
                f"or set overrides.{key}"
            )
        derived[key] = next(iter(values.values()))
    smallest = [min(sizes) for sizes in zip(*(image.spatial_shape for image in images.values()), strict=True)]
    derived["image_size"] = [min(size, LARGEST_IMAGE) for size in smallest]
    return {key: value for key, value in derived.items() if key in bundle and key not in overrides}


def site_overlay(federation: Federation, site: Site, constants: Mapping[str, Any]) -> dict[str, Any]:
    """Return the MONAI config that makes the bundle's files this site's."""
    file = federation.file
    plan = federation.method.plan(site.role)
    datalist = federation.datalists[site.name]
    overlay: dict[str, Any] = {
        "bundle_root": str(federation.bundle),
        "dataset_dir": str(datalist.path.parent),
        "datalist": str(datalist.path),
        "standalone": False,
        **constants,
        **plan.constants,
        **_overrides(federation, plan),
        "public_datalist": file.public.data if file.public else None,
        "ledger": file.foundation.ledger if file.foundation else None,
        "foundation_model": file.foundation.model if file.foundation else None,
        "method_handlers": [dict(handler) for handler in plan.handlers],
    }
    if file.foundation:
        wanted = {"calibrate": file.foundation.calibrate, "follow_quality": file.foundation.follow_quality}
        overlay |= {f"public#knowledge#{key}": True for key, value in wanted.items() if value}
    if file.roles.small:
        overlay |= {"network_def": file.roles.small.network, "head": file.roles.small.head}
    if file.roles.large:
        overlay |= {"large_network_def": file.roles.large.network, "large_head": file.roles.large.head}
    if not datalist.splits.get("validation"):
        overlay["validate#dataset#data"] = []
    return {**overlay, **plan.overlay}


def _overrides(federation: Federation, plan: RolePlan) -> dict[str, Any]:
    """Return the file's overrides that mean something to a role: a small site has no large optimiser, say."""
    known = _keys(federation.bundle, plan.configs)
    return {key: value for key, value in federation.file.overrides.items() if key.split("#")[0] in known}


def _keys(bundle: Path, configs: Iterable[str]) -> set[str]:
    return {key for config in configs for key in ConfigParser.load_config_file(str(bundle / config))}


def _check_overrides(federation: Federation) -> None:
    configs = {config for role in ROLES for config in federation.method.plan(role).configs} | {TRAIN, TRAIN_LARGE}
    known = sorted(_keys(federation.bundle, sorted(file for file in configs if (federation.bundle / file).is_file())))
    for key in federation.file.overrides:
        root = key.split("#")[0]
        if root not in known:
            close = difflib.get_close_matches(root, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
            raise InputError(f"overrides.{key}: the bundle {federation.bundle.name} has no {root!r}; {hint}")


def check_networks(federation: Federation, constants: Mapping[str, Any]) -> None:
    """Build each role's network once and let it see an empty image, before anything is written.

    Raises:
        InputError: when the bundle lacks an id that a site needs, or the network cannot be built, has no such head, or
            gives another number of classes than the task has.
    """
    for role, network_key, head_key in (("small", "network_def", "head"), ("large", "large_network_def", "large_head")):
        sites = [site for site in federation.sites if site.role == role or network_key == "network_def"]
        if sites:
            _check_network(federation, sites[0], constants, role, network_key, head_key)  # type: ignore[arg-type]


def _check_whole(federation: Federation, network: nn.Module, where: str) -> None:
    if kept := local_keys(network, local_layers(federation)):
        raise InputError(
            f"aggregation.batch_norm: 'keep-local' keeps {min(kept)} of {where} from the server, where "
            f"{federation.method.name} trains the network; choose average, wrap the network in "
            "fedhelp_med.networks.group_normalized, or set settings.warm_start and settings.server_steps to 0"
        )


def _needs_large(plan: RolePlan) -> bool:
    return TRAIN_LARGE in plan.configs or "large_network_def" in str(plan.overlay)


def _check_network(
    federation: Federation, site: Site, constants: Mapping[str, Any], role: Role, network_key: str, head_key: str
) -> None:
    overlay = site_overlay(federation, site, constants)
    parser = ConfigParser()
    parser.read_config([str(federation.bundle / config) for config in federation.method.plan(site.role).configs])
    for key, value in overlay.items():
        if key not in ("network_def", "head") or not str(value).startswith("@"):  # a method may swap them
            parser[key] = value
    if network_key not in parser and not _needs_large(federation.method.plan("large")):
        return
    wanted = (network_key, head_key, "network", "optimizer", "train", "validate")
    if missing := [key for key in wanted if key not in parser]:
        raise InputError(
            f"bundle: {federation.bundle.name} lacks {', '.join(missing)}; "
            "start from a copy of a shipped bundle, which has every id that a site needs"
        )
    custom = getattr(federation.file.roles, role) is not None
    where = f"roles.{role}.network" if custom else f"bundle {federation.bundle.name}: {network_key}"
    try:
        network = parser.get_parsed_content(network_key)
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise InputError(f"{where}: cannot be built ({reason}); correct its _target_ and arguments") from None
    try:
        named_module(network, parser[head_key])
    except InputError as error:
        raise InputError(f"{where.removesuffix('.network')}.{error}") from None
    if network_key == "network_def" and federation.method.trains_at_server:
        _check_whole(federation, network, where)
    size_key = "roi_size" if parser.get("roi_size") is not None else "image_size"
    size = parser.get_parsed_content(size_key, default=None)
    if size is None:
        return
    image = torch.zeros(1, parser.get_parsed_content("in_channels"), *size)
    try:
        with torch.inference_mode():
            output = network.eval()(image)
    except Exception as error:
        reason = first_line(error)
        raise InputError(
            f"{where}: fails on an image of shape {tuple(image.shape)} ({reason}); "
            f"correct in_channels, spatial_dims or overrides.{size_key}"
        ) from None
    spatial = tuple(image.shape[2:]) if federation.is_segmentation else ()
    if tuple(output.shape[2:]) != spatial:
        raise InputError(
            f"{where}: gives an output of shape {tuple(output.shape)} for an image of shape {tuple(image.shape)}; "
            f"take a network that answers {'each position' if spatial else 'each image once'}, or another bundle"
        )
    classes = len(parser.get_parsed_content("class_names"))
    if output.shape[1] != classes and not (classes == 2 and output.shape[1] == 1):
        raise InputError(
            f"{where}: gives {output.shape[1]} channels for {classes} classes; set out_channels: {classes}"
        )
