"""docs/getting-it-back.md: each of its commands is run as it stands there, and brings back what it says."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.mounts import NEEDS_FUSE
from tests.support.site import BIN, Site
from tests.support.tree import compare, describe

PAGE = Path(__file__).parents[2] / "docs/getting-it-back.md"
SECTIONS = {
    title: re.findall(r"^    (.*)$", text, re.MULTILINE)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
}
WITH_COMMANDS = [title for title, commands in SECTIONS.items() if commands]


class Machine:
    """A host with two snapshots, and what its page's commands mean for it."""

    def __init__(self, tmp):
        self.tmp = tmp
        dump = {"name": "/dumps/shop.sql", "command": ["cat", str(tmp / "shop.sql")]}
        self.site = Site(tmp, prefix="host1/", chunk_size="64KiB", blob_size_limit="8MiB", commands=[dump])
        self.site.bucket = "my-bucket"
        self.site.configure(s3={**self.site.settings["s3"], "bucket": "my-bucket"})
        (tmp / "shop.sql").write_text("CREATE TABLE orders (id INTEGER); INSERT INTO orders VALUES (17);\n")
        self.me = self.site.source / "home/me"
        (self.me / "mail/inbox").mkdir(parents=True)
        for name, text in (
            ("notes", "old\n"),
            ("report.odt", "report\n"),
            ("mail/inbox/1", "invoice\n"),
            ("mail/2", "two\n"),
        ):
            (self.me / name).write_text(text)
        (self.me / "large.odt").write_bytes(os.urandom(100_000))
        (self.me / "disk.img").write_bytes(os.urandom(1_000_000))
        self.first = self.site.backup()["snapshot"]
        self.older = describe(self.me)
        seen = set(self.site.blobs())
        (self.me / "notes").write_text("new\n")
        (self.me / "mail/2").write_text("overwritten\n")
        (self.me / "mail/inbox/1").write_text("an invoice of today\n")
        (self.me / "disk.img").write_bytes(os.urandom(3_000_000))
        self.site.backup()
        (self.blob_of_disk_img,) = sorted(set(self.site.blobs()) - seen, key=lambda blob: blob.stat().st_size)[-1:]
        self.newer = describe(self.me)

    def at(self, target):
        """Where /home/me stands below a target of the page."""
        return Path(f"{self.tmp}{target}{self.me}")

    def meant(self, command):
        """A command of the page, for this machine."""
        for text, meaning in (
            ("identity.txt", str(self.site.key)),
            ("my-bucket host1/", f"--endpoint {self.site.endpoint} my-bucket host1/"),
            ("20261122", self.first),
            ("/home/me", str(self.me)),
            ("/srv/", f"{self.tmp}/srv/"),
            ("/mnt", f"{self.tmp}/mnt"),
            (" / ", f" {self.tmp}/machine "),
        ):
            command = command.replace(text, meaning)
        # Quoted names with wildcards stand for paths too.
        return command.replace(f"'{self.tmp}{self.me}", f"'{self.me}")

    def run(self, commands):
        environment = self.site.environment(PATH=f"{BIN}:{os.environ['PATH']}")
        said = []
        for command in commands:
            done = subprocess.run(
                ["sh", "-c", self.meant(command)],
                env=environment,
                cwd=self.tmp,
                text=True,
                capture_output=True,
                check=False,
            )
            code = 1 if re.search(r"(^|\| )diff ", command) else 4 if "--salvage" in command else 0
            assert done.returncode == code, (command, done.stdout, done.stderr)
            said.append(done.stdout)
        return said


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    (tmp_path / "srv").mkdir()
    (tmp_path / "mnt/backups").mkdir(parents=True)
    return machine


def one_file(machine):
    (machine.me / "report.odt").unlink()
    yield
    assert describe(machine.me) == machine.newer


