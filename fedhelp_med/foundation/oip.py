"""A foundation model behind the Open Inference Protocol (KServe v2) over HTTP: Triton, MLServer, KServe and others."""

import json
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation.negotiation import CONFIGURATION, FLOATS, Contract, model_path, negotiate
from fedhelp_med.foundation.protocol import Array, ModelDescription
from fedhelp_med.foundation.rest import RestModel
from fedhelp_med.foundation.service import Service
from fedhelp_med.foundation.transport import FailureError, Reply, Request

HEADER_LENGTH = "Inference-Header-Content-Length"


class OipModel(RestModel):
    """A model of an Open Inference Protocol server.

    Nothing is sent when it is made. Before the first image leaves, the server's and the model's metadata decide about
    binary tensors or JSON, the datatype, the names of input and output and the size of a batch, and whether this is
    the model that was described.

    Args:
        description: what the model is. Its version is one that the server has, where the server tells them apart.
        service: the server.
        model: the model's name at the server, by default that of the description.
        batch_size: images per request at most; the server may take fewer.
        input_name: the input tensor, where there are several or the server names none.
        output_name: the output tensor, likewise.
        rows_first: reverse the spatial axes of what is sent, and of masks that come back. Images here are in the
            order of MONAI, `W, H` or `W, H, D`; networks that were not trained with MONAI mostly take `H, W`.

    Raises:
        InputError: if the extra ``oip`` is missing, or an argument makes no sense.
    """

    def __init__(
        self,
        description: ModelDescription,
        service: Service,
        *,
        model: str | None = None,
        batch_size: int = 64,
        input_name: str | None = None,
        output_name: str | None = None,
        rows_first: bool = False,
    ) -> None:
        super().__init__(description, service, batch_size=batch_size)
        try:
            import tritonclient.http
        except ImportError:
            raise InputError("an Open Inference Protocol model needs the extra 'oip': see docs") from None
        self._codec = tritonclient.http
        self._server_model, self._server_version = model or description.name, description.version
        if rows_first:
            self.version += "+rows-first"  # turned images have other answers
        self._names = {"input_name": input_name, "output_name": output_name}
        self._rows_first = rows_first
        self._contract: Contract | None = None
        self._negotiating = threading.Lock()

    def contract(self) -> Contract:
        """Return how the model is asked; the first call asks the server.

        Raises:
            InputError: if the server has another model than described.
            FedHelpError: if it does not answer.
        """
        with self._negotiating:
            if self._contract is None:
                self._contract = self._negotiate()
            return self._contract

    def batch_limit(self) -> int:
        """Return how many images a request may hold."""
        return min(self.batch_size, self.contract().limit or self.batch_size)

    def encode(self, batch: Array) -> Request:
        """Return the inference request for a batch, float32 `B, C, W, H[, D]`."""
        contract, codec = self.contract(), self._codec
        pixels = self._turn(batch).astype(FLOATS[contract.datatype], copy=False)
        pixels = np.ascontiguousarray(pixels if contract.batched else pixels[0])
        tensor = codec.InferInput(contract.input_name, list(pixels.shape), contract.datatype)
        tensor.set_data_from_numpy(pixels, binary_data=contract.binary)
        wanted = codec.InferRequestedOutput(contract.output_name, binary_data=contract.binary)
        body, header_length = codec.InferenceServerClient.generate_request_body([tensor], outputs=[wanted])
        headers = {"Content-Type": "application/json"}
        if header_length is not None:
            headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(header_length)}
        return Request("POST", f"{contract.path}/infer", body, headers, len(batch))

    def decode(self, reply: Reply, images: int) -> Array:
        """Return the answers in an inference response."""
        contract = self.contract()
        length = reply.headers.get(HEADER_LENGTH)
        result = self._codec.InferenceServerClient.parse_response_body(
            reply.body, header_length=None if length is None else int(length)
        )
        answer: Array | None = result.as_numpy(contract.output_name)
        if answer is None:
            raise ValueError(f"no output {contract.output_name}")
        answer = answer if contract.batched else answer[None]
        return self._turn(answer) if self.kind == "mask logits" else answer

    def _turn(self, tensor: Array) -> Array:
        """Reverse the axes behind the first two where the server wants it."""
        return tensor.transpose(0, 1, *range(tensor.ndim - 1, 1, -1)) if self._rows_first else tensor

    def _negotiate(self) -> Contract:
        model = quote(self._server_model, safe="")
        server = self._get("/v2")
        extensions = [str(name) for name in server.get("extensions") or []]
        metadata = self._get(f"/v2/models/{model}")
        path = model_path(model, self._server_version, metadata)
        if path != f"/v2/models/{model}":
            metadata = self._get(path)
        config = self._get(f"{path}/config") if CONFIGURATION in extensions else {}
        size = self.input.size[::-1] if self._rows_first else self.input.size
        try:
            return negotiate(self, path, extensions, metadata, config, size=size, **self._names)
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"model {self.name} at {self.service.endpoint.url}: its metadata do not follow the Open Inference "
                f"Protocol ({type(error).__name__}: {error}); check url"
            ) from None

    def _get(self, path: str) -> Mapping[str, Any]:
        return self.service.ask(Request("GET", path), _read_object)


def _read_object(reply: Reply) -> Mapping[str, Any]:
    try:
        content = json.loads(reply.body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise FailureError("bad answer", "its metadata cannot be read", "check url", again=True)
    return content
