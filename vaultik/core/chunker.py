"""Content-defined chunking: FastCDC (Xia et al., USENIX ATC 2016). The one door to `fastcdc`.

minimum = average / 4, maximum = 8 average. A cut depends on the bytes since the cut before it and on
nothing else; the golden cut points in the tests hold the gear table and the masks in place, for
another cut anywhere would cost every user a full upload.
"""

from __future__ import annotations

from vaultik.errors import ConfigError

_MINIMUM_PARTS = 4
_MAXIMUM_TIMES = 8


class Chunker:
    """Cuts buffers into chunks of about `average` bytes."""

    def __init__(self, average: int) -> None:
        """Choose the sizes.

        Args:
            average: bytes, at least 1024.

        Raises:
            ConfigError: fastcdc is there without its compiled module, and would be 300 times slower.
        """
        try:
            from fastcdc.fastcdc_cy import fastcdc_cy  # noqa: PLC0415 - commands that cut nothing don't pay for it
        except ImportError as exc:
            raise ConfigError(
                "fastcdc: its compiled module is missing, pure Python would take days",
                hint="install it from a wheel, or with a C compiler: pip install --force-reinstall --no-cache-dir fastcdc",
            ) from exc
        self.average = average
        self.minimum = average // _MINIMUM_PARTS
        self.maximum = average * _MAXIMUM_TIMES
        self._fastcdc = fastcdc_cy

    def cut(self, buffer: memoryview | bytes, *, final: bool) -> list[int]:
        """Return the lengths of the chunks that `buffer` begins with.

        Args:
            buffer: bytes from a cut on.
            final: whether the data ends with the buffer. If not, only chunks are given that more
                data can't change: cutting stops when fewer than `maximum` bytes are left.
        """
        if not buffer:
            return []
        lengths = []
        left = len(buffer)
        for chunk in self._fastcdc(buffer, self.minimum, self.average, self.maximum):
            if not final and left < self.maximum:
                break
            lengths.append(chunk.length)
            left -= chunk.length
        return lengths

    def first_cut_at_or_after(self, buffer: memoryview | bytes, nominal: int) -> int:
        """Return the first cut at or after offset `nominal`, cutting from the buffer's beginning.

        The buffer reaches `maximum` bytes past `nominal`, or to the end of the data; without a cut
        before its end, its end is the answer.
        """
        at = 0
        for chunk in self._fastcdc(buffer, self.minimum, self.average, self.maximum) if buffer else ():
            at += chunk.length
            if at >= nominal:
                break
        return at
