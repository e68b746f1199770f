"""Real Triton servers for tests, in the environment that ``make services-triton`` makes."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedhelp-med"
PYTHON = CACHE / "triton-0.7.0" / "bin" / "python"
DOCS = Path(__file__).parents[1] / "docs" / "serve-your-own-foundation-model.md"
MODEL = Path(__file__).with_name("triton_model.py")
START_SECONDS = 180.0


def need_triton() -> None:
    """Skip where the environment is missing; fail where it has to be there."""
    if not PYTHON.exists():
        message = f"no {PYTHON}; run make services-triton"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)


def script_of_docs(name: str, folder: Path) -> Path:
    """Write a script of the page, which begins with its name, to a folder."""
    blocks = re.findall(
        r"^```python\n(# (\S+\.py).*?)^```$", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    path = folder / name
    path.write_text({found: code for code, found in blocks}[name], encoding="utf-8")
    return path


def free_ports(count: int) -> int:
    """Return the first of several neighbouring ports that nobody uses."""
    while True:
        with contextlib.ExitStack() as stack:
            holders = [stack.enter_context(socket.socket()) for _ in range(count)]
            holders[0].bind(("127.0.0.1", 0))
            first = int(holders[0].getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                for offset, holder in enumerate(holders[1:], start=1):
                    holder.bind(("127.0.0.1", first + offset))
                return first


@contextlib.contextmanager
def triton(script: Path, before: list[str], after: list[str], model: str, folder: Path) -> Iterator[int]:
    """Run a script that serves a model: its arguments are ``before``, a port, ``after``; yield the port."""
    need_triton()
    port = free_ports(3)
    library = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        check=True,
        capture_output=True,
        encoding="utf-8",
    ).stdout.strip()
    with (folder / f"{model}.log").open("w") as log, tempfile.TemporaryDirectory() as home:
        # a short path: sockets are made below it, and theirs may not exceed about 100 bytes
        environment = {**os.environ, "LD_LIBRARY_PATH": library, "PYTRITON_HOME": home}
        server = subprocess.Popen(
            [PYTHON, script, *before, str(port), *after], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            wait_for(server, f"http://127.0.0.1:{port}/v2/models/{model}/ready", Path(log.name))
            yield port
        finally:
            server.send_signal(signal.SIGINT)  # which stops Triton and its workers too
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait_for(server: subprocess.Popen, url: str, log: Path) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    pytest.fail(f"no answer within {START_SECONDS:.0f} s: {log.read_text()}")


class Gate:
    """Passes bytes on to a server, and counts the connections: without one there is no request."""

    def __init__(self, port: int) -> None:
        self.connections = 0
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(self._target)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                target.sendall(content)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def describe(path: Path, **content: object) -> Path:
    """Write a foundation.json."""
    path.write_text(json.dumps({"kind": "oip", "version": "1", **content}), encoding="utf-8")
    return path
