"""A central luigid: it shows a fleet, it is no condition, and it learns nothing that isn't everybody's."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest

from tests.support.central import begin, end, environment, fill, finish, go_on, halt, make_host, run, snapshots, ways
from tests.support.luigid import luigid, write_cfg
from tests.support.proxy import Canned

STEPS = {"Backup", "ScanSource", "Wave", "ChunkFile", "SealBlob", "UploadBlob", "WriteSnapshotDB"}


@pytest.fixture(scope="module")
def one_luigid(tmp_path_factory):
    with luigid(tmp_path_factory.mktemp("luigid")) as daemon:
        yield daemon


@pytest.fixture
def central(one_luigid):
    """A luigid that a test may kill."""
    one_luigid.begin_anew()
    return one_luigid


@pytest.fixture
def host(tmp_path):
    return make_host(tmp_path)


# -- what is seen ---------------------------------------------------------------------------------


@ways()
def test_every_step_is_seen_with_its_host_and_how_far_it_is(central, host, way):
    run(host, central.url, way)
    tasks = central.tasks()
    assert {task["name"] for task in tasks.values()} == STEPS
    assert {task["status"] for task in tasks.values()} == {"DONE"}
    assert {task["params"]["host"] for task in tasks.values()} == {"web-1"}
    message = {}
    for key, task in tasks.items():
        message[task["name"]] = central.api("get_task_status_message", task_id=key)["statusMessage"]
    snapshot = snapshots(host)[-1]["snapshot"]
    assert message["Backup"].startswith(f"snapshot {snapshot}: 20 files (4.0 MB), 4.0 MB new, 4.")
    assert message["ScanSource"] == "20 files seen (4.0 MB), 4.0 MB to read"
    assert message["Wave"].startswith("4 bundles, 4.")
    assert message["ChunkFile"].endswith("1.0 MB read, 1.0 MB new")
    assert message["UploadBlob"].endswith("MB sent")
    # The graph: the wave hangs below the root, and each upload below the wave.
    (root,) = [key for key, task in tasks.items() if task["name"] == "Backup"]
    graph = central.api("dep_graph", task_id=root)
    assert {task["name"] for task in graph.values()} == STEPS
    (wave,) = [task for task in graph.values() if task["name"] == "Wave"]
    assert [graph[dep]["name"] for dep in wave["deps"]] == ["UploadBlob"] * 4


def test_the_root_and_the_wave_tell_how_far_they_are_while_others_run(central, host):
    way = ["luigi", "--workers", "2"]
    fill(host, 16)
    process = begin(host, central.url, way)
    halt(process, central)
    (root,) = central.of_family("Backup")
    (wave,) = central.of_family("Wave")
    assert "of 20 bundles" in central.api("get_task_status_message", task_id=root)["statusMessage"]
    assert central.api("get_task_status_message", task_id=wave)["statusMessage"].endswith("of 20 bundles")
    assert 0 <= central.api("get_task_progress_percentage", task_id=root)["progressPercentage"] < 100
    go_on(process)
    finish(process)
    (root,) = central.of_family("Backup", "DONE")
    assert central.api("get_task_progress_percentage", task_id=root)["progressPercentage"] == 100


@ways()
def test_a_failure_is_seen_with_its_kind_and_does_not_stop_the_next_run(central, host, way):
    store = host.settings["s3"]
    host.configure(s3={**store, "endpoint": "http://127.0.0.1:9", "access_key_id": "a", "secret_access_key": "b"})
    _, said = run(host, central.url, way, code=1)
    assert "can't connect" in said
    (failed,) = central.tasks("FAILED")
    shown = central.api("fetch_error", task_id=failed)
    assert shown["displayName"].startswith("ScanSource(host=web-1,")
    assert json.loads(shown["error"]).startswith("StoreUnavailableError: The store gave no usable answer")
    host.configure(s3=store)
    run(host, central.url, way)
    assert len(snapshots(host)) == 1


# -- hosts side by side ---------------------------------------------------------------------------


@ways()
def test_hosts_of_one_name_with_one_config_are_all_backed_up(central, tmp_path, way):
    hosts = [make_host(tmp_path / name) for name in ("a", "b")]
    processes = [begin(site, central.url, way, name="clone") for site in hosts]
    try:
        for process in processes:
            finish(process)
    finally:
        for process in processes:
            end(process)
    for site in hosts:
        assert len(snapshots(site)) == 1
        site.restore(site.tmp / "out")
        assert len(list(site.restored(site.tmp / "out").iterdir())) == 20
    # The same bundle numbers everywhere, and each host's own tasks.
    assert len(central.of_family("UploadBlob")) == 2 * 4


@ways()
def test_a_run_that_luigid_takes_for_alive_does_not_stop_the_next(central, host, way):
    fill(host, 16)
    process = begin(host, central.url, way)
    halt(process, central)
    running = central.tasks("RUNNING")
    end(process)
    assert running.keys() <= central.tasks("RUNNING").keys()
    run(host, central.url, way)
    assert len(snapshots(host)) == 1


def test_every_run_makes_a_snapshot_also_right_after_another(central, host):
    way = ["luigi", "--workers", "1"]
    for count in (1, 2):
        run(host, central.url, way)
        assert len(snapshots(host)) == count


# -- luigid away ----------------------------------------------------------------------------------


def assert_it_goes_on_and_says_so_once(site, url, *reason):
    out, said = run(site, url, ["backup"])
    assert out.startswith("snapshot ")
    (line,) = said.splitlines()
    assert line.startswith("vaultik: luigid http://")
    assert line.endswith("; the backup goes on without it")
    assert any(text in line for text in reason)
    assert run(site, url, ["backup", "--cron"]) == ("", "")
    assert len(snapshots(site)) == 2


def test_without_luigid_the_backup_goes_on(host):
    assert_it_goes_on_and_says_so_once(
        host, "http://operator:pass-word@127.0.0.1:9", "//127.0.0.1:9: Connection refused"
    )


def test_with_a_luigid_that_does_not_answer_the_backup_goes_on(host):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        assert_it_goes_on_and_says_so_once(host, f"http://127.0.0.1:{deaf.getsockname()[1]}", "no answer")


@pytest.mark.parametrize("answer", [{"body": b"<html>hello</html>"}, {"status": "502 Bad Gateway"}])
def test_with_something_else_in_luigids_place_the_backup_goes_on(host, answer):
    with Canned(**answer) as other:
        assert_it_goes_on_and_says_so_once(host, other.endpoint, "no usable answer (")


def test_a_luigid_that_dies_in_the_middle_is_said_once_and_nothing_is_done_twice(central, host):
    fill(host, 16)
    process = begin(host, central.url, ["backup"])
    halt(process, central)
    central.end()
    go_on(process)
    out, said = finish(process)
    assert said.count("luigid") == 1
    assert "100 read," in out
    (stored,) = [line for line in out.splitlines() if line.startswith("  stored")]
    assert "in 20 blobs" in stored
    assert len(host.blobs()) == 20


def test_a_luigid_that_comes_back_is_shown_the_rest(central, host):
    fill(host, 16)
    process = begin(host, central.url, ["backup"])
    halt(process, central)
    central.end()
    central.forget()
    central.start()
    go_on(process)
    _, said = finish(process)
    # Unless it was stopped in the middle of a call.
    assert said == "" or (said.count("\n") == 1 and "the backup goes on without it" in said)
    assert len(central.of_family("Backup", "DONE")) == 1
    assert len(central.of_family("WriteSnapshotDB", "DONE")) == 1
    assert all(task["name"] for task in central.tasks("RUNNING", "DONE").values())


def test_a_luigid_that_is_paused_or_stops_answering_in_the_middle_holds_nothing_up(central, host):
    central.api("pause")
    run(host, central.url, ["backup"])
    assert len(central.of_family("Backup", "DONE")) == 1
    fill(host, 16)
    process = begin(host, central.url, ["backup"])
    halt(process, central, "ChunkFile", "RUNNING")
    central.process.send_signal(signal.SIGSTOP)
    go_on(process)
    _, said = finish(process)
    assert "no answer" in said


def test_a_signal_ends_a_run_that_is_seen_as_politely(central, host):
    fill(host, 16)
    process = begin(host, central.url, ["backup"])
    halt(process, central)
    os.kill(process.pid, signal.SIGTERM)
    go_on(process)
    _, said = finish(process, code=143)
    assert said.splitlines()[-2] == "vaultik: terminated"
    assert_no_process_of(process.pid)
    run(host, central.url, ["backup"])


def test_where_the_kernel_reaps_children_a_run_is_seen_and_ends_as_well(central, host):
    command = host.command("backup", host.config, "--workers", "1", "--quiet")
    deaf = ["sh", "-c", 'trap "" CHLD; exec "$@"', "sh", *command]
    done = subprocess.run(
        deaf, env=environment(host, central.url), capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    assert len(central.of_family("Backup", "DONE")) == 1


def assert_no_process_of(group):
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("a process was left")


def test_a_killed_run_leaves_neither_a_process_nor_a_lock(central, host):
    fill(host, 16)
    process = begin(host, central.url, ["backup"])
    halt(process, central)
    os.kill(process.pid, signal.SIGKILL)
    go_on(process)
    process.communicate()
    assert_no_process_of(process.pid)
    run(host, central.url, ["backup"])


# -- the luigi command needs it -------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_the_luigi_command_fails_without_luigid(host, workers):
    out, said = run(host, "http://operator:pass-word@127.0.0.1:9", ["luigi", "--workers", str(workers)], code=1)
    assert out == ""
    assert said.splitlines() == [
        "vaultik: luigid: Connection refused",
        "  hint: the luigi command needs it, or --local-scheduler; `vaultik` goes on without",
    ]
    host.backup()


def test_the_luigi_command_fails_if_luigid_does_not_answer(host):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        _, said = run(host, f"http://127.0.0.1:{deaf.getsockname()[1]}", ["luigi"], code=1)
    assert said.startswith("vaultik: luigid: no answer\n")


@pytest.mark.parametrize("workers", [2])
def test_the_luigi_command_fails_if_luigid_dies_or_forgets_in_the_middle_and_goes_on_next_time(central, host, workers):
    fill(host, 16)
    way = ["luigi", "--workers", str(workers)]
    process = begin(host, central.url, way)
    halt(process, central)
    central.end()
    go_on(process)
    _, said = finish(process, code=1)
    assert said.startswith("vaultik: luigid: ")
    central.forget()
    central.start()
    process = begin(host, central.url, way)
    halt(process, central)
    central.end()
    central.forget()
    central.start()
    go_on(process)
    _, said = finish(process, code=1)
    assert said.startswith("vaultik: Luigi ended before everything was done\n")
    run(host, central.url, way)
    assert len(snapshots(host)) == 1
    assert len(host.blobs()) == 20


# -- luigi.cfg ------------------------------------------------------------------------------------


LOGGING = """\
[loggers]
keys=root
[handlers]
keys=h
[formatters]
keys=
[logger_root]
handlers=h
[handler_h]
class=FileHandler
args=('{}',)
"""


def test_a_luigi_cfg_of_the_current_directory_gives_vaultik_no_orders(central, host, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    write_cfg(place / "luigi.cfg", central.url, host="elsewhere")
    # Luigi evaluates what stands there.
    (place / "logging.conf").write_text(LOGGING.format(place / "evaluated"))
    text = (place / "luigi.cfg").read_text()
    (place / "luigi.cfg").write_text(text.replace("[core]\n", f"[core]\nlogging_conf_file={place}/logging.conf\n"))
    host.run("backup", host.config, cwd=place)
    assert central.tasks() == {}
    assert snapshots(host)[0]["host"] == socket.gethostname()
    assert not (place / "evaluated").exists()
    # Named, it counts.
    named = host.environment(LUIGI_CONFIG_PATH=str(write_cfg(place / "luigi.cfg", central.url, host="db-1")))
    subprocess.run(host.command("backup", host.config), env=named, cwd=place, check=True, capture_output=True)
    assert {task["params"]["host"] for task in central.tasks().values()} == {"db-1"}
    assert snapshots(host)[-1]["host"] == "db-1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[core]\nlocal_scheduler=perhaps\n", "luigi.cfg: [core]: "),
        ("[core\n", "luigi.cfg: "),
        (None, "LUIGI_CONFIG_PATH: no file "),
    ],
)
def test_a_luigi_cfg_that_cannot_be_used_is_a_line(host, text, message):
    cfg = host.tmp / "bad.cfg"
    if text is not None:
        cfg.write_text(text)
    host.env["LUIGI_CONFIG_PATH"] = str(cfg)
    host.env["PYTHONWARNINGS"] = "ignore"
    said = host.run("backup", host.config, code=2).stderr
    assert said.startswith(f"vaultik: {message}"), said
