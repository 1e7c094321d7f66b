"""What is backed up: made once per size, always the same for the same machine, and a day's edit of it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
from pathlib import Path

_MIXED = ("python3", "share", "x86_64-linux-gnu", "gcc", "bin", "include")
_ROOTS = {"python3": "/usr/lib", "x86_64-linux-gnu": "/usr/lib", "gcc": "/usr/lib"}
_MIB = 1 << 20


def make(corpus: str, folder: Path, scale: float) -> Path:
    """Make a corpus below a folder, if it isn't there yet, and return where it lies.

    mixed: files of /usr, some 860 MB; small: 50,000 texts of up to 8 KiB; big: one file of 1 GiB, half of which compresses.
    """
    done = folder / f"corpus-{corpus}-{scale}"
    if not done.exists():
        making = done.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        {"mixed": _mixed, "small": _small, "big": _big}[corpus](making, scale)
        making.rename(done)
    return done


def edit(corpus: str, root: Path) -> None:
    """Change 1 % of the files, remove and add some, rename a directory; of the big file insert bytes at 20 places."""
    rng = random.Random(13)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if corpus == "big":
        data = bytearray(files[0].read_bytes())
        for _ in range(20):
            at = rng.randrange(len(data))
            data[at:at] = rng.randbytes(rng.randint(1, 100))
        files[0].write_bytes(data)
        return
    for path in rng.sample(files, max(3, len(files) // 100)):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
        with path.open("ab") as file:
            file.write(rng.randbytes(200))
    for path in rng.sample(files, max(3, len(files) // 500)):
        path.unlink()
    for number in range(max(3, len(files) // 500)):
        (root / f"new-{number}").write_bytes(rng.randbytes(rng.randint(100, 50_000)))
    last = max(path for path in root.iterdir() if path.is_dir())
    last.rename(f"{last}-renamed")


def make_tiny(root: Path, count: int) -> None:
    """Make so many files of a few bytes, a hundred in a directory."""
    rng = random.Random(7)
    for first in range(0, count, 100):
        folder = root / f"{first // 100_000:03}" / f"{first // 100 % 1000:03}"
        folder.mkdir(parents=True)
        for number in range(first, first + 100):
            (folder / f"{number:08}.txt").write_bytes(b"%d " % number * rng.randrange(1, 40))


def digest(root: Path) -> str:
    """Return a hash over names, modes, mtimes, sizes and bytes of all files: equal trees have equal ones."""
    whole = hashlib.sha256()
    for at, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(at, name)
            st = path.lstat()
            fact = f"{path.relative_to(root)}|{st.st_mode:o}|{st.st_mtime_ns}|{st.st_size}\n"
            whole.update(fact.encode("utf-8", "surrogateescape"))
            if stat.S_ISREG(st.st_mode):
                with path.open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _mixed(root: Path, scale: float) -> None:
    limit = int(scale * 1024 * _MIB) // len(_MIXED)
    for name in _MIXED:
        taken = 0
        source = Path(_ROOTS.get(name, "/usr"), name)
        for path in sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink()):
            size = path.stat().st_size
            if taken + size <= limit:
                copy = root / path.relative_to("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
                taken += size


def _words(rng: random.Random) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz_", k=rng.randint(2, 11))) for _ in range(4000)]


def _small(root: Path, scale: float) -> None:
    rng = random.Random(7)
    words = _words(rng)
    for folder in range(int(100 * scale)):
        (root / f"{folder:04}").mkdir()
        for number in range(500):
            text = " ".join(rng.choices(words, k=rng.randint(30, 1100)))
            (root / f"{folder:04}" / f"{number:04}.txt").write_text(text[:8192])


def _big(root: Path, scale: float) -> None:
    rng = random.Random(11)
    words = _words(rng)
    with (root / "disk.img").open("wb") as file:
        for _ in range(int(1024 * scale)):
            file.write(rng.randbytes(_MIB // 2))
            file.write(" ".join(rng.choices(words, k=90_000)).encode()[: _MIB // 2].ljust(_MIB // 2, b"x"))
