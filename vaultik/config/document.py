"""The YAML text of a configuration: its keys and types, and the line and column of each.

What it refuses it names by place, with the nearest known key where one is unknown. A secret key that
stands anywhere in it, whole or mistyped, is never shown: every message goes through `veiled`.
"""

from __future__ import annotations

import difflib
import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import yaml

from vaultik.config.quantities import MIB, Duration, Size, parse_duration, parse_size
from vaultik.config.values import Command, Notify, UploadLimit, parse_command, parse_notify, parse_upload_limit
from vaultik.errors import ConfigError, RecipientError
from vaultik.shown import veiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_IDENTITY = "AGE-SECRET-KEY-"
_LARGEST = 16 << 20
_MOST_NODES = 100_000
_DEEPEST = 32
_SIMPLE = "a config is a list of `key: value`, some of them lists; vaultik init CONFIG writes one"
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "null", "timestamp"))
"""What a value is taken for by its looks."""


class _Loader(yaml.SafeLoader):
    """Makes no more nodes than are looked at: each takes a hundred times the memory of its text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._composed = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Make the next node."""
        self._composed += 1
        if self._composed > _MOST_NODES:
            raise yaml.MarkedYAMLError(problem="too much to be a configuration", problem_mark=self.get_mark())
        return super().compose_node(parent, index)


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Object Lock: how long nobody (governance: nobody without a special right) can delete what is put."""

    mode: Literal["governance", "compliance"]
    days: int


class S3(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `s3`: where sealed bytes go."""

    bucket: str
    endpoint: str | None = None
    prefix: str = ""
    access_key_id: str | None = None
    secret_access_key: str | None = None
    secret_access_key_file: str | None = None
    region: str | None = None
    addressing: Literal["path", "virtual"] | None = None
    access: Literal["full", "put_only"] = "full"
    checksums: bool = True
    lock: Lock | None = None


