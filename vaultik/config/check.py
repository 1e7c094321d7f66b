"""The configuration file: YAML in, a checked `Config` out, or one line that names the key and the line.

Whatever can be told from the text alone is told here, before anything is made for a run: keys, types,
ranges, recipients, patterns, the endpoint. Whether a directory or a server is there, those find out who
use it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vaultik.config import streams
from vaultik.config.document import S3, Document, File, Hooks, Stream, read_text
from vaultik.config.quantities import KIB, MIB
from vaultik.endpoints import endpoint_fault, is_bucket
from vaultik.errors import ConfigError, RecipientError
from vaultik.ignore import IgnoreRules
from vaultik.recipients import check_recipient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.config.values import Notify, UploadLimit

_CHUNK_SIZES = (64 * KIB, 64 * MIB)
_LONGEST_CHUNK_TIMES = 8
_LONGEST_LOCK_DAYS = 36_500
_LARGEST_BLOB = 16 * 10**9
_MOST_RECIPIENTS = 600
"""A header of a few more is longer than a reader takes (64 KiB)."""
_NO_HOOKS = Hooks()


@dataclasses.dataclass(frozen=True)
class Config:
    """A checked configuration. Paths of sources are bytes, absolute and normal."""

    path: Path
    source_dirs: tuple[bytes, ...]
    s3: S3
    exclude: tuple[str, ...]
    recipients: tuple[str, ...]
    audit_recipient: str | None
    signing_key: Path | None
    backup_interval: int
    full_scan_interval: int
    min_time_between_run: int
    index_path: Path
    index_prefix: str
    chunk_size: int
    blob_size_limit: int
    spool_dir: Path
    compression_level: int
    workers: int | None
    one_file_system: bool
    exclude_caches: bool
    exclude_if_present: tuple[str, ...]
    exclude_nodump: bool = False
    warnings: tuple[str, ...] = ()
    commands: tuple[Stream, ...] = ()
    hooks: Hooks = _NO_HOOKS
    notify: Notify | None = None
    metrics_path: Path | None = None
    upload_limit: UploadLimit | None = None
    nice: int | None = None
    ionice: str | None = None

    @property
    def local_store(self) -> Path | None:
        """The directory of the embedded store, None for S3."""
        endpoint = self.s3.endpoint or ""
        return Path(endpoint.removeprefix("file://")) / self.s3.bucket if endpoint.startswith("file://") else None


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: `FILE:LINE:COLUMN: key: reason`, with a hint.
        RecipientError: an identity stands where a recipient belongs; it is not shown.
    """
    text = read_text(path)
    document = Document(path, text)
    return _Checker(document, document.convert()).config(_warnings(path, text))


def _warnings(path: Path, text: str) -> tuple[str, ...]:
    if re.search(r"^\s*(secret_access_key|notify)\s*:", text, re.MULTILINE) and path.stat().st_mode & 0o077:
        return (f"config {path}: holds a secret and others may read it: chmod 600 {path}",)
    return ()


