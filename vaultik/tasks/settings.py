"""What of Luigi's own configuration holds for vaultik's commands: the central luigid, and this host's name.

It is the luigi.cfg that the stock `luigi` command reads, with one difference: a file of the current
directory doesn't count unless LUIGI_CONFIG_PATH names it. Luigi runs code that its configuration names, and a
backup as root, begun in a directory that others write to, must not take orders from there.
"""

from __future__ import annotations

import configparser
import os
import socket
from typing import Any

import luigi.configuration
import luigi.interface

from vaultik.errors import ConfigError


def leave_out_current_directory() -> None:
    """Let Luigi forget what a file of the current directory says. Not for the stock command."""
    parser: Any = type(luigi.configuration.get_config())
    named = os.environ.get("LUIGI_CONFIG_PATH")
    paths = [path for path in parser._config_paths if os.path.isabs(path) or path == named]  # noqa: PTH117, SLF001 - it has no other way in
    if paths != parser._config_paths:  # noqa: SLF001 - as above
        parser._config_paths = paths  # noqa: SLF001 - as above
        parser._instance = None  # noqa: SLF001 - as above


def luigid_url() -> str | None:
    """Return where a central luigid is told of, None if luigi.cfg wants the local scheduler or names none.

    Raises:
        ConfigError: a setting of [core] can't be used.
    """
    try:
        core = luigi.interface.core()
        if core.local_scheduler:
            return None
        if core.scheduler_url:
            return str(core.scheduler_url)
        if luigi.configuration.get_config().has_option("core", "scheduler_host"):
            return f"http://{core.scheduler_host}:{core.scheduler_port}"
    except (ValueError, configparser.Error) as exc:
        raise ConfigError(
            f"luigi.cfg: [core]: {exc}", hint="luigi.cfg in vaultik's repository has working values"
        ) from exc
    return None


def host_name() -> str:
    """Return this host's name in snapshots and on the dashboard: [Backup] host in luigi.cfg, or the machine's own.

    Raises:
        ConfigError: LUIGI_CONFIG_PATH names no file, or what stands there can't be used.
    """
    named = os.environ.get("LUIGI_CONFIG_PATH")
    if named and not os.path.isfile(named):  # noqa: PTH113 - as Luigi asks
        raise ConfigError(f"LUIGI_CONFIG_PATH: no file {named}", hint="unset it, or name the luigi.cfg")
    leave_out_current_directory()
    try:
        return luigi.configuration.get_config().get("Backup", "host", "") or socket.gethostname()
    except configparser.Error as exc:
        raise ConfigError(f"luigi.cfg: [Backup]: {exc}") from exc
