"""`vaultik backup CONFIG --daemon`: everything that can be told on the terminal, then the daemon."""

from __future__ import annotations

import functools
import os
import socket
from typing import TYPE_CHECKING, Any

import click

from vaultik.backup.session import Session
from vaultik.config import load_config
from vaultik.daemon import background
from vaultik.daemon import log as logs
from vaultik.daemon.pid_file import PidFile
from vaultik.daemon.sd_notify import ServiceManager
from vaultik.daemon.service import Service
from vaultik.errors import VaultikError
from vaultik.index.state import probe

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vaultik.config import Config


def run_daemon(
    config: Path,
    others: Sequence[str],
    daemon: bool,
    foreground: bool,
    *,
    log_file: Path | None,
    workers: int | None,
) -> int:
    """Start the daemon, or be it.

    Args:
        config: its configuration.
        others: options that were given and are for a single run.
        daemon: whether --daemon was given.
        foreground: be the daemon, here.
        log_file: where to log; None for standard error in the foreground, else the system's log.
        workers: Luigi processes of a run.

    Returns:
        The exit code: of the daemon in the foreground, else 0 once it watches.

    Raises:
        VaultikError: it can't begin.
    """
    if not daemon:
        raise click.UsageError("--foreground and --log-file go with --daemon")
    if others:
        raise click.UsageError(f"{', '.join(others)}: for a single run, not for --daemon")
    # Its working directory will be another.
    settings = load_config(config.absolute())
    # What a run would refuse, said here and now.
    Session(settings, host=socket.gethostname(), run_id="")
    probe(settings.index_path, settings.path)
    pid_file = PidFile(settings.index_path)
    try:
        log = _open_log(log_file, foreground=foreground)
        _warn(settings, log, log_file)
        serve = functools.partial(_serve, settings, log, pid_file, workers)
        if foreground:
            return serve()
        streams = [getattr(handler, "stream", None) for handler in log.handlers]
        background.start(serve, keep=[pid_file.fd, *logs.descriptors(log)], stderr=streams[0])
    except BaseException:
        pid_file.remove()
        raise
    click.echo(f"vaultik runs in the background, process {pid_file.path.read_text().strip()}")
    return 0


def _open_log(log_file: Path | None, *, foreground: bool) -> logging.Logger:
    if log_file is not None:
        return logs.to_file(log_file.absolute())
    return logs.to_stderr() if foreground else logs.to_syslog()


def _warn(settings: Config, log: logging.Logger, log_file: Path | None) -> None:
    for warning in settings.warnings:
        click.echo(f"vaultik: {warning}", err=True)
    if log_file is not None:
        place = os.fsencode(log_file.resolve())
        if any(place.startswith(source.rstrip(b"/") + b"/") for source in settings.source_dirs):
            log.warning("the log lies in a source: every line in it makes a run of its own due")


def _serve(
    settings: Config,
    log: logging.Logger,
    pid_file: PidFile,
    workers: int | None,
    ready: Callable[..., Any] = lambda: None,
) -> int:
    try:
        return Service(settings, log, ServiceManager(), pid_file, workers=workers, ready=ready).run()
    except VaultikError:
        raise
    except OSError as exc:
        raise VaultikError(f"daemon: {exc.strerror or exc}") from exc
    except Exception as exc:
        log.critical("the daemon ended: %s: %s", type(exc).__name__, exc)
        raise
