"""Files that are on no disk: the output of commands, and standard input."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fault.test_kills import KILLER, run_killed
from tests.support.run import Run, seal, upload
from tests.support.tree import compare
from vaultik.backup.commit import Outcome, commit_snapshot
from vaultik.index import bundles, streams

MB = 10**6


@pytest.fixture
def data(tmp_path):
    """What a command prints."""
    path = tmp_path / "data"
    path.write_bytes(random.Random(1).randbytes(3 * MB))
    return path


def dump(data, name="/dumps/db.sql", **more):
    return {"name": name, "command": ["cat", str(data)], **more}


def populate(site):
    site.source.mkdir(exist_ok=True)
    (site.source / "file").write_text("a file on a disk")


def restored(site, tmp_path, snapshot="latest"):
    target = tmp_path / "restored"
    shutil.rmtree(target, ignore_errors=True)
    site.restore(target, snapshot=snapshot)
    assert (target / str(site.source).lstrip("/") / "file").read_text() == "a file on a disk"
    return target


def test_what_a_command_prints_is_a_file_of_the_snapshot(site, data, tmp_path):
    populate(site)
    site.configure(
        commands=[
            dump(data),
            {"name": "/dumps/deep/er/small", "command": "printf %s small"},
            {"name": "/nothing", "command": ["true"]},
        ]
    )
    before = time.time()
    first = site.backup()
    target = restored(site, tmp_path)
    assert (target / "dumps/db.sql").read_bytes() == data.read_bytes()
    assert (target / "dumps/deep/er/small").read_bytes() == b"small"
    assert (target / "nothing").read_bytes() == b""
    found = (target / "dumps/db.sql").stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o600, os.geteuid(), os.getegid())
    assert before - 1 < found.st_mtime < time.time()
    assert (target / "dumps").stat().st_mode & 0o7777 == 0o700
    # Unchanged, it costs nothing but its reading.
    again = site.backup()
    assert (again["blobs"], again["bytes_new"]) == (0, 0)
    assert again["bytes_read"] >= 3 * MB
    assert first["exit_code"] == again["exit_code"] == 0
    if site.endpoint.startswith("http"):
        return
    # A few bytes in front: a chunk or two are new, and the old snapshot stays what it was.
    old = data.read_bytes()
    data.write_bytes(b"inserted" + old)
    changed = site.backup()
    assert 0 < changed["bytes_new"] < 3 * MB
    assert (restored(site, tmp_path) / "dumps/db.sql").read_bytes() == b"inserted" + old
    assert (restored(site, tmp_path, again["snapshot"]) / "dumps/db.sql").read_bytes() == old


def test_a_dump_larger_than_a_blob_is_one_blob(local_site, tmp_path):
    populate(local_site)
    big = tmp_path / "big"
    big.write_bytes(random.Random(2).randbytes(5 * MB))
    local_site.configure(chunk_size="64KiB", blob_size_limit="1MiB", commands=[dump(big)])
    assert local_site.backup()["blobs"] == 2
    assert (restored(local_site, tmp_path) / "dumps/db.sql").read_bytes() == big.read_bytes()


FAILURES = {
    "/d/code": ("cat {data}; exit 3", "exit code 3"),
    "/d/killed": ("head -c 100000 {data}; kill -9 $$", "killed by SIGKILL"),
    "/d/late": ("cat {data}; exec sleep 100", "not done after 1 s"),
    "/d/absent": ("exec /no/such/program", "exit code 127"),
}


def test_commands_that_fail_leave_no_truncated_dumps(local_site, data, tmp_path):
    """Nothing if there was nothing before; else what there was."""
    populate(local_site)
    failing = [
        {"name": name, "command": line.format(data=data), "timeout": "1s"} for name, (line, _) in FAILURES.items()
    ]
    good = [dump(data, name=name) for name in FAILURES]
    local_site.configure(commands=failing)
    said = local_site.run("backup", local_site.config, code=3).stderr
    for name, (_, reason) in FAILURES.items():
        assert f"{name}: {reason}; the snapshot has none" in said
    assert list((restored(local_site, tmp_path) / "d").iterdir()) == []
    local_site.configure(commands=good)
    local_site.backup()
    before = data.read_bytes()
    # Other content, and again a failure in the end.
    data.write_bytes(random.Random(3).randbytes(2 * MB))
    local_site.configure(commands=failing)
    for _ in range(2):
        said = local_site.run("backup", local_site.config, code=3).stderr
        for name, (_, reason) in FAILURES.items():
            assert f"{name}: {reason}; what it brought before stands for it" in said
    target = restored(local_site, tmp_path)
    assert {name: (target / name[1:]).read_bytes() == before for name in FAILURES} == dict.fromkeys(FAILURES, True)
    listed = local_site.run("ls", *local_site.where, "latest", "/d", "-l").stdout
    assert listed.count("of an earlier snapshot") == len(FAILURES)
    local_site.configure(commands=good)
    local_site.backup()
    assert (restored(local_site, tmp_path) / "d/code").read_bytes() == data.read_bytes()
    assert "of an earlier" not in local_site.run("ls", *local_site.where, "latest", "/d", "-l").stdout


def test_what_shares_chunks_with_a_failed_dump_is_stored_all_the_same(local_site, data, tmp_path):
    populate(local_site)
    shutil.copy(data, local_site.source / "copy")
    local_site.configure(commands=[dump(data) | {"command": f"cat {data}; exit 1"}], workers=2)
    local_site.run("backup", local_site.config, code=3)
    target = restored(local_site, tmp_path)
    assert compare(local_site.source, local_site.restored(target)) == []


def test_what_was_stored_of_a_dump_is_lost(local_site, data, tmp_path):
    """The command brings it again; if it fails then, nothing false stands for it."""
    populate(local_site)
    local_site.configure(commands=[dump(data)])
    local_site.backup()
    for blob in local_site.blobs():
        blob.unlink()
    local_site.backup()
    assert (restored(local_site, tmp_path) / "dumps/db.sql").read_bytes() == data.read_bytes()
    for blob in local_site.blobs():
        blob.unlink()
    local_site.configure(commands=[dump(data) | {"command": "exit 1"}])
    said = local_site.run("backup", local_site.config, code=3).stderr
    assert "/dumps/db.sql: exit code 1; the snapshot has none" in said
    assert not (restored(local_site, tmp_path) / "dumps/db.sql").exists()


def test_space_comes_back_only_when_the_dump_came_anew(local_site, data, tmp_path):
    """A mostly dead blob is left as soon as what lives in it is sealed again, not for a command that may fail."""
    populate(local_site)
    local_site.configure(commands=[dump(data)], chunk_size="64KiB", blob_size_limit="16MB")
    local_site.backup()
    first = set(local_site.blobs())
    kept = data.read_bytes()[: MB // 2]
    data.write_bytes(kept + random.Random(8).randbytes(2 * MB))
    local_site.backup()
    failing = dump(data) | {"command": f"cat {data}; exit 1"}
    local_site.configure(commands=[failing])
    for _ in range(2):
        local_site.run("backup", local_site.config, code=3)
    assert (restored(local_site, tmp_path) / "dumps/db.sql").read_bytes() == data.read_bytes()
    local_site.configure(commands=[dump(data)])
    again = local_site.backup()
    assert MB // 4 < again["bytes_new"] <= MB // 2
    with sqlite3.connect(local_site.index) as index:
        known = {digest.hex() for (digest,) in index.execute("SELECT hash FROM blobs")}
        sums = "SELECT b.live_bytes, (SELECT sum(c.size) FROM chunks AS c WHERE c.blob = b.id) FROM blobs AS b"
        assert all(live == size for live, size in index.execute(sums))
    # Of the first run's two blobs, that of the dump is needed no more; nothing else but the restores depended on it.
    (gone,) = [path for path in first if path.name not in known]
    gone.unlink()
    assert (restored(local_site, tmp_path) / "dumps/db.sql").read_bytes() == data.read_bytes()


def test_what_a_command_says_is_in_the_log(local_site, data):
    populate(local_site)
    local_site.configure(
        commands=[dump(data) | {"command": f"echo careful >&2; printf '\\033[31mred' >&2; cat {data}"}]
    )
    said = local_site.run("backup", local_site.config, "--cron").stderr
    assert "vaultik: /dumps/db.sql: careful\n" in said
    assert "vaultik: /dumps/db.sql: \\x1b[31mred\n" in said
    assert "vaultik: /dumps/db.sql: careful\n" in local_site.luigi("Backup").stderr


def test_a_command_knows_its_run_and_no_secret(local_site, tmp_path):
    populate(local_site)
    local_site.env |= {"AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_ACCESS_KEY_ID": "id", "PGPASSWORD": "its own"}
    local_site.configure(commands=[{"name": "/env", "command": "env"}])
    local_site.backup()
    known = (restored(local_site, tmp_path) / "env").read_text().splitlines()
    assert {"VAULTIK_EVENT=command", "VAULTIK_NAME=/env", f"VAULTIK_CONFIG={local_site.config}"} <= set(known)
    assert "PGPASSWORD=its own" in known
    assert not [line for line in known if "s3cret" in line or line.startswith(("AWS_ACCESS", "VAULTIK_PRIVATE"))]


def test_a_source_where_a_name_was(local_site, data, tmp_path):
    """The config says so; without the command, what was made up becomes a real directory, and back."""
    populate(local_site)
    real = tmp_path / "beside"
    local_site.configure(commands=[dump(data, name=str(real / "db.sql"))])
    local_site.backup()
    real.mkdir()
    (real / "db.sql").write_text("on a disk")
    local_site.configure(source_dirs=[str(local_site.source), str(real)])
    for command in ("check", "backup"):
        done = local_site.run(command, local_site.config, code=2)
        assert f"{real}/db.sql lies in the source {real}" in done.stdout + done.stderr
    local_site.configure(commands=[])
    local_site.backup()
    assert (restored(local_site, tmp_path) / str(real).lstrip("/") / "db.sql").read_text() == "on a disk"
    local_site.configure(source_dirs=[str(local_site.source)])
    local_site.backup()
    assert not (restored(local_site, tmp_path) / str(real).lstrip("/")).exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dump.sql", "not the absolute path"),
        ("/a/../b", "not the absolute path"),
        ("/", "not the absolute path"),
        ("/" + "x" * 300, "can't be a file's path"),
        ("/dumps/db.sql/more", "is taken by a command of the config: /dumps/db.sql"),
    ],
)
def test_names_that_can_not_be(local_site, data, name, reason):
    populate(local_site)
    local_site.configure(commands=[dump(data), dump(data, name=name)])
    said = local_site.run("backup", local_site.config, code=2).stderr
    assert "commands[1].name: " in said
    assert reason in said
    assert f"vaultik: {local_site.config}:" in said


def test_a_name_that_leads_to_a_source(local_site, data):
    populate(local_site)
    local_site.configure(commands=[dump(data, name=str(local_site.source))])
    said = local_site.run("backup", local_site.config, code=2).stderr
    assert "is a source, or leads to one" in said


def give(site, name, data, code=0):
    with data.open("rb") as file:
        return site.run("backup", site.config, "--json", "--stdin", name, stdin=file, code=code)


class TestInput:
    def test_becomes_a_file(self, local_site, data, tmp_path):
        populate(local_site)
        give(local_site, "/dumps/in", data)
        assert (restored(local_site, tmp_path) / "dumps/in").read_bytes() == data.read_bytes()
        assert json.loads(give(local_site, "/dumps/in", data).stdout)["bytes_new"] == 0
        # Without it, there is none.
        local_site.backup()
        assert not (restored(local_site, tmp_path) / "dumps").exists()

    def test_with_several_workers(self, local_site, data, tmp_path):
        populate(local_site)
        local_site.configure(commands=[dump(data)])
        shown = subprocess.Popen(["cat", data], stdout=subprocess.PIPE)
        local_site.backup("--stdin", "/in", "--workers", "3", stdin=shown.stdout)
        shown.stdout.close()
        assert shown.wait() == 0
        target = restored(local_site, tmp_path)
        assert (target / "in").read_bytes() == (target / "dumps/db.sql").read_bytes() == data.read_bytes()

    def test_is_not_read_a_second_time(self, local_site, data, tmp_path):
        """Lost again before the snapshot is written, it can't be asked for, and nobody pretends."""
        populate(local_site)
        blobs = local_site.store / local_site.bucket / local_site.prefix / "blobs"
        stored = f"find {blobs} -type f"
        rob = f"until [ $({stored} 2>/dev/null | wc -l) -ge 2 ]; do sleep 0.05; done; {stored} -delete"
        local_site.configure(commands=[{"name": "/robbed", "command": rob}], workers=2)
        said = give(local_site, "/in", data, code=3).stderr
        assert "/in: standard input can be read only once" in said
        target = restored(local_site, tmp_path)
        assert sorted(path.name for path in target.iterdir() if path.name in ("in", "robbed")) == ["robbed"]

    def test_closed(self, local_site):
        populate(local_site)
        command = " ".join(local_site.command("backup", local_site.config, "--stdin", "/in"))
        done = subprocess.run(
            ["sh", "-c", f"{command} <&-"], env=local_site.environment(), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr.partition("\n")[0]) == (1, "vaultik: standard input: it is closed")

    def test_a_name_that_a_command_has(self, local_site, data):
        populate(local_site)
        local_site.configure(commands=[dump(data)])
        said = give(local_site, "/dumps/db.sql", data, code=2).stderr
        assert "--stdin: /dumps/db.sql is taken" in said


