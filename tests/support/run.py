"""A backup in this process, one step after the other, so that a test can act in between."""

import os

from vaultik.backup.commit import Outcome, commit_snapshot
from vaultik.backup.session import Session
from vaultik.config import load_config
from vaultik.index import bundles, runs
from vaultik.targets.spool import SpoolTarget
from vaultik.targets.store import StoreTarget


def seal(session, bundle):
    """As the task SealBlob does."""
    session.seal(bundle, lambda path: SpoolTarget(path).exists())


def upload(session, bundle):
    """As the task UploadBlob does."""
    session.upload(bundle, lambda key, size: not session.put_only and StoreTarget(session.store(), key, size).exists())


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
                    self.session.chunk(bundle)
                    seal(self.session, bundle)
                    upload(self.session, bundle)
            if commit_snapshot(self.session, attempt) == Outcome.COMMITTED:
                break
            attempt += 1
            assert attempt < 5
        self.session.finish()
        problems = runs.get_problems(self.session.index(), self.session.run)
        self.session.close()
        return problems