class _Checker:
    """What types can't say."""

    def __init__(self, document: Document, file: File) -> None:
        self._document = document
        self._file = file

    def config(self, warnings: tuple[str, ...]) -> Config:
        """Return the configuration."""
        f = self._file
        self._sizes()
        self._intervals()
        index_path = self._absolute("index_path", f.index_path)
        return Config(
            path=self._document.path.absolute(),
            source_dirs=self._sources(),
            s3=self._s3(),
            exclude=self._excludes(),
            recipients=self._recipients(),
            audit_recipient=f.audit_recipient and self._recipient("$.audit_recipient", f.audit_recipient),
            signing_key=self._absolute("signing_key", f.signing_key) if f.signing_key else None,
            backup_interval=f.backup_interval,
            full_scan_interval=f.full_scan_interval,
            min_time_between_run=f.min_time_between_run,
            index_path=index_path,
            index_prefix=self._index_prefix(),
            chunk_size=f.chunk_size,
            blob_size_limit=f.blob_size_limit,
            spool_dir=self._absolute("spool_dir", f.spool_dir) if f.spool_dir else index_path.parent / "spool",
            compression_level=f.compression_level,
            workers=f.workers,
            one_file_system=f.one_file_system,
            exclude_caches=f.exclude_caches,
            exclude_if_present=self._markers(),
            exclude_nodump=f.exclude_nodump,
            warnings=(*warnings, *self._open_secret(), *self._useless_patterns(), *self._without_effect()),
            commands=self._commands(),
            hooks=f.hooks,
            notify=f.notify,
            metrics_path=self._absolute("metrics_path", f.metrics_path) if f.metrics_path else None,
            upload_limit=f.upload_limit,
            nice=f.nice,
            ionice=f.ionice,
        )

    def _sources(self) -> tuple[bytes, ...]:
        found: dict[bytes, str] = {}
        if not self._file.source_dirs:
            raise self._document.error("$.source_dirs", "names no directory", "source_dirs: [/etc, /home]")
        for number, text in enumerate(self._file.source_dirs):
            where = f"$.source_dirs[{number}]"
            if not text.startswith("/"):
                raise self._document.error(where, f"{text!r} is not an absolute path", "begin it with /")
            path = os.fsencode("/" + os.path.normpath(text).lstrip("/"))
            for other in found:
                if path == other:
                    raise self._document.error(where, f"{text} stands in the list twice", "name it once")
                if _is_below(path, other) or _is_below(other, path):
                    inner, outer = (path, other) if _is_below(path, other) else (other, path)
                    raise self._document.error(
                        where, f"{os.fsdecode(inner)} lies below {os.fsdecode(outer)}", "name the outer one only"
                    )
            found[path] = text
        return tuple(found)

    def _excludes(self) -> tuple[str, ...]:
        for number, pattern in enumerate(self._file.exclude):
            try:
                IgnoreRules([pattern])
            except ConfigError as exc:
                raise self._document.error(f"$.exclude[{number}]", str(exc), exc.hint) from exc
        return tuple(self._file.exclude)

    def _commands(self) -> tuple[Stream, ...]:
        taken: list[bytes] = []
        for number, command in enumerate(self._file.commands):
            fault = streams.name_fault(command.name, self._sources(), taken)
            if fault:
                raise self._document.error(f"$.commands[{number}].name", *fault)
            if not command.timeout:
                raise self._document.error(f"$.commands[{number}].timeout", "no time at all", "such as 1h")
            taken.append(os.fsencode(command.name))
        return tuple(self._file.commands)

    def _open_secret(self) -> Iterator[str]:
        file = self._file.s3.secret_access_key_file
        with contextlib.suppress(OSError):  # who opens the store tells
            if file and Path(file).stat().st_mode & 0o077:
                text = f"{file}: others may read it: chmod 600 {file}"
                yield str(self._document.error("$.s3.secret_access_key_file", text))

    def _useless_patterns(self) -> Iterator[str]:
        """Yield a warning for each exclude that counts from / and can fit nothing in a source."""
        sources = [os.fsdecode(source).strip("/").split("/") for source in self._sources()]
        for number, pattern in enumerate(self._file.exclude):
            parts = pattern.removeprefix("!").rstrip("/").split("/")
            anchored = len(parts) > 1 and not pattern.startswith("#")
            if anchored and not any(_may_meet([p for p in parts if p], source) for source in sources):
                error = self._document.error(
                    f"$.exclude[{number}]", f"{pattern!r} fits nothing in source_dirs: with a slash it counts from /"
                )
                yield str(error)

    def _without_effect(self) -> Iterator[str]:
        f = self._file
        if f.backup_interval < f.min_time_between_run and self._document.has("$.backup_interval"):
            text = "less than min_time_between_run, below which the daemon begins no run"
            yield str(self._document.error("$.backup_interval", text))
        if f.metrics_path and not f.metrics_path.endswith(".prom"):
            text = f"{f.metrics_path!r} doesn't end in .prom: node_exporter won't read it"
            yield str(self._document.error("$.metrics_path", text))

    def _recipients(self) -> tuple[str, ...]:
        f = self._file
        given = [("$.age_recipient", f.age_recipient)] if f.age_recipient else []
        given += [(f"$.age_recipients[{number}]", text) for number, text in enumerate(f.age_recipients)]
        if not given:
            raise self._document.error(
                "$.age_recipient", "is missing", "vaultik keygen -o FILE makes a pair; the recipient goes here"
            )
        found = tuple(dict.fromkeys(self._recipient(where, text) for where, text in given))
        if len(found) > _MOST_RECIPIENTS:
            raise self._document.error("$.age_recipients", f"more than {_MOST_RECIPIENTS} of them", "share an identity")
        return found

    def _recipient(self, where: str, text: str) -> str:
        try:
            return check_recipient(text)
        except RecipientError as exc:
            raise self._document.error(where, str(exc), exc.hint, RecipientError) from exc

    def _s3(self) -> S3:
        s3 = self._file.s3
        if not is_bucket(s3.bucket):
            raise self._document.error(
                "$.s3.bucket", f"{s3.bucket!r} is not a bucket name", "its name alone, without s3://"
            )
        if s3.endpoint is not None and (fault := endpoint_fault(s3.endpoint)):
            raise self._document.error("$.s3.endpoint", *fault)
        self._credential(s3)
        if s3.lock is not None and not 0 < s3.lock.days <= _LONGEST_LOCK_DAYS:
            raise self._document.error(
                "$.s3.lock.days", f"{s3.lock.days} days can't be", f"1 to {_LONGEST_LOCK_DAYS:,}"
            )
        if s3.lock is not None and (s3.endpoint or "").startswith("file:"):
            raise self._document.error(
                "$.s3.lock", "a directory store has no locks", "leave it out, or name an S3 endpoint"
            )
        if s3.lock is not None and not s3.checksums:
            raise self._document.error("$.s3.lock", "goes with checksums only", "leave `checksums: false` out")
        if s3.prefix.startswith("/") or "//" in s3.prefix:
            raise self._document.error(
                "$.s3.prefix", f"{s3.prefix!r} is not a prefix", "no slash at the beginning, none doubled"
            )
        return msgspec.structs.replace(s3, prefix=_with_slash(s3.prefix))

    def _credential(self, s3: S3) -> None:
        if s3.secret_access_key is not None and s3.secret_access_key_file is not None:
            raise self._document.error("$.s3.secret_access_key_file", "secret_access_key is given too", "keep one")
        has_secret = s3.secret_access_key is not None or s3.secret_access_key_file is not None
        if (s3.access_key_id is not None) != has_secret:
            raise self._document.error("$.s3", "access_key_id and secret_access_key, or its file, go together")
        if s3.secret_access_key_file is not None:
            self._absolute("s3.secret_access_key_file", s3.secret_access_key_file)

    def _index_prefix(self) -> str:
        prefix = _with_slash(self._file.index_prefix)
        if not prefix or prefix.startswith(("/", "blobs/")) or "//" in prefix:
            raise self._document.error(
                "$.index_prefix", f"{prefix!r} can't be used", "a name such as index/; blobs/ is taken"
            )
        return prefix

    def _sizes(self) -> None:
        f, (low, high) = self._file, _CHUNK_SIZES
        if not low <= f.chunk_size <= high:
            raise self._document.error("$.chunk_size", f"{f.chunk_size} bytes is out of range", "from 64KiB to 64MiB")
        if not _LONGEST_CHUNK_TIMES * 2 * f.chunk_size <= f.blob_size_limit <= _LARGEST_BLOB:
            raise self._document.error(
                "$.blob_size_limit", f"{f.blob_size_limit} bytes is out of range", "from 16 times chunk_size to 16GB"
            )

    def _intervals(self) -> None:
        for key in ("backup_interval", "full_scan_interval"):
            if not getattr(self._file, key):
                raise self._document.error(f"$.{key}", "no time at all", "such as 1h; min_time_between_run may be 0")

    def _markers(self) -> tuple[str, ...]:
        for number, name in enumerate(self._file.exclude_if_present):
            if not name or "/" in name:
                raise self._document.error(f"$.exclude_if_present[{number}]", f"{name!r} is not a file name")
        return tuple(self._file.exclude_if_present)

    def _absolute(self, key: str, text: str) -> Path:
        if not text.startswith("/"):
            raise self._document.error(f"$.{key}", f"{text!r} is not an absolute path", "begin it with /")
        return Path(text)


def _may_meet(pattern: list[str], source: list[str]) -> bool:
    """Tell whether an anchored pattern may fit a source, a parent of it or something in it."""
    for part, name in zip(pattern, source, strict=False):
        if part == "**" or not name:
            return True
        if not fnmatch.fnmatchcase(name, part):
            return False
    return True


def _is_below(path: bytes, other: bytes) -> bool:
    return path != other and path.startswith(other.rstrip(b"/") + b"/")


def _with_slash(prefix: str) -> str:
    return prefix if not prefix or prefix.endswith("/") else prefix + "/"
