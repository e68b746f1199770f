"""The code blocks of the documentation, and what of them is a step that a reader follows."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("bundles/*/docs/*.md")))
}
GUIDE = [page for page in PAGES if not page.startswith("bundles/")]
"""The documentation; what stands in the bundles' own is executed by tests/bundles."""
AFRESH = ("docs/results.md",)
"""Pages whose sections have nothing to do with each other."""
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "console")
SHOWN = ("text", "csv")
"""Blocks to read: what a program prints, and a table that the preparation of its page takes over."""


class Block(NamedTuple):
    """A fenced block, or one command line of a shell block."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def key(self) -> str:
        """How tables name it: the command without its comment, else the block's first line."""
        return self.text.strip().splitlines()[0]


def blocks(*languages: str) -> list[Block]:
    """Return the blocks in these languages, by default in all; Sphinx executes its own directives."""
    found = []
    for page, content in PAGES.items():
        for match in FENCE.finditer(content):
            indent, language, text = match.groups()
            if language.startswith("{") or (languages and language.split(" ")[0] not in languages):
                continue
            plain = "\n".join(line.removeprefix(indent) for line in text.splitlines())
            line = content.count("\n", 0, match.start()) + 2
            found.append(Block(page, line, language, plain))
    return found


def command_lines(block: Block) -> list[Block]:
    """Return the commands of a shell block, joined over continued lines, without comments and prompts."""
    found, begun = [], ""
    for offset, line in enumerate(block.text.splitlines()):
        begun += re.sub(r"^\$ | +# .*$", "", line)
        if begun.endswith("\\"):
            begun = begun[:-1]
        elif begun.strip():
            found.append(block._replace(line=block.line + offset, text=" ".join(begun.split())))
            begun = ""
    return found


def steps(page: str) -> list[Block]:
    """Return what a reader of a page executes, in order."""
    return [
        step
        for block in blocks()
        if block.page == page and block.language not in SHOWN
        for step in (command_lines(block) if block.language in SHELL else [block])
    ]


def parts(page: str) -> dict[str, list[Block]]:
    """Return the steps of a page in one list, or in one for each section where these start afresh."""
    found: dict[str, list[Block]] = {}
    for step in steps(page):
        before = PAGES[page].splitlines()[: step.line]
        section = [line for line in before if line.startswith("## ")][-1:] if page in AFRESH else []
        found.setdefault(" ".join([page, *section]), []).append(step)
    return found


def fedhelp_commands() -> list[tuple[str, list[str]]]:
    """Return every ``fedhelp`` command line: where it stands, and its words."""
    found = []
    for block in blocks(*SHELL):
        for line in command_lines(block):
            words = shlex.split(line.text)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words and Path(words[0]).name == "fedhelp":
                found.append((str(line), words[1:]))
    return found
