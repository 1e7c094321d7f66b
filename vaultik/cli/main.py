"""The command `vaultik`: finds the subcommand, and turns whatever comes out of it into a line and an exit code."""

from __future__ import annotations

import configparser
import importlib
import io
import json
import os
import sys
import traceback
from typing import NoReturn

import click

import vaultik
from vaultik import interrupts
from vaultik.errors import ConfigError, VaultikError

_COMMANDS = {
    "init": "Write a commented configuration file.",
    "keygen": "Make an identity and its recipient.",
    "check": "Try everything that a backup needs.",
    "backup": "Back up what a config names.",
    "status": "Tell how the backups of a config are doing.",
    "snapshots": "List the snapshots of a store.",
    "ls": "List what is in a snapshot.",
    "find": "Find files in snapshots, and their versions.",
    "diff": "Tell what changed between two snapshots, or since one.",
    "stats": "Tell what takes the space, and how it grew.",
    "sql": "Ask snapshots anything, in SQL.",
    "restore": "Bring a snapshot back.",
    "fetch": "Bring one file or directory back.",
    "mount": "Show snapshots as directories.",
    "verify": "Look whether everything that is stored is whole.",
    "prune": "Drop old snapshots and free what nobody needs.",
}
_RESUMED = (["backup"], ["restore"], ["prune"], ["verify"])
_SIGINT_CODE = 130
_SIGTERM_CODE = 143
_SIGPIPE_CODE = 141


class _LazyGroup(click.Group):
    """Imports a command's module when it is called: `backup` runs hourly and pays for nothing else."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"vaultik.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    commands={name: click.Command(name) for name in _COMMANDS},  # by name alone: what click suggests for a mistyped one
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show where an error arose; may stand anywhere.")
@click.version_option(vaultik.__version__, message="vaultik %(version)s")
def cli() -> None:
    """Encrypted, deduplicating backup of this host's directories to S3, with no key on the host that could read it.

    \b
    Start here:
      vaultik keygen -o key.txt     on a machine that may restore; keep it off the hosts
      vaultik init vaultik.yaml     on the host; put the recipient and the bucket in
      vaultik check vaultik.yaml
      vaultik backup vaultik.yaml
    """  # noqa: D301 - \b is click's


def main() -> NoReturn:
    """Run the command line and exit with its documented code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    as_json = "--json" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    _prepare()
    try:
        code = _call(arguments)
        _exit(code if isinstance(code, int) else 0)
    except VaultikError as exc:
        _fail(exc, str(exc), exc.hint, exc.exit_code, debug=debug, as_json=as_json)
    except click.exceptions.Exit as exc:
        _exit(exc.exit_code)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        _exit(exc.exit_code)
    except click.ClickException as exc:
        _fail(exc, exc.format_message(), _usage(exc), exc.exit_code, debug=debug, as_json=as_json)
    except (KeyboardInterrupt, click.Abort) as exc:
        interrupts.acknowledge()
        # click makes an Abort of it.
        terminated = isinstance(exc, interrupts.Terminated) or isinstance(exc.__cause__, interrupts.Terminated)
        message, code = ("terminated", _SIGTERM_CODE) if terminated else ("interrupted", _SIGINT_CODE)
        goes_on = "what is done is kept; the same command goes on" if arguments[:1] in _RESUMED else None
        _say(message, goes_on, code, as_json=as_json)
        sys.stdout.flush()
        # Luigi's queues may have been broken off in the middle; waiting for their threads could last for ever.
        os._exit(code)
    except BrokenPipeError:
        # Whoever read our output has gone; what is left in the buffer must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _exit(_SIGPIPE_CODE)
    except Exception as exc:  # noqa: BLE001 - the last line of defence against a traceback
        message, hint = _unexpected(exc)
        _fail(exc, message, None if debug else hint, 1, debug=debug, as_json=as_json)


def _prepare() -> None:
    interrupts.install()
    if "TMPDIR" not in os.environ:
        # SQLite, which looks there when it is first imported, would sort names and hashes in /var/tmp.
        os.environ.setdefault("SQLITE_TMPDIR", "/tmp")  # noqa: S108 - as everything else does, and only if it can be used
    # Names may be any bytes; a strict locale shall not turn what is done into a failure.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _unexpected(exc: Exception) -> tuple[str, str]:
    """Return what to say of an error that nobody expected, and a hint."""
    if not isinstance(exc, OSError):
        return f"{type(exc).__name__}: {exc}", "this is a bug; --debug shows where"
    # Of no file of vaultik's, which all say what they are: Python's temporary ones, semaphores in /dev/shm.
    where = f": {os.fsdecode(exc.filename)}" if exc.filename else ""
    hint = "a file system that every process needs (the temporary directory, /dev/shm) failed; --debug shows where"
    return f"{exc.strerror or exc}{where}", hint


def _call(arguments: list[str]) -> object:
    output = sys.stdout
    try:
        return cli.main(arguments, prog_name="vaultik", standalone_mode=False)
    except SystemExit as exc:
        # click makes that of a broken pipe, and puts something else in the place of the stream.
        if sys.stdout is not output:
            raise BrokenPipeError from exc
        raise
    except configparser.Error as exc:
        # Luigi reads its configuration when it is imported.
        hint = "that is Luigi's configuration: LUIGI_CONFIG_PATH, /etc/luigi/luigi.cfg or ./luigi.cfg"
        raise ConfigError(f"luigi.cfg: {' '.join(str(exc).split())}", hint=hint) from exc


def _usage(exc: click.ClickException) -> str | None:
    context = exc.ctx if isinstance(exc, click.UsageError) else None
    if context is None:
        return None
    return f"{' '.join(context.get_usage().split())}; {context.command_path} --help tells more"


def _fail(
    exc: BaseException | None, message: str, hint: str | None, code: int, *, debug: bool, as_json: bool
) -> NoReturn:
    if debug and exc is not None:
        traceback.print_exception(exc)
    _say(message, hint, code, as_json=as_json)
    _exit(code)


def _say(message: str, hint: str | None, code: int, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"error": _clean(message), "hint": hint and _clean(hint), "exit_code": code}))
    click.echo(f"vaultik: {_clean(message)}", err=True)
    if hint:
        click.echo(f"  hint: {_clean(hint)}", err=True)


def _clean(text: str) -> str:
    from vaultik.cli.common import printable

    return printable(text)


def _exit(code: int) -> NoReturn:
    sys.exit(code)
