"""`make fleet`: three hosts that back up side by side to one S3 server, and a luigid that shows them.

At a terminal they go on, a round now and then, until Ctrl-C; otherwise it ends after two rounds. Everything lies in
a temporary directory and on free ports of loopback, and is gone at the end.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.luigid import luigid, write_cfg
from tests.support.servers import seaweedfs
from tests.support.site import Site

HOSTS = ("web-1", "db-1", "mail-1")
ROUNDS = 2
PAUSE_S = 20


class Host(Site):
    """One of the fleet."""

    def __init__(self, folder, name, server, url):
        folder.mkdir()
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        super().__init__(
            folder,
            server.endpoint,
            prefix=f"{name}/",
            env={**keys, "AWS_DEFAULT_REGION": "us-east-1"},
            blob_size_limit="2MiB",
            chunk_size="64KiB",
            workers=2,
        )
        self.name = name
        self.env["LUIGI_CONFIG_PATH"] = str(write_cfg(folder / "luigi.cfg", url, self.config, name))
        self.work(megabytes=8 + 4 * HOSTS.index(name), number=0)

    def work(self, megabytes, number):
        """A day's new files."""
        rng = random.Random(f"{self.name} {number}")
        folder = self.source / f"day-{number}"
        folder.mkdir(parents=True)
        for file in range(megabytes * 4):
            (folder / f"{file:04}").write_bytes(rng.randbytes(250_000))

    def begin(self):
        return subprocess.Popen(
            self.command("backup", self.config, "--json"),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def back_up(hosts):
    """One backup of each, at the same time. Returns whether all went well."""
    with contextlib.ExitStack() as stack:
        runs = [(host, stack.enter_context(host.begin())) for host in hosts]
        try:
            for host, run in runs:
                out, _ = run.communicate()
                if run.returncode == 0:
                    done = json.loads(out)
                    say(f"  {host.name:8}{done['snapshot']}  {done['bytes_uploaded']:>12,} bytes sent")
                else:
                    say(f"  {host.name:8}exit code {run.returncode}")
        except BaseException:
            for _, run in runs:
                run.terminate()
            raise
    return all(run.returncode == 0 for _, run in runs)


def show(folder, *, forever):
    """Run the fleet. Returns the exit code."""
    with seaweedfs(folder / "s3") as server, luigid(folder / "luigid") as daemon:
        hosts = [Host(folder / name, name, server, daemon.url) for name in HOSTS]
        say(f"\n  The dashboard:  {daemon.url}\n\n{GUIDE}")
        well, number = True, 0
        while True:
            number += 1
            well &= back_up(hosts)
            if number == ROUNDS and not forever:
                return 0 if well else 1
            if forever:
                say(f"  next round in {PAUSE_S} s; Ctrl-C ends")
                time.sleep(PAUSE_S)
            for host in hosts:
                host.work(megabytes=2, number=number)


GUIDE = f"""\
  Task List      what runs, waits, is done or failed; type a host's name, as in {HOSTS[0]}, into the search field
  Backup, icon   how far a host is, in bundles and bytes; the other one opens its graph, with the waves
  Workers        which host's processes are alive
"""


def main():
    forever = sys.stdin.isatty() and sys.stdout.isatty()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="vaultik-fleet-") as folder:
        # What the servers leave in their temporary directory goes away as well.
        os.environ["TMPDIR"] = folder
        try:
            return show(Path(folder), forever=forever)
        except KeyboardInterrupt:
            say("\n  ended; nothing is left")
            return 0


if __name__ == "__main__":
    sys.exit(main())
