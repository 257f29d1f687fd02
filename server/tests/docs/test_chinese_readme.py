"""README.zh-CN.md has the same structure as README.md.

Both have the same sections, and in each section the same code blocks, list items, table rows, links, and code spans.
Differences are reported by section, with what to add to the Chinese text and what to remove from it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from difflib import unified_diff
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"

FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the text up to the next one."""

    level: int
    title: str
    text: str

    @property
    def fences(self) -> list[str]:
        return FENCE.findall(self.text)

    @property
    def prose(self) -> str:
        return FENCE.sub("", self.text)

    @property
    def items(self) -> Counter[str]:
        """Everything that both languages must contain, with its count."""
        prose = self.prose
        targets = re.findall(r"\]\(([^)]+)\)", prose)
        return Counter[str](
            {
                **Counter(f"`{name}`" for name in re.findall(r"`([^`]+)`", prose)),
                **Counter(f"a link to {target}" for target in targets if target not in (ENGLISH, CHINESE)),
                "list items": len(re.findall(r"^- ", prose, re.MULTILINE)),
                "table rows": len(re.findall(r"^\|", prose, re.MULTILINE)),
            }
        )


def sections(markdown: str) -> list[Section]:
    """The sections in order. A `#` inside a code block does not start a section."""
    blocks = FENCE.findall(markdown)
    hidden = FENCE.sub("\0", markdown)
    found: list[Section] = []
    for heading in re.split(r"^(?=#)", hidden, flags=re.MULTILINE)[1:]:
        first, _, text = heading.partition("\n")
        whole = re.sub("\0", lambda _: blocks.pop(0), text)
        found.append(Section(len(first) - len(first.lstrip("#")), first.lstrip("# "), whole))
    return found


def differences(english: str, chinese: str) -> list[str]:
    """Return the differences between the two texts, each as a few lines."""
    ours, theirs = sections(english), sections(chinese)
    if [section.level for section in ours] != [section.level for section in theirs]:
        pairs = zip_longest(ours, theirs)
        shown = [" | ".join(f"{'#' * s.level} {s.title}" if s else "(none)" for s in pair) for pair in pairs]
        return ["the headings do not match, English | Chinese:\n" + "\n".join(shown)]
    found: list[str] = []
    for here, there in zip(ours, theirs, strict=True):
        where = f"section {here.title!r} ({there.title!r})"
        for number, (block, other) in enumerate(zip_longest(here.fences, there.fences, fillvalue=""), start=1):
            if block != other:
                diff = unified_diff(other.splitlines(), block.splitlines(), CHINESE, ENGLISH, lineterm="")
                found.append(f"{where}: code block {number} differs:\n" + "\n".join(diff))
        found += [f"{where}: {count} × {item} to add" for item, count in (here.items - there.items).items()]
        found += [f"{where}: {count} × {item} to remove" for item, count in (there.items - here.items).items()]
    return found


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_chinese_readme_has_the_structure_of_the_english_one() -> None:
    found = differences(read(ENGLISH), read(CHINESE))

    if found:
        pytest.fail(f"{CHINESE} differs from {ENGLISH}:\n\n" + "\n\n".join(found), pytrace=False)


def test_each_readme_links_to_the_other() -> None:
    assert f"]({CHINESE})" in read(ENGLISH).partition("##")[0]
    assert f"]({ENGLISH})" in read(CHINESE).partition("##")[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("## Two", "### Two"), "the headings do not match"),
        (("echo a", "echo b"), "section 'Two' ('二'): code block 1 differs"),
        (("`name`", "`other`"), "section 'One' ('一'): 1 × `other` to add"),
        (("](API.md)", "](API.md#there)"), "section 'One' ('一'): 1 × a link to API.md#there to add"),
        (("- one\n", "- one\n- two\n"), "section 'Two' ('二'): 1 × list items to add"),
        (("- one\n", ""), "section 'Two' ('二'): 1 × list items to remove"),
    ],
)
def test_a_difference_is_reported_with_its_section(changed: tuple[str, str], message: str) -> None:
    english = "# One\n\nA `name`, [described](API.md).\n\n## Two\n\n```sh\n# no heading\necho a\n```\n\n- one\n"
    chinese = "# 一\n\n`name`，见[说明](API.md)。\n\n## 二\n\n```sh\n# no heading\necho a\n```\n\n- 一\n"
    assert differences(english, chinese) == []

    found = differences(english.replace(*changed), chinese)

    assert any(message in line for line in found), found
