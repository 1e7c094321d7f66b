"""Hooks around a run: when they run, what they know, what becomes of the run when they fail."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.site import NO_RIGHTS


@pytest.fixture
def notes(tmp_path):
    """Where hooks leave what they know, a file for each event."""
    path = tmp_path / "notes"
    path.mkdir()
    return path


@pytest.fixture
def hooked(local_site, notes):
    local_site.source.mkdir()
    (local_site.source / "file").write_text("content")
    hook = noting(notes)
    local_site.configure(hooks={"before": [hook], "after_success": [hook], "after_failure": [hook]})
    return local_site


def noting(notes):
    return f'env >"{notes}/$VAULTIK_EVENT"; echo "$VAULTIK_EVENT" >>"{notes}/order"'


def known(notes, event):
    lines = (notes / event).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line.startswith("VAULTIK_"))


def order(notes):
    path = notes / "order"
    return path.read_text().split() if path.exists() else []


def with_hooks(site, **hooks):
    site.configure(hooks={**site.settings["hooks"], **hooks})


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't come to that"
        time.sleep(0.02)


def is_alive(pid):
    """Whether a process runs; one that nobody has reaped yet doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("way", ["backup", "luigi"])
def test_around_a_run_that_goes_well(hooked, notes, tmp_path, way):
    hooked.env |= {"AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_ACCESS_KEY_ID": "id", "OF_MINE": "passed on"}
    hooked.env |= {"AWS_CONTAINER_AUTHORIZATION_TOKEN": "s3cret", "AWS_WEB_IDENTITY_TOKEN_FILE": "/s3cret"}
    argv = ["cp", "/proc/self/environ", str(tmp_path / "argv")]
    with_hooks(hooked, before=[argv, noting(notes)])
    done = hooked.run("backup", hooked.config, "--cron") if way == "backup" else hooked.luigi("Backup")
    assert (done.stdout, done.stderr) == ("", "")
    assert order(notes) == ["before", "success"]
    before, after = known(notes, "before"), known(notes, "success")
    assert before["VAULTIK_CONFIG"] == after["VAULTIK_CONFIG"] == str(hooked.config)
    assert before["VAULTIK_HOST"] == after["VAULTIK_HOST"] == os.uname().nodename
    assert before["VAULTIK_RUN_ID"] == after["VAULTIK_RUN_ID"] != ""
    assert (before["VAULTIK_SNAPSHOT"], before["VAULTIK_EXIT_CODE"]) == ("", "")
    assert after["VAULTIK_SNAPSHOT"] in hooked.run("snapshots", *hooked.where).stdout
    assert (after["VAULTIK_EXIT_CODE"], after["VAULTIK_ERROR"]) == ("0", "")
    assert (after["VAULTIK_FILES"], after["VAULTIK_BYTES"], after["VAULTIK_NEW_BYTES"]) == ("1", "7", "7")
    assert int(after["VAULTIK_STORED_BYTES"]) > 7
    for path in (notes / "before", notes / "success", tmp_path / "argv"):
        text = path.read_text()
        assert "OF_MINE=passed on" in text
        assert not any(word in text for word in ("s3cret", "AWS_ACCESS_KEY_ID", "VAULTIK_PRIVATE_KEY", "AGE-SECRET"))


@pytest.mark.parametrize("way", ["backup", "luigi"])
def test_one_before_that_fails_stops_the_run(hooked, notes, way):
    with_hooks(hooked, before=[noting(notes), "echo no way >&2; exit 7", f"touch {notes}/never"])
    done = hooked.run("backup", hooked.config, "--cron", code=1) if way == "backup" else hooked.luigi("Backup", code=1)
    lines = done.stderr.splitlines()
    assert "vaultik: before: no way" in lines
    assert "vaultik: hooks.before[1]: exit code 7" in lines
    assert lines[lines.index("vaultik: hooks.before[1]: exit code 7") + 1].startswith("  hint: nothing was backed up")
    assert not (notes / "never").exists()
    assert hooked.objects() == []
    assert order(notes) == ["before", "failure"]
    after = known(notes, "failure")
    assert (after["VAULTIK_EXIT_CODE"], after["VAULTIK_ERROR"]) == ("1", "hooks.before[1]: exit code 7")


def test_one_after_that_fails_is_a_warning(hooked, notes):
    with_hooks(hooked, after_success=["exit 1", ["/no/such/program"], noting(notes)])
    said = hooked.run("backup", hooked.config, "--cron").stderr.splitlines()
    assert said == [
        "vaultik: hooks.after_success[0]: exit code 1",
        "vaultik: after_success: /no/such/program: No such file or directory",
        "vaultik: hooks.after_success[1]: exit code 127",
    ]
    assert order(notes) == ["before", "success"]


def test_files_that_could_not_be_read_are_success_with_problems(hooked, notes):
    if not NO_RIGHTS and os.geteuid() == 0:
        pytest.skip("root reads everything")
    (hooked.source / "closed").write_text("x")
    (hooked.source / "closed").chmod(0)
    hooked.run("backup", hooked.config, code=3, no_rights=True)
    after = known(notes, "success")
    assert (after["VAULTIK_EXIT_CODE"], after["VAULTIK_UNREADABLE"]) == ("3", "1")


def test_a_run_that_fails(hooked, notes):
    hooked.store.rmdir()
    hooked.run("backup", hooked.config, code=1)
    assert order(notes) == ["before", "failure"]
    after = known(notes, "failure")
    assert "no such directory" in after["VAULTIK_ERROR"]
    assert after["VAULTIK_SNAPSHOT"] == ""


