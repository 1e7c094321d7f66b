"""`vaultik sql`, and the queries of docs/looking.md, as they stand there."""

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import click
import pytest

from tests.support.site import Site
from vaultik.cli.main import cli
from vaultik.core.identity import Identity
from vaultik.errors import ConfigError
from vaultik.look.sql import MOST_SNAPSHOTS, open_for_queries
from vaultik.snapshot.find import list_snapshots
from vaultik.store.open import open_store

PAGE = (Path(__file__).parents[2] / "docs/looking.md").read_text()
QUERIES = dict(re.findall(r"^### (.*?)\n+```sql\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
pytestmark = pytest.mark.xdist_group("sql")


OLD = 1_600_000_000
ODD = os.fsdecode(b"odd \xff\x1b[31m\\name.TXT")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two snapshots."""
    site = Site(tmp_path_factory.mktemp("sql"))
    root = site.source
    root.mkdir()
    for name, data in {
        "a.log": b"a" * 3000, "b.txt": os.urandom(50_000), "copy of b.txt": b"", "grows": b"1", ODD: b"odd", "suid": b"#!", "open": b"x",
        ".hidden": b"h", "before": b"",
    }.items():  # fmt: skip
        (root / name).write_bytes(data)
    (root / "copy of b.txt").write_bytes((root / "b.txt").read_bytes())
    os.link(root / "a.log", root / "linked.log")
    (root / "to").symlink_to("b.txt")
    (root / "suid").chmod(0o4755)
    (root / "open").chmod(0o646)
    os.setxattr(root / "open", "user.note", b"12345")
    for path in root.iterdir():
        os.utime(path, (OLD, OLD), follow_symlinks=False)
    os.utime(root / "before", ns=(1, -1_500_000_000))
    site.backup()
    (root / "grows").write_bytes(b"1" * 700)
    (root / "new").write_bytes(b"n" * 900)
    site.backup()
    return site


@pytest.fixture(scope="module")
def queries(site):
    with open_both(site) as queries:
        yield queries


def open_both(site, count=1):
    store = open_store(site.endpoint, site.bucket, site.prefix)
    return open_for_queries(store, [Identity(site.identity)], list_snapshots(store) * count)


def ask(queries, query):
    columns, rows = queries.run(query)
    return [dict(zip(columns, row, strict=True)) for row in rows]


EXPECTED = {
    "The largest files": lambda rows: {r["path"].rpartition("/")[2] for r in rows[:2]} == {"b.txt", "copy of b.txt"}
    and 40_000 < rows[0]["stored"] < 60_000
    and rows[2]["size"] == 3000 > rows[2]["stored"] > 0,
    "What kind of file takes the space": lambda rows: {"extension": "txt", "files": 3, "size": 100_003}.items() <= rows[0].items()
    and {r["extension"] for r in rows} == {"txt", "log", ""},
    "Whose files take the space": lambda rows: sum(r["files"] for r in rows) == 9 and sum(r["size"] for r in rows) == 103_008,
    "Which directories have the most in them, not counting those below": lambda rows: len(rows) == 1 and rows[0]["size"] == 106_008,
    "Copies of the same content": lambda rows: [(r["copies"], r["size"]) for r in rows] == [(2, 50_000)]
    and rows[0]["one_of_them"].endswith("/b.txt") and rows[0]["another"].endswith("/copy of b.txt"),
    "What came since (two snapshots)": lambda rows: [(r["path"][-4:], r["size"]) for r in rows] == [("/new", 900)],
    "What grew most (two snapshots)": lambda rows: [(r["was"], r["is_now"]) for r in rows] == [(1, 700)],
    "What was modified within a day before the backup": lambda rows: rows == [],
    "Files that run with another's rights, or that everybody may write": lambda rows: sorted(r["mode"] for r in rows) == ["0646", "4755"],
    "Extended attributes, ACLs and capabilities among them": lambda rows: [(r["path"][-5:], r["attribute"], r["bytes"]) for r in rows]
    == [("/open", "user.note", 5)],
    "How much of each blob this snapshot still needs": lambda rows: len(rows) == 1 and 90 < rows[0]["percent"] < 100,
    "What was being written during the backup, or could not be read": lambda rows: rows == [],
}  # fmt: skip
SECOND = {
    "What was modified within a day before the backup": {"grows", "new"},
}
"""Of the second snapshot: the names in the paths of the result."""


def test_there_are_ten_at_least_and_each_has_an_expected_result():
    assert len(QUERIES) >= 10
    assert QUERIES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("title", EXPECTED)
def test_a_query_of_the_page(queries, title):
    rows = ask(queries, QUERIES[title])
    assert EXPECTED[title](rows), rows
    if title in SECOND:
        rows = ask(queries, re.sub(r"\b(files|snapshot)\b(?!\.)", r"s2.\1", QUERIES[title]))
        assert {r["path"].rpartition("/")[2] for r in rows} == SECOND[title]


def test_marks_are_told(site):
    """The page's last query, of a snapshot in which there is something to find."""
    secret = site.source / "secret"
    secret.write_bytes(b"not to be read")
    secret.chmod(0)
    site.backup(code=3, no_rights=True)
    query = QUERIES["What was being written during the backup, or could not be read"]
    (line,) = site.run("sql", *site.where, "latest", query, "--json").stdout.splitlines()
    secret.unlink()
    assert json.loads(line) == {"path": str(secret), "changed_while_read": 0, "unreadable": 1}
    newest = max(site.objects(".sqlite.zst.age"))
    newest.unlink()


def test_paths_times_and_names(queries):
    rows = {row["path"]: row for row in ask(queries, "SELECT * FROM paths")}
    assert rows["/"]["directory"] is None
    before = next(row for path, row in rows.items() if path.endswith("/before"))
    assert before["mtime"] == "1969-12-31 23:59:58"
    link = next(row for path, row in rows.items() if path.endswith("/to"))
    assert (link["type"], link["link_target"], link["size"]) == ("symlink", "b.txt", 5)
    (odd,) = ask(queries, "SELECT path, name, extension, directory FROM files WHERE name LIKE 'odd%'")
    assert odd["name"] == "odd \\xff\\x1b[31m\\\\name.TXT"
    assert odd["extension"] == "txt"
    assert odd["path"] == f"{odd['directory']}/{odd['name']}"
    (row,) = ask(
        queries,
        "SELECT s1.snapshot.id < s2.snapshot.id AS later, s1.snapshot.entries AS n FROM s1.snapshot, s2.snapshot",
    )
    assert row["later"] == 1
    assert row["n"] == len(rows)


def test_what_is_stored_adds_up(queries):
    """Each frame's bytes are told of the files that have them, in parts; a file's copy counts again."""
    (files,) = ask(queries, "SELECT sum(stored) AS bytes FROM files WHERE hardlink IS NULL OR hardlink = id")
    (frames,) = ask(queries, "SELECT sum(stored) AS bytes FROM frames")
    assert frames["bytes"] * 1.5 < files["bytes"] < frames["bytes"] * 2


FORBIDDEN = [
    "DELETE FROM s1.entries", "UPDATE s1.entries SET size = 1", "CREATE TABLE x (a)", "CREATE TEMP TABLE x (a)", "DROP VIEW s1.files",
    "INSERT INTO s1.meta VALUES ('a', 1)", "ATTACH '/etc/passwd' AS x", "ATTACH ':memory:' AS x", "DETACH s1", "VACUUM INTO '/tmp/x'",
    "PRAGMA query_only = OFF", "PRAGMA database_list", "SELECT * FROM pragma_database_list", "SELECT load_extension('x')",
    "SELECT readfile('/etc/passwd')", "SELECT writefile('x', 'y')", "BEGIN", "REINDEX", "ANALYZE", "SAVEPOINT x",
    "SELECT fts3_tokenizer('simple')", "CREATE VIRTUAL TABLE temp.x USING fts5(a)", "EXPLAIN DELETE FROM s1.entries",
]  # fmt: skip


@pytest.mark.parametrize("query", FORBIDDEN)
def test_a_query_can_only_select(queries, query):
    with pytest.raises(ConfigError, match=r"^query: "):
        list(queries.run(query)[1])


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "selects nothing"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM nowhere", "no such table"),
        ("SELECT sise FROM files", "no such column"),
        ("SELECT zeroblob(100000000)", "too big"),
        ("SELECT length(hex(zeroblob(600000)))", "too big"),
        ("SELECT path FROM s3.files", "no such table"),
    ],
)
def test_what_is_no_query(queries, query, words):
    with pytest.raises(ConfigError, match=words) as failure:
        list(queries.run(query)[1])
    assert failure.value.hint


