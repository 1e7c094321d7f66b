"""Identities and credentials: where they may come from, and that they stay there."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.conftest import S3_GROUP, make_site
from tests.support.passphrase import seal
from tests.support.tree import describe, make_tree
from vaultik.core.identity import generate

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def stored(local_site):
    local_site.source.mkdir()
    (local_site.source / "file").write_text("content")
    local_site.backup()
    return local_site


def files_below(*places):
    return [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]


class TestAnIdentityIsSeenNowhere:
    def commands(self, site):
        where = site.where
        return [
            ["snapshots", *where],
            ["ls", *where, "latest", "-R"],
            ["find", *where, "*"],
            ["sql", *where, "latest", "SELECT path FROM files"],
            ["fetch", *where, "latest", site.source / "file", site.tmp / "fetched"],
            ["restore", *where, "latest", site.tmp / "out"],
            ["prune", *where, "--keep-last", "1", "--yes"],
            ["verify", *where, "--deep", "--state", site.tmp / "memory.sqlite"],
        ]

    @pytest.mark.parametrize("damage", [False, True])
    @pytest.mark.parametrize("given", ["the key", "its file"])
    def test_no_output_no_traceback_and_no_file_holds_it(self, stored, given, damage):
        """--debug shows where an error arose, with all that led to it."""
        kept = stored.key.rename(stored.tmp / "kept")
        stored.env["VAULTIK_PRIVATE_KEY"] = stored.identity if given == "the key" else str(kept)
        stored.env["TMPDIR"] = str(stored.tmp / "tmp")
        (stored.tmp / "tmp").mkdir()
        if damage:
            for path in stored.objects():
                path.write_bytes(path.read_bytes()[:-1])
        tracebacks = 0
        for arguments in self.commands(stored):
            done = subprocess.run(
                stored.command("--debug", *arguments), env=stored.environment(), capture_output=True, check=False
            )
            assert damage or done.returncode == 0, done.stderr
            tracebacks += b"Traceback" in done.stderr
            self.holds_nothing(stored, done.stdout + done.stderr)
        assert tracebacks >= (4 if damage else 0)
        for path in files_below(stored.tmp):
            if path != kept:
                self.holds_nothing(stored, path.read_bytes())

    def holds_nothing(self, site, data):
        assert b"AGE-SECRET" not in data.upper()
        assert site.identity[20:40].encode() not in data.upper()

    @pytest.mark.parametrize("text", ["AGE-SECRET-KEY-1{}", "{}", "# c\nAGE-SECRET-KEY-1{}x", "\udcff{}"])
    def test_a_traceback_of_one_that_is_none_shows_nothing_of_it(self, stored, text):
        key = text.format(generate()[0][16:-1])
        file = stored.tmp / "broken.txt"
        file.write_bytes(os.fsencode(key))
        for value in (key, str(file)):
            env = stored.environment(VAULTIK_PRIVATE_KEY=value)
            command = stored.command("--debug", "ls", *stored.where, "latest")
            done = subprocess.run(command, env=env, capture_output=True, check=False)
            assert done.returncode == 2
            assert b"Traceback" in done.stderr
            assert key[20:40].encode() not in done.stderr + done.stdout

    def test_nothing_is_begun_that_could_have_it_in_its_arguments(self, stored):
        """Of all commands that hold one, none runs another program."""
        stored.env["VAULTIK_PRIVATE_KEY"] = stored.identity
        for number, arguments in enumerate(self.commands(stored)):
            trace = stored.tmp / f"trace {number}"
            strace = ["strace", "-f", "-qq", "-v", "-s", "10000", "-e", "trace=execve", "-o", trace]
            subprocess.run(
                [*strace, *stored.command(*arguments)], env=stored.environment(), capture_output=True, check=True
            )
            (begun,) = [line for line in trace.read_text().splitlines() if line.endswith("= 0") and "execve(" in line]
            argv = re.search(r'execve\("[^"]*", \[(.*?)\], ', begun)[1]
            assert str(arguments[0]) in argv
            assert stored.identity not in argv

    def test_luigi_neither_logs_it_nor_passes_it_on(self, stored, tmp_path):
        stored.env["VAULTIK_PRIVATE_KEY"] = stored.identity
        where = ["--bucket", stored.bucket, "--prefix", stored.prefix, "--endpoint", stored.endpoint]
        done = stored.luigi("Restore", *where, "--target", tmp_path / "out", "--log-level", "DEBUG", "--workers", "2")
        self.holds_nothing(stored, (done.stdout + done.stderr).encode())


DUMPING = """
import os, resource, signal, sys
from pathlib import Path
from vaultik.secrets import load_identities
most = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (most, most))
if sys.argv[1:]:
    load_identities(Path(sys.argv[1]))
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGABRT)
print(os.WCOREDUMP(os.wait()[1]), Path(f"/proc/{os.getpid()}/environ").stat().st_uid)
"""


class TestACoreDump:
    def dumps(self, tmp_path, *arguments, user=()):
        done = subprocess.run(
            [*user, sys.executable, "-c", DUMPING, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    def test_there_is_none_of_a_process_with_an_identity(self, local_site, tmp_path):
        assert self.dumps(tmp_path, local_site.key)[0] == "False"
        if self.dumps(tmp_path)[0] != "True":
            pytest.skip("no process leaves a core here: that there was none shows nothing")

    def test_others_of_the_same_user_can_not_look_into_its_memory(self, local_site):
        """What belongs to root below /proc is what ptrace, and /proc/PID/mem, are refused by."""
        script = "import sys, ctypes; from pathlib import Path; from vaultik.secrets import load_identities\n"
        script += "load_identities(Path(sys.argv[1])); print(ctypes.CDLL(None).prctl(3))"
        done = subprocess.run(
            [sys.executable, "-c", script, local_site.key], capture_output=True, text=True, check=True, cwd="/",
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert done.stdout == "0\n"

    @pytest.mark.skipif(os.geteuid() != 0, reason="every other restore shows it where the tests don't run as root")
    def test_a_restore_by_any_user_works_all_the_same(self, local_site, tmp_path):
        """Its own /proc/self is root's then, and a restore names files by it."""
        make_tree(local_site.source)
        local_site.backup()
        for folder in (tmp_path, *tmp_path.parents[:3]):
            os.chmod(folder, os.stat(folder).st_mode | 0o055)
        for path in (local_site.store, *local_site.store.rglob("*"), local_site.key):
            os.chown(path, 65534, 65534)
        home = tmp_path / "home"
        home.mkdir()
        os.chown(home, 65534, 65534)
        trees = []
        for user in ([], ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]):
            out = home / f"out{len(trees)}"
            restore = local_site.command("restore", *local_site.where, "latest", out)
            done = subprocess.run(
                [*user, *restore], env=local_site.environment(HOME=str(home)), capture_output=True, text=True,
                check=False, cwd="/",
            )  # fmt: skip
            assert "this is a bug" not in done.stderr
            found = describe(local_site.restored(out))
            trees.append(
                {
                    path: (size, mtime, content)
                    for path, (_, _, _, size, mtime, _, _, content, _) in found.items()
                    if content is not None
                }
            )
        assert trees[0]
        assert trees[0] == trees[1]


