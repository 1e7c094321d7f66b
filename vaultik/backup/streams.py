"""The streams of a run: which there are, where they stand in the tree, what each is read by."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from vaultik.backup.attributes import made_up
from vaultik.backup.stream import Input, StreamReader
from vaultik.commands import RunningCommand
from vaultik.config import streams as names
from vaultik.errors import CommandError, SourceError
from vaultik.index import entries, streams
from vaultik.index.db import transaction
from vaultik.index.streams import StreamKind

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from vaultik.backup.stream import Stream
    from vaultik.config import Config
    from vaultik.core.chunker import Chunker
    from vaultik.index.entries import Attributes


class Streams:
    """What a run reads besides the sources."""

    def __init__(self, config: Config, stdin: str | None) -> None:
        """Prepare.

        Args:
            config: its `commands` are run.
            stdin: name that standard input gets in the snapshot, already checked; None if it isn't read.

        Raises:
            SourceError: standard input is closed.
        """
        self._sources = config.source_dirs
        self._commands = {os.fsencode(command.name): command for command in config.commands}
        # Forked workers have another standard input.
        self._input_fd = None if stdin is None else _standard_input()
        self._kinds: dict[bytes, StreamKind] = {}
        kinds = {} if stdin is None else {os.fsencode(stdin): StreamKind.INPUT}
        kinds |= dict.fromkeys(self._commands, StreamKind.COMMAND)
        for path, kind in kinds.items():
            self._kinds |= dict.fromkeys(names.made_up(path, self._sources), StreamKind.DIRECTORY)
            self._kinds[path] = kind

    def close(self) -> None:
        """Let go of standard input."""
        if self._input_fd is not None:
            os.close(self._input_fd)
            self._input_fd = None

    def retire(self, index: sqlite3.Connection) -> None:
        """Before the scan: remove what isn't wanted any more."""
        with transaction(index):
            streams.retire(index, self._kinds)

    def place(self, index: sqlite3.Connection) -> None:
        """After the scan: make the entries of streams, and put them on the list of files to read.

        Raises:
            SourceError: what one shall stand in is no directory.
        """
        now = time.time_ns()
        wanted: dict[bytes, tuple[StreamKind, Attributes]] = {
            path: (kind, made_up(now, is_directory=kind is StreamKind.DIRECTORY)) for path, kind in self._kinds.items()
        }
        try:
            with transaction(index):
                streams.place(index, wanted)
        except NotADirectoryError as exc:
            raise SourceError(
                "commands: what a file shall stand in is no directory", hint="give the command's output another name"
            ) from exc

    def reader(
        self,
        index: sqlite3.Connection,
        stream: tuple[int, StreamKind],
        *,
        chunker: Chunker,
        run: int,
        facts: Mapping[str, str],
        say: Callable[[str], None],
    ) -> StreamReader:
        """Return what a stream is read by.

        Args:
            index: for its name.
            stream: entry and kind.
            chunker: where to cut.
            run: row id of the run.
            facts: what a command gets to know of the run.
            say: takes what a command says, line by line.
        """
        entry, kind = stream
        path = entries.path_of(index, entry)

        def begin() -> AbstractContextManager[Stream]:
            if kind is StreamKind.INPUT:
                if self._input_fd is None or not streams.begin_input(index, entry, run):
                    raise CommandError("standard input can be read only once, and what came was lost")
                return Input(self._input_fd)
            command = self._commands[path]
            return RunningCommand(
                command.command,
                facts={**facts, "EVENT": "command", "NAME": command.name},
                timeout_s=command.timeout,
                say=lambda line: say(f"{command.name}: {line}"),
                has_output=True,
            )

        return StreamReader(begin, chunker)


def _standard_input() -> int:
    # Closed, its number may be another file's by now.
    if sys.stdin is None:
        raise SourceError("standard input: it is closed", hint="give it what --stdin shall read")
    return os.dup(0)
