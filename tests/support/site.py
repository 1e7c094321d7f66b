"""A host with something to back up, a store, and the installed command line between them."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import yaml

from tests.support import prefork
from vaultik.core.identity import generate

BIN = Path(sysconfig.get_path("scripts"))
NO_RIGHTS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
"""Runs a command without any of root's rights over files, whoever the tests run as."""


class Site:
    """Everything below one temporary directory."""

    def __init__(
        self,
        tmp: Path,
        endpoint: str | None = None,
        *,
        prefix: str = "host/",
        env: dict[str, str] | None = None,
        **settings,
    ):
        self.tmp = tmp
        self.source = tmp / "source"
        self.state = tmp / "state"
        self.config = tmp / "vaultik.yaml"
        self.key = tmp / "key.txt"
        self.identity, self.recipient = generate()
        self.key.write_text(self.identity + "\n")
        self.key.chmod(0o600)
        self.store = tmp / "store"
        if endpoint is None:
            self.store.mkdir(exist_ok=True)
        self.endpoint = endpoint or f"file://{self.store}"
        self.bucket = "vault"
        self.prefix = prefix
        self.env = {"VAULTIK_PRIVATE_KEY": str(self.key), **(env or {})}
        self.settings = {
            "source_dirs": [str(self.source)],
            "age_recipient": self.recipient,
            "index_path": str(self.state / "index.sqlite"),
            "s3": {"endpoint": self.endpoint, "bucket": self.bucket, "prefix": prefix, **self.credentials()},
            **settings,
        }
        self.configure()

    def credentials(self):
        if "AWS_ACCESS_KEY_ID" not in self.env:
            return {}
        return {"access_key_id": self.env["AWS_ACCESS_KEY_ID"], "secret_access_key": self.env["AWS_SECRET_ACCESS_KEY"]}

    def keys(self):
        """The credential as `open_store` takes it."""
        return self.credentials() or {"access_key_id": None, "secret_access_key": None}

    def configure(self, **changes):
        self.settings |= changes
        self.config.write_text(yaml.safe_dump(self.settings))
        self.config.chmod(0o600)

    @property
    def where(self):
        return ["--endpoint", self.endpoint, self.bucket, self.prefix]

    @property
    def index(self):
        return self.state / "index.sqlite"

    @property
    def spool(self):
        return self.state / "spool"

    def spooled(self):
        """The files in the spool."""
        return [path for path in self.spool.rglob("*") if path.is_file()]

    def environment(self, **more):
        return {**os.environ, "PYTHONWARNINGS": "default", **self.env, **more}

    def command(self, *arguments):
        return [sys.executable, "-m", "vaultik", *map(str, arguments)]

    def run(self, *arguments, code=0, no_rights=False, **kwargs):
        """Run the command line and expect an exit code, None for any."""
        command, environment = self.command(*arguments), self.environment()
        if no_rights or kwargs or not prefork.fits(environment):
            done = subprocess.run(
                [*(NO_RIGHTS if no_rights else ()), *command],
                env=environment,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                check=False,
                **kwargs,
            )
        else:
            done = subprocess.CompletedProcess(command, *prefork.run_for(arguments, environment))
        assert code in (None, done.returncode), (
            f"vaultik {arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stderr
        return done

    def backup(self, *arguments, **kwargs):
        """Back up; returns the JSON summary."""
        return json.loads(self.run("backup", self.config, "--json", *arguments, **kwargs).stdout)

    def restore(self, target, *arguments, snapshot="latest", **kwargs):
        return self.run("restore", *self.where, snapshot, target, *arguments, **kwargs)

    def luigi(self, *arguments, code=0):
        """Run the stock luigi command with the shipped luigi.cfg, from another directory."""
        process = self.begin_luigi(*arguments)
        out, said = process.communicate()
        assert process.returncode == code, f"luigi {arguments}: exit {process.returncode}\n{out}\n{said}"
        return subprocess.CompletedProcess(process.args, code, out, said)

    def begin_luigi(self, *arguments):
        shipped = (Path(__file__).parents[2] / "luigi.cfg").read_text()
        cfg = self.tmp / "luigi.cfg"
        cfg.write_text(shipped.replace("/etc/vaultik.yaml", str(self.config)))
        return subprocess.Popen(
            [BIN / "luigi", "--module", "vaultik.tasks", *map(str, arguments)],
            env=self.environment(LUIGI_CONFIG_PATH=str(cfg)),
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def restored(self, target):
        """Where the source stands in a restored tree."""
        return Path(f"{target}{self.source}")

    def objects(self, suffix=""):
        """The files of a directory store."""
        return sorted(p for p in self.store.rglob(f"*{suffix}") if p.is_file())

    def blobs(self):
        blobs = (self.store / self.bucket / self.prefix / "blobs").rglob("*")
        return sorted(p for p in blobs if p.is_file() and not p.name.startswith(".tmp-"))

    def forget_state(self):
        shutil.rmtree(self.state)


def other_host(site, name, **settings):
    """Another host that backs up into the same prefix."""
    (site.tmp / name).mkdir()
    cfg = site.tmp / name / "luigi.cfg"
    cfg.write_text(f"[core]\nlocal_scheduler=true\n[Backup]\nhost={name}\n")
    other = Site(
        site.tmp / name, site.endpoint, age_recipient=site.recipient, env={"LUIGI_CONFIG_PATH": str(cfg)}, **settings
    )
    other.source.mkdir()
    (other.source / "file").write_text(name)
    other.backup()
    return other
