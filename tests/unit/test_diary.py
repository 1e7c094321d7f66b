"""What the daemon writes into the index: little, and nothing twice."""

import contextlib
import json
import logging
import sqlite3
from types import SimpleNamespace

import pytest

from vaultik.daemon import diary as diaries
from vaultik.index import db
from vaultik.index.state import get_state
from vaultik.index.status import DAEMON

KNOWN = {
    "running": False, "dirty": 0, "watching": 5, "doubt": None, "failures": 0, "next_look": None, "next_full_scan": None,
}  # fmt: skip


class Told:
    """A diary over a real index, and a clock that stands still."""

    def __init__(self, path, monkeypatch):
        self.path = path
        self.now = 1000.0
        self.lines = []
        manager = SimpleNamespace(status=self.lines.append)
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: 0.0)
        clock.strftime, clock.localtime = lambda _shape, _when: "12:00:00", lambda _when: None
        monkeypatch.setattr(diaries, "time", clock)
        self.diary = diaries.Diary(SimpleNamespace(index_path=path, path="c"), logging.getLogger("t"), manager)

    def status(self, **changes):
        return self.diary.status(**KNOWN | changes)

    def row(self):
        with contextlib.closing(sqlite3.connect(self.path)) as index:
            return json.loads(get_state(index, DAEMON) or "null")


@pytest.fixture
def told(tmp_path, monkeypatch):
    db.open_index(tmp_path / "index.sqlite").close()
    return Told(tmp_path / "index.sqlite", monkeypatch)


def test_what_is_new_is_written_at_once_and_then_not_for_a_second(told):
    told.status()
    assert told.row()["running"] is False
    told.now += 0.25
    assert told.status(running=True) == 0.75
    assert told.row()["running"] is False
    told.now += 0.75
    told.status(running=True)
    assert told.row()["running"] is True


def test_a_count_alone_waits_for_half_a_minute(told):
    told.status(dirty=1)
    told.now += 10
    assert told.status(dirty=2) == 20
    assert told.row()["dirty"] == 1
    told.now += 20
    told.status(dirty=2)
    assert told.row()["dirty"] == 2


def test_the_first_change_after_none_does_not_wait_for_it(told):
    told.status()
    told.now += 10
    told.status(dirty=1)
    assert told.row()["dirty"] == 1


def test_what_could_not_be_written_is_written_later(told):
    with contextlib.closing(sqlite3.connect(told.path, isolation_level=None)) as run:
        run.execute("BEGIN IMMEDIATE")
        told.status()
        run.execute("ROLLBACK")
    assert told.row() is None
    told.now += 1
    told.status()
    assert told.row()["watching"] == 5


def test_without_an_index_none_is_made(tmp_path, monkeypatch):
    told = Told(tmp_path / "index.sqlite", monkeypatch)
    assert told.status() > 0
    assert list(tmp_path.iterdir()) == []


def test_what_systemd_shows(told):
    told.diary.last_error = "store away"
    told.status(running=True, dirty=3)
    told.status(failures=2, next_look=1.0)
    assert told.lines == [
        "backing up; 5 directories watched; 3 dirty",
        "failed 2 times: store away; next look 12:00:00; 5 directories watched; 0 dirty",
    ]
