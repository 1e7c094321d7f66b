"""A restore needs the bucket and the identity, nothing else; and it may go back to where everything stood, under /."""

import functools
import os
import random
import shutil
import subprocess
import sys

import pytest

from tests.support.site import Site
from tests.support.tree import compare

IN_A_ROOT_OF_ITS_OWN = r"""
set -eu
over=$1 folder=$2; shift 2
mount -t tmpfs none "$over"
mkdir "$over/upper" "$over/work" "$over/root"
mount -t overlay -o "lowerdir=/,upperdir=$over/upper,workdir=$over/work" none "$over/root"
mount --bind /proc "$over/root/proc"
mount --bind /dev "$over/root/dev"
touch "$over/root/another-root"
rm -rf "$over/root$folder/source" "$over/root$folder/state" "$over/root$folder/vaultik.yaml"
# Without the mark this would be the machine's own root.
chroot "$over/root" sh -c 'test -e /another-root && exec "$@"' sh "$@" || echo "exit $?" >&2
cp -a "$over/root$folder/source" "$folder/result"
cd "$over/upper" && find . -type f -cnewer another-root | sort > "$folder/written"
ls -A "$over/root" > "$folder/top"
"""


@functools.cache
def lacking():
    """Why there can be no root of its own here, None if there can."""
    if os.geteuid() != 0:
        return "only root makes another root"
    script = "mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w && mount -t overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w none /mnt"
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script], capture_output=True, check=False
    )
    return None if done.returncode == 0 else f"no overlay to be had: {done.stderr.decode().strip()}"


def in_another_root(site, *command):
    over = site.tmp / "over"
    over.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            IN_A_ROOT_OF_ITS_OWN,
            "sh",
            over,
            site.tmp,
            *site.command(*command),
        ],
        env=site.environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.skipif(lacking() is not None, reason=f"no root to restore to: {lacking()}")
@pytest.mark.parametrize("delete", [False, True])
def test_under_the_root(tmp_path, delete):
    """Everything goes back to where it stood, beside all that is there; nothing else is touched."""
    site = Site(tmp_path)
    (site.source / "sub").mkdir(parents=True)
    for n in range(8):
        (site.source / "sub" / f"file {n}").write_bytes(os.urandom(1000 * n))
        os.utime(site.source / "sub" / f"file {n}", ns=(n, -n * 10**9 + 7))
    os.setxattr(site.source / "sub/file 1", "user.note", b"x")
    os.link(site.source / "sub/file 2", site.source / "linked")
    os.symlink("sub/file 3", site.source / "link")
    os.mkfifo(site.source / "fifo", 0o640)
    (site.source / "sub").chmod(0o2750)
    site.backup()
    done = in_another_root(site, "restore", *site.where, "latest", "/", "--force", *(["--delete"] if delete else ()))
    assert "restored" in done.stdout, done.stderr
    assert "exit" not in done.stderr
    assert compare(site.source, tmp_path / "result") == []
    written = {path for path in (tmp_path / "written").read_text().splitlines() if path != "./another-root"}
    assert all(path.startswith(f".{site.source}/") for path in written)
    assert set((tmp_path / "top").read_text().split()) == {*os.listdir("/"), "another-root"}


def test_with_the_identity_alone(tmp_path):
    """Another machine, another user's home, nothing of vaultik's: no config, no state, no source, not even a cache."""
    site = Site(tmp_path)
    site.source.mkdir()
    rng = random.Random(1)
    for n in range(20):
        (site.source / f"file {n}").write_bytes(rng.randbytes(30_000))
    site.backup()
    kept = site.source.rename(tmp_path / "kept")
    for path in (site.state, site.spool):
        shutil.rmtree(path, ignore_errors=True)
    site.config.unlink()
    site.store.rename(tmp_path / "moved")
    home = tmp_path / "home"
    home.mkdir()
    command = [
        sys.executable, "-m", "vaultik", "restore", "--endpoint", f"file://{tmp_path}/moved", site.bucket, site.prefix, "latest",
    ]  # fmt: skip
    clean = {"PATH": os.environ["PATH"], "HOME": str(home), "VAULTIK_PRIVATE_KEY": site.identity}
    for target, keys in (("by its text", clean), ("by its file", {**clean, "VAULTIK_PRIVATE_KEY": str(site.key)})):
        done = subprocess.run(
            [*command, tmp_path / target], env=keys, capture_output=True, text=True, check=False, cwd="/"
        )
        assert done.returncode == 0, done.stderr
        assert compare(kept, tmp_path / target / str(site.source).lstrip("/")) == []
    assert list(home.rglob("*")) == []
