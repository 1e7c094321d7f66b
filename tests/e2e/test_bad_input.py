"""What bad input gets: one line that names the thing, a hint, the documented exit code, nothing half-written, no traceback."""

import fcntl
import json
import os
import re
import sqlite3
import subprocess

import pytest

from tests.support.site import Site
from vaultik.config import iter_keys, load_config
from vaultik.core.identity import generate, parse_identities

SECRET = "AGE-SECRET-KEY-10LRM9PSFEMKWX6PDMY0FNH30Q4T84FU7TZVTQK300QLJTPHJ6R3QMJMEZS"  # a throwaway that opens nothing


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    (site.source / "file").write_text("content")
    return site


@pytest.fixture
def stored(site):
    site.backup()
    return site


def refused(done, *words):
    lines = [line for line in done.stderr.splitlines() if line.startswith(("vaultik: ", "  hint: "))]
    assert lines[0].startswith("vaultik: "), done.stderr
    assert len(lines) == 2, done.stderr
    for word in words:
        assert re.search(word, done.stderr), done.stderr


GOOD = "source_dirs: [/etc]\nage_recipient: {recipient}\ns3: {{endpoint: 'file:///x', bucket: b}}\n"


def test_an_unknown_key_of_a_section_is_answered_with_that_sections_keys(tmp_path):
    site = Site(tmp_path)
    text = GOOD.format(recipient=site.recipient).replace("bucket: b", "bucket: b, lock: {modus: governance, days: 1}")
    site.config.write_text(text)
    refused(
        site.run("backup", site.config, code=2),
        r"s3\.lock\.modus: unknown key",
        "known here: mode, days|did you mean mode",
    )


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("chunk_sise: 1MiB\n", ["yaml:4:1", "chunk_sise: unknown key", "did you mean chunk_size"]),
        ("s3x: 1\n", ["yaml:4:1", "unknown key"]),
        ("exclude: word\n", ["yaml:4:1", "exclude: expected", "list"]),
        ("chunk_size: 10 parsecs\n", ["yaml:4:1", "chunk_size", "10MB"]),
        ("chunk_size: 1KiB\n", ["yaml:4:1", "out of range", "64KiB"]),
        ("blob_size_limit: 1MB\n", ["blob_size_limit", "out of range", "16 times"]),
        ("backup_interval: soon\n", ["yaml:4:1", "backup_interval", "15m"]),
        ("full_scan_interval: 0\n", ["yaml:4:1", "full_scan_interval: no time at all", "1h"]),
        ("workers: many\n", ["workers", "expected a number, got text"]),
        ("index_prefix: blobs/x\n", ["index_prefix", "taken"]),
        ("index_path: relative\n", ["index_path", "absolute"]),
        ("a: [\n", ["yaml:5:1", "not YAML"]),
        ("\tx: 1\n", ["yaml:4:1", "not YAML"]),
        ("age_recipient: x\n", ["yaml:4:1", "a second time"]),
        (f"audit_recipient: {SECRET}\n", ["yaml:4:1", "audit_recipient", "identity"]),
        ("audit_recipient: age1x\n", ["yaml:4:1", "audit_recipient: recipient 'age1x': not an age recipient"]),
        ("exclude: ['!']\n", ["yaml:4:11", r"exclude\[0\]", "gitignore"]),
        ("exclude: [2026-99-99]\n", ["yaml:4:11", r"exclude\[0\]: no such date or number"]),
        (f"chunk_size: {'9' * 5000}\n", ["yaml:4:1", "chunk_size: no such date or number"]),
        ("? [a, b]\n: x\n", ["yaml:4:3", "a key that is not text"]),
        ("2026-01-01: x\n", ["yaml:4:1", "a key that is not text"]),
        ("? !!str [a, b]\n: x\n", ["yaml:4:3", "a key that is not text"]),
        ("workers: !!int ''\n", ["yaml:4:1", "workers: tagged !!int, and is none"]),
        ("workers: !!float x\n", ["yaml:4:1", "workers: tagged !!float, and is none"]),
        ("one_file_system: !!bool x\n", ["yaml:4:1", "one_file_system: tagged !!bool, and is none"]),
        ("exclude: [!!timestamp x]\n", ["yaml:4:11", r"exclude\[0\]: tagged !!timestamp, and is none"]),
        ('exclude: ["\\U00110000"]\n', ["yaml:4:", "an escape of no character", "0010FFFF"]),
        ('exclude: ["\\UFFFFFFFF"]\n', ["yaml:4:", "an escape of no character", "0010FFFF"]),
        ('exclude: ["\\ud800"]\n', ["yaml:4:11", r"exclude\[0\]: .* half of a character"]),
        ('spool_dir: "/spool\\0"\n', ["yaml:4:1", "spool_dir: a NUL"]),
        ('age_recipients: ["age1\\udcff"]\n', ["yaml:4:18", "not an age recipient"]),
        ('one_file_system: "\\udc80"\n', ["yaml:1:1", r"'\\udc80' stands where only text may"]),
        ("exclude: [\x07]\n", ["yaml: not YAML: unacceptable character"]),
        ("exclude: [" + "x, " * 100_001 + "x]\n", ["yaml:4:", "too much"]),
        ("exclude: [" + "x" * (16 << 20) + "]\n", ["more than 16 MiB"]),
        ("x: " + "[" * 3000 + "\n", ["nested too deeply|not YAML"]),
        (
            "a: &a [x, x]\n"
            + "".join(
                f"{n}{n}: &{n} [*{p}, *{p}, *{p}, *{p}]\n" for p, n in zip("abcdefghi", "bcdefghij", strict=True)
            ),
            ["too much"],
        ),
    ],
)
def test_a_config_with_a_mistake(tmp_path, extra, words):
    site = Site(tmp_path)
    site.config.write_text(GOOD.format(recipient=site.recipient) + extra)
    for command in ("backup", "check"):
        done = site.run(command, site.config, code=2)
        refused(done, *words)
        assert SECRET not in done.stderr + done.stdout


