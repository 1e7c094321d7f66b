"""vaultik beside restic, borg and the plain tools, on the same data in one run: a table, JSON, and a picture.

python -m bench.peers [--work DIR] [--repeat N] [--scale X] [--tools ...] [--corpora ...] [--json FILE] [--picture FILE]

The tools take turns; medians are shown. Creating files right after many were deleted is very slow on some file
systems: let --work be a tmpfs where memory allows (5 GB at scale 1).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench import corpora
from bench.measure import FOLDER
from bench.picture import draw
from bench.tools import TOOLS, Tool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bench.measure import Taken

OPERATIONS = ("first", "same", "edit", "restore", "one")
Row = dict[str, str | float]


def main() -> None:
    """Measure, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("bench/scratch"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--tools", default="vaultik,restic,borg,floor")
    parser.add_argument("--corpora", default="mixed,small,big")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    tools = [name for name in asked.tools.split(",") if name == "vaultik" or _is_there(name)]
    work = asked.work.resolve() / FOLDER
    rows: list[Row] = []
    for corpus in asked.corpora.split(","):
        made = corpora.make(corpus, work, asked.scale)
        for _ in range(asked.repeat):
            for name in tools:
                rows += _measure(name, corpus, work / "run", made)
    found = _medians(rows)
    print("\n".join(_table(found, tools)))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    if asked.picture:
        asked.picture.write_text(draw(found, tools))


def _is_there(name: str) -> bool:
    there = name == "floor" or shutil.which(name) is not None
    if not there:
        print(f"{name} is not installed: left out", file=sys.stderr)
    return there


def _measure(name: str, corpus: str, work: Path, made: Path) -> Iterator[Row]:
    """Yield a row for each operation of one tool on one corpus."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    source = work / "source"
    subprocess.run(["cp", "-a", str(made), str(source)], check=True)
    tool: Tool = TOOLS[name](work, source)
    yield from _row(tool, name, corpus, "first", tool.backup())
    yield from _row(tool, name, corpus, "same", tool.backup())
    out = work / "out"
    out.mkdir()
    yield from _row(tool, name, corpus, "restore", tool.restore(out))
    _compare(name, source, out)
    shutil.rmtree(out)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    yield from _row(tool, name, corpus, "one", tool.one(files[len(files) // 2], work / "one"))
    if name != "floor":
        corpora.edit(corpus, source)
        yield from _row(tool, name, corpus, "edit", tool.backup())
    shutil.rmtree(work)


def _compare(name: str, source: Path, out: Path) -> None:
    """Check that a restored tree is the source; tools differ in how much of its path they bring back."""
    places = [place for place in (out / source.relative_to("/"), out / source.name, out) if place.is_dir()]
    if name != "floor" and corpora.digest(source) not in map(corpora.digest, places):
        raise RuntimeError(f"{name}: what it restored is not the source")


def _row(tool: Tool, name: str, corpus: str, operation: str, taken: Taken | None) -> Iterator[Row]:
    if taken is not None:
        row: Row = {"tool": name, "corpus": corpus, "operation": operation, "store_mb": tool.store_mb()}
        row |= {"wall_s": taken.wall_s, "cpu_s": taken.cpu_s, "peak_mb": taken.peak_mb}
        print(f"{corpus:6} {operation:8} {name:8} {taken.wall_s:7.2f} s", file=sys.stderr)
        yield row


def _medians(rows: Iterable[Row]) -> list[Row]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[key]) for key in ("corpus", "operation", "tool")), []).append(row)
    figures = ("wall_s", "cpu_s", "peak_mb", "store_mb")
    return [
        {"corpus": corpus, "operation": operation, "tool": tool}
        | {figure: round(statistics.median(float(row[figure]) for row in group), 3) for figure in figures}
        for (corpus, operation, tool), group in groups.items()
    ]


def _table(rows: list[Row], tools: list[str]) -> Iterator[str]:
    """Yield a table in Markdown: seconds, and each as a part of restic's and the floor's."""
    wall = {(row["corpus"], row["operation"], row["tool"]): float(row["wall_s"]) for row in rows}
    yield "| corpus | operation | tool | wall s | / restic | / floor | CPU s | peak MB | store MB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    order = {name: number for number, name in enumerate((*OPERATIONS, *tools))}
    for row in sorted(rows, key=lambda r: (r["corpus"], order[str(r["operation"])], order[str(r["tool"])])):
        others = (wall.get((row["corpus"], row["operation"], name)) for name in ("restic", "floor"))
        ratios = " | ".join(f"{float(row['wall_s']) / other:.2f}" if other else "-" for other in others)
        yield (
            f"| {row['corpus']} | {row['operation']} | {row['tool']} | {row['wall_s']:.2f} | {ratios} | {row['cpu_s']:.2f}"
            f" | {row['peak_mb']:.0f} | {row['store_mb']:.1f} |"
        )


if __name__ == "__main__":
    main()
