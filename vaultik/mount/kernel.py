"""The door to FUSE, by mfusepy over libfuse 3: a file system of ours at a mount point, until it is unmounted.

libfuse calls from threads of its own, several at once. Its loop has a thread here too, so that the main thread can take signals.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vaultik import linux
from vaultik.errors import RestoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultik.mount.filesystem import Attributes, FileSystem

    F = TypeVar("F", bound=Callable[..., Any])

DEVICE = Path("/dev/fuse")
_HELPER = "fusermount3"
_PACKAGE = "Debian, Ubuntu: apt-get install fuse3; Fedora, RHEL: dnf install fuse3"
_KEPT_S = 60
"""So long the kernel doesn't ask again for names and attributes: new snapshots may come."""
_READERS = 10
_POSIX_ACL = 1 << 19
"""FUSE_CAP_POSIX_ACL: the kernel goes by a file's ACL when it checks what a user may."""


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
    _library()
    if os.geteuid() == 0:
        return
    if not shutil.which(_HELPER):
        raise RestoreError(f"mount: {_HELPER} is not installed", hint=f"{_PACKAGE}; root mounts without it")
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
            options |= {"allow_other": True, "default_permissions": True}
        operations = _Operations(files, self._begun.set, report, heed_acls=allow_other)
        threading.Thread(target=self._serve, args=(operations, options), name="fuse", daemon=True).start()
        self._begun.wait()
        if self._failure is not None:
            raise RestoreError(
                f"mount point {directory}: it can't be mounted", hint="what libfuse says stands above"
            ) from self._failure

    def wait(self) -> None:
        """Wait until it is unmounted, by whomever; signals are taken meanwhile."""
        self._ended.wait()

    def unmount(self, wait_s: float = 2.0) -> bool:
        """Take it out of its place at once. What is still open stays readable as long as this process lives.

        Returns:
            Whether nobody has anything of it open any more.
        """
        if not self._ended.is_set():
            _detach(self._directory)
        return self._ended.wait(wait_s)

    def _serve(self, operations: _Operations, options: dict[str, Any]) -> None:
        try:
            _run(operations, self._directory, options)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the main thread waits for it
            self._failure = exc
        finally:
            self._begun.set()
            self._ended.set()


def _sound(call: F) -> F:
    """Let nothing but an OSError leave a callback; what nobody expected is told of, and EIO."""

    @functools.wraps(call)
    def sound(self: _Operations, *args: Any) -> Any:
        try:
            return call(self, *args)
        except OSError:
            raise
        except Exception as exc:
            self.report(f"{call.__name__}: {type(exc).__name__}: {exc}")
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from exc

    return sound  # type: ignore[return-value]


class _Operations:
    """What libfuse calls, in mfusepy's words. What isn't here nobody may do: all that writes is refused by the kernel already."""

    use_ns = True

    def __init__(
        self, files: FileSystem, ready: Callable[[], None], report: Callable[[str], None], *, heed_acls: bool
    ) -> None:
        self._files = files
        self._ready = ready
        self._heed_acls = heed_acls
        self.report = report

    def init_with_config(self, connection: Any, _config: Any) -> None:
        """Begin."""
        if self._heed_acls and connection.capable & _POSIX_ACL:
            connection.want |= _POSIX_ACL
        self._ready()

    @_sound
    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """Return what stat gives."""
        return _stat(self._files.getattr(_bytes(path)))

    @_sound
    def readdir(self, path: str, _handle: int) -> list[tuple[str, dict[str, int], int]]:
        """Return names with what the kernel may know of them without asking."""
        own = [(name, {"st_mode": stat.S_IFDIR}, 0) for name in (".", "..")]
        found = self._files.readdir(_bytes(path))
        return own + [(_text(name), {"st_mode": mode, "st_ino": inode}, 0) for name, mode, inode in found]

    @_sound
    def readlink(self, path: str) -> str:
        """Return a link's target."""
        return _text(self._files.readlink(_bytes(path)))

    @_sound
    def listxattr(self, path: str) -> list[str]:
        """Return names of extended attributes."""
        (user, *_) = _library().fuse_get_context()
        return [_text(name) for name in self._files.xattr_names(_bytes(path), privileged=user == 0)]

    @_sound
    def getxattr(self, path: str, name: str, _position: int = 0) -> bytes:
        """Return an extended attribute."""
        return self._files.xattr(_bytes(path), _bytes(name))

    @_sound
    def open(self, path: str, _flags: int) -> int:
        """Return a handle."""
        return self._files.open(_bytes(path))

    @_sound
    def release(self, _path: str | None, handle: int) -> int:
        """Give a handle back."""
        self._files.release(handle)
        return 0

    @_sound
    def read(self, _path: str | None, size: int, offset: int, handle: int) -> bytes:
        """Return content."""
        return self._files.read(handle, size, offset)

    @_sound
    def lseek(self, handle: int, offset: int, whence: int) -> int:
        """Find data or a hole."""
        return self._files.seek(handle, offset, whence)

    @_sound
    def statfs(self, _path: str) -> dict[str, int]:
        """Return what statvfs gives."""
        usage = self._files.usage()
        return {
            "f_bsize": usage.block_size,
            "f_frsize": usage.block_size,
            "f_blocks": usage.blocks,
            "f_files": usage.files,
            "f_namemax": usage.longest_name,
        }


def _run(operations: _Operations, directory: Path, options: dict[str, Any]) -> None:
    """Be the file system until it is unmounted."""

    class Kernel(_library().FUSE):  # type: ignore[misc]
        """With the one callback that mfusepy knows libfuse to have and has no method for."""

        def lseek(self, _path: bytes | None, offset: int, whence: int, info: Any) -> int:
            found: int = self.operations.lseek(info.contents.fh, offset, whence)
            return found

    Kernel(operations, os.fsdecode(directory), foreground=True, **options)


def _stat(found: Attributes) -> dict[str, int]:
    return {
        "st_mode": found.mode,
        "st_ino": found.inode,
        "st_nlink": found.links,
        "st_uid": found.uid,
        "st_gid": found.gid,
        "st_rdev": found.rdev,
        "st_size": found.size,
        "st_blocks": found.blocks,
        "st_atime": found.mtime_ns,
        "st_mtime": found.mtime_ns,
        "st_ctime": found.ctime_ns,
    }


def _bytes(text: str) -> bytes:
    """Return what mfusepy decoded, as the kernel said it, whatever the locale."""
    return text.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


@functools.cache
def _library() -> Any:
    """Import mfusepy, which looks for libfuse then.

    Raises:
        RestoreError: there is none.
    """
    # It would take libfuse 2 first.
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    # Its messages are for who writes file systems; ours name the file.
    logging.getLogger("fuse").setLevel(logging.CRITICAL + 1)
    try:
        import mfusepy  # noqa: PLC0415 - so that its absence can be told
    except ImportError as exc:
        raise RestoreError("mount: the library mfusepy is not installed", hint="pip install mfusepy") from exc
    except (OSError, AttributeError) as exc:
        raise RestoreError("mount: libfuse 3 is not installed", hint=_PACKAGE) from exc
    return mfusepy


def _may_allow_others() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text().splitlines()
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
