"""The comparison as a picture: for each corpus and operation a bar per tool, as a part of restic's time."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_COLOURS = {"vaultik": "#2f6f9f", "restic": "#9aa5ad", "borg": "#c9b68a", "floor": "#dcdcdc"}
_SHOWN = {
    "first": "first backup",
    "same": "nothing changed",
    "edit": "a day's edit",
    "restore": "restore",
    "one": "one file",
}
_CORPORA = {"mixed": "28,000 files of /usr", "small": "50,000 small texts", "big": "one file of 1 GiB"}
_BAR, _GAP, _LEFT, _WIDTH, _LONGEST = 11, 9, 120, 300, 2.5


def draw(rows: Sequence[dict[str, str | float]], tools: Sequence[str]) -> str:
    """Return an SVG.

    Args:
        rows: of the table, restic's among them.
        tools: in the order of their bars.
    """
    wall = {(str(r["corpus"]), str(r["operation"]), str(r["tool"])): float(r["wall_s"]) for r in rows}
    corpora = [corpus for corpus in _CORPORA if (corpus, "first", "restic") in wall]
    height = 60 + len(_SHOWN) * (len(tools) * _BAR + _GAP)
    width = _LEFT + len(corpora) * _WIDTH
    parts = [f'<rect width="{width}" height="{height}" fill="#fff"/>', *_legend(tools)]
    for column, corpus in enumerate(corpora):
        x = _LEFT + column * _WIDTH
        parts.append(_text(x, 40, _CORPORA[corpus], bold=True))
        y = 52
        for operation, shown in _SHOWN.items():
            if column == 0:
                parts.append(_text(8, y + 2 * _BAR, shown))
            for tool in tools:
                parts += _bar(x, y, tool, wall.get((corpus, operation, tool)), wall[corpus, operation, "restic"])
                y += _BAR
            y += _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _legend(tools: Sequence[str]) -> Iterator[str]:
    for number, tool in enumerate(tools):
        x = _LEFT + number * 90
        yield f'<rect x="{x}" y="8" width="10" height="10" fill="{_COLOURS[tool]}"/>' + _text(x + 14, 17, tool)
    yield _text(_LEFT + len(tools) * 90, 17, "time as a part of restic's; shorter is faster")


def _bar(x: int, y: int, tool: str, wall: float | None, restic: float) -> Iterator[str]:
    if wall is None:
        return
    part = wall / restic
    length = min(part, _LONGEST) / _LONGEST * (_WIDTH - 60)
    yield f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{_BAR - 2}" fill="{_COLOURS[tool]}"/>'
    yield _text(x + length + 4, y + _BAR - 3, f"{part:.2f}" + (f" ({wall:.1f} s)" if tool == "vaultik" else ""))


def _text(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}"{weight}>{escape(text)}</text>'
