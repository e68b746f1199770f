"""No private pixel reaches the network: a whole federation, acquisition included, with every byte sent recorded.

Whatever the process sends goes through one recording relay: an audit hook sees every connection that it opens.
"""

import base64
import json
import socket
import sys
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import write_site
from foundation_server import OipServer
from PIL import Image

from fedhelp_med.cli.main import app
from fedhelp_med.common.errors import InputError
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.foundation import InputSpec

pytestmark = pytest.mark.integration

SPEC = InputSpec(3, (16, 16))
MODEL = {"kind": "oip", "model": "tiny", "version": "1", "classes": ["class 0", "class 1"], "input": SPEC.to_dict()}


class Relay:
    """Passes connections on to a server and keeps every byte on the way there."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.sent: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def recorded(self) -> bytes:
        return b"".join(self.sent)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.upstream)
            for source, target, record in ((near, far, self.sent.append), (far, near, lambda data: None)):
                threading.Thread(target=self._pump, args=(source, target, record), daemon=True).start()

    @staticmethod
    def _pump(source, target, record) -> None:
        try:
            while data := source.recv(1 << 16):
                record(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


CONTACTED: list[object] = []
"""Where this process connected to, or sent a datagram to, since the hook was installed."""


def _watch(event: str, arguments: tuple) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        CONTACTED.append(arguments[1])


@pytest.fixture(scope="module")
def _watched():
    sys.addaudithook(_watch)  # it stays for the process's life


@pytest.fixture(params=[True, False], ids=["binary", "json"])
def service(request):
    with OipServer(shape=[-1, 3, 16, 16], binary=request.param) as server:
        relay = Relay(server.server_address)
        yield relay, server
        relay.listener.close()


def rows_of(pixels: np.ndarray) -> list[np.ndarray]:
    """Rows and columns from the middle of a picture."""
    picture = pixels if pixels.ndim == 2 else pixels[0]
    return [picture[7], picture[:, 7]]


def traces(file: Path) -> dict[str, bytes]:
    """What a byte stream would hold if the image had been sent in one of many ways."""
    pixels = np.asarray(Image.open(file))
    fitted = SPEC.preprocess(file)
    forms = {"raw": pixels.astype(np.float32), "fitted": fitted, "unit": pixels.astype(np.float32) / 255}
    forms["normalised"] = ((pixels - pixels.mean()) / pixels.std()).astype(np.float32)
    found = {f"uint8 {n}": row.tobytes() for n, row in enumerate(rows_of(pixels))}
    for name, form in forms.items():
        for number, row in enumerate(rows_of(form)):
            for dtype in ("<f4", "<f2", "<f8"):
                found[f"{name} {dtype} {number}"] = row.astype(dtype).tobytes()
            numbers = row[:6].tolist()
            for separator in (",", ", "):
                found[f"{name} text {separator!r} {number}"] = separator.join(map(repr, numbers)).encode()
                doubles = [str(value) for value in row[:6]]  # the shortest text of a float32
                found[f"{name} short text {separator!r} {number}"] = separator.join(doubles).encode()
    content = file.read_bytes()
    start = content.index(b"IDAT") + 20
    found["file"] = content[start : start + 24]
    for name, trace in list(found.items()):
        if "text" not in name:
            for shift in range(3):  # where the trace begins within a group of three bytes
                piece = trace[shift : shift + (len(trace) - shift) // 3 * 3]
                found[f"{name} base64 {shift}"] = base64.b64encode(piece)
    return found


def seen(file: Path, stream: bytes) -> set[str]:
    return {name for name, trace in traces(file).items() if trace in stream}


def write_public(folder: Path, *more: str) -> Path:
    datalist = write_site(folder, training=9, validation=0, testing=0, seed=99, labelled=False)
    content = json.loads(datalist.read_text()) | {"public": True}
    content = {key: value for key, value in content.items() if value != []}
    content["training"] += [{"image": image} for image in more]
    datalist.write_text(json.dumps(content))
    return datalist


@pytest.fixture
def federation(federation_file, tmp_path, service):
    relay, _ = service
    write_public(tmp_path / "public")
    url = f"http://127.0.0.1:{relay.listener.getsockname()[1]}"
    (tmp_path / "foundation.json").write_text(json.dumps({**MODEL, "url": url}))
    return federation_file(rounds=1, public={"data": "public/datalist.json"}, foundation={"ledger": "knowledge.sqlite"})


def acquire(tmp_path: Path, federation: Path, *options: str) -> None:
    model = str(tmp_path / "foundation.json")
    app(["foundation", "acquire", "--model", model, "--federation", str(federation), *options], standalone_mode=False)


def test_a_whole_federation_sends_public_pixels_alone(tmp_path, federation, service, _watched):
    relay, server = service
    CONTACTED.clear()
    acquire(tmp_path, federation, "--dry-run")
    assert relay.recorded == b"" and CONTACTED == []
    acquire(tmp_path, federation, "--concurrency", "2", "--batch-size", "4")
    asked = server.asked
    run_federation(load_federation(federation), tmp_path / "run")
    acquire(tmp_path, federation)
    assert server.asked == asked == 3

    public = sorted((tmp_path / "public").rglob("*.png"))
    private = sorted((tmp_path / "sites").rglob("*.png"))
    assert len(public) == 9 and len(private) == 66
    stream = relay.recorded
    for file in public:  # the traces are what is really sent
        assert any(name.startswith("fitted") for name in seen(file, stream)), file
    for file in private:
        assert seen(file, stream) == set(), file
        assert file.name.encode() not in stream and b"clinic" not in stream and b"hospital" not in stream
    allowed = {relay.listener.getsockname(), relay.upstream}
    assert {tuple(address) for address in CONTACTED} == allowed


@pytest.mark.parametrize("way", ["copied", "saved again", "by its path"])
def test_a_private_image_on_the_public_list_is_not_sent(tmp_path, federation, service, way):
    relay, server = service
    private = tmp_path / "sites/clinic-a/images/training-2.png"
    if way == "copied":
        (tmp_path / "public/images/extra.png").write_bytes(private.read_bytes())
        write_public(tmp_path / "public", "images/extra.png")
    elif way == "saved again":
        pixels = np.asarray(Image.open(private)).T / 255.0
        nibabel.save(nibabel.Nifti1Image(pixels.astype(np.float32), np.eye(4)), tmp_path / "public/images/extra.nii.gz")
        write_public(tmp_path / "public", "images/extra.nii.gz")
    else:
        write_public(tmp_path / "public", "../sites/clinic-a/images/training-2.png")
    reason = "in folders of private data" if way == "by its path" else "has the pixels of the private image"
    with pytest.raises(InputError, match=reason):
        acquire(tmp_path, federation)
    assert server.asked in (0, 1)  # the batch of public images before it
    assert seen(private, relay.recorded) == set()


def test_traces_are_found_wherever_they_are(tmp_path):
    write_site(tmp_path, training=1, validation=0, testing=0)
    file = tmp_path / "images/training-0.png"
    pixels, fitted = np.asarray(Image.open(file)), SPEC.preprocess(file)
    streams = {
        "uint8 0": pixels.tobytes(),
        "raw <f4 0": pixels.astype("<f4").tobytes(),
        "unit <f8 1": (pixels.astype(np.float32) / 255).T.astype("<f8").tobytes(),
        "fitted <f2 0": fitted.astype("<f2").tobytes(),
        "fitted text ', ' 0": json.dumps(fitted.tolist()).encode(),
        "raw short text ',' 1": json.dumps(pixels.T.astype(float).tolist(), separators=(",", ":")).encode(),
        "file": b"--boundary" + file.read_bytes(),
    }
    for name, stream in streams.items():
        assert name in seen(file, stream)
        hidden = [seen(file, base64.b64encode(b"x" * shift + stream)) for shift in range(3)]
        assert "text" in name or all(any(trace.startswith(f"{name} base64") for trace in found) for found in hidden)
    assert seen(file, b"nothing") == set()
