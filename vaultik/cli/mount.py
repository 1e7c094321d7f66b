"""`vaultik mount`: snapshots as directories, until they are unmounted."""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultik import interrupts
from vaultik.cli.common import Place, json_option, plural, printable
from vaultik.cli.reading import Reading, reading_options
from vaultik.config.quantities import parse_size
from vaultik.errors import ConfigError
from vaultik.mount.mounted import Mount, check_directory, check_fuse
from vaultik.mount.session import Asked, Shown, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vaultik.core.identity import Identity
    from vaultik.store.base import Store

EPILOG = """\b
Example:
  mkdir /tmp/backups
  vaultik mount my-bucket host1/ /tmp/backups &
  ls /tmp/backups/hosts/*/                      all snapshots, by host
  ls /tmp/backups/by-date/2026/11/              the same by date
  cp -a /tmp/backups/latest/home/me/notes .
  umount /tmp/backups                           or Ctrl-C, or SIGTERM
\b
  vaultik mount my-bucket host1/ /tmp/backups --snapshot latest      /tmp/backups/home/me/notes
\b
Nothing is downloaded but what is looked at. Every byte is checked: what is missing or damaged is an
input/output error of the files that need it, and a line here. New snapshots show up within a minute or two.
Symbolic links lead where they say, on this machine. Needs FUSE (the package fuse3).
Exit codes: 0 unmounted; 2 unknown snapshot or host, wrong identity; 1 it can't be mounted, store failed;
4 the manifests are damaged.
"""


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@click.argument("directory", type=Place())
@click.option("--snapshot", help="This one alone, at DIRECTORY itself: an id, a beginning of one, or latest.")
@click.option("--host", help="Those of one host (or source, by its 8 digits) only.")
@click.option("--allow-other", is_flag=True, help="Let other users in, each to what modes and ACLs let them read.")
@click.option("--cache-size", default="64MiB", show_default=True, help="Memory for content that was read.")
@click.option("--background", is_flag=True, help="Return once it is mounted; log to --log-file or the system's log.")
@click.option("--log-file", type=click.Path(path_type=Path), help="Where lines on damage go, with --background.")
@reading_options
@json_option
def mount(
    directory: Path,
    snapshot: str | None,
    host: str | None,
    allow_other: bool,
    cache_size: str,
    background: bool,
    log_file: Path | None,
    as_json: bool,
    reading: Reading,
) -> None:
    """Mount the snapshots in BUCKET under PREFIX at DIRECTORY, an empty one, read-only, until it is unmounted."""
    if log_file is not None and not background:
        raise click.UsageError("--log-file goes with --background: in the foreground lines go to standard error")
    asked = Asked(snapshot, host, reading.believed(), _cache_bytes(cache_size), allow_other)
    check_fuse(allow_other=allow_other)
    check_directory(directory)
    identities = reading.identities()
    # Its working directory may be another, and a link could lead elsewhere by the time it is unmounted.
    serve = functools.partial(_serve, reading.store, identities, asked, directory.resolve(), allow_other=allow_other)
    if background:
        # What there is to complain of is said here, with its exit code.
        with closing(reading.store()) as store, shown(store, identities, asked, _say) as what:
            line = _announcement(what, directory, as_json=as_json)
        _in_background(serve, log_file)
        click.echo(line)
    else:
        serve(_say, lambda what: click.echo(_announcement(what, directory, as_json=as_json)))
        # A fetch that hangs in a store must not hold up the end.
        sys.stdout.flush()
        os._exit(0)


def _cache_bytes(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as exc:
        raise ConfigError(f"--cache-size: {exc}") from exc


def _say(line: str) -> None:
    click.echo(f"vaultik: {printable(line)}", err=True)


def _announcement(what: Shown, directory: Path, *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"mounted": os.fspath(directory), "snapshots": what.snapshots, "hosts": what.hosts})
    hosts = "" if not what.hosts else f" of {printable(', '.join(what.hosts))}"
    shown_at = printable(os.fspath(directory))
    return f"{plural(what.snapshots, 'snapshot')}{hosts} at {shown_at}; umount {shown_at} ends it"


def _serve(
    open_store: Callable[[], Store],
    identities: Sequence[Identity],
    asked: Asked,
    directory: Path,
    report: Callable[[str], None],
    ready: Callable[[Shown], None],
    *,
    allow_other: bool,
) -> int:
    """Be the file system until it is unmounted, or a signal says so: that it is no more then is what was asked for."""
    mounted = None
    is_over = threading.Event()

    def tell(line: str) -> None:
        # Who reads on while everything is closed meets errors that mean nothing.
        if not is_over.is_set():
            with suppress(OSError):  # a terminal or pipe that is gone
                report(line)

    with closing(open_store()) as store, shown(store, identities, asked, tell) as what:
        try:
            with interrupts.deferred():
                mounted = Mount(directory, what.files, f"vaultik:{store.location}", tell, allow_other=allow_other)
            interrupts.take_hangup()
            ready(what)
            mounted.wait()
        except KeyboardInterrupt:
            interrupts.acknowledge()
        finally:
            with interrupts.deferred():
                if mounted is not None:
                    mounted.unmount()
                is_over.set()
    return 0


def _in_background(serve: Callable[..., int], log_file: Path | None) -> None:
    from vaultik.daemon import background
    from vaultik.daemon import log as logs

    try:
        log = logs.to_syslog() if log_file is None else logs.to_file(log_file.absolute())
    except ConfigError as exc:
        raise ConfigError(str(exc), hint="name a file that this user may write with --log-file FILE") from exc
    streams = [getattr(handler, "stream", None) for handler in log.handlers]
    background.start(
        lambda ready: serve(log.warning, lambda _: ready()),
        keep=logs.descriptors(log),
        stderr=streams[0],
        hint="its log may tell more; so does the same without --background",
    )
