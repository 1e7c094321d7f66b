"""The file system that is mounted, below the kernel: what it asks of the store, what it holds, what it says of damage."""

import concurrent.futures
import contextlib
import copy
import errno
import itertools
import os
import random
import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.support.forge import forge
from tests.support.history import History
from tests.support.site import Site
from vaultik.errors import IntegrityError, ObjectNotFoundError, RestoreError, SelectionError, StoreUnavailableError
from vaultik.mount import catalog, held, mounted
from vaultik.mount.catalog import Catalog, Link
from vaultik.mount.filesystem import FileSystem
from vaultik.mount.frames import FrameCache
from vaultik.mount.opened import OpenSnapshots
from vaultik.secrets import load_identities
from vaultik.snapshot.fetch import WantedBlob, WantedChunk
from vaultik.snapshot.find import list_snapshots, select
from vaultik.store.local import LocalStore

MIB = 1 << 20
STEP = 128 << 10
"""As the kernel reads."""


class Counted(LocalStore):
    """A store that notes what is opened."""

    def __init__(self, site):
        super().__init__(site.store, site.bucket, site.prefix)
        self.asked = []
        self.fails = False

    def open(self, key, *, offset=0, length=None):
        if self.fails:
            raise StoreUnavailableError("down, on purpose")
        size = self.head(key).size_bytes if length is None and self.head(key) else length
        self.asked.append((key, offset, size))
        return super().open(key, offset=offset, length=length)

    def ranges(self):
        """What was asked of blobs: key, begin and end."""
        return sorted((key, at, at + (size or 0)) for key, at, size in self.asked if key.startswith("blobs/"))

    def asked_twice(self):
        return [
            (one, other)
            for one, other in itertools.pairwise(self.ranges())
            if one[0] == other[0] and other[1] < one[2] - 2 * 65552
        ]