def test_at_most_ten(site):
    with pytest.raises(ConfigError, match="at most 10"), open_both(site, 6):
        pass
    with open_both(site, MOST_SNAPSHOTS // 2) as queries:
        assert ask(queries, "SELECT id FROM s1.snapshot") == ask(queries, "SELECT id FROM s9.snapshot")


class TestShown:
    def run(self, site, *arguments, **kwargs):
        return site.run("sql", *site.where, *arguments, **kwargs)

    def test_as_a_table(self, site):
        query = "SELECT name, size, NULL AS none, x'ff1b' AS bytes FROM files ORDER BY size, name LIMIT 3"
        assert self.run(site, "latest", query).stdout.splitlines() == [
            "name     size  none  bytes",
            "before      0        \\xff\\x1b",
            ".hidden     1        \\xff\\x1b",
            "open        1        \\xff\\x1b",
        ]

    def test_as_json(self, site):
        lines = self.run(
            site, "latest", "SELECT 1 AS a, 2 AS a, char(27) AS c, 9e999 AS inf, x'e4' AS b", "--json"
        ).stdout
        assert json.loads(lines) == {"a": 1, "a_2": 2, "c": "\x1b", "inf": None, "b": "\\xe4"}
        assert "\x1b" not in lines

    def test_as_csv_from_standard_input(self, site):
        ids = [found.name.snapshot for found in list_snapshots(open_store(site.endpoint, site.bucket, site.prefix))]
        query = """
            SELECT new.name, old.size, new.size, 'a "b", ' || char(10, 27) AS odd
            FROM s1.files AS old JOIN s2.files AS new USING (path) WHERE new.size <> old.size
        """
        done = self.run(site, *ids, "-", "--csv", input=query)
        rows = list(csv.reader(io.StringIO(done.stdout)))
        assert rows[1] == ["grows", "1", "700", 'a "b", \\x0a\\x1b']

    def test_one_of_both(self, site):
        assert "one of them" in self.run(site, "latest", "SELECT 1", "--csv", "--json", code=2).stderr

    def test_a_bad_query_is_one_line_and_a_hint(self, site):
        done = self.run(site, "latest", "SELECT * FROM file", code=2)
        assert done.stderr.splitlines()[0] == "vaultik: query: no such table: file"
        assert "hint: there are: snapshot, files, paths" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(site, number):
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i = 5 OR i < 0"
    run = subprocess.Popen(
        site.command("sql", *site.where, "latest", f"SELECT max(i) FROM ({endless})"),
        env=site.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    scratch = Path("/proc", str(run.pid), "fd")
    while run.poll() is None and not any("s1" in link for link in links(scratch)):
        time.sleep(0.02)
    time.sleep(0.2)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert said.strip().splitlines() == ["vaultik: interrupted" if number == signal.SIGINT else "vaultik: terminated"]


def links(folder):
    found = []
    for name in os.listdir(folder) if folder.exists() else ():
        try:
            found.append(os.path.basename(os.readlink(folder / name)))
        except OSError:
            continue
    return found


COMMANDS = re.findall(r"^    vaultik (.*)$", PAGE, re.MULTILINE)


def test_the_commands_of_the_page_are_ones(tmp_path, monkeypatch):
    """They are parsed, options and all; what they do is shown elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert {line.split()[0] for line in COMMANDS} == {"snapshots", "ls", "fetch", "find", "diff", "stats", "sql"}
    for line in COMMANDS:
        name, *arguments = shlex.split(re.split(r" [|<>] ", line)[0])
        command = cli.get_command(click.Context(cli), name)
        assert command.make_context(name, arguments).params["bucket"] == "my-bucket"