class Terminal:
    """A command at a terminal of its own, which sees what a person would."""

    def __init__(self, command, env):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(command[0], [os.fspath(word) for word in command], env)
        self.seen = b""

    def read_until(self, words, timeout_s=60):
        end = time.monotonic() + timeout_s
        while words not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    self.seen += os.read(self.fd, 4096)
                except OSError:
                    break
        assert words in self.seen, self.seen

    def answer(self, prompt, text):
        self.read_until(prompt)
        end = time.monotonic() + 10
        while termios.tcgetattr(self.fd)[3] & termios.ECHO:
            assert time.monotonic() < end, "what is typed would be shown"
        os.write(self.fd, text.encode() + b"\n")
        self.seen = self.seen.replace(prompt, b"", 1)

    def end(self):
        """Return the exit code and what was shown."""
        with contextlib.suppress(OSError):  # EIO, when nobody has the terminal any more
            while data := os.read(self.fd, 4096):
                self.seen += data
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), self.seen.decode()


class TestAnIdentityUnderAPassphrase:
    @pytest.fixture(params=["binary", "armored"])
    def encrypted(self, request, stored):
        text = f"# created: now\n{stored.identity}\n".encode()
        stored.key.write_bytes(seal(text, PASSPHRASE, armored=request.param == "armored"))
        return stored

    def at_terminal(self, site, *arguments, passphrase=PASSPHRASE, **env):
        terminal = Terminal(site.command(*arguments), site.environment(**env))
        terminal.answer(b"Passphrase of identity file " + os.fsencode(site.key) + b": ", passphrase)
        code, seen = terminal.end()
        assert passphrase not in seen
        return code, seen

    def test_the_terminal_is_asked_and_shows_nothing(self, encrypted):
        listing = ["ls", *encrypted.where, "latest", encrypted.source]
        code, seen = self.at_terminal(encrypted, *listing)
        assert code == 0
        assert f"{encrypted.source}/file" in seen
        code, seen = self.at_terminal(encrypted, *listing, "--identity", encrypted.key, VAULTIK_PRIVATE_KEY="")
        assert code == 0

    def test_a_wrong_one_opens_nothing(self, encrypted):
        code, seen = self.at_terminal(encrypted, "--debug", "ls", *encrypted.where, "latest", passphrase="wrong guess")
        assert code == 2
        assert "that is not its passphrase, or it is damaged" in seen
        assert "Traceback" in seen

    def test_an_interrupt_leaves_the_terminal_as_it_was(self, encrypted):
        terminal = Terminal(encrypted.command("ls", *encrypted.where, "latest"), encrypted.environment())
        terminal.read_until(b"Passphrase")
        own = os.open(f"/proc/{terminal.pid}/fd/0", os.O_RDWR | os.O_NOCTTY)
        try:
            os.kill(terminal.pid, signal.SIGTERM)
            terminal.read_until(b"terminated")
            assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 143
            assert termios.tcgetattr(own)[3] & termios.ECHO
        finally:
            os.close(own)
            os.close(terminal.fd)

    def test_without_a_terminal_nobody_is_asked(self, encrypted):
        """Not even standard input: what is typed there would be shown."""
        done = encrypted.run(
            "ls", *encrypted.where, "latest", code=2, start_new_session=True, input=PASSPHRASE + "\n", timeout=60
        )
        assert (
            f"identity file {encrypted.key}: it is encrypted with a passphrase, and there is no terminal" in done.stderr
        )
        assert "age -d" in done.stderr
        where = ["--bucket", encrypted.bucket, "--prefix", encrypted.prefix, "--endpoint", encrypted.endpoint]
        done = encrypted.luigi("Restore", *where, "--target", encrypted.tmp / "out", code=2)
        assert "nobody can be asked" in done.stderr
        assert not (encrypted.tmp / "out").exists()

    def test_one_that_age_made(self, stored):
        terminal = Terminal(["/usr/bin/env", "age", "-p", "-o", f"{stored.key}.age", stored.key], dict(os.environ))
        terminal.answer(b"Enter passphrase (leave empty to autogenerate a secure one): ", PASSPHRASE)
        terminal.answer(b"Confirm passphrase: ", PASSPHRASE)
        assert terminal.end()[0] == 0
        Path(f"{stored.key}.age").rename(stored.key)
        assert b"scrypt" in stored.key.read_bytes()
        assert self.at_terminal(stored, "ls", *stored.where, "latest")[0] == 0

    def test_one_that_is_damaged(self, encrypted):
        data = bytearray(encrypted.key.read_bytes())
        middle = len(data) // 2 + (data[len(data) // 2] == ord("\n"))
        data[middle] = ord("B" if data[middle] == ord("A") else "A")
        encrypted.key.write_bytes(data)
        assert self.at_terminal(encrypted, "ls", *encrypted.where, "latest")[0] == 2


