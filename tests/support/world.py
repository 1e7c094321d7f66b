"""A small world in one process: stores with a clock of their own, hosts that back up to them, actors that take turns.

The code that runs is vaultik's own; what is simulated is the store, the time, and who gets the next turn.
An actor (a backup, a prune) stops before every call of the store, and wherever else it is asked to, until
the world lets it go on or kills it. So any interleaving can be replayed, one turn at a time.
"""

import contextlib
import functools
import hashlib
import os
import random
import shutil
import sqlite3
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from tests.support.faulty_store import Faults, FaultyStore
from tests.support.memory_store import MemoryStore
from tests.support.run import restore_into, seal, upload, verify_all
from tests.support.snapshots import TABLES, open_own, open_whole
from vaultik.backup import commit, reconcile
from vaultik.backup.commit import Outcome, commit_snapshot, is_partial_due
from vaultik.backup.session import Session
from vaultik.config import Config
from vaultik.config.document import S3
from vaultik.core.identity import Identity, generate
from vaultik.core.names import BLOBS_PREFIX, blob_key, parse_snapshot_key
from vaultik.errors import StoreUnavailableError, VaultikError
from vaultik.index import bundles, layers, runs
from vaultik.maintain import inventory
from vaultik.maintain.prune import STEPS, PruneSession
from vaultik.maintain.request import parse_request
from vaultik.restore.asked import Asked
from vaultik.snapshot.write import write_snapshot_db

HOUR, DAY = 3600.0, 86400.0
KIB = 1024


class Killed(BaseException):
    """What ends an actor as SIGKILL would."""


class Actor:
    """Code on a thread of its own, of which one step runs at a time."""

    def __init__(self, world, work):
        self.world = world
        self.failure = None
        self.result = None
        self.is_done = False
        self._turn = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._killed = False
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work):
        self.pause()
        try:
            self.result = work(self)
        except Killed:
            pass
        except BaseException as exc:  # noqa: BLE001 - whoever steps it raises it
            self.failure = exc
        self.is_done = True
        self._back.release()

    def pause(self):
        """Called by the work: wait for the next turn."""
        self._back.release()
        self._turn.acquire()
        if self._killed:
            raise Killed

    def start(self):
        self._back.acquire()
        return self

    def step(self):
        """Let it run to its next pause. Returns whether there is one."""
        if not self.is_done:
            self._turn.release()
            self._back.acquire()
        if isinstance(self.failure, AssertionError) or not isinstance(self.failure, VaultikError | None):
            raise self.failure
        return not self.is_done

    def finish(self):
        while self.step():
            pass
        if self.failure is not None:
            raise self.failure
        return self.result

    def kill(self):
        self._killed = True
        with contextlib.suppress(VaultikError):
            while not self.is_done and self.step():
                pass


class WorldStore(MemoryStore):
    """The world's bucket as one actor sees it: a pause before each call, lists that may lag."""

    def __init__(self, world, prefix, host=None):
        super().__init__(prefix, world.objects, world.store_time)
        self._world = world
        self._host = host
        self.put_only = host is not None and host.put_only
        self.actor = None
        self._told = None

    def _call(self, what):
        if self.actor is not None:
            self.actor.pause()
        self._world.calls += 1
        if self.put_only:
            assert what in ("put", "now"), f"{what} with a credential that can only put"
        # As the real ones: the time of the last answer, and what the machine counts since.
        self._told = self._world.store_time(), self._world.boottime()

    def now(self):
        if self._told is None:
            return self.ask_time()
        seconds, at = self._told
        return seconds + self._world.boottime() - at

    def ask_time(self):
        self._call("now")
        return self.now()

    def put(self, key, body, *, sha256, until=None):
        self._call("put")
        if until is not None and self._world.boottime() > until:
            raise StoreUnavailableError("put: too late")
        assert until is not None or not key.endswith(".sqlite.zst.age")
        stored = super().put(key, body, sha256=sha256)
        if stored and key.endswith(".sqlite.zst.age"):
            self._world.check_new_snapshot(self._prefix + key, self._host)
        if self.actor is not None:
            self.actor.pause()  # it is stored, and nobody has been told
        return stored

    def walk(self, prefix=""):
        self._call("walk")
        objects = self._world.listed()
        for key in sorted(objects):
            if key.startswith(self._prefix + prefix):
                yield self._info(key.removeprefix(self._prefix), objects)

    def _info(self, key, objects):
        data, modified = objects[self._prefix + key]
        return super().info(key, data, modified)

    def delete(self, keys):
        done = {}
        for key in keys:
            self._call("delete")
            done |= super().delete([key])
            self._world.check_deleted(self._prefix + key)
        return done