class Hooks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `hooks`: what runs around a run."""

    before: list[Command] = []
    after_success: list[Command] = []
    after_failure: list[Command] = []
    timeout: Duration = Duration(3600)


class Stream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item of `commands`: a command whose output becomes a file."""

    name: str
    command: Command
    timeout: Duration = Duration(86400)


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file, as its keys stand in it."""

    source_dirs: list[str]
    s3: S3
    exclude: list[str] = []
    age_recipient: str | None = None
    age_recipients: list[str] = []
    audit_recipient: str | None = None
    signing_key: str | None = None
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
    commands: list[Stream] = []
    hooks: Hooks = Hooks()
    notify: Notify | None = None
    metrics_path: str | None = None
    upload_limit: UploadLimit | None = None
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] | None = None
    ionice: Literal["best-effort", "idle"] | None = None


class Document:
    """The YAML text with the place of every key."""

    def __init__(self, path: Path, text: str) -> None:
        """Parse it.

        Raises:
            ConfigError: it is no YAML, or no mapping, or a key stands in it twice.
        """
        self.path = path
        self._marks: dict[str, yaml.Mark] = {}
        self._nodes = 0
        try:
            self._data = self._parsed(text)
        except yaml.MarkedYAMLError as exc:
            raise self._yaml_error(exc) from exc
        except yaml.YAMLError as exc:
            raise ConfigError(
                f"{path}: not YAML: {veiled(str(exc).splitlines()[0])}", hint="a config is plain text in UTF-8"
            ) from exc
        except RecursionError as exc:
            raise ConfigError(f"{path}: nested too deeply", hint=_SIMPLE) from exc
        if not isinstance(self._data, dict):
            raise ConfigError(f"{path}: no settings in it", hint="vaultik init CONFIG writes a commented one")

    def has(self, where: str) -> bool:
        """Tell whether a path such as `$.s3.bucket` stands in it."""
        return where in self._marks

    def error(
        self, where: str, reason: str, hint: str | None = None, kind: type[ConfigError] = ConfigError
    ) -> ConfigError:
        """Return an error at a path such as `$.s3.bucket` or `$.exclude[2]`."""
        key = where.removeprefix("$").removeprefix(".")
        return self._error_at(self._mark(where), f"{key}: {reason}" if key else reason, hint, kind)

    def convert(self) -> File:
        """Return the settings, each of its type."""
        try:
            return msgspec.convert(self._data, File, dec_hook=_parse)
        except UnicodeEncodeError as exc:
            raise self.error("$", f"{exc.object!r} stands where only text may", "write it in UTF-8") from exc
        except msgspec.ValidationError as exc:
            raise self._invalid(str(exc)) from exc

    def _parsed(self, text: str) -> Any:
        loader = _Loader(text)
        try:
            try:
                node = loader.get_single_node()
            except (ValueError, OverflowError) as exc:
                raise self._error_at(
                    loader.get_mark(),
                    "not YAML: an escape of no character",
                    "\\U takes eight hex digits, up to 0010FFFF",
                ) from exc
            if node is None:
                return None
            self._note("$", node, loader)
            return loader.construct_document(node)
        finally:
            loader.dispose()

    def _invalid(self, message: str) -> ConfigError:
        reason, _, where = message.partition(" - at ")
        where = where.strip("`") or "$"
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", reason)
        if unknown:
            known = _SECTIONS.get(re.sub(r"\[.*", "", where), File).__struct_fields__
            near = difflib.get_close_matches(unknown[1], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            return self.error(f"{where}.{unknown[1]}", "unknown key", hint)
        missing = re.fullmatch(r"Object missing required field `(.*)`", reason)
        if missing:
            return self.error(
                where, f"{missing[1]} is missing", "vaultik init CONFIG writes a commented config with every key"
            )
        reason, _, hint = reason.partition("; ")
        words = re.sub(r"`(\w+)(?: \| null)?`", lambda kind: _KINDS.get(kind[1], kind[0]), reason)
        return self.error(where, words[0].lower() + words[1:], hint or _type_hint(reason, where))

    def _refuse_identity(self, where: str, text: str) -> None:
        if _IDENTITY in text.upper():
            raise self.error(
                where,
                "is an identity (a secret key), a recipient belongs here",
                "an identity must not be on this host: put its recipient (age1...) here, and make a new pair if it was here for long",
                RecipientError,
            )

    def _note(self, where: str, node: yaml.Node, loader: yaml.SafeLoader, depth: int = 0) -> None:
        """Note the place of a node and of all below it, and refuse what can't be a setting."""
        self._marks.setdefault(where, node.start_mark)
        self._nodes += 1
        if self._nodes > _MOST_NODES or depth > _DEEPEST:
            raise self.error(where, "too much, or nested too deeply, to be a configuration", _SIMPLE)
        self._refuse_identity(where, node.tag)
        if isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._note(f"{where}[{number}]", item, loader, depth + 1)
        elif isinstance(node, yaml.MappingNode):
            self._note_keys(where, node, loader, depth)
        else:
            self._refuse_identity(where, node.value)
            self._refuse_no_text(where, node.value)
            self._construct(where, node, loader)

    def _note_keys(self, where: str, node: yaml.MappingNode, loader: yaml.SafeLoader, depth: int) -> None:
        seen: set[str] = set()
        for key, value in node.value:
            if key.tag not in (_TEXT, _MERGE) or not isinstance(key, yaml.ScalarNode):
                raise self._error_at(key.start_mark, "a key that is not text", "keys are words: `key: value`")
            name = f"{where}.{key.value}"
            self._marks[name] = key.start_mark
            self._refuse_identity(name, key.value)
            if key.value in seen:
                raise self.error(name, "stands here a second time", "keep one of them")
            seen.add(key.value)
            self._note(name, value, loader, depth + 1)

    def _refuse_no_text(self, where: str, text: str) -> None:
        """Refuse what nothing can be named. Bytes that aren't UTF-8 may be written as surrogates, as Python has them."""
        try:
            usable = b"\0" not in os.fsencode(text)
        except UnicodeEncodeError:
            usable = False
        if not usable:
            raise self.error(where, "a NUL stands in it, or half of a character", "leave it out")

    def _construct(self, where: str, node: yaml.Node, loader: yaml.SafeLoader) -> None:
        # PyYAML takes a tag's word for it, and breaks on `!!int ""` in any way.
        looks: str = loader.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
        if node.tag in _PLAIN and node.tag != looks:
            raise self.error(where, f"tagged !!{node.tag.rpartition(':')[2]}, and is none", "leave the tag out")
        try:
            loader.construct_object(node)
        except (ValueError, OverflowError) as exc:
            raise self.error(
                where, "no such date or number", "put text in quotes where YAML would take it for something else"
            ) from exc

    def _mark(self, where: str) -> yaml.Mark | None:
        while where and where not in self._marks:
            where = where[: max(where.rfind("."), where.rfind("["), 0)]
        return self._marks.get(where)

    def _yaml_error(self, exc: yaml.MarkedYAMLError) -> ConfigError:
        return self._error_at(
            exc.problem_mark or exc.context_mark,
            f"not YAML: {exc.problem or exc.context}",
            "keys and values are written `key: value`; indent with spaces",
        )

    def _error_at(
        self, mark: yaml.Mark | None, reason: str, hint: str | None, kind: type[ConfigError] = ConfigError
    ) -> ConfigError:
        place = f"{self.path}:{mark.line + 1}:{mark.column + 1}" if mark else str(self.path)
        return kind(f"{place}: {veiled(reason)}", hint=hint and veiled(hint))


