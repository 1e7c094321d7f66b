"""How what vaultik costs grows: with files, with bundles, with one file's size, with what moves, with delay, with snapshots.

python -m bench.growth [--work DIR] [--scale X] [--json FILE] [SCENARIO ...]

files      a million tiny files: first, same, a hundred changed, restore
bundles    100, 1,000 and 10,000 bundles of 1 MiB: time for each, memory, Luigi's share of the CPU time
large      one file of 1, 10 and 100 GB, sparse, and as many zeros from a command: memory
moved      a tree of 10 GB that is moved: what is read and stored
front      ten bytes in front of a file of 1 GB: what is stored
delay      an S3 store at 0 and 30 ms: first backup and restore
prune      100,000 blobs and 1,000 snapshots: time and memory of a verification and a prune (see `bench.snapshots`)

--scale makes all of it smaller (or larger).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from bench import corpora
from bench.measure import FOLDER, Taken, run, size_mb
from bench.snapshots import make_snapshots
from bench.tools import VAULTIK, Vaultik

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Row = dict[str, str | float]
_MIB = 1 << 20
_SETTLED_S = 2.5
"""Files that were written just now are read twice."""


def main() -> None:
    """Measure, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("bench/scratch"))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS))
    asked = parser.parse_args()
    rows: list[Row] = []
    for name in asked.scenarios:
        work = asked.work.resolve() / FOLDER / "growth"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for row in SCENARIOS[name](work, asked.scale):
            rows.append({"scenario": name, **row})
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        shutil.rmtree(work)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


def _row(what: str, taken: Taken, **more: float) -> Row:
    row: Row = {"what": what, "wall_s": round(taken.wall_s, 2), "cpu_s": round(taken.cpu_s, 2)}
    return row | {"peak_mb": round(taken.peak_mb)} | {name: round(value, 3) for name, value in more.items()}


def _settle() -> None:
    subprocess.run(["sleep", str(_SETTLED_S)], check=True)


def _files(work: Path, scale: float) -> Iterator[Row]:
    for count in (int(100_000 * scale), int(1_000_000 * scale)):
        folder = work / str(count)
        source = folder / "source"
        corpora.make_tiny(source, count)
        tool = Vaultik(folder, source)
        _settle()
        yield _stored(tool, f"{count:,} files, first", tool.backup)
        yield _stored(tool, f"{count:,} files, same", tool.backup)
        files = random.Random(3).sample(range(count), 100)
        for number in files:
            path = source / f"{number // 100_000:03}" / f"{number // 100 % 1000:03}" / f"{number:08}.txt"
            path.write_bytes(path.read_bytes() + b"changed")
        _settle()
        yield _stored(tool, f"{count:,} files, 100 changed", tool.backup)
        yield _stored(tool, f"{count:,} files, same again", tool.backup)
        out = folder / "out"
        yield _row(f"{count:,} files, restore", tool.restore(out), index_mb=size_mb(folder / "index.sqlite"))
        shutil.rmtree(folder)


def _stored(tool: Vaultik, what: str, work: Callable[[], Taken]) -> Row:
    before = tool.store_mb()
    return _row(what, work(), uploaded_mb=tool.store_mb() - before)


def _bundles(work: Path, scale: float) -> Iterator[Row]:
    small = ["chunk_size: 64KiB", "blob_size_limit: 1MiB"]
    for count in (int(100 * scale), int(1_000 * scale), int(10_000 * scale)):
        yield from _with_and_without_luigi(work / str(count), count * _MIB, small, f"{count:,} bundles of 1 MiB", count)
    size = int(10 * 10**9 * scale)
    yield from _with_and_without_luigi(
        work / "as set", size, [], f"{size / 1e9:.0f} GB, bundles as they are by default", 0
    )


def _with_and_without_luigi(folder: Path, size: int, settings: list[str], what: str, count: int) -> Iterator[Row]:
    """Yield what a backup takes, and the same steps one after the other in one process without Luigi."""
    source = folder / "source"
    source.mkdir(parents=True)
    _write_unlike(source / "file", size)
    _settle()
    tool = Vaultik(folder, source, settings)
    with_luigi = run([VAULTIK, "backup", str(tool.config), "--cron", "--workers", "1"])
    bundles = _blobs(folder)
    per_bundle = {"ms_per_bundle": with_luigi.wall_s * 1000 / count} if count else {}
    yield _row(what, with_luigi, blobs=bundles, **per_bundle)
    shutil.rmtree(tool.folder)
    tool.folder.mkdir()
    for path in folder.glob("index.sqlite*"):
        path.unlink()
    direct = run([sys.executable, "-m", "bench.direct", str(tool.config)])
    yield _row(f"{what}, without Luigi", direct, luigi_share_of_cpu=1 - direct.cpu_s / with_luigi.cpu_s)
    shutil.rmtree(folder)


def _blobs(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "index.sqlite")) as index:
        return int(index.execute("SELECT count(*) FROM blobs").fetchone()[0])


def _write_unlike(path: Path, size: int) -> None:
    """Write a file that compresses to an eighth and of which no chunk is like another."""
    rng = random.Random(5)
    two_letters = bytes(97 + (number & 1) for number in range(256))
    with path.open("wb") as file:
        while size:
            block = rng.randbytes(min(size, _MIB)).translate(two_letters)
            file.write(block)
            size -= len(block)


