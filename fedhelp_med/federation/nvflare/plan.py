"""What a participant of an NVFlare job is told: the federation, and what it has to know about the task.

A site's plan names no other site, and the server's no site's paths.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import write_json
from fedhelp_med.data import Datalist
from fedhelp_med.federation.config import FederationFile
from fedhelp_med.federation.loading import Federation, bundle_folder, complete_federation, method_of

PLAN = "fedhelp.json"
ELSEWHERE = "at the site"

RUN_VARIABLE = "FEDHELP_RUN"
"""Names the run folder itself; in one machine all participants share it."""
HOME_VARIABLE = "FEDHELP_HOME"
"""Names the folder that holds a participant's run folders; ``~/.fedhelp`` by default."""
SITE_VARIABLE = "FEDHELP_SITE"
"""Names a YAML file that says where things are at this participant: ``data``, ``public``, ``ledger``,
``bundle``, ``model`` (the foundation model's file)."""


@dataclass(frozen=True)
class Plan:
    """One participant's part of the job.

    Args:
        run: what its run folder is called; the same federation has the same name.
        file: the federation file, reduced to what the participant has to know.
        constants: the task's, which follow from all sites' data.
        source: where the plan was read.
        acquire: the foundation model to ask about the public set, in a job that does nothing else.
    """

    run: str
    file: FederationFile
    constants: Mapping[str, Any]
    source: Path = Path(PLAN)
    acquire: str | None = None

    def for_site(self, name: str) -> "Plan":
        """Return the plan of one site."""
        own = [site for site in self.file.sites if site.name == name]
        aggregation = self.file.aggregation.model_copy(update={"minimum_sites": 1})
        file = self.file.model_copy(update={"sites": own, "aggregation": aggregation})
        return dataclasses.replace(self, file=file)

    def for_server(self) -> "Plan":
        """Return the server's plan: names and roles of the sites."""
        sites = [site.model_copy(update={"data": ELSEWHERE}) for site in self.file.sites]
        return dataclasses.replace(self, file=self.file.model_copy(update={"sites": sites}))

    def folder(self) -> Path:
        """Return this participant's run folder."""
        if own := os.environ.get(RUN_VARIABLE):
            return Path(own)
        return Path(os.environ.get(HOME_VARIABLE, Path.home() / ".fedhelp")) / self.run


def plan_of(federation: Federation, constants: Mapping[str, Any]) -> Plan:
    """Return the whole plan of a federation."""
    return Plan(run_name(federation.file), federation.file, constants)


def run_name(file: FederationFile) -> str:
    """Return what a federation's run folder is called; the name tells apart what the numbers depend on."""
    content = json.dumps(file.model_dump(exclude={"runtime": {"workers"}}), sort_keys=True)
    word = "".join(letter if letter.isalnum() else "-" for letter in file.name.lower()).strip("-")
    return f"{word[:40]}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan as JSON."""
    file = plan.file.model_dump(exclude_none=True)
    content = {"run": plan.run, "federation": file, "constants": dict(plan.constants), "acquire": plan.acquire}
    write_json(path, content)


def read_plan(path: Path) -> Plan:
    """Read a plan, with this participant's own paths in it.

    Raises:
        InputError: when the participant's file of paths is wrong.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    file = FederationFile.model_validate(content["federation"])
    base = path.resolve().parent
    if (base / file.bundle).is_dir():  # a bundle that came with the job
        file = file.model_copy(update={"bundle": str(base / file.bundle)})
    placed, model = _placed(file, content["acquire"])
    return Plan(content["run"], placed, content["constants"], path, model)


def server_federation(plan: Plan) -> Federation:
    """Return the federation as the server knows it: without any site's images."""
    classes = tuple(str(name) for name in _constant(plan, "class_names"))
    return Federation(
        file=plan.file,
        source=plan.source,
        bundle=bundle_folder(plan.file.bundle),
        method=method_of(plan.file),
        datalists={site.name: Datalist(Path(site.data), site.name, classes, {}) for site in plan.file.sites},
        public=None,
    )


def site_federation(plan: Plan) -> Federation:
    """Return the federation as its only site knows it.

    Raises:
        InputError: when the site's data are not where the plan says.
    """
    return complete_federation(plan.file, plan.source)


def _constant(plan: Plan, key: str) -> Any:
    return plan.constants.get(key, plan.file.overrides.get(key, ()))


def _placed(file: FederationFile, model: str | None) -> tuple[FederationFile, str | None]:
    """Put this participant's own paths into the file, and into that of the foundation model."""
    path = os.environ.get(SITE_VARIABLE)
    if path is None:
        return file, model
    try:
        own = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{SITE_VARIABLE}={path}: cannot be read ({error}); name a YAML file of paths") from None
    known = ("data", "public", "ledger", "bundle", "model")
    if not isinstance(own, dict) or any(key not in known or not isinstance(own[key], str) for key in own):
        raise InputError(f"{path}: has to be a mapping of {', '.join(known)} to paths")
    changes: dict[str, Any] = {"bundle": own["bundle"]} if "bundle" in own else {}
    if "data" in own and len(file.sites) == 1:
        changes["sites"] = [file.sites[0].model_copy(update={"data": own["data"]})]
    if "public" in own and file.public:
        changes["public"] = file.public.model_copy(update={"data": own["public"]})
    if "ledger" in own and file.foundation:
        changes["foundation"] = file.foundation.model_copy(update={"ledger": own["ledger"]})
    base = Path(path).resolve().parent
    if model is not None and "model" in own:
        model = str(base / Path(own["model"]).expanduser())
    return file.model_copy(update=changes).resolved(base), model