class TestAnIdentityUnderAnotherKey:
    """What age opens, with an SSH key or a plugin, vaultik takes from age."""

    @pytest.fixture(params=["X25519", "SSH"])
    def encrypted(self, request, stored):
        key = stored.tmp / "other"
        if request.param == "SSH":
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
            recipient = ["-R", f"{key}.pub"]
        else:
            identity, public = generate()
            key.write_text(identity)
            recipient = ["-r", public]
        sealed = subprocess.run(["age", *recipient, stored.key], capture_output=True, check=True).stdout
        stored.key.write_bytes(sealed)
        return stored

    def test_it_is_told_how(self, encrypted):
        done = encrypted.run("ls", *encrypted.where, "latest", code=2)
        assert f"identity file {encrypted.key}: it is encrypted, and not with a passphrase" in done.stderr
        assert "hint: age opens it: --identity <(age -d -i KEY FILE)" in done.stderr

    def test_as_it_is_told(self, encrypted):
        """Through a pipe, which nothing else can read, and which is no file with rights to warn of."""
        listing = " ".join(encrypted.command("ls", *encrypted.where, "latest", encrypted.source))
        opened = f"age -d -i {encrypted.tmp}/other {encrypted.key}"
        for line in (f"{listing} --identity <({opened})", f'VAULTIK_PRIVATE_KEY="$({opened})" {listing}'):
            done = subprocess.run(
                ["bash", "-c", line], env=encrypted.environment(), capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
            assert "file" in done.stdout


class TestAnIdentityFileThatOthersMayRead:
    def said(self, site):
        return f"vaultik: identity file {site.key}: others may read it: chmod 600 {site.key}\n"

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
    def test_there_is_a_warning_and_the_command_goes_on(self, stored, mode):
        stored.key.chmod(mode)
        assert stored.run("ls", *stored.where, "latest").stderr == self.said(stored)
        done = stored.run("ls", *stored.where, "latest", "--identity", stored.key)
        assert done.stderr == self.said(stored)
        where = ["--bucket", stored.bucket, "--prefix", stored.prefix, "--endpoint", stored.endpoint]
        done = stored.luigi("Restore", *where, "--target", stored.tmp / "out")
        assert done.stderr.count(self.said(stored)) == 1

    def test_there_is_none_of_what_nobody_else_reads(self, stored):
        assert stored.run("ls", *stored.where, "latest").stderr == ""
        stored.key.chmod(0o400)
        assert stored.run("ls", *stored.where, "latest").stderr == ""


@S3_GROUP
class TestTheCredentialOfABackup:
    @pytest.fixture
    def host(self, request, tmp_path):
        host = make_site(request, tmp_path, "seaweedfs")
        host.source.mkdir()
        (host.source / "file").write_text("content")
        return host

    def without(self, host, **more):
        """Take the secret out of the config and the environment; returns both halves."""
        keys = host.credentials()
        host.configure(s3={k: v for k, v in host.settings["s3"].items() if k not in keys} | more)
        host.env = {k: v for k, v in host.env.items() if not k.startswith("AWS_")}
        return keys["access_key_id"], keys["secret_access_key"]

    def test_from_the_environment(self, host):
        key_id, secret = self.without(host)
        host.env |= {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}
        assert host.backup()["exit_code"] == 0

    def test_from_botos_own_file(self, host):
        key_id, secret = self.without(host)
        file = host.tmp / "credentials"
        file.write_text(f"[default]\naws_access_key_id={key_id}\naws_secret_access_key={secret}\n")
        host.env["AWS_SHARED_CREDENTIALS_FILE"] = str(file)
        assert host.backup()["exit_code"] == 0

    def test_from_a_file_that_the_config_names(self, host):
        file = host.tmp / "secret"
        _, secret = self.without(
            host, access_key_id=host.credentials()["access_key_id"], secret_access_key_file=str(file)
        )
        file.write_text(f"  {secret}\n")
        file.chmod(0o600)
        done = host.run("backup", host.config, "--cron")
        assert done.stderr == ""
        assert "FAIL" not in host.run("check", host.config).stdout
        assert secret not in host.config.read_text()
        for place in files_below(host.state):
            assert secret.encode() not in place.read_bytes()
        file.chmod(0o644)
        warning = f"s3.secret_access_key_file: {file}: others may read it: chmod 600 {file}"
        assert warning in host.run("backup", host.config).stderr
        assert warning in host.run("check", host.config).stdout

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "No such file"),
            (b"", "empty"),
            (b"s3cret of-mine\n", "more than one word"),
            (b"s3cret\xff\n", "not a text file"),
        ],
    )
    def test_a_file_that_is_none_is_named_and_not_shown(self, host, content, words):
        file = host.tmp / "secret"
        self.without(host, access_key_id="a", secret_access_key_file=str(file))
        if content is not None:
            file.write_bytes(content)
        for name in ("backup", "check"):
            command = host.command("--debug", name, host.config)
            done = subprocess.run(command, env=host.environment(), capture_output=True, text=True, check=False)
            assert done.returncode == 2
            assert f"s3.secret_access_key_file {file}: {words}" in done.stderr + done.stdout
            assert "s3cret" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("s3", "words"),
    [
        ({"secret_access_key": "b", "secret_access_key_file": "/x"}, "secret_access_key is given too"),
        ({"secret_access_key_file": "x"}, "not an absolute path"),
        ({"access_key_id": None, "secret_access_key_file": "/x"}, "go together"),
        ({}, "go together"),
    ],
)
def test_a_credential_that_is_half_of_one_or_twice(local_site, s3, words):
    given = {"access_key_id": "a", **s3}
    local_site.configure(s3={**local_site.settings["s3"], **{k: v for k, v in given.items() if v is not None}})
    done = local_site.run("backup", local_site.config, code=2)
    assert re.search(rf"vaultik.yaml:\d+:\d+: s3.*{words}", done.stderr), done.stderr
