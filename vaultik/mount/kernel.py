"""The door to FUSE, by mfusepy over libfuse 3: a file system of ours at a mount point, until it is unmounted.

libfuse calls from threads of its own, several at once.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from typing import TYPE_CHECKING, Any, TypeVar

from vaultik.errors import RestoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vaultik.mount.filesystem import FileSystem
    from vaultik.mount.places import Attributes

    F = TypeVar("F", bound=Callable[..., Any])

PACKAGE = "Debian, Ubuntu: apt-get install fuse3; Fedora, RHEL: dnf install fuse3"
_LIBFUSE = 3
_POSIX_ACL = 1 << 19
"""FUSE_CAP_POSIX_ACL: the kernel goes by a file's ACL when it checks what a user may."""


def _sound(call: F) -> F:
    """Let nothing but an OSError leave a callback; what nobody expected is told of, and EIO."""

    @functools.wraps(call)
    def sound(self: Operations, *args: Any) -> Any:
        try:
            return call(self, *args)
        except OSError:
            raise
        except Exception as exc:
            self.report(f"{call.__name__}: {type(exc).__name__}: {exc}")
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from exc

    return sound  # type: ignore[return-value]


class Operations:
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
        (user, *_) = library().fuse_get_context()
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


def run(operations: Operations, directory: Path, options: dict[str, Any]) -> None:
    """Be the file system until it is unmounted."""

    class Kernel(library().FUSE):  # type: ignore[misc]
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
def library() -> Any:
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
        raise RestoreError("mount: libfuse 3 is not installed", hint=PACKAGE) from exc
    if mfusepy.fuse_version_major != _LIBFUSE:
        raise RestoreError(f"mount: libfuse {mfusepy.fuse_version_major} is not libfuse {_LIBFUSE}", hint=PACKAGE)
    return mfusepy
