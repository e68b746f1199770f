"""A real picture archive (Orthanc) for tests, in a network namespace of its own: it listens on all interfaces."""

import asyncio
import ctypes
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
NAMESPACES: list = []  # this process's own network, once it has one


def unavailable(reason):
    """In CI a missing service is a failure, elsewhere the test is skipped."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{reason} (make services-orthanc)")


@contextmanager
def own_network():
    """Put this thread, and what it starts, into a network namespace with nothing but a loopback.

    It is the same one for a whole process: threads that libraries keep from test to test stay where they were started.
    """
    with open("/proc/thread-self/ns/net") as before:  # noqa: PTH123
        try:
            if NAMESPACES:
                libc.setns(NAMESPACES[0].fileno(), CLONE_NEWNET)
            else:
                if libc.unshare(CLONE_NEWNET):
                    unavailable(f"no network namespace: {os.strerror(ctypes.get_errno())}")
                NAMESPACES.append(open("/proc/thread-self/ns/net"))  # noqa: PTH123, SIM115 (held until the process ends)
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            libc.setns(before.fileno(), CLONE_NEWNET)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Orthanc:
    """A running archive: its addresses, and what a test asks it directly."""

    def __init__(self, folder, **settings):
        self.http, self.dicom, self.move = free_port(), free_port(), free_port()
        self.folder = folder
        self.web = f"http://127.0.0.1:{self.http}/dicom-web"
        self.classic = f"dicom://127.0.0.1:{self.dicom}/ORTHANC"
        folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "DicomModalities": {"puller": {"AET": "FEDHELP", "Host": "127.0.0.1", "Port": self.move, "AllowGet": True}},
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **settings,
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))

    @contextmanager
    def running(self):
        binary = shutil.which("Orthanc") or unavailable("Orthanc is not installed")
        if not PLUGIN.is_file():
            unavailable("Orthanc's DICOMweb plugin is not installed")
        with (self.folder / "log.txt").open("wb") as log:
            process = subprocess.Popen([binary, str(self.folder / "orthanc.json")], stdout=log, stderr=log)
            try:
                self._wait(process)
                yield self
            finally:
                process.terminate()
                process.wait(20)

    def _wait(self, process):
        for _ in range(200):
            if process.poll() is not None:
                break
            try:
                for port in (self.http, self.dicom):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"Orthanc did not start:\n{(self.folder / 'log.txt').read_text()}")

    def request(self, path, data=None, user=None):
        """Ask the archive's own REST interface."""
        request = urllib.request.Request(f"{self.web.removesuffix('/dicom-web')}{path}", data=data)
        if user:
            import base64

            request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()

    def store(self, files, user=None):
        for content in files:
            self.request("/instances", content, user)


@contextmanager
def behind_tls(port, context):
    """Offer what listens on ``port`` through TLS; give the port. (Debian's Orthanc 1.10 crashes in its own HTTPS.)"""

    async def relay(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer), return_exceptions=True)

    async def serve(ready):
        server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
        ready.append(server.sockets[0].getsockname()[1])
        started.set()
        async with server:
            await server.serve_forever()

    started, ready, loop = threading.Event(), [], asyncio.new_event_loop()
    task = loop.create_task(serve(ready))
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.gather(task, return_exceptions=True)))
    thread.start()
    assert started.wait(20)
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(20)


async def _copy(source, target):
    while content := await source.read(65536):
        target.write(content)
        await target.drain()
    target.close()
