"""Every page of the documentation, followed: its blocks and commands are executed in order in one folder."""

import re
import tomllib

import pytest
from docs_blocks import GUIDE, ROOT, SHELL, Block, blocks, command_lines, parts, steps
from docs_follow import Follower
from docs_inputs import PREPARE
from docs_services import SERVED
from docs_tables import CHANGES, ELSEWHERE, SERVICES

EXCUSED = {(entry.page, entry.key) for entry in ELSEWHERE}
WITH_SERVER = {(page, key) for page, keys in SERVICES.items() for key in keys}
PARTS = {name: found for page in GUIDE for name, found in parts(page).items()}


def without(steps: list[Block], *excused: set[tuple[str, str]]) -> list[Block]:
    return [step for step in steps if not any((step.page, step.key) in table for table in excused)]


HERE = {name: found for name, part in PARTS.items() if (found := without(part, EXCUSED, WITH_SERVER))}


@pytest.fixture
def reader(tmp_path, monkeypatch):
    follower = Follower(tmp_path, monkeypatch)
    yield follower
    follower.close()


def follow(reader: Follower, page: str, steps: list[Block]) -> None:
    reader.changes |= {change.old: change.new for change in CHANGES if change.page == page}
    for step in steps:
        reader.follow(step)
    for check in reader.finish:
        check()


@pytest.mark.integration
@pytest.mark.parametrize("part", HERE)
def test_a_page_is_followed(part, reader) -> None:
    page = HERE[part][0].page
    PREPARE[page](reader)
    follow(reader, page, HERE[part])


@pytest.mark.service
@pytest.mark.parametrize("page", SERVICES)
def test_a_page_is_followed_with_its_server(page, reader) -> None:
    with SERVED[page](reader):
        follow(reader, page, without(PARTS[page], EXCUSED))


def test_no_entry_of_the_tables_is_left_over() -> None:
    there = {(step.page, step.key) for part in PARTS.values() for step in part}
    assert not EXCUSED - there
    assert not WITH_SERVER - there
    assert not EXCUSED & WITH_SERVER
    assert set(PREPARE) == {part[0].page for part in HERE.values()}
    assert set(SERVED) == set(SERVICES)
    for change in CHANGES:
        assert any(change.old in step.text for step in steps(change.page)), change


@pytest.mark.parametrize("entry", ELSEWHERE, ids=lambda entry: entry.key)
def test_what_is_not_executed_is_covered_elsewhere(entry) -> None:
    path, _, word = entry.covered.partition("::")
    assert word in (ROOT / path).read_text(encoding="utf-8")


def test_every_extra_that_is_installed_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [
        extra
        for block in blocks(*SHELL)
        for line in command_lines(block)
        for extras in re.findall(rf"{project['name']}\[(.+?)\]", line.text)
        for extra in extras.split(",")
    ]
    assert len(named) > 5 and set(named) <= set(project["optional-dependencies"])
