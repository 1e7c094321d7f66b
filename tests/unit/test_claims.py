"""What the pages promise names the test that holds it, and that test is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "FORMAT.md", "SECURITY.md", "ARCHITECTURE.md", "docs/planning.md")
SECTIONS = {
    "README.md": (
        "What it does\n",
        "Restores that go on, updates and --delete",
        "The identity",
        "Prune",
        "Verify and heal",
        "What a host that was taken over can do",
        "Signed snapshots",
        "The config",
    ),
    "FORMAT.md": tuple(f"{n}. " for n in range(2, 10)),
    "SECURITY.md": ("What is promised",),
}
NAMED = re.compile(r"\b(?:tests/)?(?:\w+/)*test_\w+\.py|\btests/\w+/")


def named(text):
    return NAMED.findall(text)


@pytest.mark.parametrize("page", PAGES)
def test_each_test_that_a_page_names_is_there(page):
    for name in named((ROOT / page).read_text()):
        found = [ROOT / name] if name.startswith("tests/") else list((ROOT / "tests").rglob(name))
        assert [path for path in found if path.exists()], name


@pytest.mark.parametrize(("page", "title"), [(page, title) for page, titles in SECTIONS.items() for title in titles])
def test_each_section_that_promises_something_names_one(page, title):
    sections = re.split(r"^## ", (ROOT / page).read_text(), flags=re.MULTILINE)
    (section,) = (section for section in sections if section.startswith(title))
    assert named(section)


def test_each_promise_of_the_readme_and_of_the_security_page_names_one():
    readme = (ROOT / "README.md").read_text()
    lists = readme.partition("## What it does\n")[2].partition("\n## ")[0].split("\n- ")[1:]
    rows = (ROOT / "SECURITY.md").read_text().partition("|---|---|\n")[2].partition("\n\n")[0].splitlines()
    attackers = (ROOT / "FORMAT.md").read_text().partition("| held by |\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert min(len(lists), len(rows), len(attackers)) > 5
    assert [promise for promise in (*lists, *rows, *attackers) if not named(promise)] == []
