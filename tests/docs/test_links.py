"""Every local link of a page leads somewhere, headings included; pages of the site are all in it."""

import os
import re

import pytest

from tests.docs import pages


def broken(path) -> list[str]:
    """Local targets of a page that do not exist."""
    wrong = []
    for link in pages.links(path):
        if re.match(r"[a-z]+:", link):  # https:, mailto:
            continue
        name, _, anchor = link.partition("#")
        target = path if not name else path.parent / name
        if not target.exists():
            wrong.append(link)
        elif anchor and target.suffix == ".md" and anchor not in pages.anchors(target):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("path", pages.PAGES, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_links_of_a_page_exist(path):
    assert not broken(path)


def test_a_broken_link_and_a_broken_heading_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One two\n[a](absent.md) [b](page.md#one-two) [c](#three) `[d](code.md)`\n"
        "```python\nx = [e](f.md)\n```\n[g](https://example.org/absent.md)\n"
    )
    assert broken(page) == ["absent.md", "#three"]


def test_names_of_files_in_pages_exist():
    """`gsjax/...`, `launch/...`, `tests/...`: paths that a page names in code style."""
    for path in pages.PAGES:
        named = re.findall(
            r"`((?:gsjax|configs|launch|tests|docs)/[\w./-]+\.\w+)`", path.read_text()
        )
        wrong = [name for name in named if not (pages.ROOT / name).exists()]
        assert not wrong, f"{path}: {wrong}"


def test_every_page_of_the_site_is_in_a_table_of_contents():
    docs = pages.ROOT / "docs"
    listed = {"index"}
    for path in docs.rglob("*.md"):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", path.read_text(), re.S):
            folder = os.path.relpath(path.parent, docs)
            names = (line for line in block.split() if not line.startswith(":"))
            listed |= {os.path.normpath(os.path.join(folder, name)) for name in names}
    there = {str(p.relative_to(docs).with_suffix("")) for p in docs.rglob("*.md")}
    assert there == listed


def test_every_readme_of_a_system_is_a_page_of_the_site():
    docs = pages.ROOT / "docs" / "systems"
    included = {p.stem for p in docs.glob("*.md") if "{include}" in p.read_text()}
    readmes = {p.parent.name for p in (pages.ROOT / "gsjax" / "systems").glob("*/README.md")}
    assert included == readmes
