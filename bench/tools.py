"""The tools that are compared, each with a store and a source of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bench.measure import Taken, run, size_mb

if TYPE_CHECKING:
    from collections.abc import Sequence

VAULTIK = str(Path(sys.executable).with_name("vaultik"))


class Tool(Protocol):
    """Something that backs a directory up and restores it."""

    def backup(self) -> Taken:
        """Back up what is there now."""
        ...

    def restore(self, out: Path) -> Taken:
        """Bring the newest backup back, below an empty directory."""
        ...

    def one(self, path: Path, out: Path) -> Taken | None:
        """Bring one file back, None if that can't be done."""
        ...

    def store_mb(self) -> float:
        """Return the size of the store."""
        ...


class Vaultik:
    """vaultik on a directory store, or on the S3 store that `store` names (lines of the config's `s3`)."""

    def __init__(
        self, work: Path, source: Path, settings: Sequence[str] = (), store: dict[str, str] | None = None
    ) -> None:
        self.work = work
        self.folder = work / "store"
        self.folder.mkdir()
        self.s3 = store or {"endpoint": f"file://{self.folder}"}
        self.config = work / "vaultik.yaml"
        self.env = {"VAULTIK_PRIVATE_KEY": str(work / "key")}
        recipient = make_key(work / "key")
        lines = [
            f"source_dirs: [{source}]",
            f"age_recipient: {recipient}",
            f"index_path: {work}/index.sqlite",
            *settings,
        ]
        lines += ["s3:", "  bucket: bench", "  prefix: host/", *(f"  {key}: {value}" for key, value in self.s3.items())]
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o600)

    def backup(self) -> Taken:
        """Back up as from cron."""
        return run([VAULTIK, "backup", str(self.config), "--cron"])

    def restore(self, out: Path) -> Taken:
        """Restore `latest`."""
        return self._reading("restore", str(out))

    def one(self, path: Path, out: Path) -> Taken:
        """Fetch one file."""
        return self._reading("fetch", str(path), str(out))

    def store_mb(self) -> float:
        """Return the size of the directory store."""
        return size_mb(self.folder)

    def _reading(self, command: str, *arguments: str) -> Taken:
        access = {"AWS_ACCESS_KEY_ID": "access_key_id", "AWS_SECRET_ACCESS_KEY": "secret_access_key"}
        env = {**self.env, **{name: self.s3[key] for name, key in access.items() if key in self.s3}}
        return run([VAULTIK, command, "--endpoint", self.s3["endpoint"], "bench", "host/", "latest", *arguments], env)


class _Repository:
    repository: Path

    def store_mb(self) -> float:
        """Return the size of the repository."""
        return size_mb(self.repository)


class Restic(_Repository):
    """restic, with its cache, at its default compression."""

    def __init__(self, work: Path, source: Path) -> None:
        self.repository = work / "restic"
        self.source = source
        self.env = {"RESTIC_PASSWORD": "x", "RESTIC_CACHE_DIR": str(work / "restic-cache")}
        self._run("init")

    def _run(self, *arguments: str) -> Taken:
        return run(["restic", "-q", "-r", str(self.repository), *arguments], self.env)

    def backup(self) -> Taken:
        """Back up."""
        return self._run("backup", str(self.source))

    def restore(self, out: Path) -> Taken:
        """Restore `latest`."""
        return self._run("restore", "latest", "-t", str(out))

    def one(self, path: Path, out: Path) -> Taken:
        """Dump one file."""
        return run(["sh", "-c", f"restic -q -r {self.repository} dump latest '{path}' > {out}"], self.env)


class Borg(_Repository):
    """borg with zstd at level 3, as vaultik compresses."""

    def __init__(self, work: Path, source: Path) -> None:
        self.repository = work / "borg"
        self.source = source
        self.env = {"BORG_PASSPHRASE": "x", "BORG_BASE_DIR": str(work / "borg-base")}
        self.archives = 0
        run(["borg", "init", "-e", "repokey", str(self.repository)], self.env)

    @property
    def archive(self) -> str:
        """The newest archive."""
        return f"{self.repository}::{self.archives}"

    def backup(self) -> Taken:
        """Create an archive."""
        self.archives += 1
        return run(["borg", "create", "-C", "zstd,3", self.archive, str(self.source)], self.env)

    def restore(self, out: Path) -> Taken:
        """Extract the newest archive."""
        return run(["borg", "extract", self.archive], self.env, cwd=out)

    def one(self, path: Path, out: Path) -> Taken:
        """Extract one file."""
        name = str(path).lstrip("/")
        return run(["sh", "-c", f"borg extract --stdout {self.archive} '{name}' > {out}"], self.env)


class Floor:
    """The plain tools, which know nothing of increments: tar, zstd on two threads, age; find where nothing changed."""

    def __init__(self, work: Path, source: Path) -> None:
        self.archive = work / "floor.tar.zst.age"
        self.source = source
        self.key = work / "floor.key"
        self.recipient = make_key(self.key)

    def backup(self) -> Taken:
        """Make the archive; the second time look at every name only."""
        if self.archive.exists():
            return run(["sh", "-c", f"find {self.source} -printf '%p %s %T@ %C@ %i %m\\n' > /dev/null"])
        seal = f"zstd -3 -T2 -q | age -r {self.recipient} > {self.archive}"
        return run(["sh", "-c", f"tar cf - {self.source} 2>/dev/null | {seal}"])

    def restore(self, out: Path) -> Taken:
        """Unpack it."""
        return run(["sh", "-c", f"age -d -i {self.key} {self.archive} | zstd -dq | tar xf - -C {out}"])

    def one(self, path: Path, out: Path) -> None:  # noqa: ARG002 - nobody would unpack all of it for that
        """Nothing."""
        return

    def store_mb(self) -> float:
        """Return the size of the archive."""
        return size_mb(self.archive)


TOOLS: dict[str, type[Vaultik | Restic | Borg | Floor]] = {
    "vaultik": Vaultik,
    "restic": Restic,
    "borg": Borg,
    "floor": Floor,
}


def make_key(path: Path) -> str:
    """Make an identity file and return its recipient."""
    subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True)
    return subprocess.run(["age-keygen", "-y", str(path)], check=True, capture_output=True, text=True).stdout.strip()
