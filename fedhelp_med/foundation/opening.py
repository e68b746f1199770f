"""A foundation model from its description, wherever it runs."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation.endpoint import Endpoint, Token
from fedhelp_med.foundation.local import DESCRIPTION, load_local_model
from fedhelp_med.foundation.oip import OipModel
from fedhelp_med.foundation.protocol import FoundationModel, InputSpec, Kind, ModelDescription
from fedhelp_med.foundation.rest import RestModel
from fedhelp_med.foundation.retries import Retries
from fedhelp_med.foundation.service import Service

DOCS = "docs/serve-your-own-foundation-model.md"


class ServiceFile(BaseModel):
    """A ``foundation.json`` that describes a model behind HTTP. Paths count from the file's folder.

    Args:
        url: of the service.
        version: of the model: one that the service has, or a name for what it serves.
        classes: in the order of the channels of an answer.
        input: the image that it takes; see :class:`InputSpec`.
        knowledge: what an answer is.
        name: by which ledgers know the model.
        token_env: the environment variable with the bearer token.
        token_file: or the file.
        ca: a PEM file with the authorities to trust.
        timeout: seconds that an attempt may take.
        batch_size: images per request.
        attempts: how often a request is sent at most.
        first_pause: seconds after the first attempt.
        longest_pause: seconds.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    url: str
    version: str = Field(min_length=1)
    classes: list[str]
    input: dict[str, Any]
    knowledge: Kind = "logits"
    name: str | None = Field(None, min_length=1)
    token_env: str | None = Field(None, min_length=1)
    token_file: str | None = Field(None, min_length=1)
    ca: str | None = Field(None, min_length=1)
    timeout: float = 60.0
    batch_size: int = 64
    attempts: int = Retries.attempts
    first_pause: float = Retries.first_pause
    longest_pause: float = Retries.longest_pause

    def service(self, name: str, folder: Path) -> Service:
        """Return the service."""
        token = Token(self.token_env, folder / Path(self.token_file).expanduser() if self.token_file else None)
        ca = folder / Path(self.ca).expanduser() if self.ca else None
        retries = Retries(self.attempts, self.first_pause, self.longest_pause)
        return Service(f"foundation model {name}", Endpoint(self.url, token, ca, self.timeout), retries)

    def description(self, name: str) -> ModelDescription:
        """Return the model's description."""
        return ModelDescription(
            name, self.version, tuple(self.classes), InputSpec.from_dict(self.input), self.knowledge
        )


class OipFile(ServiceFile):
    """A model of an Open Inference Protocol server.

    Args:
        kind: `oip`.
        model: its name at the server.
        input_name: its input tensor, where there are several.
        output_name: its output tensor, where there are several.
        rows_first: whether it takes images as `H, W` and not as MONAI's `W, H`.
    """

    kind: Literal["oip"]
    model: str = Field(min_length=1)
    input_name: str | None = None
    output_name: str | None = None
    rows_first: bool = False

    def open(self, folder: Path) -> OipModel:
        """Return the client."""
        name = self.name or self.model
        return OipModel(
            self.description(name),
            self.service(name, folder),
            model=self.model,
            batch_size=self.batch_size,
            input_name=self.input_name,
            output_name=self.output_name,
            rows_first=self.rows_first,
        )


class RestFile(ServiceFile):
    """A model of another service, through an adapter.

    Args:
        kind: `rest`.
        adapter: the import path of a :class:`RestModel`. It is code that runs: name only what you trust.
        options: settings of the adapter.
    """

    kind: Literal["rest"]
    adapter: str
    name: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)

    def open(self, folder: Path) -> RestModel:
        """Return the client."""
        module, _, name = self.adapter.rpartition(".")
        try:
            adapter = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(
                f"adapter is {self.adapter!r}, which cannot be imported ({error}): give PACKAGE.MODULE.CLASS"
            ) from None
        if not (isinstance(adapter, type) and issubclass(adapter, RestModel)):
            raise InputError(f"adapter is {self.adapter!r}, which is no RestModel: see {DOCS}")
        service = self.service(self.name, folder)
        return adapter(self.description(self.name), service, batch_size=self.batch_size, options=self.options)


FILES: dict[str, type[OipFile] | type[RestFile]] = {"oip": OipFile, "rest": RestFile}


def open_model(path: str | Path, device: str = "cpu") -> FoundationModel:
    """Open the foundation model that a description names; no service is contacted yet.

    Args:
        path: a ``foundation.json`` (or its folder), or the folder of a MONAI bundle. With ``"kind": "oip"`` or
            ``"kind": "rest"`` it describes a service, else a model that runs here.
        device: where a model runs that runs here.

    Returns:
        The model. One behind HTTP has ``on_attempt`` and ``batch_size`` too (:class:`RestModel`).

    Raises:
        InputError: if the description is wrong or something that it names is missing.
    """
    if str(path).startswith(("http://", "https://")):
        raise InputError(
            f"{path} is an address, which tells neither the classes nor the input of a model: write a {DESCRIPTION} "
            f"with it ({DOCS})"
        )
    file = Path(path) / DESCRIPTION if (Path(path) / DESCRIPTION).is_file() else Path(path)
    content = _peek(file)
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in FILES:
        return load_local_model(Path(path), device)
    if "token" in content:
        raise InputError(f"{file} holds a token: a secret has no place there; name token_env or token_file instead")
    try:
        return _parse(FILES[kind], content).open(file.parent)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _peek(file: Path) -> Mapping[str, Any]:
    """Return the content of a description; what cannot be read is left to who knows what it should be."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


File = TypeVar("File", bound=ServiceFile)


def _parse(file: type[File], content: Mapping[str, Any]) -> File:
    try:
        return file.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            raise InputError(f"unknown key {key!r}: use {', '.join(file.model_fields)}") from None
        if problem["type"] == "missing":
            raise InputError(f"{key!r} is missing: add it") from None
        raise InputError(f"{key} is {content.get(str(problem['loc'][0]))!r}: {problem['msg']}") from None