def is_alive(pid):
    """Whether a process runs; one that nobody has reaped yet doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't come to that"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGTERM, 1), (signal.SIGTERM, 2)]
)
def test_ended_in_the_middle_the_command_ends_too_and_is_run_anew(local_site, data, tmp_path, number, workers):
    populate(local_site)
    pid = tmp_path / "pid"
    slow = f"echo $$ >{pid}.new; cat {data}; mv {pid}.new {pid}; exec sleep 600"
    local_site.configure(commands=[dump(data) | {"command": slow}], workers=workers)
    process = subprocess.Popen(
        local_site.command("backup", local_site.config), env=local_site.environment(), stderr=subprocess.PIPE
    )
    try:
        wait_for(pid.exists)
        child = int(pid.read_text())
        process.send_signal(number)
        process.communicate(timeout=60)
        wait_for(lambda: not is_alive(child))
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    assert not local_site.objects(".sqlite.zst.age")
    local_site.configure(commands=[dump(data)])
    local_site.backup()
    assert (restored(local_site, tmp_path) / "dumps/db.sql").read_bytes() == data.read_bytes()
    with sqlite3.connect(local_site.index) as index:
        assert index.execute("SELECT count(*) FROM chunks WHERE blob IS NULL").fetchone() == (0,)


@pytest.mark.parametrize("point", ["chunked row:before", "chunk:after", "seal:after", "upload:after"])
def test_killed_at_a_step_of_its_bundle(local_site, data, tmp_path, point):
    """The command is run anew, what was sealed of it is taken up, and no blob is stored twice."""
    populate(local_site)
    (tmp_path / "killer.py").write_text(KILLER)
    local_site.configure(commands=[dump(data)])
    assert run_killed(local_site, point).returncode == -signal.SIGKILL
    assert not local_site.objects(".sqlite.zst.age")
    run_killed(local_site, "")
    assert (restored(local_site, tmp_path) / "dumps/db.sql").read_bytes() == data.read_bytes()
    puts = [line.split() for line in (tmp_path / "puts").read_text().splitlines()]
    stored = [key for _, key in puts if key.startswith("blobs/")]
    assert len(stored) == len(set(stored)) == len(local_site.blobs()) == 2
    assert local_site.spooled() == []


def test_in_a_partial_snapshot(local_site, data, tmp_path):
    """What is still to come stands as it was before, or not at all."""
    populate(local_site)
    local_site.configure(commands=[dump(data)])
    local_site.backup()
    (local_site.source / "more").write_bytes(os.urandom(1000))
    local_site.configure(commands=[dump(data), dump(data, name="/new")])
    run = Run(local_site)
    session = run.session
    session.scan()
    index = session.index()
    for bundle in bundles.wave_bundles(index, session.run, session.next_wave()):
        if streams.find_of_bundle(index, bundle) is None:
            session.chunk(bundle)
            seal(session, bundle)
            upload(session, bundle)
    index.execute("UPDATE blobs SET sealed_at = sealed_at - ? WHERE NOT based & 1", (4 * 86400,))
    assert commit_snapshot(session, 100) == Outcome.PARTIAL
    (partial,) = index.execute("SELECT snapshot FROM runs WHERE id = ?", (session.run,)).fetchone()
    assert run.rest() == []
    target = restored(local_site, tmp_path, partial)
    assert (target / "dumps/db.sql").read_bytes() == data.read_bytes()
    assert not (target / "new").exists()
    assert "of an earlier snapshot" in local_site.run("ls", *local_site.where, partial, "/dumps", "-l").stdout
    assert (restored(local_site, tmp_path) / "new").read_bytes() == data.read_bytes()


def test_memory_does_not_grow_with_the_dump(local_site):
    populate(local_site)
    script = (
        "import os, random\n"
        "block = random.Random(7).randbytes(1 << 20)\n"
        "for n in range({}): os.write(1, n.to_bytes(8, 'big') + block)\n"
    )
    peaks = []
    for size in (30, 150):
        local_site.configure(
            commands=[{"name": "/dump", "command": [sys.executable, "-c", script.format(size)]}],
            compression_level=1,
            chunk_size="64KiB",
        )
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import resource, subprocess, sys\n"
                "code = subprocess.call(sys.argv[1:])\n"
                "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
                "sys.exit(code)",
                *local_site.command("backup", local_site.config, "--quiet", "--workers", "1"),
            ],
            env=local_site.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] * 1.25, peaks
