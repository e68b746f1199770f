"""What a site's process has to know to execute a federation."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedhelp_med.common.files import write_json
from fedhelp_med.data import Datalist
from fedhelp_med.federation.config import Site, Upload
from fedhelp_med.federation.loading import Federation, local_layers
from fedhelp_med.federation.site_messages import SiteJob
from fedhelp_med.federation.task import site_overlay
from fedhelp_med.federation.tracking import following
from fedhelp_med.federation.workspace import Workspace
from fedhelp_med.networks import balancing_offset


def site_job(federation: Federation, workspace: Workspace, constants: Mapping[str, Any], site: Site) -> SiteJob:
    """Write the site's config into its folder and describe what its process has to do.

    Args:
        federation: with the site's datalist; those of others are not needed.
        workspace: the run folder, or a site's own part of one.
        constants: the task's.
        site: one of the federation's.
    """
    folder = workspace.site(site.name)
    overlay_file = folder / "config.json"
    write_json(overlay_file, site_overlay(federation, site, constants))
    file, method = federation.file, federation.method
    plan = method.plan(site.role)
    datalist = federation.datalists[site.name]
    return SiteJob(
        name=site.name,
        role=site.role,
        bundle=str(federation.bundle),
        configs=(*plan.configs, str(overlay_file)),
        folder=folder,
        seed=file.seed,
        rounds=file.rounds,
        local_epochs=file.local_epochs,
        samples=datalist.samples("training"),
        splits=tuple(split for split, items in datalist.splits.items() if items),
        validation_patients=datalist.patients("validation"),
        has_large=site.role == "large",
        trained=plan.trained,
        deployed=plan.deployed,
        keep_optimizer=method.keeps_optimizer,
        exchange=method.exchange,
        upload=upload_of(federation),
        local_layers=local_layers(federation),
        chooses=method.chooses,
        offset=_offset(federation, datalist),
        reference=_reference_network(workspace, site),
        threads=file.runtime.threads,
        timeout=file.runtime.site_timeout,
        following=following(file, workspace.root, site.name),
    )


def _offset(federation: Federation, datalist: Datalist) -> tuple[float, ...]:
    """Return what the deployed network's logits are shifted by, from the site's own training labels; () for nothing."""
    if not federation.method.balances or federation.is_segmentation:
        return ()
    found = Counter(item["label"] for item in datalist.splits["training"])
    return balancing_offset([found[index] for index in range(len(federation.classes))])


def upload_of(federation: Federation) -> Upload:
    """Return what travels; predictions have no earlier version to differ from."""
    return federation.file.aggregation.upload if federation.method.exchange == "weights" else "weights"


def _reference_network(workspace: Workspace, site: Site) -> Path | None:
    """Return the file of the site's local-only network, where a reference was trained."""
    path = workspace.reference.site(site.name) / "deployed" / "local.safetensors"
    return path if path.is_file() else None
