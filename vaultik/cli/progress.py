"""Progress for a person at a terminal: files, bytes, rate, time left. Nothing anywhere else."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from vaultik.shown import human_bytes

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ProgressDisplay", "human_bytes"]

_WIDE = 120
"""Columns from which on a line has room for details."""


class ProgressDisplay:
    """A line on stderr while the block runs, if stderr is a terminal."""

    def __init__(self, title: str, *, enabled: bool = True, noun: str = "files") -> None:
        """Prepare.

        Args:
            title: what is going on.
            enabled: False for --cron, --quiet and --json.
            noun: what is counted.
        """
        self._noun = noun
        self._title = title
        self._enabled = enabled and sys.stderr.isatty()
        self._stack = ExitStack()
        self._progress: Any = None
        self._task: Any = None
        self._files = 0
        self._of_files = 0
        self._is_wide = True

    def __enter__(self) -> Self:
        if self._enabled:
            # rich takes its time to import; only who sees it pays.
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )
            from rich.table import Column

            console = Console(stderr=True)
            self._is_wide = console.width >= _WIDE
            line = Column(no_wrap=True)
            columns = (
                TextColumn("{task.description}", table_column=line),
                BarColumn(bar_width=20 if self._is_wide else 8),
                TextColumn("{task.fields[files]}", table_column=line),
                DownloadColumn(table_column=line),
                TransferSpeedColumn(table_column=line),
                TimeRemainingColumn(table_column=line),
            )
            display = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
            self._progress = self._stack.enter_context(display)
            self._task = self._progress.add_task(self._title, total=None, files="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, exc, trace)

    def total(self, *, files: int, bytes: int, blobs: int) -> None:  # noqa: A002, ARG002 - the protocol's names
        """Say how much there is to do."""
        self._of_files = files
        if self._progress is not None:
            self._progress.update(self._task, total=bytes)

    def advance(self, *, files: int = 0, bytes: int = 0, blobs: int = 0) -> None:  # noqa: A002, ARG002 - the protocol's names
        """Say how much more was done."""
        self._files += files
        if self._progress is not None:
            of = f"/{self._of_files:,}" if self._of_files else ""
            self._progress.update(self._task, advance=bytes, files=f"{self._files:,}{of} {self._noun}")

    def pause(self) -> None:
        """Take the line away: something else is to be shown or asked."""
        if self._progress is not None:
            self._progress.stop()

    def resume(self) -> None:
        """Show the line again."""
        if self._progress is not None:
            self._progress.start()

    def begin(self, text: str, *, files: int, bytes: int) -> None:  # noqa: A002 - the protocol's name
        """Say what is going on from now on, and how much there is to do of it; 0 where that isn't known."""
        self._files, self._of_files = 0, files
        if self._progress is not None:
            # A reset can't make a total unknown.
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(text, total=bytes or None, files="")

    def describe(self, text: str, detail: str = "") -> None:
        """Say what is going on now, and where there is room more of it."""
        if self._progress is not None:
            self._progress.update(self._task, description=f"{text}: {detail}" if detail and self._is_wide else text)
