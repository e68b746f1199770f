"""Whether a run folder is new, or holds the run that is to go on."""

import hashlib
import json
from pathlib import Path

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import file_hash, write_json
from fedhelp_med.federation.config import FederationFile, Foundation, Public, Tracking
from fedhelp_med.federation.loading import Federation, read_federation_file, save_federation
from fedhelp_med.federation.workspace import Workspace
from fedhelp_med.foundation import PublicKnowledge
from fedhelp_med.handlers import KNOWLEDGE


def open_workspace(workspace: Workspace, federation: Federation, resume: bool) -> None:
    """Make the run folder, or check that it holds the same federation.

    A run in which nothing was trained yet, because something was wrong with its file, begins anew with another one.

    Raises:
        InputError: when the folder holds something else, or the datalists or the model's answers have changed since.
    """
    root = workspace.root
    if root.exists() and any(path.name != "data" for path in root.iterdir()):
        if not workspace.federation_file.is_file():
            raise InputError(f"{root}: is not empty and not a run; choose another --out")
        runs = (workspace, workspace.reference)
        if not resume and any(run.committed() is not None for run in runs):
            raise InputError(f"{root}: holds a run already; go on with --resume, or choose another --out")
        try:
            check_same(workspace, read_federation_file(workspace.federation_file), federation)
        except InputError:
            if workspace.trained:
                raise
            workspace.clear()
    if not workspace.federation_file.is_file():
        save_federation(federation, workspace.federation_file)
    if workspace.committed() is None:
        write_json(workspace.data_file, _data(federation))


def _data(federation: Federation) -> dict[str, str]:
    """Return a hash of everything that is learned from, as far as it is on this machine, by what it is called."""
    found = {
        f"the datalist of {name}": file_hash(datalist.path) for name, datalist in sorted(federation.datalists.items())
    }
    found["the bundle's configs"] = _configs(federation.bundle)
    file = federation.file
    if file.public is None or not Path(file.public.data).is_file():
        return found
    found["the public datalist"] = file_hash(Path(file.public.data))
    if file.foundation is not None and Path(file.foundation.ledger).is_file():
        found["the foundation model's answers"] = _answers(file.public, file.foundation)
    return found


def _configs(bundle: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted((bundle / "configs").iterdir()):
        digest.update(f"{path.name} {file_hash(path)}\n".encode())
    return digest.hexdigest()


def _answers(public: Public, foundation: Foundation) -> str:
    """Return a hash of the answers to the public images; the ledger may hold others besides."""
    knowledge = PublicKnowledge(public.data, foundation.ledger, foundation.model)
    digest = hashlib.sha256()
    for item in knowledge.items:
        digest.update(item[KNOWLEDGE].tobytes())
    return digest.hexdigest()


def check_same(workspace: Workspace, earlier: FederationFile, federation: Federation) -> None:
    """Check that a run, made from the file ``earlier``, is the one that ``federation`` describes.

    Raises:
        InputError: when they differ in anything that the numbers depend on.
    """
    file = federation.file
    if _numbers(earlier) != _numbers(file):
        changed = sorted(key for key in FederationFile.model_fields if getattr(earlier, key) != getattr(file, key))
        raise InputError(
            f"{workspace.root}: holds a run of another federation (different: {', '.join(changed)}); "
            "choose another --out, or undo the change"
        )
    if not workspace.data_file.is_file():
        return
    began = json.loads(workspace.data_file.read_text(encoding="utf-8"))
    if changed := [name for name, found in _data(federation).items() if began.get(name, found) != found]:
        raise InputError(
            f"{workspace.root}: holds a run of other data (changed since: {', '.join(changed)}); "
            "choose another --out, or undo the change"
        )


def _numbers(file: FederationFile) -> FederationFile:
    """What the numbers depend on: everything but the workers, and who watches."""
    runtime = file.runtime.model_copy(update={"workers": 1})
    return file.model_copy(update={"runtime": runtime, "tracking": Tracking()})
