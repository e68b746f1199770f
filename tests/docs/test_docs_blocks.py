"""Every code block of the documentation, read: commands have their options, Python compiles, JSON and YAML are right.

What the blocks do when they are followed is in ``test_docs_followed.py``.
"""

import json
from typing import Any

import pytest
import typer
import yaml
from docs_blocks import SHELL, SHOWN, Block, blocks, fedhelp_commands

from fedhelp_med.cli.main import app
from fedhelp_med.federation.config import FederationFile

COMMANDS = fedhelp_commands()


def parse(command: Any, words: list[str]) -> None:
    while hasattr(command, "commands"):  # a group of commands: the next word names one
        assert words and words[0] in command.commands, f"no command {' '.join(words)!r}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


def test_there_is_something_to_check() -> None:
    assert len(COMMANDS) > 5 and blocks("python") and blocks("yaml") and blocks("json")


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_every_block_says_what_it_is(block: Block) -> None:
    assert block.language in (*SHELL, *SHOWN, "python", "yaml", "json")


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[f"{place} {' '.join(w[:2])}" for place, w in COMMANDS])
def test_the_command_line_knows_every_command_and_option(place: str, words: list[str]) -> None:
    if "--help" not in words and "--version" not in words:
        parse(typer.main.get_command(app), words)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_a_federation_file_or_keys_of_one(block: Block) -> None:
    content = yaml.safe_load(block.text)
    assert isinstance(content, dict)
    if isinstance(content.get("public"), str):  # where things are at a site of NVFlare's
        assert set(content) <= {"data", "public", "ledger", "bundle", "model"}
        return
    base = {"name": "x", "seed": 0, "rounds": 1, "method": "fedhelp", "bundle": "fedhelp_classification"}
    sites = [{"name": "a", "role": "small", "data": "a.json"}, {"name": "b", "role": "large", "data": "b.json"}]
    FederationFile.model_validate({**base, "sites": sites, **content})


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")