class Host:
    """A source, its index, its config. Cloning copies the index as it is on the disk."""

    def __init__(self, world, number, *, prefix="", put_only=False):
        self.world = world
        self.number = number
        self.put_only = put_only
        self.prefix = prefix
        self.uuid = f"source {number}"
        self.skew = 0.0
        self.recipients = [world.recipient]
        self.home = world.tmp / f"host{number}"
        self.source = self.home / "source"
        self.source.mkdir(parents=True)
        self.actor = None
        self.expected = None
        self.listed = 0
        """How many calls the store had had when this host's last listing began."""

    @property
    def is_idle(self):
        return self.actor is None or self.actor.is_done

    @property
    def files(self):
        return read_files(self.source)

    def config(self):
        return Config(
            path=self.home / "vaultik.yaml",
            source_dirs=(os.fsencode(self.source),),
            s3=S3(
                bucket="b", endpoint="http://memory", prefix=self.prefix, access="put_only" if self.put_only else "full"
            ),
            exclude=(),
            recipients=tuple(self.recipients),
            audit_recipient=None,
            signing_key=None,
            backup_interval=3600,
            full_scan_interval=86400,
            min_time_between_run=0,
            index_path=self.home / "state/index.sqlite",
            index_prefix="index/",
            chunk_size=64 * KIB,
            blob_size_limit=self.world.blob_size_limit,
            spool_dir=self.home / "state/spool",
            compression_level=1,
            workers=1,
            one_file_system=False,
            exclude_caches=False,
            exclude_if_present=(),
        )

    def write(self, name, size, seed=None):
        path = self.source / name
        path.write_bytes(random.Random(seed if seed is not None else f"{name}{size}{self.world.now}").randbytes(size))
        os.utime(path, (self.world.now - HOUR, self.world.now - HOUR))

    def begin(self, **options):
        """Begin a backup, of which the world decides when it goes on."""
        assert self.is_idle
        self.actor = Actor(self.world, functools.partial(self._backup, **options)).start()
        return self.actor

    def backup(self, **options):
        """Back up in one go. Returns the counts of the run."""
        return self.begin(**options).finish()

    def _backup(self, actor, **options):
        store = self.world.open_store(self.prefix, self)
        session = _Session(self, store)
        try:
            session.begin(**options)
            store.inner.actor = actor
            expected = self.files
            session.scan()
            attempt = 0
            while True:
                actor.pause()
                wave = session.next_wave()
                if wave is None or (wave > 0 and is_partial_due(session)):
                    self.expected = expected
                    outcome = commit_snapshot(session, attempt)
                    attempt += 1
                    if outcome == Outcome.COMMITTED:
                        break
                else:
                    self._wave(session, wave, actor)
            session.finish()
            return runs.find_run(session.index(), session.run_id)
        finally:
            session.close()

    def _wave(self, session, wave, actor):
        for bundle in bundles.wave_bundles(session.index(), session.run, wave):
            state = bundles.get_bundle(session.index(), bundle).state
            for number, step in enumerate((Session.chunk, seal, upload)):
                if state <= number:
                    actor.pause()
                    step(session, bundle)

    def kill(self):
        if self.actor is not None:
            self.actor.kill()
            self.actor = None

    def state(self):
        return self.home / "state"

    def lose_index(self, *, uuid=False):
        self.kill()
        for path in self.state().glob("*" if uuid else "index.sqlite*"):
            if path.is_file() and (uuid or not path.name.endswith(".source")):
                path.unlink()

    def save(self):
        """Take a snapshot of the machine: files and state."""
        shutil.rmtree(self.home.with_suffix(".saved"), ignore_errors=True)
        shutil.copytree(self.home, self.home.with_suffix(".saved"))

    def roll_back(self):
        self.kill()
        saved = self.home.with_suffix(".saved")
        if saved.exists():
            shutil.rmtree(self.home)
            shutil.copytree(saved, self.home)

    def clone(self, number):
        twin = Host(self.world, number, prefix=self.prefix, put_only=self.put_only)
        shutil.rmtree(twin.home)
        shutil.copytree(self.home, twin.home)
        # The same machine; but for its paths, so what was scanned is scanned anew.
        twin.uuid = self.uuid
        return twin


class _Session(Session):
    """A run's session with the world's store and clocks."""

    def __init__(self, host, store):
        self._world_store = store
        self._host = host
        super().__init__(
            host.config(),
            host=f"host{host.number}",
            run_id=os.urandom(6).hex(),
            clock=lambda: host.world.now + host.skew,
        )

    def begin(self, *, adopt=True, heal=()):
        super().begin(adopt=adopt, heal=heal)

    def reconcile(self):
        self._host.listed = self._host.world.calls
        return super().reconcile()

    def _open_store(self):
        return self._world_store


