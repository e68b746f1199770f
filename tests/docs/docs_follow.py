"""Following a page of the documentation: its blocks are executed in order, in one folder."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_federation
from docs_blocks import ROOT, SHELL, Block, command_lines
from PIL import Image

from fedhelp_med.cli.main import main
from fedhelp_med.data import read_datalist
from fedhelp_med.federation.loading import read_federation_file
from fedhelp_med.federation.workspace import Workspace
from fedhelp_med.foundation import RestModel, open_model

START_SECONDS = 240.0


class Follower:
    """Executes the steps of a page.

    Args:
        folder: the reader's; it becomes the working directory.
        monkeypatch: for arguments and the environment.

    Attributes:
        changes: text of the page, and what stands for it here.
        servers: the beginning of a command that goes on running, and the address that tells that it is ready.
        tops: the first line of a Python block, and the file at whose top it belongs.
        base: keys of the tiny federation that a part of a federation file is put into.
        finish: what is checked at the end, besides that everything worked.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.changes: dict[str, str] = {}
        self.servers: dict[str, str] = {}
        self.tops: dict[str, str] = {}
        self.base: dict[str, Any] = {}
        self.finish: list[Callable[[], None]] = []
        self._names: dict[str, Any] = {"__name__": "documentation"}
        self._description: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()
        self._server: subprocess.Popen | None = None
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        self.prepend_path(Path(sys.executable).parent)

    def close(self) -> None:
        """End the server, and what was begun."""
        self._end_server()
        self._stack.close()

    def cleanup(self, call: Callable[[], object]) -> None:
        """Have something done at the end."""
        self._stack.callback(call)

    def defined(self, name: str) -> Any:
        """Return what the page's Python blocks made."""
        return self._names[name]

    def prepend_path(self, folder: Path) -> None:
        self.monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def fedhelp(self, *words: str) -> None:
        """Execute a command line of the program in this process."""
        self.monkeypatch.setattr(sys, "argv", ["fedhelp", *words])
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, f"fedhelp {shlex.join(words)}: exit status {stop.code}"

    def follow(self, step: Block) -> None:
        """Execute a step."""
        text = step.text
        for old, new in self.changes.items():
            text = text.replace(old, new)
        kind = "sh" if step.language in SHELL else step.language
        getattr(self, f"_{kind}")(step._replace(text=text))

    def _sh(self, step: Block) -> None:
        words = shlex.split(step.text)
        if server := next((start for start in self.servers if step.text.startswith(start)), None):
            self._serve(words, self.servers[server])
        elif words[0] == "fedhelp":
            self.fedhelp(*words[1:])
        elif words[0] == "export":
            for word in words[1:]:
                self.monkeypatch.setenv(*word.split("=", 1))
        elif words[0] == "source":
            self.prepend_path(Path(words[1]).resolve().parent)
        elif words[0] == "make":
            self._make(words[1:])
        else:
            done = subprocess.run(["bash", "-euc", step.text], capture_output=True, encoding="utf-8", check=False)
            assert done.returncode == 0, f"{step.text}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    def _make(self, targets: list[str]) -> None:
        """Execute what make would, in an environment that is set up already."""
        (self.folder / "ready").mkdir(exist_ok=True)
        (self.folder / "ready/.installed").touch()
        command = ["make", "--no-print-directory", "--dry-run", "-C", str(ROOT), f"VENV={self.folder / 'ready'}"]
        recipe = subprocess.run([*command, *targets], capture_output=True, encoding="utf-8", check=True).stdout
        recipe = recipe.replace(f"{self.folder / 'ready/bin'}/", "")
        lines = command_lines(Block("Makefile", 0, "sh", recipe))
        assert lines, f"make {shlex.join(targets)} does nothing"
        for line in lines:
            self._sh(line)

    def _serve(self, words: list[str], address: str) -> None:
        """Start a server in the place of the one that runs, and wait until it answers."""
        self._end_server()
        with (self.folder / "server.log").open("w") as log:
            server = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        self._server = server
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            assert server.poll() is None, (self.folder / "server.log").read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
                return
            time.sleep(0.2)
        pytest.fail(f"{shlex.join(words)}: no answer; {(self.folder / 'server.log').read_text()[-3000:]}")

    def _end_server(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.send_signal(signal.SIGINT)  # which lets it stop its workers too
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    def _python(self, step: Block) -> None:
        """Execute a block; one that begins with a file's name is a script, which a later step runs or imports."""
        if step.text.startswith("# ") and step.key.split()[1].endswith(".py"):
            (self.folder / step.key.split()[1]).write_text(step.text)
        elif step.key in self.tops:
            file = self.folder / self.tops[step.key]
            file.write_text(f"{step.text}\n{file.read_text()}")
        else:
            exec(compile(step.text, str(step), "exec"), self._names)

    def _yaml(self, step: Block) -> None:
        """Take over a whole federation file, which a later step runs; run parts of one in a tiny federation."""
        content = yaml.safe_load(step.text)
        if isinstance(content.get("public"), str):  # where things are at a site of NVFlare's
            (self.folder / "site.yaml").write_text(step.text)
        elif "sites" in content:
            (self.folder / "federation.yaml").write_text(step.text)
            read_federation_file(self.folder / "federation.yaml")
            self.finish.append(lambda: _check_run(self.folder / "run"))
        else:
            federation = write_federation(self.folder, **{"rounds": 1, **self.base, **content})
            self.fedhelp("run", str(federation), "--out", f"run-{step.line}")
            _check_run(self.folder / f"run-{step.line}")

    def _json(self, step: Block) -> None:
        """Read a datalist whose files exist; open a description of a foundation model, and ask it where it runs."""
        content = json.loads(step.text)
        if "training" in content:
            path = self.folder / f"listed-{step.line}" / "datalist.json"
            for item in (item for split in ("training", "validation", "testing") for item in content.get(split, ())):
                for name in (name for name in (item["image"], item["label"]) if isinstance(name, str)):
                    (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
                    Image.new("L", (16, 16)).save(path.parent / name, format="PNG")
            path.write_text(step.text)
            assert read_datalist(path).classes == tuple(content["labels"].values())
            return
        self._description = {**self._description, **content} if "classes" not in content else content
        (self.folder / "foundation.json").write_text(json.dumps(self._description))
        model = open_model(self.folder / "foundation.json")
        assert list(model.classes) == self._description["classes"]
        if self._description["kind"] != "oip":
            import numpy as np

            answer = model.predict(np.zeros((2, *model.input.shape), np.float32))
            assert answer.shape == (2, len(model.classes))
        if isinstance(model, RestModel):
            model.close()


def _check_run(folder: Path) -> None:
    assert Workspace(folder).complete and (folder / "report.html").is_file()
