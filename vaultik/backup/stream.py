"""Read a stream: the output of a command, or standard input, cut into chunks as it comes.

Nothing of it is kept on this host, so it is read once: what is lost of it later is brought by running the
command again. Guarantee: a stream that didn't come to a good end has no outcome with content, whatever
was read of it before.
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Protocol, Self

from vaultik import interrupts
from vaultik.backup.attributes import made_up
from vaultik.backup.pieces import Outcome, RawChunk
from vaultik.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from vaultik.core.chunker import Chunker

_BLOCK = 1 << 16
_TICK_S = 0.2


class Stream(Protocol):
    """Bytes that come once."""

    def read(self) -> bytes:
        """Return the next piece, b"" at the end.

        Raises:
            CommandError: nothing more will come, and what came is not all.
        """
        ...

    def finish(self) -> None:
        """Return when it is certain that all of it came.

        Raises:
            CommandError: it is certain that it didn't.
        """
        ...


class StreamReader:
    """Reads the one piece of a stream's bundle."""

    def __init__(self, begin: Callable[[], AbstractContextManager[Stream]], chunker: Chunker) -> None:
        """Prepare.

        Args:
            begin: starts the stream; raises CommandError or OSError if it can't.
            chunker: where to cut.
        """
        self._begin = begin
        self._chunker = chunker
        self._size = 0
        self._cutting: Iterator[RawChunk] | None = None
        self.outcomes: list[Outcome] = []
        self.is_void = False

    def chunks(self) -> Iterator[RawChunk]:
        """Yield its chunks; afterwards there is one outcome."""
        self._cutting = self._chunks()
        return self._cutting

    def close(self) -> None:
        """End the command, if it is still under way."""
        if self._cutting is not None:
            self._cutting.close()  # type: ignore[attr-defined] # a generator

    def _chunks(self) -> Iterator[RawChunk]:
        found = made_up(time.time_ns(), is_directory=False)
        try:
            with self._begin() as stream:
                yield from self._cut(stream)
                stream.finish()
        except (CommandError, OSError) as exc:
            self.is_void = True
            reason = str(exc) if isinstance(exc, CommandError) else exc.strerror or str(exc)
            self.outcomes.append(Outcome(None, reason=reason, is_stream=True))
        else:
            self.outcomes.append(Outcome(found._replace(size=self._size)))

    def _cut(self, stream: Stream) -> Iterator[RawChunk]:
        # Twice the longest chunk: one more can always be cut before the rest has to be moved.
        view = memoryview(bytearray(2 * self._chunker.maximum))
        filled, data = 0, b""
        while True:
            while filled < len(view) and (data := data or stream.read()):
                taken = min(len(data), len(view) - filled)
                view[filled : filled + taken] = data[:taken]
                filled, data = filled + taken, data[taken:]
            final = filled < len(view)
            used = 0
            for length in self._chunker.cut(view[:filled], final=final):
                yield RawChunk(0, self._size, bytes(view[used : used + length]))
                used += length
                self._size += length
            if final:
                return
            filled -= used
            view[:filled] = bytes(view[used : used + filled])


class Input:
    """Standard input as a stream. That it ends is all that can be known of it."""

    def __init__(self, fd: int) -> None:
        """Take a descriptor, which stays open."""
        self._fd = fd

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the descriptor to whoever opened it."""

    def read(self) -> bytes:
        """Return the next piece, b"" at the end, looking for signals while there is none."""
        while not select.select([self._fd], [], [], _TICK_S)[0]:
            interrupts.check()
        interrupts.check()
        return os.read(self._fd, _BLOCK)

    def finish(self) -> None:
        """Nothing tells more than the end did."""
