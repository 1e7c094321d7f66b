"""The state of an unfinished restore: TARGET/.vaultik-restore, private, locked, gone at the end.

    begun.json     what was asked for, the snapshot that it meant, the boot it began in
    plan.sqlite    the copied snapshot, the plan, and which steps are done
    made           which directories plans before it may have made: others that are there were somebody else's

Nothing found there is believed unless the directory is this user's and closed to others; after that
look it is reached by its descriptor alone, so that another directory in its place is not written to. What
was written before a power cut may not be on the disk, whatever the plan says: in another boot the plan is
made anew, and every file that is there is read and hashed before it counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vaultik.errors import RestoreError
from vaultik.restore.plan import SHAPE
from vaultik.restore.remove import names_in

if TYPE_CHECKING:
    from collections.abc import Iterable

STATE = ".vaultik-restore"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Begun(NamedTuple):
    """What an unfinished restore is of."""

    choice: dict[str, Any]
    """What was asked for."""
    snapshot: str
    """What that meant then."""
    key: str
    """The object that holds it."""
    token: str
    """A part of this restore's temporary names, that nobody could know before."""
    boot: str
    shape: str = ""
    """Of which shape the plan is (`plan.SHAPE`): one of another version is made anew."""
    doubt: bool = False
    """Whether it went on after another boot: what was written may not be as it was left, so its bytes are looked at."""

    @property
    def is_in_doubt(self) -> bool:
        """Whether what was written before may not be on the disk, whatever its size and time."""
        return self.doubt or not self.is_of_this_boot

    @property
    def has_plan(self) -> bool:
        """Whether what the plan says is so: nothing was lost since it was written, and this version understands it."""
        return self.is_of_this_boot and self.shape == SHAPE

    @property
    def is_of_this_boot(self) -> bool:
        """Whether nothing was lost since but what was killed."""
        return self.boot == _boot()

    def is_same(self, mine: dict[str, Any]) -> bool:
        """Tell whether what is asked for now is what was begun; `latest` stays what it was then."""
        other = self.choice
        return mine == other or (
            {**mine, "snapshot": "", "host": ""} == {**other, "snapshot": "", "host": ""}
            and self.snapshot.startswith(mine["snapshot"])
        )

    def check_same(self, mine: dict[str, Any], target: Path) -> None:
        """Check that what is asked for now is what was begun.

        Raises:
            RestoreError: it is another.
        """
        if self.is_same(mine):
            return
        other = self.choice
        chosen = "".join(f" --{kind} {p}" for kind in ("include", "exclude") for p in other.get(kind, ()))
        raise RestoreError(
            f"target {target}: holds an unfinished restore of {self.snapshot} ({other.get('snapshot')}) from"
            f" {other.get('store')}{chosen}",
            hint="finish it by the command that began it, or pass --force to give it up and update what is there",
        )


class State:
    """The state directory of one target."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._fd: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this restore has the lock: what lies there is its own."""
        return self._fd is not None

    @property
    def path(self) -> Path:
        """The directory, by its descriptor: good in this process and those forked from it."""
        assert self._fd is not None
        return Path(f"/proc/self/fd/{self._fd}")

    @property
    def home(self) -> Path:
        """The target itself, wherever its path leads by now: where the directory lies, good as `path` is."""
        return self.path / ".."

    @property
    def plan(self) -> Path:
        """The plan's database."""
        return self.path / "plan.sqlite"

    @property
    def _file(self) -> Path:
        return self.path / "begun.json"

    def open(self) -> Begun | None:
        """Make or find the directory and lock it. Returns what was begun in it.

        Raises:
            RestoreError: it isn't this user's, or a restore is going on in it.
            OSError: it can't be made.
        """
        if self._fd is None:
            place = self._target / STATE
            place.mkdir(mode=0o700, exist_ok=True)
            self._fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._check(os.fstat(self._fd))
        return self._read()

    def peek(self) -> Begun | None:
        """Return what was begun in the target, if anything was; nothing is made.

        Raises:
            RestoreError: as `open`.
        """
        if not os.path.lexists(self._target / STATE):
            return None
        try:
            return self.open()
        finally:
            self.close()

    def begin(self, choice: dict[str, Any], snapshot: str, key: str) -> Begun:
        """Remember durably what is restored now; a plan that is there is of something else."""
        self.forget_plan()
        before = self._read()
        token = before.token if before else secrets.token_hex(8)
        begun = Begun(choice, snapshot, key, token, _boot(), SHAPE, doubt=before is not None and before.is_in_doubt)
        aside = self._file.with_suffix(".new")
        with aside.open("w") as file:
            json.dump(begun._asdict(), file)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self._file)
        return begun

    def read(self) -> Begun:
        """Return what was begun, in a process that didn't begin it."""
        begun = self._read()
        assert begun is not None
        return begun

    def forget_plan(self) -> None:
        """Remove the plan, journals included."""
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.plan}{suffix}").unlink(missing_ok=True)

    def note_made(self, made: Iterable[bytes] | None) -> None:
        """Remember which directories a plan that is given up may have made: by their paths, None for any."""
        with self._made.open("a") as file:
            for line in ("*",) if made is None else (path.hex() for path in made):
                file.write(f"{line}\n")

    def made_before(self) -> set[bytes] | None:
        """Return which directories an earlier plan may have made, None for any."""
        try:
            return {bytes.fromhex(line) for line in self._made.read_text().splitlines()}
        except FileNotFoundError:
            return set()
        except ValueError:  # "*", or half a line
            return None

    @property
    def _made(self) -> Path:
        return self.path / "made"

    def remove(self) -> None:
        """Remove everything and let go of the lock."""
        if self._fd is None:
            return
        with contextlib.suppress(OSError):
            # What was begun goes last: killed before that, the same command still knows what this is.
            # Listed by a descriptor of its own: btrfs shows what was there when it was opened.
            for name in sorted(names_in(self._fd), key=lambda name: name == os.fsencode(self._file.name)):
                try:
                    os.unlink(name, dir_fd=self._fd)
                except IsADirectoryError:
                    # Of names that were being tried out when a kill came.
                    shutil.rmtree(name, dir_fd=self._fd)
            (self.home / STATE).rmdir()
        self.close()

    def close(self) -> None:
        """Let go of the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _check(self, st: os.stat_result) -> None:
        if st.st_uid != os.geteuid() or stat.S_IMODE(st.st_mode) & 0o077:
            self.close()
            raise RestoreError(
                f"target {self._target}: {STATE} in it is not this user's", hint="remove it, or name another directory"
            )
        assert self._fd is not None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            self.close()
            raise RestoreError(f"target {self._target}: a restore into it is going on") from exc

    def _read(self) -> Begun | None:
        try:
            begun = Begun(**json.loads(self._file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            # A plan of nobody knows what.
            self.forget_plan()
            return None
        return begun


def _boot() -> str:
    return _BOOT.read_text().strip()
