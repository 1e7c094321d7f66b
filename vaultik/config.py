"""The configuration file: YAML in, a checked `Config` out, or one line that names the key and the line.

It knows keys, types and ranges; whether a recipient is one or a directory is there is found out by
those who use them.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import yaml

from vaultik.errors import ConfigError, RecipientError

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_SIZE = re.compile(r"(\d+)\s*(B|[kKMGT]B|[KMGT]iB)?")
_SIZE_UNITS = (
    {"B": 1}
    | {f"{p}B": 1000**n for n, p in enumerate("kMGT", 1)}
    | {"KB": 1000}
    | {f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)}
)
_DURATION = re.compile(r"(\d+)\s*(s|m|h|d)?")
_DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_CHUNK_SIZES = (64 * KIB, 64 * MIB)
_LONGEST_CHUNK_TIMES = 8
_LARGEST_BLOB = 16 * 10**9
_IDENTITY = "AGE-SECRET-KEY-"


class Size(int):
    """A number of bytes, written `10MB` (10^7) or `10MiB` (10 x 2^20)."""


class Duration(int):
    """A number of seconds, written `90s`, `15m`, `24h`, `7d` or `0`."""


class S3(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `s3`: where sealed bytes go."""

    bucket: str
    endpoint: str | None = None
    prefix: str = ""
    access_key_id: str | None = None
    secret_access_key: str | None = None
    region: str | None = None
    access: Literal["full", "put_only"] = "full"
    checksums: bool = True


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file, as its keys stand in it."""

    source_dirs: list[str]
    s3: S3
    exclude: list[str] = []
    age_recipient: str | None = None
    age_recipients: list[str] = []
    audit_recipient: str | None = None
    backup_interval: Duration = Duration(3600)
    full_scan_interval: Duration = Duration(86400)
    min_time_between_run: Duration = Duration(900)
    index_path: str = "/var/lib/vaultik/index.sqlite"
    index_prefix: str = "index/"
    chunk_size: Size = Size(MIB)
    blob_size_limit: Size = Size(256 * 10**6)
    spool_dir: str | None = None
    compression_level: Annotated[int, msgspec.Meta(ge=1, le=19)] = 3
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    one_file_system: bool = False
    exclude_caches: bool = False
    exclude_if_present: list[str] = []


@dataclasses.dataclass(frozen=True)
class Config:
    """A checked configuration. Paths of sources are bytes, absolute and normal."""

    path: Path
    source_dirs: tuple[bytes, ...]
    s3: S3
    exclude: tuple[str, ...]
    recipients: tuple[str, ...]
    audit_recipient: str | None
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
    warnings: tuple[str, ...] = ()

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
    text = _read(path)
    document = _Document(path, text)
    return _Checker(document, document.convert()).config(_warnings(path, text))


def parse_size(text: str | int) -> int:
    """Return a size in bytes.

    Raises:
        ValueError: it isn't one.
    """
    shape = _SIZE.fullmatch(str(text).strip())
    if shape is None or isinstance(text, bool):
        raise ValueError(f"not a size: {text!r}; sizes look like 10MB or 10MiB")
    factor: int = _SIZE_UNITS[shape[2] or "B"]
    return int(shape[1]) * factor


def parse_duration(text: str | int) -> int:
    """Return a duration in seconds.

    Raises:
        ValueError: it isn't one.
    """
    shape = _DURATION.fullmatch(str(text).strip())
    if shape is None or isinstance(text, bool) or (shape[2] is None and int(shape[1])):
        raise ValueError(f"not a duration: {text!r}; durations look like 90s, 15m, 24h, 7d or 0")
    return int(shape[1]) * _DURATION_UNITS[shape[2] or "s"]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"config {path}: {exc.strerror}", hint="vaultik init CONFIG writes a commented one") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"config {path}: not UTF-8 text") from exc


def _warnings(path: Path, text: str) -> tuple[str, ...]:
    if re.search(r"^\s*secret_access_key\s*:", text, re.MULTILINE) and path.stat().st_mode & 0o077:
        return (f"config {path}: holds a secret and others may read it: chmod 600 {path}",)
    return ()


class _Document:
    """The YAML text with the place of every key."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._marks: dict[str, yaml.Mark] = {}
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            if node is not None:
                self._note("$", node)
            self._data = yaml.safe_load(text)
        except yaml.MarkedYAMLError as exc:
            raise self._yaml_error(exc) from exc
        except yaml.YAMLError as exc:
            raise ConfigError(f"{path}: not YAML: {str(exc).splitlines()[0]}") from exc
        if not isinstance(self._data, dict):
            raise ConfigError(f"{path}: no settings in it", hint="vaultik init CONFIG writes a commented one")

    def error(
        self, where: str, reason: str, hint: str | None = None, kind: type[ConfigError] = ConfigError
    ) -> ConfigError:
        """Return an error at a path such as `$.s3.bucket` or `$.exclude[2]`."""
        mark = self._mark(where)
        place = f"{self._path}:{mark.line + 1}:{mark.column + 1}" if mark else str(self._path)
        key = where.removeprefix("$").removeprefix(".")
        return kind(f"{place}: {key}: {reason}" if key else f"{place}: {reason}", hint=hint)

    def convert(self) -> _File:
        """Return the settings, each of its type."""
        self._refuse_identities("$", self._data)
        try:
            return msgspec.convert(self._data, _File, dec_hook=_parse)
        except msgspec.ValidationError as exc:
            raise self._invalid(str(exc)) from exc

    def _invalid(self, message: str) -> ConfigError:
        reason, _, where = message.partition(" - at ")
        where = where.strip("`") or "$"
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", reason)
        if unknown:
            known = (S3 if where == "$.s3" else _File).__struct_fields__
            near = difflib.get_close_matches(unknown[1], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            return self.error(f"{where}.{unknown[1]}", "unknown key", hint)
        missing = re.fullmatch(r"Object missing required field `(.*)`", reason)
        if missing:
            return self.error(
                where, f"{missing[1]} is missing", "vaultik init CONFIG writes a commented config with every key"
            )
        reason, _, hint = reason.partition("; ")
        return self.error(where, reason[0].lower() + reason[1:], hint or _type_hint(reason))

    def _refuse_identities(self, where: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, below in value.items():
                self._refuse_identities(f"{where}.{key}", below)
        elif isinstance(value, list):
            for number, below in enumerate(value):
                self._refuse_identities(f"{where}[{number}]", below)
        elif isinstance(value, str) and _IDENTITY in value.upper():
            raise self.error(
                where,
                "is an identity (a secret key), a recipient belongs here",
                "an identity must not be on this host: put its recipient (age1...) here, and make a new pair if it was here for long",
                RecipientError,
            )

    def _note(self, where: str, node: yaml.Node) -> None:
        self._marks.setdefault(where, node.start_mark)
        if isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._note(f"{where}[{number}]", item)
        if not isinstance(node, yaml.MappingNode):
            return
        seen: set[str] = set()
        for key, value in node.value:
            name = f"{where}.{key.value}"
            self._marks[name] = key.start_mark
            if key.value in seen:
                raise self.error(name, "stands here a second time", "keep one of them")
            seen.add(key.value)
            self._note(name, value)

    def _mark(self, where: str) -> yaml.Mark | None:
        while where and where not in self._marks:
            where = where[: max(where.rfind("."), where.rfind("["), 0)]
        return self._marks.get(where)

    def _yaml_error(self, exc: yaml.MarkedYAMLError) -> ConfigError:
        mark = exc.problem_mark or exc.context_mark
        place = f"{self._path}:{mark.line + 1}:{mark.column + 1}" if mark else str(self._path)
        return ConfigError(
            f"{place}: not YAML: {exc.problem or exc.context}",
            hint="keys and values are written `key: value`; indent with spaces",
        )


class _Checker:
    """What types can't say."""

    def __init__(self, document: _Document, file: _File) -> None:
        self._document = document
        self._file = file

    def config(self, warnings: tuple[str, ...]) -> Config:
        """Return the configuration."""
        f = self._file
        self._sizes()
        index_path = self._absolute("index_path", f.index_path)
        return Config(
            path=self._document._path,  # noqa: SLF001 - one module
            source_dirs=self._sources(),
            s3=self._s3(),
            exclude=tuple(f.exclude),
            recipients=self._recipients(),
            audit_recipient=f.audit_recipient,
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
            warnings=warnings,
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

    def _recipients(self) -> tuple[str, ...]:
        f = self._file
        given = [*([f.age_recipient] if f.age_recipient else []), *f.age_recipients]
        if not given:
            raise self._document.error(
                "$.age_recipient", "is missing", "vaultik keygen -o FILE makes a pair; the recipient goes here"
            )
        return tuple(dict.fromkeys(text.strip() for text in given))

    def _s3(self) -> S3:
        s3 = self._file.s3
        if not s3.bucket or "/" in s3.bucket:
            raise self._document.error("$.s3.bucket", f"{s3.bucket!r} is not a bucket name")
        if (s3.access_key_id is None) != (s3.secret_access_key is None):
            raise self._document.error("$.s3", "access_key_id and secret_access_key go together")
        if s3.prefix.startswith("/") or "//" in s3.prefix:
            raise self._document.error(
                "$.s3.prefix", f"{s3.prefix!r} is not a prefix", "no slash at the beginning, none doubled"
            )
        return msgspec.structs.replace(s3, prefix=_with_slash(s3.prefix))

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

    def _markers(self) -> tuple[str, ...]:
        for number, name in enumerate(self._file.exclude_if_present):
            if not name or "/" in name:
                raise self._document.error(f"$.exclude_if_present[{number}]", f"{name!r} is not a file name")
        return tuple(self._file.exclude_if_present)

    def _absolute(self, key: str, text: str) -> Path:
        if not text.startswith("/"):
            raise self._document.error(f"$.{key}", f"{text!r} is not an absolute path", "begin it with /")
        return Path(text)


def _parse(kind: type, value: Any) -> Any:
    parse = {Size: parse_size, Duration: parse_duration}[kind]
    if not isinstance(value, str | int):
        raise ValueError(f"not a {kind.__name__.lower()}: {value!r}")  # noqa: TRY004 - msgspec reports ValueErrors with their place
    return kind(parse(value))


def _type_hint(reason: str) -> str | None:
    if "Expected `array`" in reason:
        return "write a list: [a, b] or one `- item` per line"
    if reason.startswith("Expected"):
        return "put text in quotes where YAML would take it for something else"
    return None


def _is_below(path: bytes, other: bytes) -> bool:
    return path != other and path.startswith(other.rstrip(b"/") + b"/")


def _with_slash(prefix: str) -> str:
    return prefix if not prefix or prefix.endswith("/") else prefix + "/"


def iter_keys() -> Iterator[str]:
    """Yield every key that a config may have; those of the section s3 with its name in front."""
    for key in _File.__struct_fields__:
        yield from (f"s3.{inner}" for inner in S3.__struct_fields__) if key == "s3" else (key,)
