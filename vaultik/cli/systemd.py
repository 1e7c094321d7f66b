"""The systemd units that `vaultik init --systemd` writes: the daemon's, and a timer with what it starts."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from vaultik.config import load_config
from vaultik.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vaultik.config import Config

DIRECTORY = Path("/etc/systemd/system")
NAME = "vaultik"
UNITS = (".service", "-backup.service", "-backup.timer")
"""What follows a config's own name in the names of its units."""

_STATE = Path("/var/lib")
_FIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def write_units(config: Path, directory: Path, *, name: str = NAME, force: bool) -> list[Path]:
    """Write the units for a config, and make the directories of its index and spool.

    Args:
        config: the configuration file, filled in: where the index and the spool lie decides what may be written.
        directory: where units go.
        name: what their names begin with; each config of a host needs its own.
        force: overwrite this config's units that are there.

    Returns:
        The files written: all, or none.

    Raises:
        ConfigError: the config can't be used, a path in it or its own can't stand in a unit, or a unit is there already.
    """
    settings = _load(config)
    if not _FIT.fullmatch(name):
        raise ConfigError(f"--name {name}: can't begin a unit's name", hint="letters, digits, - and _")
    texts = {directory / unit: text for unit, text in _units(config, settings, name).items()}
    if not directory.is_dir():
        raise ConfigError(f"{directory}: not a directory", hint="--directory DIR says where units go")
    _check_free(texts, config, force=force)
    try:
        for place in _own(settings):
            # The service sees everything above them read-only.
            if _STATE not in place.parents:
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text in texts.items():
            _write(path, text)
    except OSError as exc:
        raise ConfigError(f"{exc.filename}: {exc.strerror}") from exc
    return list(texts)


def _check_free(paths: Iterable[Path], config: Path, *, force: bool) -> None:
    """Check that units may be written: over a config's own with force, over another's never."""
    for path in paths:
        if not path.exists():
            continue
        if _config_line(config) not in path.read_text():
            raise ConfigError(
                f"unit {path}: is not of {config}", hint="--name NAME gives the units of this config names of their own"
            )
        if not force:
            raise ConfigError(f"unit {path}: exists already", hint="--force overwrites it")


def _load(config: Path) -> Config:
    if not config.is_absolute():
        raise ConfigError(
            f"config {config}: a unit needs its absolute path",
            hint=f"vaultik init {config.absolute()} --systemd, or wherever it is going to stay",
        )
    return load_config(config)


def _config_line(config: Path) -> str:
    return f"# Config: {config}\n"


def _units(config: Path, settings: Config, name: str) -> dict[str, str]:
    common = _template("common").replace("@WRITABLE@", "\n".join(_writable(settings)))
    values = {"@VAULTIK@": _command(), "@CONFIG@": _quoted(config, in_command=True), "@COMMON@": common}
    values |= {"@NAME@": name, "@PATH@": str(config)}
    units = {}
    for unit in UNITS:
        text = _template(f"{NAME}{unit}")
        for mark, value in values.items():
            text = text.replace(mark, value)
        units[f"{name}{unit}"] = text
    return units


def _template(name: str) -> str:
    return resources.files("vaultik.cli").joinpath("units", name).read_text()


def _writable(settings: Config) -> Iterator[str]:
    """Yield the lines that say where a run may write."""
    for place in _own(settings):
        if _STATE in place.parents:
            # systemd makes it, for root alone.
            yield f"StateDirectory={_quoted(place.relative_to(_STATE))}"
            yield "StateDirectoryMode=0700"
        else:
            yield f"ReadWritePaths={_quoted(place)}"
    if settings.metrics_path is not None:
        yield f"ReadWritePaths={_quoted(settings.metrics_path.parent, prefix='-')}"
    if settings.local_store is not None:
        # The bucket is a folder that the first backup makes. The minus: a disk that isn't mounted yet doesn't keep
        # the service from starting.
        yield f"ReadWritePaths={_quoted(settings.local_store.parent, prefix='-')}"


def _own(settings: Config) -> list[Path]:
    """Return the directories that are vaultik's own, none below another."""
    index, spool = settings.index_path.parent, settings.spool_dir
    return [index] if index == spool or index in spool.parents else [index, spool]


def _command() -> str:
    """Return how this vaultik is started."""
    called = shutil.which(sys.argv[0])
    if called is not None and Path(called).name == "vaultik":
        return _quoted(Path(called).absolute(), in_command=True)
    return f"{_quoted(Path(sys.executable), in_command=True)} -m vaultik"


def _quoted(path: Path, *, prefix: str = "", in_command: bool = False) -> str:
    """Return a path as it stands in a unit (systemd.syntax(7)).

    Raises:
        ConfigError: it holds what can't stand there.
    """
    text = os.fspath(path)
    if not text.isprintable():
        raise ConfigError(f"{text!r}: can't stand in a unit", hint="use a path of printable characters")
    text = text.replace("%", "%%")
    if in_command:
        text = text.replace("$", "$$")
    if not any(char in text for char in " \t\"'\\;"):
        return prefix + text
    return '"' + prefix + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text)
    aside.chmod(0o644)
    aside.replace(path)