class Looked:
    """A file system over a site's store, without a kernel."""

    def __init__(self, site, tmp, spec="latest", *, cache=64 * MIB, most_open=8, shared=False):
        self.store = Counted(site)
        self.said = []
        identities = load_identities(site.key)
        tmp.mkdir(exist_ok=True)
        self.opened = OpenSnapshots(self.store, identities, tmp, most_open)
        self.cache = FrameCache(self.store, identities, cache, lambda: True)
        found = spec and select(self.store, spec, identities)
        self.catalog = (
            None if spec else Catalog(self.store, identities, host=None, signers=None, report=self.said.append)
        )
        top = (lambda: found) if spec else self.catalog.top
        self.files = FileSystem(top, self.opened, self.cache, self.said.append, shared=shared)
        self.store.asked.clear()

    def read(self, path, offset=0, size=1 << 40, step=STEP):
        handle = self.files.open(os.fsencode(path))
        parts = []
        while size and (part := self.files.read(handle, min(step, size), offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        self.files.release(handle)
        return b"".join(parts)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A large file in two blobs, one with holes, and small ones that share a frame."""
    site = Site(tmp_path_factory.mktemp("mount"), chunk_size="1MiB", blob_size_limit="16MiB")
    site.source.mkdir()
    rng = random.Random(7)
    (site.source / "large").write_bytes(rng.randbytes(24 * MIB))
    with (site.source / "holes").open("wb") as file:
        for at in (70_000, 3 * MIB, 9 * MIB):
            file.seek(at)
            file.write(rng.randbytes(200_000))
        file.truncate(10 * MIB)
    (site.source / "small").mkdir()
    for n in range(40):
        (site.source / f"small/{n}").write_bytes(rng.randbytes(2000 + n))
    for n in range(8):
        (site.source / f"small/between {n}").write_bytes(rng.randbytes(1_500_000))
    site.backup()
    return site


@pytest.fixture
def own(stored, tmp_path):
    """A copy of the store, to be damaged."""
    site = copy.copy(stored)
    site.tmp, site.store = tmp_path, tmp_path / "store"
    shutil.copytree(stored.store, site.store)
    return site


class TestEconomy:
    def test_a_small_file_costs_a_header_and_its_frame(self, stored, tmp_path):
        looked = Looked(stored, tmp_path)
        path = stored.source / "small/7"
        assert looked.read(path) == path.read_bytes()
        header, frame = looked.store.ranges()
        assert header[2] - header[1] < 500
        # Small chunks share a frame of 1 MiB at the most; and the segments of 64 KiB around it. The blob has 12 MB.
        assert frame[2] - frame[1] <= MIB + 2 * 65552
        # Others in the frame came with it: the forty lie in a few frames.
        for n in range(40):
            assert looked.read(stored.source / f"small/{n}") == (stored.source / f"small/{n}").read_bytes()
        assert looked.store.asked_twice() == []
        assert len(looked.store.ranges()) <= 14

    def test_who_reads_on_has_it_read_ahead_and_nothing_twice(self, stored, tmp_path):
        looked = Looked(stored, tmp_path)
        assert looked.read(stored.source / "large") == (stored.source / "large").read_bytes()
        looked.cache._threads.shutdown(wait=True)
        assert looked.store.asked_twice() == []
        by_blob = [len(list(group)) for _, group in itertools.groupby(looked.store.ranges(), key=lambda r: r[0])]
        # Of 10 to 17 frames each: a header, two frames one by one, then 1, 2, 4, 8 MiB at once.
        assert len(by_blob) >= 2
        assert max(by_blob) <= 8
        # It was seen as one who reads on, per blob.
        assert len(looked.cache._runs) == len(by_blob)

    def test_what_is_there_already_is_not_read_ahead(self, stored, tmp_path):
        looked = Looked(stored, tmp_path)
        for at in (5 * MIB, 6 * MIB + 700_000):
            looked.read(stored.source / "large", at, 10)
        assert looked.read(stored.source / "large") == (stored.source / "large").read_bytes()
        looked.cache._threads.shutdown(wait=True)
        assert looked.store.asked_twice() == []

    def test_a_small_blob_is_taken_whole_once(self, several, tmp_path):
        looked = Looked(several, tmp_path)
        assert looked.read(several.source / "f") == b"version 2"
        ((_, begin, end),) = looked.store.ranges()
        assert begin == 0
        assert end in {blob.stat().st_size for blob in several.blobs()}

    def test_who_jumps_about_gets_no_more_than_he_asks_for(self, stored, tmp_path):
        looked = Looked(stored, tmp_path)
        data = (stored.source / "large").read_bytes()
        for at in (20 * MIB, 3 * MIB, 11 * MIB):
            assert looked.read(stored.source / "large", at, 10) == data[at : at + 10]
        asked = looked.store.ranges()
        assert len([r for r in asked if r[1]]) == 3
        assert all(end - begin <= 8 * MIB + 2 * 65552 for _, begin, end in asked)

    def test_readers_at_once_share_what_is_fetched(self, stored, tmp_path):
        looked = Looked(stored, tmp_path)
        data = (stored.source / "large").read_bytes()
        begin = threading.Barrier(6)

        def read():
            begin.wait()
            return looked.read(stored.source / "large") == data

        with concurrent.futures.ThreadPoolExecutor(6) as threads:
            assert all(job.result() for job in [threads.submit(read) for _ in range(6)])
        looked.cache._threads.shutdown(wait=True)
        assert looked.store.asked_twice() == []

    @pytest.mark.parametrize("limit", [3 * MIB, 1])
    def test_the_cache_is_bounded(self, stored, tmp_path, limit):
        looked = Looked(stored, tmp_path, cache=limit)
        data = (stored.source / "large").read_bytes()
        rng = random.Random(8)
        handle = looked.files.open(os.fsencode(stored.source / "large"))
        starts = [*range(0, len(data), STEP), *(rng.randrange(len(data)) for _ in range(30))]
        for at in starts if limit > 1 else starts[-10:]:
            assert looked.files.read(handle, STEP, at) == data[at : at + STEP]
            with looked.cache._lock:
                kept = list(looked.cache._held.values())
                assert looked.cache.held_bytes == sum(h.size for h in kept)
                assert looked.cache.held_bytes <= limit or len(kept) == 1
        assert looked.said == []

    def test_any_range_is_right_holes_too(self, stored, tmp_path):
        looked = Looked(stored, tmp_path)
        rng = random.Random(9)
        for name in ("holes", "large", "small/3"):
            data = (stored.source / name).read_bytes()
            handle = looked.files.open(os.fsencode(stored.source / name))
            for _ in range(60):
                at, size = rng.randrange(len(data) + 10), rng.choice((1, 4096, STEP, 3 * MIB))
                assert looked.files.read(handle, size, at) == data[at : at + size]
            assert looked.files.read(handle, 10, 1 << 62) == b""

    def test_data_and_holes_are_where_they_are(self, stored, tmp_path):
        looked = Looked(stored, tmp_path)
        handle = looked.files.open(os.fsencode(stored.source / "holes"))
        size = 10 * MIB
        at, data = 0, []
        while at < size:
            try:
                begin = looked.files.seek(handle, at, os.SEEK_DATA)
            except OSError as exc:
                assert exc.errno == errno.ENXIO
                break
            at = looked.files.seek(handle, begin, os.SEEK_HOLE)
            assert at > begin
            data.append((begin, at))
        content = (stored.source / "holes").read_bytes()
        for (_, end), (begin, _) in itertools.pairwise([(0, 0), *data, (size, size)]):
            assert content[end:begin].strip(b"\0") == b""
        assert len(data) == 3
        assert sum(end - begin for begin, end in data) < MIB
        assert looked.files.seek(handle, 0, os.SEEK_HOLE) == 0
        with pytest.raises(OSError):
            looked.files.seek(handle, size, os.SEEK_HOLE)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Three snapshots."""
    site = Site(tmp_path_factory.mktemp("several"))
    site.source.mkdir()
    for n in range(3):
        (site.source / "f").write_text(f"version {n}")
        (site.source / f"only in {n}").write_text(f"only {n}")
        (site.source / f"only in {n - 1}").unlink(missing_ok=True)
        site.backup()
    return site


class TestSnapshots:
    def test_where_others_may_look_a_snapshots_own_root_counts(self, several, tmp_path):
        """Its mode keeps others out; where nobody else is let in, listing opens nothing."""
        looked = Looked(several, tmp_path / "scratch", None, shared=True)
        (host,) = [name for name, _, _ in looked.files.readdir(b"/hosts")]
        own = b"/hosts/" + host + b"/"
        for name in [name for name, _, _ in looked.files.readdir(own[:-1]) if name != b"latest"]:
            alone = Looked(several, tmp_path / os.fsdecode(name), os.fsdecode(name)).files.getattr(b"/")
            shown = looked.files.getattr(own + name)
            assert (shown.mode, shown.mtime_ns) == (alone.mode, alone.mtime_ns)

    def test_they_are_opened_when_somebody_looks_into_them_and_a_few_stay_open(self, several, tmp_path):
        looked = Looked(several, tmp_path / "scratch", None, most_open=1)
        (host,) = [name for name, _, _ in looked.files.readdir(b"/hosts")]
        own = b"/hosts/" + host + b"/"
        ids = [name for name, _, _ in looked.files.readdir(own[:-1]) if name != b"latest"]
        for name in ids:
            assert looked.files.getattr(own + name).mode & 0o40000
            assert looked.files.xattr_names(own + name, privileged=True) == []
        assert looked.store.asked == []
        source = os.fsencode(several.source)
        first = looked.files.open(own + ids[0] + source + b"/f")
        for n, name in enumerate(ids):
            names = [name for name, _, _ in looked.files.readdir(own + name + source)]
            assert sorted(names) == [b"f", f"only in {n}".encode()]
            assert len(looked.opened._places) == 1
        # Its DB was closed since: it is opened again.
        assert looked.files.read(first, 100, 0) == b"version 0"
        dbs = [key for key, _, _ in looked.store.asked if ".sqlite." in key]
        assert len(dbs) == 4
        assert list((tmp_path / "scratch").iterdir()) == []

    def test_what_is_in_use_stays_open_whatever_else_is_opened(self, several, tmp_path):
        looked = Looked(several, tmp_path, None, most_open=1)
        one, other, _ = list_snapshots(looked.store)
        with looked.opened.using(one) as tree:
            with looked.opened.using(other):
                assert tree.find([b"none"]) is None
            assert tree.get(1).name == b""

    def test_many_threads_open_one_once(self, several, tmp_path):
        looked = Looked(several, tmp_path)
        begin = threading.Barrier(6)

        def look():
            begin.wait()
            return looked.files.getattr(os.fsencode(several.source / "f")).size

        with concurrent.futures.ThreadPoolExecutor(6) as threads:
            assert {job.result() for job in [threads.submit(look) for _ in range(6)]} == {9}
        assert len([key for key, _, _ in looked.store.asked if ".sqlite." in key]) == 1

    def test_what_can_not_be_opened_is_not_tried_at_every_turn(self, several, tmp_path):
        looked = Looked(several, tmp_path)
        looked.store.fails = True
        for _ in range(3):
            with pytest.raises(OSError) as caught:
                looked.files.getattr(b"/etc")
            assert caught.value.errno == errno.EIO
            looked.store.fails = False
        assert looked.store.asked == []
        (line,) = looked.said
        assert line.endswith("down, on purpose")

    def test_a_temporary_directory_that_is_gone_is_named(self, several, tmp_path):
        looked = Looked(several, tmp_path / "scratch")
        (tmp_path / "scratch").rmdir()
        with pytest.raises(OSError) as caught:
            looked.files.readdir(b"/")
        assert caught.value.errno == errno.EIO
        assert looked.said[0].endswith(f"temporary directory {tmp_path}: No such file or directory")

    def test_names_that_are_not_there(self, several, tmp_path):
        looked = Looked(several, tmp_path)
        source = os.fsencode(several.source)
        for path in (source + b"/none", b"/none", source + b"/f/below", source + b"/none/below"):
            with pytest.raises(OSError) as caught:
                looked.files.getattr(path)
            assert caught.value.errno == errno.ENOENT
        for call, number in ((looked.files.readdir, errno.ENOTDIR), (looked.files.readlink, errno.EINVAL)):
            with pytest.raises(OSError) as caught:
                call(source + b"/f")
            assert caught.value.errno == number
        with pytest.raises(OSError) as caught:
            looked.files.open(source)
        assert caught.value.errno == errno.EISDIR
        with pytest.raises(OSError) as caught:
            looked.files.xattr(source + b"/f", b"user.none")
        assert caught.value.errno == errno.ENODATA
        assert looked.said == []


class TestDamage:
    def test_what_is_damaged_is_said_once_and_asked_for_once_a_while(self, own, tmp_path, monkeypatch):
        lost = [(path, path.read_bytes()) for path in own.blobs()]
        for path, _ in lost:
            path.unlink()
        looked = Looked(own, tmp_path / "scratch")
        path = own.source / "large"
        handle = looked.files.open(os.fsencode(path))
        for _ in range(5):
            with pytest.raises(OSError) as caught:
                looked.files.read(handle, 10, 0)
            assert caught.value.errno == errno.EIO
        assert len(looked.store.asked) <= 2
        (line,) = looked.said
        assert line.startswith(f"{path} (snapshot ")
        assert line.endswith(": missing")
        for lost_path, data in lost:
            lost_path.write_bytes(data)
        now = time.monotonic()
        monkeypatch.setattr(held.time, "monotonic", lambda: now + 61)
        assert looked.files.read(handle, 10, 0) == path.read_bytes()[:10]

    def test_an_older_version_is_looked_for_again_when_damage_is(self, own, tmp_path, monkeypatch):
        for blob in own.blobs():
            blob.unlink()
        looked = Looked(own, tmp_path / "scratch")
        asked = []
        monkeypatch.setattr(looked.store, "look_behind", lambda key, _sha256: asked.append(key))
        handle = looked.files.open(os.fsencode(own.source / "small/7"))
        for later in range(3):
            monkeypatch.setattr(held.time, "monotonic", lambda later=later: 100 * later)
            with pytest.raises(OSError):
                looked.files.read(handle, 10, 0)
        assert len(asked) == 3
        assert len(set(asked)) == 1

    def test_a_flipped_bit_costs_its_frame_and_no_byte_is_wrong(self, own, tmp_path):
        path = own.source / "large"
        data = path.read_bytes()
        for blob in own.blobs():
            stored = bytearray(blob.read_bytes())
            stored[len(stored) // 2] ^= 1
            blob.chmod(0o600)
            blob.write_bytes(stored)
        looked = Looked(own, tmp_path / "scratch")
        handle = looked.files.open(os.fsencode(path))
        lost = 0
        for at in range(0, len(data), STEP):
            try:
                assert looked.files.read(handle, STEP, at) == data[at : at + STEP]
            except OSError:
                lost += STEP
        assert 0 < lost <= 3 * 8 * MIB
        assert lost < len(data) // 2
        assert looked.said

    def test_a_store_that_fails_is_no_damage(self, own, tmp_path):
        looked = Looked(own, tmp_path / "scratch")
        handle = looked.files.open(os.fsencode(own.source / "large"))
        looked.store.fails = True
        with pytest.raises(OSError) as caught:
            looked.files.read(handle, 10, 0)
        assert caught.value.errno == errno.EIO
        looked.store.fails = False
        assert looked.files.read(handle, 10, 0) == (own.source / "large").read_bytes()[:10]

    def test_what_could_not_be_read_at_the_source_is_no_file_of_zeros(self, own, tmp_path):
        forge(own, "UPDATE entries SET marks = marks | 16 WHERE name = 'large' OR name = x'6c61726765'")
        looked = Looked(own, tmp_path / "scratch")
        assert looked.files.getattr(os.fsencode(own.source / "large")).size == 24 * MIB
        with pytest.raises(OSError) as caught:
            looked.files.open(os.fsencode(own.source / "large"))
        assert caught.value.errno == errno.EIO
        assert "could not be read when it was backed up" in looked.said[0]

    def test_a_chunk_that_only_one_snapshot_knows_of_a_frame(self, tmp_path):
        """The frame was fetched for a snapshot that has fewer files of it."""
        site = Site(tmp_path, blob_size_limit="16MiB")
        site.source.mkdir()
        for name in ("a", "b", "c"):
            (site.source / name).write_text(name * 1000)
        (site.source / "rest").write_bytes(random.Random(1).randbytes(4 * MIB))
        old = site.backup()["snapshot"]
        (site.source / "b").unlink()
        site.backup()
        looked = Looked(site, tmp_path / "scratch", None)
        (host,) = [name for name, _, _ in looked.files.readdir(b"/hosts")]
        now = Path(os.fsdecode(b"/hosts/" + host + b"/" + looked.files.readlink(b"/hosts/" + host + b"/latest")))
        for at, name in ((now, "a"), (now.parent / old, "b"), (now, "c"), (now.parent / old, "a")):
            assert looked.read(f"{at}{site.source}/{name}") == name.encode() * 1000

    def test_two_chunks_at_one_place_of_a_frame(self, tmp_path):
        """What a stranger may write: both are what they should be, so both are read."""
        site = Site(tmp_path)
        site.source.mkdir()
        (site.source / "a").write_text("abcdef")
        (site.source / "b").write_text("abc")
        site.backup()
        forge(
            site,
            "UPDATE chunks SET (blob, frame_offset, frame_length, offset) = (SELECT c.blob, c.frame_offset, c.frame_length,"
            " c.offset FROM chunks AS c JOIN entry_chunks AS ec ON ec.chunk = c.id JOIN entries AS e ON e.id = ec.entry"
            " WHERE e.name = x'61') WHERE size = 3",
        )
        looked = Looked(site, tmp_path / "scratch")
        for _ in range(2):
            assert looked.read(site.source / "a") == b"abcdef"
            assert looked.read(site.source / "b") == b"abc"
        assert len(looked.store.ranges()) == 1
        # And one that says of a part what is true of the whole.
        forge(site, "UPDATE chunks SET hash = (SELECT c.hash FROM chunks AS c WHERE c.size = 6) WHERE size = 3")
        looked = Looked(site, tmp_path / "more")
        for _ in range(2):
            assert looked.read(site.source / "a") == b"abcdef"
            with pytest.raises(OSError):
                looked.read(site.source / "b")


class TestCatalog:
    @pytest.fixture
    def site(self, tmp_path):
        return Site(tmp_path)

    @pytest.fixture
    def look(self, site):
        said = []

        def look(**options):
            asked = {"host": None, "signers": None, **options}
            found = Catalog(Counted(site), load_identities(site.key), report=said.append, **asked)
            return found, said

        return look

    def test_hosts_of_any_name_are_directories_of_safe_ones(self, site, look):
        hosts = ("web-1", "../../etc", "", ".", "..", "a/b", "x" * 1000, "\x1b[2J", "nul\0", "web-1", "a_b", "é\udcff")
        for n, host in enumerate(hosts):
            if "\udcff" not in host:
                History(site, f"6f1c2f0a-5d5e-4c39-9a53-0f6f6a1d2b{n:02}", host).snapshot(1)
        # One that is called as the first of two sources of a host is.
        twin = History(site, "6f1c2f0a-5d5e-4c39-9a53-0f6f6a1d2b00").source8
        History(site, "6f1c2f0a-5d5e-4c39-9a53-0f6f6a1d2b98", f"web-1-{twin}").snapshot(1)
        found, said = look()
        names = list(found.top()[b"hosts"])
        assert len(names) == len(hosts)
        assert all(0 < len(name) <= 255 and not {0, 27, ord("/")} & set(name) for name in names)
        assert not {b".", b".."} & set(names)
        assert b"latest" not in found.top()
        assert said == []

    def test_latest_is_the_newest_complete_one(self, site, look):
        history = History(site)
        history.snapshot(3)
        whole = history.snapshot(2)
        history.snapshot(1, complete=False)
        found, _ = look()
        assert found.top()[b"hosts"][b"web-1"][b"latest"] == Link(whole.encode())
        assert found.top()[b"latest"] == Link(b"hosts/web-1/latest")

    def test_a_source_with_nothing_complete_has_no_latest(self, site, look):
        History(site).snapshot(1, complete=False)
        found, _ = look()
        assert list(found.top()) == [b"hosts", b"by-date"]
        assert len(found.top()[b"hosts"][b"web-1"]) == 1

    def test_new_snapshots_show_up_and_old_ones_go(self, site, look, monkeypatch):
        history = History(site)
        first = history.snapshot(3)
        found, said = look()
        second = history.snapshot(1)
        assert set(found.top()[b"hosts"][b"web-1"]) == {first.encode(), b"latest"}
        monkeypatch.setattr(catalog, "FRESH_S", -1.0)
        assert set(found.top()[b"hosts"][b"web-1"]) == {first.encode(), second.encode(), b"latest"}
        for path in site.objects(".sqlite.zst.age"):
            if path.name.startswith(first):
                path.unlink()
        assert set(found.top()[b"hosts"][b"web-1"]) == {second.encode(), b"latest"}
        shutil.rmtree(site.store)
        assert set(found.top()[b"hosts"][b"web-1"]) == {second.encode(), b"latest"}
        assert said[-1].startswith("what is new is not shown: ")

    def test_what_is_for_somebody_else_is_said_and_left_out(self, site, look, tmp_path):
        (tmp_path / "other").mkdir()
        other = Site(tmp_path / "other")
        other.store = site.store
        History(other, "6f1c2f0a-5d5e-4c39-9a53-0f6f6a1d2b99", "theirs").snapshot(1)
        with pytest.raises(Exception, match="identity"):
            look()
        History(site).snapshot(1)
        found, said = look()
        assert list(found.top()[b"hosts"]) == [b"web-1"]
        assert len(said) == 2

    def test_one_whose_manifest_is_damaged_is_shown_by_its_source(self, site, look):
        history = History(site)
        snapshot = history.snapshot(1)
        (path,) = site.objects(".manifest.zst.age")
        path.write_bytes(path.read_bytes()[:-1])
        found, said = look()
        name = f"source-{history.source8}".encode()
        assert list(found.top()[b"hosts"][name]) == [snapshot.encode()]
        assert "manifest of" in said[0]

    def test_nothing_to_show(self, site, look):
        (site.store / site.bucket).mkdir()
        with pytest.raises(SelectionError, match="no snapshot in"):
            look()
        History(site).snapshot(1)
        with pytest.raises(SelectionError, match="host 'web-2'"):
            look(host="web-2")


class TestMachine:
    def test_no_device(self, monkeypatch, tmp_path):
        monkeypatch.setattr(mounted, "DEVICE", tmp_path / "none")
        with pytest.raises(RestoreError, match="there is no "):
            mounted.check_fuse(allow_other=False)
        (tmp_path / "none").mkdir()
        with pytest.raises(RestoreError, match="Is a directory"):
            mounted.check_fuse(allow_other=False)

    def test_a_user_without_fusermount_or_the_right_to_let_others_in(self, monkeypatch, tmp_path):
        # Which library this process has loaded depends on what ran in it before.
        monkeypatch.setattr(mounted, "library", lambda: None)
        monkeypatch.setattr(mounted, "DEVICE", Path("/dev/null"))
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(RestoreError, match="fusermount3 is not installed"):
            mounted.check_fuse(allow_other=False)
        (tmp_path / "fusermount3").touch(mode=0o755)
        monkeypatch.setattr(mounted, "_FUSE_CONF", tmp_path / "fuse.conf")
        mounted.check_fuse(allow_other=False)
        for text in (None, "#user_allow_other\n", "mount_max = 5\n"):
            if text is not None:
                (tmp_path / "fuse.conf").write_text(text)
            with pytest.raises(RestoreError, match="--allow-other"):
                mounted.check_fuse(allow_other=True)
        (tmp_path / "fuse.conf").write_text("mount_max = 5\nuser_allow_other # yes\n")
        mounted.check_fuse(allow_other=True)


class Strange:
    """A snapshot that somebody made up: its blob has a frame of a chunk at every byte."""

    def __init__(self):
        self.fails = False
        self.asked = 0

    def frame(self, at):
        return held.Frame(self.blob, 1, at, 1)

    blob = WantedBlob(b"b" * 32, 1 << 30, 200)

    def chunk(self, at):
        return WantedChunk(at, at.to_bytes(32, "big"), 1, at, 1, 0)

    def chunks(self, frame, _chunk=None):
        self.asked += 1
        if self.fails:
            raise MemoryError
        return [self.chunk(frame.offset)]

    def iter_frames(self, _blob, offset):
        return map(self.frame, itertools.count(offset))


class Empty:
    """A store without objects."""

    def open(self, key, **_range):
        raise ObjectNotFoundError(key)

    def look_behind(self, _key, _sha256):
        return None


class TestAStrangersBlob:
    @pytest.fixture
    def cache(self):
        with contextlib.closing(FrameCache(Empty(), [], 64 * MIB, lambda: True)) as cache:
            yield cache

    def get(self, cache, source, at):
        with pytest.raises(IntegrityError, match="missing"):
            cache.get(source.frame(at), source.chunk(at), source)

    def test_no_more_frames_are_read_ahead_than_memory_holds(self, cache):
        source = Strange()
        for at in range(3):
            self.get(cache, source, at)
        assert source.asked < 1000

    def test_who_fails_leaves_nobody_waiting(self, cache):
        source = Strange()
        source.fails = True
        with pytest.raises(MemoryError):
            cache.get(source.frame(0), source.chunk(0), source)
        source.fails = False
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            other.submit(self.get, cache, source, 0).result(timeout=20)