def as_it_was(machine):
    said = yield
    assert said[0] == "1c1\n< old\n---\n> new\n"
    assert (machine.me / "notes").read_text() == (machine.me / "notes.old").read_text() == "old\n"


def a_directory(machine):
    here = machine.at("/machine")
    shutil.copytree(machine.site.source, machine.tmp / f"machine{machine.site.source}", symlinks=True)
    (here / "mail/come since").write_text("x")
    (here / "come since").write_text("x")
    said = yield
    assert "mail/2" in said[0]
    assert "come since" in said[3]
    assert (machine.at("/srv/restored") / "mail/2").read_text() == "two\n"
    assert compare(machine.at("/srv/restored") / "mail", here / "mail") == []
    assert (here / "come since").exists()
    assert (here / "notes").read_text() == "new\n"


def unknown_name(machine):
    said = yield
    assert said[0].count("\n") == 2
    assert "large.odt" in said[1]
    assert "report.odt" not in said[1]
    assert said[3].splitlines() == [f"{machine.tmp}/mnt/backups/latest{machine.me}/mail/inbox/1"]
    assert compare(machine.tmp / "srv/mail", machine.me / "mail") == []
    assert not os.path.ismount(machine.tmp / "mnt/backups")


def a_database(machine):
    yield
    query = ["sqlite3", machine.tmp / "shop.sqlite", "SELECT id FROM orders"]
    assert subprocess.run(query, check=True, capture_output=True, text=True).stdout == "17\n"


def own_account(machine):
    yield
    mine, theirs = machine.at("/srv/mine"), machine.at("/srv/theirs")
    assert (mine / "notes").read_text() == "new\n"
    assert (mine / "notes").stat().st_uid == os.geteuid()
    if os.geteuid() == 0:
        assert (theirs / "notes").owner() == "nobody"
        assert (theirs / "notes").group() == "nogroup"


def whole_machine(machine):
    (machine.tmp / "mnt/backups").rmdir()
    said = yield
    assert machine.first in said[0]
    assert describe(machine.at("/mnt")) == machine.newer
    assert re.fullmatch(r"\d+ entries unchanged \(.*\)\n", said[3])


def damaged(machine):
    data = bytearray(machine.blob_of_disk_img.read_bytes())
    data[len(data) // 2] ^= 1
    machine.blob_of_disk_img.chmod(0o644)
    machine.blob_of_disk_img.write_bytes(data)
    yield
    left = machine.at("/srv/what-is-left")
    assert not (left / "disk.img").exists()
    salvaged, right = (left / "disk.img.vaultik-salvaged").read_bytes(), (machine.me / "disk.img").read_bytes()
    assert len(salvaged) == len(right)
    assert salvaged != right
    assert salvaged[:100_000] == right[:100_000]
    assert (left / "notes").read_text() == "new\n"
    assert (machine.tmp / "srv/disk.img").stat().st_size == 1_000_000


def rehearsal(machine):
    said = yield
    assert re.fullmatch(r"\d+ entries unchanged \(.*\)\n", said[1])
    assert describe(machine.at("/srv/rehearsal")) == machine.newer


SCENES = {
    "I deleted one file": one_file,
    "I need it as it was": as_it_was,
    "A directory went wrong": a_directory,
    "I don't know what it was called": unknown_name,
    "A database": a_database,
    "Into my own account": own_account,
    "The machine is gone": whole_machine,
    "Something stored is damaged": damaged,
    "Before you need it": rehearsal,
}
MARKS = {"I don't know what it was called": NEEDS_FUSE}


def test_each_section_with_commands_is_lived_through():
    assert list(SCENES) == WITH_COMMANDS


@pytest.mark.parametrize("title", [pytest.param(title, marks=MARKS.get(title, ())) for title in SCENES])
def test_it_brings_back_what_it_says(machine, title):
    scene = SCENES[title](machine)
    next(scene)
    with pytest.raises(StopIteration):
        scene.send(machine.run(SECTIONS[title]))