_SECTIONS: dict[str, type[msgspec.Struct]] = {"$.s3": S3, "$.s3.lock": Lock, "$.hooks": Hooks, "$.commands": Stream}

_PARSERS: dict[type, Callable[[Any], Any]] = {
    Command: parse_command,
    Notify: parse_notify,
    UploadLimit: parse_upload_limit,
}


def _parse(kind: type, value: Any) -> Any:
    if kind in _PARSERS:
        return _PARSERS[kind](value)
    parse = {Size: parse_size, Duration: parse_duration}[kind]
    if not isinstance(value, str | int):
        raise ValueError(f"not a {kind.__name__.lower()}: {value!r}")  # noqa: TRY004 - msgspec reports ValueErrors with their place
    return kind(parse(value))


_KINDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a number",
    "null": "nothing",
    "object": "a section of keys",
    "str": "text",
}


_CHOICES = {
    "$.s3.access": "full or put_only",
    "$.s3.lock.mode": "governance or compliance",
    "$.s3.addressing": "path or virtual",
    "$.ionice": "best-effort or idle",
}


def _type_hint(reason: str, where: str) -> str | None:
    if where in _CHOICES:
        return _CHOICES[where]
    if "Expected `bool`" in reason:
        return "write true or false, without quotes"
    if "Expected `object`" in reason:
        return "write its keys below it, indented"
    if "Expected `array`" in reason:
        return "write a list: [a, b] or one `- item` per line"
    if reason.startswith("Expected"):
        return "put text in quotes where YAML would take it for something else"
    return None


def iter_keys() -> Iterator[str]:
    """Yield every key that a config may have; those of a section with its name in front."""
    for key in File.__struct_fields__:
        section = _SECTIONS.get(f"$.{key}")
        yield from (f"{key}.{inner}" for inner in section.__struct_fields__) if section else (key,)


def read_text(path: Path) -> str:
    """Return the text of a config file.

    Raises:
        ConfigError: it is missing, unreadable, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ConfigError(
                f"config {path}: more than {_LARGEST >> 20} MiB, too much to be a configuration", hint=_SIMPLE
            )
        return data.decode("utf-8")
    except OSError as exc:
        raise ConfigError(f"config {path}: {exc.strerror}", hint="vaultik init CONFIG writes a commented one") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"config {path}: not UTF-8 text") from exc
