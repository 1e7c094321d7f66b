"""Backups, restores and verifications in this process, one step after the other as their tasks do them."""

import os

from vaultik.backup.commit import Outcome, commit_snapshot
from vaultik.backup.session import Session
from vaultik.config import load_config
from vaultik.errors import VaultikError
from vaultik.index import bundles, runs
from vaultik.maintain.verify import VerifySession
from vaultik.maintain.verify_request import parse_verify_request
from vaultik.restore.session import RestoreSession
from vaultik.targets.spool import SpoolTarget
from vaultik.targets.store import StoreTarget


def chunk(session, bundle):
    """As the task ChunkFile does."""
    session.chunk(bundle)


def seal(session, bundle):
    """As the task SealBlob does."""
    session.seal(bundle, lambda path: SpoolTarget(path).exists())


def upload(session, bundle):
    """As the task UploadBlob does."""
    session.upload(bundle, lambda key, size: not session.put_only and StoreTarget(session.store(), key, size).exists())


def restore_into(open_store, identities, asked):
    """Restore, or go on with a restore. Returns the report."""
    session = RestoreSession(open_store, identities, asked)
    try:
        session.begin()
        if not session.is_done("snapshot"):
            session.fetch_snapshot()
        if not session.is_finished():
            session.compare()
        while True:
            while (wave := session.next_wave()) is not None:
                for blob in session.wave_blobs(wave):
                    session.restore_blob(blob)
            if session.has_looked():
                break
            session.look_elsewhere()
        session.finish()
        report = session.report()
        session.end(report)
    except VaultikError:
        session.abandon()
        raise
    else:
        return report
    finally:
        session.leave()


def verify_all(open_store, identities, state, **options):
    """Verify everything that is stored, and remember it in `state`. Returns the report."""
    session = VerifySession(open_store, identities, parse_verify_request(state=state, **options))
    try:
        session.look()
        session.read()
        session.trace()
        return session.report()
    finally:
        session.remove()


class Run:
    """One run."""

    def __init__(self, site, changes=None):
        self.notices = []
        self.session = Session(
            load_config(site.config), host="here", run_id=os.urandom(4).hex(), changes=changes, emit=self._emit
        )
        self.session.begin()

    def _emit(self, **event):
        if "notice" in event:
            self.notices.append(event["notice"])

    def all(self):
        """Scan and all the rest. Returns the run's row."""
        self.session.scan()
        self.rest()
        index = self.session.index()
        row = runs.find_run(index, self.session.run_id)
        self.session.close()
        return row

    def rest(self):
        attempt = 0
        while True:
            while (wave := self.session.next_wave()) is not None:
                for bundle in bundles.wave_bundles(self.session.index(), self.session.run, wave):
                    # What an interrupted run has done of it is done.
                    state = bundles.get_bundle(self.session.index(), bundle).state
                    for step in (chunk, seal, upload)[state:]:
                        step(self.session, bundle)
            if commit_snapshot(self.session, attempt) == Outcome.COMMITTED:
                break
            attempt += 1
            assert attempt < 5
        self.session.finish()
        problems = runs.get_problems(self.session.index(), self.session.run)
        self.session.close()
        return problems
