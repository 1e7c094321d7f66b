"""A file system of ours in its place: what that takes of the machine, from the mount to the unmount."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaultik import linux
from vaultik.errors import RestoreError
from vaultik.mount.kernel import PACKAGE, Operations, library, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultik.mount.filesystem import FileSystem

DEVICE = Path("/dev/fuse")
_HELPER = "fusermount3"
_FUSE_CONF = Path("/etc/fuse.conf")
_KEPT_S = 60
"""So long the kernel doesn't ask again for names and attributes: new snapshots may come."""
_READERS = 10


def check_fuse(*, allow_other: bool) -> None:
    """Check that this machine and user can mount.

    Raises:
        RestoreError: what is missing, and where it comes from.
    """
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError as exc:
        raise RestoreError(
            f"mount: there is no {DEVICE}", hint="modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN"
        ) from exc
    except OSError as exc:
        raise RestoreError(
            f"mount: {DEVICE}: {exc.strerror}", hint="a user who may read and write it can mount"
        ) from exc
    library()
    if os.geteuid() == 0:
        return
    if not shutil.which(_HELPER):
        raise RestoreError(f"mount: {_HELPER} is not installed", hint=f"{PACKAGE}; root mounts without it")
    if allow_other and not _may_allow_others():
        raise RestoreError(
            "mount: --allow-other: /etc/fuse.conf doesn't let users do that", hint="put the line user_allow_other in it"
        )


def check_directory(directory: Path) -> None:
    """Check that a directory can be mounted on.

    Raises:
        RestoreError: it is missing, none, or not empty.
    """
    try:
        is_empty = not any(directory.iterdir())
    except FileNotFoundError as exc:
        raise RestoreError(f"mount point {directory}: no such directory", hint=f"mkdir {directory}") from exc
    except NotADirectoryError as exc:
        raise RestoreError(f"mount point {directory}: not a directory", hint="name an empty directory") from exc
    except OSError as exc:
        hint = None
        if exc.errno == errno.ENOTCONN:
            hint = f"an earlier mount died there: {_HELPER} -u {directory}"
        raise RestoreError(f"mount point {directory}: {exc.strerror}", hint=hint) from exc
    if not is_empty:
        raise RestoreError(f"mount point {directory}: not empty", hint="what lies in it would be hidden: name another")


class Mount:
    """A file system in its place."""

    def __init__(
        self, directory: Path, files: FileSystem, name: str, report: Callable[[str], None], *, allow_other: bool
    ) -> None:
        """Mount it.

        Args:
            directory: where; see `check_directory`.
            files: what.
            name: what stands as its device in mount(8)'s list.
            report: takes a line on what nobody expected.
            allow_other: let others than this user in; the kernel then holds everybody to modes and ACLs.

        Raises:
            RestoreError: the kernel or libfuse refused.
        """
        self._directory = directory
        self._begun = threading.Event()
        # Not the thread's own end: one whose join was interrupted counts as ended in Python 3.11.
        self._ended = threading.Event()
        self._failure: Exception | None = None
        options: dict[str, Any] = {
            "fsname": name.replace("\\", "\\\\").replace(",", "\\,"),
            "subtype": "vaultik",
            "ro": True,
            "nosuid": True,
            "nodev": True,
            "attr_timeout": _KEPT_S,
            "entry_timeout": _KEPT_S,
            "kernel_cache": True,
            "use_ino": True,
            # Left to itself libfuse 3.14 complains of a number that nobody gave.
            "max_idle_threads": _READERS,
        }
        if allow_other:
            # Where the kernel knows of ACLs (`Operations`) it holds to modes as well; where it doesn't, this does.
            options |= {"allow_other": True, "default_permissions": True}
        operations = Operations(files, self._begun.set, report, heed_acls=allow_other)
        threading.Thread(target=self._serve, args=(operations, options), name="fuse", daemon=True).start()
        self._begun.wait()
        if self._failure is not None:
            raise RestoreError(
                f"mount point {directory}: it can't be mounted", hint="what libfuse says stands above"
            ) from self._failure

    def wait(self) -> None:
        """Wait until it is unmounted, by whomever; signals are taken meanwhile.

        Raises:
            RestoreError: FUSE broke.
        """
        self._ended.wait()
        if self._failure is not None:
            raise RestoreError(f"mount point {self._directory}: FUSE ended it: {self._failure}") from self._failure

    def unmount(self, wait_s: float = 2.0) -> bool:
        """Take it out of its place at once. What is still open stays readable as long as this process lives.

        Returns:
            Whether nobody has anything of it open any more.
        """
        if not self._ended.is_set():
            _detach(self._directory)
        return self._ended.wait(wait_s)

    def _serve(self, operations: Operations, options: dict[str, Any]) -> None:
        try:
            run(operations, self._directory, options)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the main thread waits for it
            self._failure = exc
        finally:
            self._begun.set()
            self._ended.set()


def _may_allow_others() -> bool:
    try:
        lines = _FUSE_CONF.read_text().splitlines()
    except OSError:
        return False
    return any(line.split("#")[0].strip() == "user_allow_other" for line in lines)


def _detach(directory: Path) -> None:
    """Unmount, although something may be open. That it can't be (it is gone already) is no error."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            linux.detach(os.fsencode(directory))
    else:
        # Found where `check_fuse` found it.
        command = [shutil.which(_HELPER) or _HELPER, "-u", "-z", "-q", "--", os.fspath(directory)]
        subprocess.run(command, check=False, capture_output=True)
