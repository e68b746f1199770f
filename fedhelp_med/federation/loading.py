"""Reading a federation file: everything that can be wrong with it is said before anything is written."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import fedhelp_med
from fedhelp_med.common.errors import InputError, first_line
from fedhelp_med.common.files import write_text
from fedhelp_med.data import Datalist, read_datalist
from fedhelp_med.federation.config import FederationFile, Foundation, Site
from fedhelp_med.federation.messages import readable
from fedhelp_med.federation.tracking import check_tracking
from fedhelp_med.methods import METHODS, Method, create_method
from fedhelp_med.networks import LocalLayers

SHIPPED_BUNDLES = Path(fedhelp_med.__file__).parent / "bundles"


@dataclass(frozen=True)
class Federation:
    """A federation file that was read and checked, with what it refers to.

    Args:
        file: the file's content with absolute paths.
        source: where it was read.
        bundle: the bundle's folder.
        method: the method with its settings.
        datalists: by site name.
        public: the public set's datalist.
    """

    file: FederationFile
    source: Path
    bundle: Path
    method: Method
    datalists: Mapping[str, Datalist]
    public: Datalist | None

    def with_file(self, file: FederationFile) -> "Federation":
        """Return the same federation with another content of its file."""
        return dataclasses.replace(self, file=file)

    @property
    def sites(self) -> list[Site]:
        """The sites in the order of their names, which is the order of everything."""
        return sorted(self.file.sites, key=lambda site: site.name)

    @property
    def is_segmentation(self) -> bool:
        """Whether the labels are masks."""
        return any(datalist.is_segmentation for datalist in self.datalists.values())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the task's classes; numbers where no datalist names them."""
        named = next((datalist.classes for datalist in self.datalists.values() if datalist.classes), None)
        count = next(iter(self.datalists.values())).class_count or 0
        return named or tuple(str(index) for index in range(count))


def load_federation(path: Path) -> Federation:
    """Read and check a federation file.

    Raises:
        InputError: with the file, and for every problem the key, its value and the remedy.
    """
    file = read_federation_file(path)
    with naming(path):
        return complete_federation(file, path)


def read_federation_file(path: Path) -> FederationFile:
    """Read a federation file alone, without what it refers to.

    Returns:
        Its content with absolute paths.

    Raises:
        InputError: with the file, and for every problem the key, its value and the remedy.
    """
    content = _read_yaml(path)
    with naming(path):
        try:
            return FederationFile.model_validate(content).resolved(path.resolve().parent)
        except ValidationError as error:
            raise InputError(readable(error, FederationFile, content)) from None


def local_layers(federation: Federation) -> LocalLayers:
    """Return the layers that stay at the sites: the method's, else by the file's policy."""
    if federation.method.local_layers != "none":
        return federation.method.local_layers
    return "batch-norm" if federation.file.aggregation.batch_norm == "keep-local" else "none"


def save_federation(federation: Federation, path: Path) -> None:
    """Write the resolved file: it can be run again from anywhere."""
    content = federation.file.model_dump(exclude_none=True)
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def complete_federation(file: FederationFile, source: Path) -> Federation:
    """Read and check what a file with absolute paths refers to; ``source`` is where it came from.

    Raises:
        InputError: for every problem the key, its value and the remedy.
    """
    _check_names(file)
    method = method_of(file)
    bundle = bundle_folder(file.bundle)
    if file.aggregation.minimum_sites > len(file.sites):
        raise InputError(
            f"aggregation.minimum_sites: {file.aggregation.minimum_sites} is more than the {len(file.sites)} sites; "
            "lower it"
        )
    datalists = {site.name: _named(f"sites ({site.name}).data", read_datalist, Path(site.data)) for site in file.sites}
    _check_classes(datalists)
    public = _named("public.data", read_datalist, Path(file.public.data)) if file.public else None
    if method.exchange == "predictions" and not file.public:
        raise InputError(f"method: {file.method} exchanges predictions on public images; add public.data")
    if file.foundation:
        _check_foundation(file.foundation, public)
    check_tracking(file.tracking)
    return Federation(file, source, bundle, method, datalists, public)


def _check_foundation(foundation: Foundation, public: Datalist | None) -> None:
    if public is None:
        raise InputError("foundation: a ledger without a public set teaches nothing; add public.data or remove it")
    if not Path(foundation.ledger).is_file():
        raise InputError(
            f"foundation.ledger: {foundation.ledger} does not exist; make it with "
            "`fedhelp foundation acquire`, or remove the key"
        )
    for key in ("calibrate", "follow_quality"):
        if getattr(foundation, key) and "label" not in public.splits["training"][0]:
            raise InputError(f"foundation.{key}: true needs labels, and {public.path} has none; remove the key")


def _read_yaml(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such federation file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); check the file") from None
    try:
        return parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{path}: is not valid YAML{where}: {error.problem}; correct it") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is not valid YAML ({first_line(error)}); correct it") from None


def parse_yaml(text: str) -> Any:
    """Read safe YAML in which a key stands once and ``1e-3`` is a number.

    Raises:
        yaml.YAMLError: it is not valid, or a key stands twice.
    """
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """The standard lets the last of equal keys win silently, and its version 1.1 takes ``1e-3`` for text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value)
        for key, count in keys.items():
            if count > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's path before every line of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def _check_names(file: FederationFile) -> None:
    names = Counter(site.name.lower() for site in file.sites)
    for name, count in names.items():
        if count > 1:
            raise InputError(f"sites.name: {name!r} is used {count} times; give every site its own name")


def method_of(file: FederationFile) -> Method:
    """Return the method that a file names, with its preset and settings.

    Raises:
        InputError: when one of them is unknown or unsuitable.
    """
    if file.method not in METHODS:
        raise InputError(f"method: {file.method!r} is unknown; choose one of {', '.join(sorted(METHODS))}")
    presets = METHODS[file.method].presets
    if file.preset not in presets:
        raise InputError(f"preset: {file.preset!r} is unknown to {file.method}; choose one of {', '.join(presets)}")
    try:
        return create_method(file.method, file.preset, file.settings)
    except ValidationError as error:
        model = METHODS[file.method].settings_type
        raise InputError(readable(error, model, file.settings, prefix="settings.")) from None


def bundle_folder(name: str) -> Path:
    """Return the folder of a shipped bundle, or ``name`` itself where that is one.

    Raises:
        InputError: when it is neither.
    """
    shipped = sorted(folder.parent.parent.name for folder in SHIPPED_BUNDLES.glob("*/configs/train.json"))
    if name in shipped:
        return SHIPPED_BUNDLES / name
    if (Path(name) / "configs" / "train.json").is_file():
        return Path(name)
    raise InputError(
        f"bundle: {name!r} is neither a shipped bundle ({', '.join(shipped)}) nor a folder with configs/train.json; "
        "name one of these"
    )


def _named(key: str, read: Callable[[Path], Datalist], path: Path) -> Datalist:
    try:
        return read(path)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def _check_classes(datalists: Mapping[str, Datalist]) -> None:
    counts = {name: datalist.class_count for name, datalist in datalists.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise InputError(
            f"sites.data: the sites have different numbers of classes ({found}); "
            "declare the same `labels` in every datalist"
        )
    names = {datalist.classes for datalist in datalists.values() if datalist.classes}
    if len(names) > 1:
        raise InputError(
            f"sites.data: the sites name their classes differently ({' / '.join(map(str, sorted(names)))}); "
            "declare the same `labels` in every datalist"
        )