def test_one_that_takes_too_long_is_ended_with_all_it_began(hooked, notes):
    # Its child has the pipe open, and doesn't mind SIGTERM.
    stubborn = f"trap '' TERM; echo asleep; sleep 600 & echo $! >{notes}/pid; sleep 600"
    with_hooks(hooked, before=[stubborn], timeout="1s")
    said = hooked.run("backup", hooked.config, code=1).stderr
    assert "vaultik: before: asleep" in said
    assert "hooks.before[0]: not done after 1 s" in said
    child = (notes / "pid").read_text().strip()
    wait_for(lambda: not is_alive(child))


def test_one_that_says_too_much(hooked):
    with_hooks(hooked, before=["seq 1 5000; printf %3000d 7"])
    lines = hooked.run("backup", hooked.config, "--cron").stderr.splitlines()
    assert lines == [
        *(f"vaultik: before: {n}" for n in range(1, 1001)),
        "vaultik: before: ... and more: 1000 lines are enough",
    ]


def test_what_one_leaves_in_the_background_is_left_alone(hooked, notes):
    with_hooks(hooked, before=[f"sleep 600 & echo $! >{notes}/pid"])
    hooked.run("backup", hooked.config)
    os.kill(int((notes / "pid").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("way", ["backup", "luigi"])
def test_a_signal_ends_it_too(hooked, notes, way, number):
    """With all that it began. And those after it have little time."""
    slow = f"sleep 600 & echo $! >{notes}/new; mv {notes}/new {notes}/pid; wait"
    with_hooks(hooked, before=[slow], after_failure=[noting(notes), "exec sleep 600", f"touch {notes}/never"])
    process = (
        hooked.begin_luigi("Backup")
        if way == "luigi"
        else subprocess.Popen(
            hooked.command("backup", hooked.config), env=hooked.environment(), stderr=subprocess.PIPE, text=True
        )
    )
    try:
        wait_for((notes / "pid").exists)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    hook = (notes / "pid").read_text().strip()
    wait_for(lambda: not is_alive(hook))
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert known(notes, "failure")["VAULTIK_EXIT_CODE"] == "143"
        assert "hooks.after_failure[1]: not done after " in said
        assert "hooks.after_failure[2]: not run: no time was left for it" in said
        assert not (notes / "never").exists()
    else:
        assert not (notes / "failure").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may begin what it may not end")
def test_one_that_may_not_be_ended_holds_nobody_up(hooked):
    """As where sudo runs a dump as the database's user."""
    other = "echo pid $$; exec sleep 60"
    with_hooks(hooked, before=[["setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", other]], timeout="2s")
    without_kill = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"]
    done = subprocess.run(
        [*without_kill, *hooked.command("backup", hooked.config)],
        env=hooked.environment(), capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    os.kill(int(re.search(r"before: pid (\d+)", done.stderr)[1]), signal.SIGKILL)
    assert done.returncode == 1
    assert "before: a process of it belongs to another user and could not be ended" in done.stderr
    assert "not done after 2 s" in done.stderr


def test_a_run_that_is_not_begun_has_no_hooks(hooked, notes):
    """Another with --cron ends quietly while one runs: here within its hook."""
    again = " ".join(hooked.command("backup", hooked.config, "--cron"))
    with_hooks(hooked, before=[noting(notes), again])
    hooked.env["PYTHONPATH"] = str(Path(__file__).parents[2])
    hooked.run("backup", hooked.config)
    assert order(notes) == ["before", "success"]


def test_luigi_is_ended_by_a_signal(hooked, notes):
    begun = f"echo $$ >{notes}/new; mv {notes}/new {notes}/pid; exec sleep 600"
    hooked.configure(commands=[{"name": "/slow", "command": begun}])
    process = hooked.begin_luigi("Backup")
    try:
        wait_for((notes / "pid").exists)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 143
    assert order(notes) == ["before", "failure"]
    assert known(notes, "failure")["VAULTIK_EXIT_CODE"] == "143"
    wait_for(lambda: not is_alive((notes / "pid").read_text().strip()))


def test_what_check_says_of_them(hooked, tmp_path):
    with_hooks(hooked, after_failure=[["no-such-program", "secret"]])
    hooked.configure(metrics_path=f"{tmp_path}/nowhere/v.prom", commands=[{"name": "/d", "command": ["also-none"]}])
    said = hooked.run("check", hooked.config).stdout
    assert "warn  commands: hooks.after_failure: no program no-such-program\n" in said
    assert "warn  commands: /d: no program also-none\n" in said
    assert f"warn  metrics: {tmp_path}/nowhere/v.prom: can't be written\n" in said
    assert "secret" not in said
    hooked.configure(hooks={"before": ["true"]}, metrics_path=f"{tmp_path}/v.prom", commands=[])
    said = hooked.run("check", hooked.config).stdout
    assert "ok    commands: 1 program found\n" in said
    assert f"ok    metrics: {tmp_path}/v.prom\n" in said


@pytest.mark.parametrize(
    ("hooks", "reason"),
    [
        ({"before": "one line"}, "hooks.before: expected a list"),
        ({"before": [[]]}, "hooks.before[0]: not a command"),
        ({"before": [["a", 5]]}, "hooks.before[0]: not a command"),
        ({"after_success": ["a\0b"]}, "hooks.after_success[0]: a NUL stands in it"),
        ({"after": ["a"]}, "hooks.after: unknown key"),
        ({"timeout": "soon"}, "hooks.timeout: not a duration"),
    ],
)
def test_what_can_not_be_one(hooked, notes, hooks, reason):
    hooked.configure(hooks=hooks)
    said = hooked.run("backup", hooked.config, code=2).stderr
    assert reason in said
    assert f"vaultik: {hooked.config}:" in said
    assert order(notes) == []
