"""Excludes mean what they mean to git: the same rules over the same tree, and the very same files."""

import os
import random
import subprocess

import pytest

from vaultik.errors import ConfigError
from vaultik.ignore import IgnoreRules

NAMES = ["a", "b", "c", "a.txt", "b.log", "keep", "cache", "[x]", "sp ace", "new\nline"]
PARTS = [
    "a",
    "b",
    "*",
    "**",
    "*.txt",
    "*.log",
    "keep",
    "cache",
    "a*",
    "?",
    "[ab]",
    "[!a]",
    "[a-b].*",
    "\\a",
    "*e*",
    "[[:alpha:]]",
    "\\[x]",
]


def make_tree(root, rng, depth=3):
    for name in rng.sample(NAMES, 6):
        if depth and "." not in name:
            (root / name).mkdir()
            make_tree(root / name, rng, depth - 1)
        else:
            (root / name).write_text("x")


def pattern(rng):
    text = "/".join(rng.choice(PARTS) for _ in range(rng.choice([1, 1, 2, 2, 3])))
    text += "/" if rng.random() < 0.3 else ""
    text = f"/{text}" if rng.random() < 0.3 else text
    return f"!{text}" if rng.random() < 0.35 else text


def walk(root, rules, prefix=""):
    found = set()
    for entry in os.scandir(root):
        name = prefix + entry.name
        if name in (".git", ".gitignore") or rules.fits(name, is_directory=entry.is_dir()):
            continue
        found |= walk(entry.path, rules, f"{name}/") if entry.is_dir() else {name}
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_walk_keeps_what_git_keeps(tmp_path, seed):
    rng = random.Random(seed)
    make_tree(tmp_path, rng)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    command = ["git", "-C", tmp_path, "ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"]
    for _ in range(60):
        patterns = [pattern(rng) for _ in range(rng.randint(1, 4))]
        (tmp_path / ".gitignore").write_text("\n".join(patterns) + "\n")
        listed = subprocess.run(command, check=True, capture_output=True).stdout.split(b"\0")
        kept = {os.fsdecode(name) for name in listed if name and name != b".gitignore"}
        assert walk(tmp_path, IgnoreRules(patterns)) == kept, patterns


@pytest.mark.parametrize("line", ["!", "/", "a[b", "ends with \\", "!//"])
def test_what_can_never_fit_is_refused(line):
    with pytest.raises(ConfigError, match="can never fit"):
        IgnoreRules([line])


def test_comments_escapes_and_spaces():
    rules = IgnoreRules(["# not this", "\\#this", "\\!that", "trailing   ", "kept\\ ", ""])
    for name in ("#this", "!that", "trailing", "kept "):
        assert rules.fits(name, is_directory=False)
    for name in ("# not this", "trailing   ", "kept", "foo\n#this "):
        assert not rules.fits(name, is_directory=False)


def test_what_was_left_out_below_stays_out_when_its_directory_is_taken_in_again():
    rules = IgnoreRules([".ssh/", "/home/*", "!/home/me"])
    assert not rules.fits("home/me", is_directory=True)
    assert rules.fits("home/me/.ssh", is_directory=True)
    assert not rules.fits("home/me/.ssh", is_directory=False)
