"""A small Open Inference Protocol server on real sockets, which can be told to fail in every way that servers do."""

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

HEADER_LENGTH = "Inference-Header-Content-Length"
DTYPES = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


@dataclass
class Answer:
    """What the server is about to send."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


Act = Callable[["Handler", Answer], "Answer | None"]
"""Changes an answer; None: it has sent something itself, or has broken the connection."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: "OipServer"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(self.server.metadata)

    def do_POST(self) -> None:
        self.answer(self.server.infer)

    def answer(self, make: Callable[..., Answer]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.removeprefix("http://model.example")  # as a proxy is asked
        with self.server.lock:
            self.server.requests.append((self.command, path, dict(self.headers)))
            wanted = self.server.acts and (self.command == "POST" or self.server.acts_on_all)
            act = self.server.acts.pop(0) if wanted else None
        if self.server.on_request is not None:
            self.server.on_request()
        answer: Answer | None = make(path, body, self.headers)
        if act is not None:
            answer = act(self, answer)
        if answer is not None:
            self.send(answer)

    def send(self, answer: Answer, length: int | None = None) -> None:
        self.send_response_only(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(answer.body) if length is None else length))
        self.end_headers()
        self.wfile.write(answer.body)

    def drip(self, content: bytes) -> None:
        """Send byte by byte, fast enough that no single byte is late."""
        with suppress(OSError):
            for byte in content:
                self.wfile.write(bytes([byte]))
                if self.server.stopping.wait(0.02):
                    break
        self.close_connection = True


class OipServer(ThreadingHTTPServer):
    """Serves one model: logits are the mean of the first K channels.

    ``acts`` are taken one per inference request (per request with ``acts_on_all``); when none is left, the server
    answers as it should.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, tls: ssl.SSLContext | None = None, sock: socket.socket | None = None, **changes: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler, bind_and_activate=sock is None)
        if sock is not None:  # bound already, so far without listening
            self.socket.close()
            self.socket = sock
            self.server_address = sock.getsockname()
            self.server_activate()
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.binary = changes.get("binary", True)
        self.datatype = changes.get("datatype", "FP32")
        self.shape = changes.get("shape", [-1, 3, 8, 8])
        self.classes = changes.get("classes", 2)
        self.maximum = changes.get("maximum", 0)
        self.versions = changes.get("versions", ["1", "2"])
        self.token: str | None = changes.get("token")
        self.acts: list[Act] = []
        self.acts_on_all = False
        self.on_request: Callable[[], None] | None = None
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.images: list[np.ndarray] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()

    def __enter__(self) -> "OipServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *arguments: Any) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # connections that a test broke

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    @property
    def asked(self) -> int:
        """Inference requests so far."""
        return sum(method == "POST" for method, _, _ in self.requests)

    def metadata(self, path: str, body: bytes, headers: Any) -> Answer:
        extensions = ["model_configuration"] if self.maximum else []
        if path == "/v2":
            return as_json({"name": "small", "extensions": extensions + ["binary_tensor_data"] * self.binary})
        if path.endswith("/config"):
            return as_json({"max_batch_size": self.maximum})
        batch = [-1] if len(self.shape) == 4 else []
        given = {"name": "pixels", "datatype": self.datatype, "shape": self.shape}
        taken = {"name": "scores", "datatype": self.datatype, "shape": [*batch, self.classes]}
        content = {"name": "tiny", "versions": self.versions, "inputs": [given], "outputs": [taken]}
        return as_json(content) if path.startswith("/v2/models/tiny") else as_json({"error": "unknown model"}, 404)

    def infer(self, path: str, body: bytes, headers: Any) -> Answer:
        if self.token is not None and headers["Authorization"] != f"Bearer {self.token}":
            return as_json({"error": f"{headers['Authorization']} opens nothing"}, 401)
        length = headers[HEADER_LENGTH]
        if length is not None and not self.binary:
            return as_json({"error": "binary tensors are not understood"}, 422)
        request = json.loads(body if length is None else body[: int(length)])
        tensor = request["inputs"][0]
        dtype = DTYPES[tensor["datatype"]]
        pixels = np.array(tensor["data"], dtype) if length is None else np.frombuffer(body[int(length) :], dtype)
        pixels = pixels.reshape(tensor["shape"])
        images = pixels if len(self.shape) == 4 else pixels[None]
        with self.lock:
            self.images.extend(np.array(image, dtype=np.float32) for image in images)
        scores = scores_of(images)[:, : self.classes].astype(dtype)
        return respond(scores if len(self.shape) == 4 else scores[0], self.binary, self.datatype)


def scores_of(images: np.ndarray) -> np.ndarray:
    """The model."""
    return images.astype(np.float64).reshape(*images.shape[:2], -1).mean(axis=2).astype(np.float32)


def respond(scores: np.ndarray, binary: bool, datatype: str = "FP32") -> Answer:
    """An inference response."""
    output: dict[str, Any] = {"name": "scores", "datatype": datatype, "shape": list(scores.shape)}
    if not binary:
        return as_json({"outputs": [{**output, "data": scores.flatten().tolist()}]})
    output["parameters"] = {"binary_data_size": scores.nbytes}
    head = json.dumps({"outputs": [output]}).encode()
    return Answer(200, {HEADER_LENGTH: str(len(head))}, head + scores.tobytes())


def as_json(content: object, status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())


def reset(handler: Handler, answer: Answer) -> None:
    """Break the connection with RST instead of FIN."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def hang_up(handler: Handler, answer: Answer) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def silence(handler: Handler, answer: Answer) -> None:
    """Send nothing, until the test is over."""
    handler.server.stopping.wait(5)
    handler.close_connection = True


def slow_headers(handler: Handler, answer: Answer) -> None:
    """Send a header that never ends."""
    handler.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"." * 250)


def slow_body(handler: Handler, answer: Answer) -> None:
    """Send the headers at once and the body byte by byte."""
    handler.send(Answer(200, answer.headers), length=len(answer.body))
    handler.drip(answer.body)


def truncated(handler: Handler, answer: Answer) -> None:
    """Promise the whole body and send a part."""
    handler.send(Answer(200, answer.headers, answer.body[:-3]), length=len(answer.body))
    handler.close_connection = True


def shortened(handler: Handler, answer: Answer) -> Answer:
    """Lose the end of the body in a way that HTTP does not notice."""
    return Answer(200, answer.headers, answer.body[:-3])


def status(code: int, text: str = "overloaded", **headers: str) -> Act:
    """Answer with a status and an error in JSON."""

    def act(handler: Handler, answer: Answer) -> Answer:
        failure = as_json({"error": text}, code)
        failure.headers.update({key.replace("_", "-"): value for key, value in headers.items()})
        return failure

    return act


def page(handler: Handler, answer: Answer) -> Answer:
    """Answer with a page for people and status 200."""
    return Answer(200, {"Content-Type": "text/html"}, b"<!doctype html><title>Please log in</title>")


def scores(make: Callable[[int], np.ndarray]) -> Act:
    """Answer with other scores, made for the number of images."""

    def act(handler: Handler, answer: Answer) -> Answer:
        return respond(make(len(handler.server.images)).astype(np.float32), binary=True)

    return act