def test_as_many_recipients_as_a_header_holds(site):
    recipients = [generate()[1] for _ in range(600)]
    site.configure(age_recipients=recipients, age_recipient=recipients[0])
    site.backup()
    site.configure(age_recipients=[*recipients, generate()[1]])
    refused(site.run("backup", site.config, code=2), "age_recipients: more than 600 of them")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_dirs": ["relative"]}, ["not an absolute path"]),
        ({"source_dirs": ["/a", "/a/b"]}, ["/a/b lies below /a"]),
        ({"source_dirs": ["/a", "/a/"]}, ["twice"]),
        ({"source_dirs": []}, ["names no directory"]),
        ({"age_recipient": SECRET}, ["identity", "recipient"]),
        ({"age_recipient": "age1nonsense"}, ["yaml:1:1: age_recipient: recipient 'age1nons'...: not an age recipient"]),
        ({"age_recipients": ["age1nonsense"]}, [r"yaml:3:3: age_recipients\[0\]"]),
        ({"age_recipient": "ssh-ed25519 AAAA"}, ["SSH key", "not supported"]),
        ({"age_recipients": 5}, ["age_recipients"]),
    ],
)
def test_a_config_with_a_wrong_value(site, changes, words):
    site.configure(**changes)
    done = site.run("backup", site.config, code=2)
    refused(done, *words)
    assert SECRET not in done.stderr


MISTYPED = (SECRET[1:], SECRET[15:], SECRET[:60], SECRET.replace("-", "_"), f"'{SECRET}'", f"/{SECRET[1:]}")


@pytest.mark.parametrize("key", MISTYPED)
def test_a_key_with_a_mistake_in_it_is_not_shown_either(stored, key):
    for where in ({"VAULTIK_PRIVATE_KEY": key}, {"VAULTIK_PRIVATE_KEY": str(stored.key), "given": key}):
        identity = ["--identity", where.pop("given")] if "given" in where else []
        done = subprocess.run(
            stored.command("ls", *stored.where, "latest", *identity),
            env=stored.environment(**where),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        refused(done)
        assert SECRET[20:40] not in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        f"age_recipients: [{SECRET[1:]}]",
        f"audit_recipient: {SECRET[15:]}",
        f"{SECRET}: x",
        f"{SECRET[1:]}: x",
        f"exclude: !{SECRET} x",
        f"exclude: !{SECRET[1:]} x",
        f"exclude: [{SECRET}]",
        f"chunk_size: {SECRET[1:]}",
        f"? {{{SECRET}: x}}\n: y",
    ],
)
def test_a_key_anywhere_in_a_config_is_not_shown(tmp_path, line):
    site = Site(tmp_path)
    site.config.write_text(GOOD.format(recipient=site.recipient) + line + "\n")
    done = site.run("backup", site.config, code=2)
    refused(done)
    assert SECRET[20:40] not in done.stderr


