"""Every code block of the documentation: commands have their options, Python compiles, JSON and YAML are read.

Commands are parsed by the program's own command line, and the quickstart's are executed on tiny sites; its
``make demo``, which takes minutes, is executed by hand.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from fedhelp_med.cli.main import app, main
from fedhelp_med.federation.config import FederationFile

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *ROOT.glob("bundles/*/docs/README.md")])
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        content = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(content):
            indent, language, text = match.groups()
            if language in languages:
                plain = "\n".join(line.removeprefix(indent) for line in text.splitlines())
                line = content.count("\n", 0, match.start()) + 2
                found.append(Block(str(page.relative_to(ROOT)), line, language, plain))
    return found


def commands() -> list[tuple[str, list[str]]]:
    """Every ``fedhelp`` command line, joined over continued lines."""
    found = []
    for block in blocks("sh", "bash", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words and Path(words[0]).name == "fedhelp":
                found.append((str(block), words[1:]))
    return found


def parse(command: Any, words: list[str]) -> None:
    while hasattr(command, "commands"):  # a group of commands: the next word names one
        assert words and words[0] in command.commands, f"no command {' '.join(words)!r}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


def test_there_is_something_to_check() -> None:
    assert len(commands()) > 5 and blocks("python") and blocks("yaml") and blocks("json")


@pytest.mark.parametrize(("place", "words"), commands(), ids=[f"{place} {' '.join(w[:2])}" for place, w in commands()])
def test_the_command_line_knows_every_command_and_option(place: str, words: list[str]) -> None:
    if "--help" not in words and "--version" not in words:
        parse(typer.main.get_command(app), words)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(re.sub(r",?\s*\.\.\.", "", block.text))


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_a_federation_file_or_keys_of_one(block: Block) -> None:
    content = yaml.safe_load(block.text)
    assert isinstance(content, dict)
    if isinstance(content.get("public"), str):
        assert set(content) <= {
            "data",
            "public",
            "ledger",
            "bundle",
            "model",
        }  # where things are at a site of NVFlare's
        return
    base = {"name": "x", "seed": 0, "rounds": 1, "method": "fedhelp", "bundle": "fedhelp_classification"}
    sites = [{"name": "a", "role": "small", "data": "a.json"}, {"name": "b", "role": "large", "data": "b.json"}]
    FederationFile.model_validate({**base, "sites": sites, **content})


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.integration
def test_the_quickstarts_commands_work_as_they_stand(federation_file, tmp_path, monkeypatch, capsys) -> None:
    federation_file(rounds=1, preset="recommended", settings={"warm_start": 0}, reference="local")
    monkeypatch.chdir(tmp_path)
    executed = [words for place, words in commands() if place.startswith("docs/quickstart.md")]
    assert [words[0] for words in executed] == ["run", "compare"]
    for words in executed:
        monkeypatch.setattr("sys.argv", ["fedhelp", *words])
        main()
        assert "Results: " in capsys.readouterr().out
    assert (tmp_path / "run" / "metrics.csv").is_file() and (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "comparison" / "comparison.csv").is_file()
