"""Markdown pages of the repository, their code blocks and links."""

import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "gsjax" / "systems").glob("*/README.md"),
        *(ROOT / "launch").glob("README.md"),
    ]
)


class Block(NamedTuple):
    """A fenced block of code.

    Attributes:
        language: 'python', 'bash', ... or ''.
        text: what is between the fences, without common indentation.
        file: NAME of a line ``<!-- file: NAME -->`` before it, or ''.
        reason: of a line ``<!-- not run: REASON -->`` before it, or ''.
        line: of the fence, 1-based.
    """

    language: str
    text: str
    file: str
    reason: str
    line: int


def blocks(path: pathlib.Path) -> list[Block]:
    """All fenced blocks of a page."""
    found, lines = [], path.read_text().splitlines()
    place = 0
    while place < len(lines):
        fence = re.fullmatch(r"( *)```(\w*)[^`]*", lines[place])
        place += 1
        if not fence:
            continue
        start, body = place, []
        while lines[place].strip() != "```":
            body.append(lines[place].removeprefix(fence[1]))
            place += 1
        place += 1
        mark = "\n".join(
            lines[max(0, start - 3) : start - 1]
        )  # a mark may have an empty line after it
        named = {k: re.search(rf"<!-- {k}: (.+?) -->\s*$", mark) for k in ("file", "not run")}
        texts = {k: m[1] if m else "" for k, m in named.items()}
        text = "\n".join(body) + "\n"
        found.append(Block(fence[2], text, texts["file"], texts["not run"], start))
    return found


def prose(path: pathlib.Path) -> str:
    """A page without its code."""
    text = re.sub(r"^( *)```.*?^\1```$", "", path.read_text(), flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", "", text)


def links(path: pathlib.Path) -> list[str]:
    """Targets of all links and pictures of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(path))


def anchors(path: pathlib.Path) -> set[str]:
    """What may follow '#': headings as GitHub turns them into names."""
    text = re.sub(r"^( *)```.*?^\1```$", "", path.read_text(), flags=re.S | re.M)
    heads = re.findall(r"^#+ +(.+?)\s*$", text, re.M)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    return {head.replace(" ", "-") for head in plain}