def test_a_password_in_an_endpoint_is_not_shown(site):
    done = site.run("ls", "b", "h", "latest", "--endpoint", "https://user:pass@word@host:1", code=2)
    refused(done, "endpoint https://host:1: a user or password")
    site.configure(s3={**site.settings["s3"], "endpoint": "https://user:pass@host:1"})
    done = site.run("backup", site.config, code=2)
    refused(done, "s3.endpoint: https://host:1: a user or password")


@pytest.mark.parametrize(
    "s3", [{"endpoint": "ftp://x"}, {"endpoint": "http://h:99999"}, {"endpoint": "file://x"}, {"bucket": "a b"}]
)
def test_a_config_that_can_not_work_leaves_nothing(site, s3):
    site.configure(s3={**site.settings["s3"], **s3})
    refused(site.run("backup", site.config, code=2), rf"yaml:\d+:\d+: s3.{next(iter(s3))}")
    assert not site.state.exists()


def test_a_config_that_is_not_there_or_not_readable(site, tmp_path):
    refused(site.run("backup", tmp_path / "no.yaml", code=2), "no.yaml: No such file", "vaultik init")
    refused(site.run("backup", tmp_path, code=2), "Is a directory")


def test_a_source_that_is_missing_or_a_link_commits_nothing(site, tmp_path):
    for path, words in (("/no/such/place", "No such file"), (str(tmp_path / "link"), "symbolic link")):
        (tmp_path / "link").is_symlink() or (tmp_path / "link").symlink_to(site.source)
        site.configure(source_dirs=[str(site.source), path])
        refused(site.run("backup", site.config, code=1), words)
        assert site.objects() == []