class World:
    """Everything, and the time."""

    def __init__(self, tmp, *, coarse=0.0, blob_size_limit=1024 * KIB, top_rows=None):
        """`top_rows`: snapshot DBs are deltas of about so many rows over layers, however small the trees are."""
        self.tmp = Path(tmp)
        self.top_rows = top_rows
        self.blob_size_limit = blob_size_limit
        self.objects = {}
        self.now = 1_800_000_000.0
        self.skew = 0.0
        self.coarse = coarse
        self.stood_still = 0.0
        self.lag = False
        self.calls = 0
        self.faults = Faults()
        self.identity_text, self.recipient = generate()
        self.identity = Identity(self.identity_text)
        self.hosts = []
        self.by_hand = {}
        self.snapshots = {}
        self._before = {}

    # -- time ---------------------------------------------------------------------------------

    def store_time(self):
        now = self.now + self.skew
        return now - now % self.coarse if self.coarse else now

    def boottime(self):
        return self.now - self.stood_still

    def pass_time(self, seconds, *, standing_still=False):
        """Time goes by; machines that stand still (saved, and taken up again) don't count it."""
        self.now += seconds
        self.stood_still += seconds if standing_still else 0.0
        self._before = dict(self.objects)

    def listed(self):
        """What a listing shows: what is there, or, where lists lag, what was there when time last passed."""
        return self._before if self.lag else self.objects

    @contextmanager
    def clocks(self):
        """Let the code that looks at the machine's own clocks look at the world's."""
        patched = [
            (reconcile, "boottime", self.boottime),
            (inventory, "time", SimpleNamespace(time=lambda: self.now + self.skew)),
            (commit, "time", SimpleNamespace(sleep=self.pass_time)),
        ]
        if self.top_rows is not None:
            patched += [(layers, "LEAST_ROWS", 0), (layers, "TOP_ROWS", self.top_rows)]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in patched]
        for owner, name, value in patched:
            setattr(owner, name, value)
        try:
            yield self
        finally:
            for host in self.hosts:
                host.kill()
            for owner, name, value in before:
                setattr(owner, name, value)

    # -- the bucket -------------------------------------------------------------------------------

    def open_store(self, prefix="", host=None):
        """A client of the bucket, to whose calls happens what `faults` say."""

        def lied(key):
            # As if it had been stored, and somebody had removed it at once; what was to be deleted isn't relied on.
            self.by_hand[prefix + key] = self.calls
            self.snapshots.pop(prefix + key, None)

        return FaultyStore(WorldStore(self, prefix, host), self.faults, lied)

    # -- who is there -----------------------------------------------------------------------------

    def add_host(self, **settings):
        self.hosts.append(Host(self, len(self.hosts), **settings))
        return self.hosts[-1]

    def clone(self, host):
        host.kill()
        self.hosts.append(host.clone(len(self.hosts)))
        return self.hosts[-1]

    def begin_prune(self, *, grace=None, exclusive=False, drop=(), prefix="", **keep):
        """Begin a prune, of which the world decides when it goes on. Its result is what it freed."""
        counts = {name: str(count) for name, count in keep.items()}
        request = parse_request(counts, grace=grace, exclusive=exclusive, drop=drop, allow_shrink=True)
        store = self.open_store(prefix)

        def work(actor):
            store.inner.actor = actor
            session = PruneSession(lambda: store, [self.identity], request)
            try:
                session.plan()
                for step in STEPS:
                    session.delete(step)
                return session.freed()
            finally:
                session.remove()

        return Actor(self, work).start()

    def prune(self, **options):
        return self.begin_prune(**options).finish()

    # -- what must hold --------------------------------------------------------------------------------

    def check_new_snapshot(self, key, host):
        """A DB was put: everything that it refers to is there, but for what was removed by hand behind its listing."""
        name = parse_snapshot_key(key.removeprefix(host.prefix))
        data, _ = self.objects[key]
        blobs, complete = self.refers_to(data, host.prefix)
        self.snapshots[key] = {
            "id": name.snapshot, "host": host, "blobs": blobs, "complete": complete, "files": host.expected,
        }  # fmt: skip
        for blob in blobs - self.objects.keys():
            removed = self.by_hand.get(blob)
            excused = removed is not None and (host.put_only or self.lag or removed > host.listed)
            assert excused, f"{name.snapshot} was put, but {blob} is gone"
        if blobs <= self.objects.keys():
            self.check_rows(key, host.state() / "index.sqlite")

    def check_rows(self, key, index_path):
        """A snapshot that was put just now says, with its layers, what one without layers would say."""
        with contextlib.closing(self.open_db(key)) as whole, tempfile.NamedTemporaryFile(dir=self.tmp) as target:
            meta = dict(whole.execute("SELECT key, value FROM meta"))
            for name in ("kind", "entries", "bytes"):
                del meta[name]
            write_snapshot_db(index_path, Path(target.name), meta)
            with contextlib.closing(sqlite3.connect(target.name)) as plain:
                for table in TABLES:
                    query = f"SELECT * FROM {table} ORDER BY 1, 2" + (" LIMIT 0" if table == "meta" else "")
                    assert whole.execute(query).fetchall() == plain.execute(query).fetchall(), table
                totals = "SELECT key, value FROM meta WHERE key IN ('entries', 'bytes') ORDER BY key"
                assert whole.execute(totals).fetchall() == plain.execute(totals).fetchall()

    def check_deleted(self, key):
        self.snapshots.pop(key, None)
        for snapshot in self.snapshots.values():
            assert key not in snapshot["blobs"], f"{key} was deleted, but {snapshot['id']} refers to it"

    def check(self):
        """Every snapshot that is there has its manifest and all that it refers to."""
        known = self.objects.keys() | self.by_hand.keys()
        manifests = {key.rsplit(".", 4)[0] for key in known if key.endswith(".manifest.zst.age")}
        for key, snapshot in self.snapshots.items():
            if key in self.objects:
                assert key.rsplit(".", 4)[0] in manifests, f"the manifest of {snapshot['id']} is gone"
                for blob in snapshot["blobs"]:
                    assert blob in self.objects or blob in self.by_hand, f"{blob} of {snapshot['id']} is gone"

    def refers_to(self, sealed, prefix):
        """The blobs that a sealed snapshot DB names, read without vaultik's own reader, and whether it is complete."""
        with contextlib.closing(open_own(sealed, [self.identity])) as db:
            blobs = {prefix + blob_key(row[0]) for row in db.execute("SELECT hash FROM blobs")}
            (complete,) = db.execute("SELECT value FROM meta WHERE key = 'complete'").fetchone()
        return blobs, bool(complete)

    def rows(self, key, query):
        """What a query finds in a stored snapshot DB."""
        with contextlib.closing(self.open_db(key)) as db:
            return db.execute(query).fetchall()

    def open_db(self, key):
        """A stored snapshot DB, with what it builds on."""
        prefix = self.snapshots[key]["host"].prefix
        return open_whole(self.objects[key][0], [self.identity], lambda blob: self.objects[prefix + blob][0])

    def remove_by_hand(self, key):
        self.objects.pop(key)
        self.snapshots.pop(key, None)
        self.by_hand[key] = self.calls

    def restore(self, key):
        """Restore a snapshot by vaultik's own code and compare it with what was backed up, byte for byte."""
        assert self.restored(key) == self.snapshots[key]["files"]

    def restored(self, key):
        """What a snapshot gives back by vaultik's own code: names with their bytes."""
        snapshot = self.snapshots[key]
        host = snapshot["host"]
        with tempfile.TemporaryDirectory(dir=self.tmp) as folder:
            report = self.restore_into(Path(folder, "out"), snapshot["id"], prefix=host.prefix)
            assert report.damaged == report.failed == []
            return read_files(Path(f"{folder}/out{host.source}"))

    def restore_into(self, target, spec, *, prefix="", **asked):
        """Restore, or go on with a restore. Returns the report."""
        return restore_into(lambda: self.open_store(prefix), [self.identity], Asked(target, spec, **asked))

    def verify(self, state=None, *, identity=True, prefix="", **options):
        """Verify everything that is stored, and remember it in `state`. Returns the report."""
        with tempfile.TemporaryDirectory(dir=self.tmp) as folder:
            identities = [self.identity] if identity else []
            return verify_all(lambda: self.open_store(prefix), identities, state or Path(folder, "state"), **options)

    def stored_bytes(self):
        return sum(len(data) for data, _ in self.objects.values())

    def blobs(self):
        return [key for key in self.objects if BLOBS_PREFIX in key]


def read_files(folder):
    """The bytes of every file below a directory, by name."""
    return {
        os.path.relpath(os.path.join(at, name), folder): Path(at, name).read_bytes()
        for at, _, names in os.walk(folder)
        for name in names
        if not os.path.islink(os.path.join(at, name))
    }


def digest(data):
    return hashlib.sha256(data).digest()