def _large(work: Path, scale: float) -> Iterator[Row]:
    for gigabytes in (1, 10, 100):
        size = int(gigabytes * 10**9 * scale)
        folder = work / str(gigabytes)
        source = folder / "source"
        source.mkdir(parents=True)
        rng = random.Random(9)
        with (source / "sparse").open("wb") as file:
            file.truncate(size)
            for at in range(0, size, size // 64):
                file.seek(at)
                file.write(rng.randbytes(_MIB))
        tool = Vaultik(folder, source)
        yield _row(f"{gigabytes * scale:g} GB sparse", tool.backup(), store_mb=tool.store_mb())
        yield _row(f"{gigabytes * scale:g} GB sparse, restore", tool.restore(folder / "out"))
        (source / "sparse").unlink()
        (folder / "command").mkdir()
        command = f"commands: [{{name: /zeros, command: [head, -c, '{size}', /dev/zero]}}]"
        tool = Vaultik(folder / "command", source, [command])
        yield _row(f"{gigabytes * scale:g} GB from a command", tool.backup(), store_mb=tool.store_mb())
        shutil.rmtree(folder)


def _moved(work: Path, scale: float) -> Iterator[Row]:
    source = work / "source"
    for number in range(100):
        path = source / "tree" / str(number // 10) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(number.to_bytes(4, "big") * 25_000)
            for _ in range(max(1, int(100 * scale)) - 1):
                file.write(bytes(10**6))
    tool = Vaultik(work, source)
    _settle()
    yield _stored(tool, f"{size_mb(source) / 1000:.1f} GB, first", tool.backup)
    (source / "tree").rename(source / "another")
    yield _said(tool, "the tree moved")
    subprocess.run(["cp", "-a", "--reflink=never", str(source / "another/0"), str(source / "copy")], check=True)
    yield _said(tool, "a tenth of it copied")


def _said(tool: Vaultik, what: str) -> Row:
    """Return a row of a backup with the number of files that it read."""
    before = tool.store_mb()
    taken = run([VAULTIK, "backup", str(tool.config), "--json"])
    read = re.search(r'"files_read": ?(\d+)', taken.said)
    return _row(what, taken, files_read=float(read[1]) if read else -1, uploaded_mb=tool.store_mb() - before)


def _front(work: Path, scale: float) -> Iterator[Row]:
    source = work / "source"
    source.mkdir()
    rng = random.Random(11)
    data = b"".join(rng.randbytes(10**6) for _ in range(int(1000 * scale)))
    (source / "file").write_bytes(data)
    tool = Vaultik(work, source)
    yield _stored(tool, f"{scale:g} GB, first", tool.backup)
    (source / "file").write_bytes(b"ten bytes!" + data)
    row = _stored(tool, "ten bytes in front", tool.backup)
    with closing(sqlite3.connect(work / "index.sqlite")) as index:
        (row["new_chunks"],) = index.execute(
            "SELECT count(*) FROM chunks WHERE blob = (SELECT max(blob) FROM chunks)"
        ).fetchone()
    yield row


def _delay(work: Path, scale: float) -> Iterator[Row]:
    # Only here: they come with what the tests need.
    from tests.support.proxy import Proxy  # noqa: PLC0415
    from tests.support.servers import seaweedfs  # noqa: PLC0415

    corpus = corpora.make("mixed", work.parent, scale)
    with seaweedfs(work / "server") as server:
        for delay_ms in (0, 30):
            server.client().create_bucket(Bucket="bench")
            with Proxy(server, delay_s=delay_ms / 1000) as proxy:
                folder = work / str(delay_ms)
                folder.mkdir()
                keys = {"access_key_id": server.access_key, "secret_access_key": server.secret_key}
                tool = Vaultik(folder, corpus, store={"endpoint": proxy.endpoint, "region": "us-east-1", **keys})
                yield _row(f"{delay_ms} ms, first", tool.backup())
                yield _row(f"{delay_ms} ms, same", tool.backup())
                yield _row(f"{delay_ms} ms, restore", tool.restore(folder / "out"))
            client = server.client()
            for page in client.get_paginator("list_objects_v2").paginate(Bucket="bench"):
                for found in page.get("Contents", ()):
                    client.delete_object(Bucket="bench", Key=found["Key"])
            client.delete_bucket(Bucket="bench")
            shutil.rmtree(folder)


def _prune(work: Path, scale: float) -> Iterator[Row]:
    for blobs, snapshots in ((10_000, 100), (10_000, 1_000), (100_000, 1_000)):
        folder = work / f"{blobs} {snapshots}"
        folder.mkdir()
        store, key = make_snapshots(folder, int(blobs * scale), max(2, int(snapshots * scale)))
        where = ["--endpoint", f"file://{store}", "bench", "host/"]
        keep = ["--keep-last", str(max(1, int(snapshots * scale) // 2)), "--allow-shrink", "--yes"]
        env = {"VAULTIK_PRIVATE_KEY": str(key), "TMPDIR": str(folder)}
        for command in (
            ["verify", *where, "--state", str(folder / "state")],
            ["prune", *where, *keep, "--dry-run"],
            ["prune", *where, *keep],
        ):
            what = "dry run" if "--dry-run" in command else command[0]
            name = f"{blobs * scale:,.0f} blobs, {snapshots * scale:,.0f} snapshots, {what}"
            yield _row(name, run([VAULTIK, *command], env))
        shutil.rmtree(folder)


SCENARIOS = {
    "files": _files,
    "bundles": _bundles,
    "large": _large,
    "moved": _moved,
    "front": _front,
    "delay": _delay,
    "prune": _prune,
}

if __name__ == "__main__":
    os.umask(0o077)
    main()