def test_an_identity_that_is_missing_malformed_or_wrong(stored, tmp_path):
    out = tmp_path / "out"
    command = stored.command("restore", *stored.where, "latest", out)
    wrong, _ = generate()
    for value, words in (
        ("", "no identity given"),
        ("AGE-SECRET-KEY-1NONSENSE", "malformed"),
        (str(tmp_path / "gone"), "no such file"),
        ("word", "no such file: word"),
        (stored.recipient, "is a recipient"),
        (f"# a key/\n{wrong}\n{'x' * 300}", "line 3 is no X25519 identity"),
        (wrong, "opens none of the object's recipients"),
    ):
        done = subprocess.run(
            command, env=stored.environment(VAULTIK_PRIVATE_KEY=value), capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        refused(done, words)
        assert wrong not in done.stderr
        assert not out.exists()
    done = stored.run("restore", "--identity", wrong, *stored.where, "latest", out, code=2)
    refused(done, "takes a file, not the key itself")
    assert wrong not in done.stderr


def test_a_store_that_is_not_there(stored, tmp_path):
    for where, words in (
        (["--endpoint", f"file://{tmp_path}/gone", "vault", "host/"], "no such directory"),
        (["--endpoint", stored.endpoint, "other", "host/"], "no bucket other"),
        (["--endpoint", stored.endpoint, "vault", "nobody/"], "no snapshot"),
    ):
        for command in (
            ["snapshots", *where],
            ["ls", *where, "latest"],
            ["restore", *where, "latest", tmp_path / "out"],
        ):
            code = 2 if words == "no snapshot" else 1
            refused(stored.run(*command, code=code), words)


def test_a_snapshot_that_fits_none_or_several(stored):
    second = stored.backup()["snapshot"]
    refused(stored.run("ls", *stored.where, "1999", code=2), "none of that id", second)
    refused(stored.run("ls", *stored.where, "2", code=2), "several fit", second)
    assert stored.run("ls", *stored.where, second[:-2]).stdout


def test_a_path_that_is_not_in_the_snapshot(stored, tmp_path):
    done = stored.run("fetch", *stored.where, "latest", stored.source / "fiel", tmp_path / "x", code=2)
    refused(done, "not in this snapshot", f"near ones: {stored.source}/file")
    assert not (tmp_path / "x").exists()


def test_a_target_that_is_not_empty(stored, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    refused(stored.restore(tmp_path / "out", code=1), "not empty", "--force")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]
    stored.restore(tmp_path / "out", "--force")
    assert (tmp_path / "out/mine").read_text() == "mine"
    refused(
        stored.run("fetch", *stored.where, "latest", stored.source / "file", tmp_path / "out/mine", code=1),
        "exists already",
    )


def test_usage_mistakes(site):
    for arguments in (["backup"], ["restore", "b"], ["nonsense"], ["backup", "x", "--workers", "none"]):
        done = site.run(*arguments, code=2)
        refused(done, "Usage: vaultik", "--help")
        assert done.stdout == ""
        done = site.run(*arguments, "--json", code=2)
        assert json.loads(done.stdout)["exit_code"] == 2


def test_a_key_on_standard_output_is_json_if_asked_for(site):
    made = json.loads(site.run("keygen", "-o", "-", "--json").stdout)
    assert parse_identities(made["identity"])[0].recipient == made["recipient"]


@pytest.mark.parametrize("option", ["--include", "--exclude"])
@pytest.mark.parametrize("pattern", ["[z-a]x", "!"])
def test_a_pattern_that_is_none(stored, tmp_path, option, pattern):
    refused(stored.restore(tmp_path / "out", option, pattern, code=2), option, "gitignore")
    assert not (tmp_path / "out").exists()


def test_keys_and_configs_are_never_overwritten(site, tmp_path):
    site.run("keygen", "-o", tmp_path / "new.key")
    assert (tmp_path / "new.key").stat().st_mode & 0o777 == 0o600
    refused(site.run("keygen", "-o", tmp_path / "new.key", code=2), "exists already")
    site.run("init", tmp_path / "new.yaml")
    refused(site.run("init", tmp_path / "new.yaml", code=2), "exists already")


def test_every_key_of_the_config_is_in_the_one_that_init_writes(site, tmp_path):
    site.run("init", tmp_path / "new.yaml")
    text = (tmp_path / "new.yaml").read_text()
    for key in iter_keys():
        assert re.search(rf"^\s*#?\s*(- )?{key.rpartition('.')[2]}:", text, re.MULTILINE), key


class TestIndex:
    def test_damaged_it_is_moved_aside_and_nothing_is_lost(self, stored):
        data = bytearray(stored.index.read_bytes())
        data[100:] = os.urandom(len(data) - 100)
        stored.index.write_bytes(data)
        done = stored.run("backup", stored.config)
        assert "snapshot" in done.stdout
        assert list(stored.state.glob("index.sqlite.damaged-*"))
        assert len(stored.objects(".sqlite.zst.age")) == 2
        assert len({path.parent for path in stored.objects(".sqlite.zst.age")}) == 1  # the same source as before

    def test_not_sqlite_at_all(self, stored):
        stored.index.write_text("this is no database, but long enough to be looked at" * 100)
        stored.backup()
        assert list(stored.state.glob("index.sqlite.damaged-*"))

    def test_from_a_newer_version(self, stored):
        with sqlite3.connect(stored.index) as index:
            index.execute("PRAGMA user_version = 999")
        refused(stored.run("backup", stored.config, code=1), "newer vaultik", "schema 999")

    def test_locked_by_another_run(self, stored):
        with (stored.state / "index.sqlite.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            refused(stored.run("backup", stored.config, code=1), "another run is going on")
            quiet = stored.run("backup", stored.config, "--cron")
            assert quiet.stdout == quiet.stderr == ""
            luigi = stored.luigi("Backup")
            assert luigi.stdout == luigi.stderr == ""

    def test_of_another_config(self, stored, tmp_path):
        other = tmp_path / "other.yaml"
        other.write_text(stored.config.read_text())
        refused(stored.run("backup", other, code=2), "belongs to the config", "--adopt")
        stored.run("backup", other, "--adopt")
        refused(stored.run("backup", stored.config, code=2), "belongs to the config")


def test_what_can_not_be_read_is_named_and_the_rest_goes_on(site, tmp_path):
    """As root nothing is unreadable, so this runs as nobody where the tests run as root."""
    (site.source / "secret").write_text("secret")
    (site.source / "closed").mkdir()
    (site.source / "closed/inside").write_text("x")
    (site.source / "secret").chmod(0)
    (site.source / "closed").chmod(0)
    command = site.command("backup", site.config, "--cron")
    if os.geteuid() == 0:
        for folder in (tmp_path, *tmp_path.parents[:3]):
            os.chmod(folder, os.stat(folder).st_mode | 0o055)
        for path in (site.store, site.source, site.config):
            os.chown(path, 65534, 65534)
        site.state.mkdir()
        os.chown(site.state, 65534, 65534)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    done = subprocess.run(command, env=site.environment(HOME="/"), capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 3, done.stderr
    assert f"{site.source}/secret: Permission denied" in done.stderr
    assert f"{site.source}/closed: Permission denied" in done.stderr
    assert done.stdout == ""
    listing = site.run("ls", *site.where, "latest", site.source, "-l").stdout
    assert listing.count("(could not be read)") == 2
    restored = site.restore(tmp_path / "out")
    assert "2 entries could not be read" in restored.stderr
    assert (site.restored(tmp_path / "out") / "file").read_text() == "content"
    assert not (site.restored(tmp_path / "out") / "secret").exists()


def test_luigi_tasks_say_what_is_missing_in_a_line(local_site):
    for task, name in (("Restore", "bucket"), ("Prune", "bucket")):
        done = local_site.luigi(task, code=2)
        assert done.stderr == f"vaultik: {task}: no {name}\n  hint: pass --{name}\n"
    done = local_site.luigi("Restore", "--bucket", "b", code=2)
    assert "no target" in done.stderr


def test_what_has_no_effect_is_a_warning(tmp_path):
    config = tmp_path / "vaultik.yaml"
    text = GOOD.format(recipient=generate()[1])
    config.write_text(text + "backup_interval: 60s\nmetrics_path: /x.txt\n")
    interval, metrics = load_config(config).warnings
    assert interval.startswith(f"{config}:4:1: backup_interval: less than min_time_between_run")
    assert metrics.startswith(f"{config}:5:1: metrics_path: '/x.txt' doesn't end in .prom")
    config.write_text(text + "backup_interval: 15m\nmetrics_path: /x.prom\n")
    assert load_config(config).warnings == ()
    config.write_text(text + "min_time_between_run: 2h\n")
    assert load_config(config).warnings == ()


@pytest.mark.parametrize("command", [["restore", "latest", ""], ["fetch", "latest", "/", ""], ["mount", ""]])
def test_an_empty_place_is_not_the_current_directory(stored, tmp_path, command):
    name, *arguments = command
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine").write_text("mine")
    force = ["--force", "--delete"] if name == "restore" else []
    done = stored.run(name, *stored.where, *arguments, *force, code=2, cwd=here)
    assert "it is empty" in done.stderr
    assert os.listdir(here) == ["mine"]


def test_an_empty_snapshot_is_none(stored, tmp_path):
    done = stored.run("restore", *stored.where, "", tmp_path / "out", code=2)
    assert "snapshot '': there is none of that id" in done.stderr


def test_whoever_reads_the_output_may_go(stored):
    """As any command that SIGPIPE ends: no message, and not the code of a failure."""
    for name in range(3000):
        (stored.source / f"some longer name of a file {name}").touch()
    stored.backup()
    listing = subprocess.Popen(
        stored.command("ls", *stored.where, "latest", "-R"), env=stored.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip
    listing.stdout.readline()
    listing.stdout.close()
    said = listing.stderr.read()
    listing.stderr.close()
    assert (listing.wait(), said) == (141, b"")
