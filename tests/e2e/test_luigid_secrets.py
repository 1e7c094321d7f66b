"""What reaches a central luigid, by whatever way, holds nothing that isn't everybody's."""

import os
import signal

import luigi
import pytest
from luigi.parameter import ParameterVisibility

from tests.support.central import begin, fill, run
from tests.support.luigid import luigid, wiretap
from tests.support.site import Site
from vaultik import errors, tasks
from vaultik.tasks.build import PoliteWorker
from vaultik.tasks.luigid import Remote
from vaultik.tasks.visible import VisibleTask, failure

MARK = "Quokka"


STEPS = {"Backup", "ScanSource", "Wave", "ChunkFile", "SealBlob", "UploadBlob", "WriteSnapshotDB"}
PRIVATE = {
    "config",
    "bucket",
    "prefix",
    "endpoint",
    "region",
    "target",
    "state",
    "signers",
    "include",
    "exclude",
    "map_owner",
    "map_group",
}
"""What may hold a path or the name of a bucket. Luigi sends private parameters nowhere."""
PUBLIC = {
    "host",
    "run_id",
    "restore_id",
    "bundle",
    "number",
    "attempt",
    "blob",
    "snapshot",
    "dry_run",
    "exclusive",
    "allow_shrink",
    "checksum",
    "delete",
    "force",
}
PUBLIC |= {"drop", "forget_source", "grace"}
PUBLIC |= {"without", "numeric_ids", "no_owner"}
PUBLIC |= {"deep", "sample", "accept", "extend_lock", "salvage", "again"}
PUBLIC |= {f"keep_{kind}" for kind in ("last", "hourly", "daily", "weekly", "monthly", "yearly", "within")}


@pytest.fixture
def central(tmp_path_factory):
    with luigid(tmp_path_factory.mktemp("luigid")) as daemon:
        yield daemon


@pytest.mark.parametrize("name", tasks.__all__)
def test_no_task_tells_of_a_failure_in_its_own_words_nor_has_a_parameter_that_may_hold_a_path(name):
    task = getattr(tasks, name)
    assert task.on_failure is VisibleTask.on_failure
    for parameter, kind in task.get_params():
        if kind.visibility == ParameterVisibility.PRIVATE:
            assert parameter in PRIVATE
        else:
            assert parameter in PUBLIC


def test_of_an_error_its_class_is_told_and_what_the_class_means():
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.VaultikError) and kind is not errors.TaskFailedError:
            told = failure(kind(MARK, hint=MARK))
            assert told.startswith(f"{kind.__name__}: {kind.__doc__.splitlines()[0]}")
            assert MARK not in told
    assert failure(OSError(28, MARK, MARK)) == "OSError: ENOSPC. The host's own output tells more."
    assert failure(ValueError(MARK)) == "ValueError. The host's own output tells more."


def marked_host(tmp):
    """A host all of whose names, contents, places and credentials carry a mark."""
    tmp = tmp / f"{MARK}place"
    tmp.mkdir()
    site = Site(tmp, prefix=f"{MARK}prefix/", blob_size_limit="1MiB", chunk_size="64KiB")
    site.bucket = f"{MARK}bucket"
    store = {
        **site.settings["s3"],
        "bucket": site.bucket,
        "access_key_id": f"{MARK}id",
        "secret_access_key": f"{MARK}secret",
    }
    site.configure(s3=store)
    fill(site, 2)
    (site.source / f"{MARK}name").write_text(f"{MARK}content")
    (site.source / f"{MARK}unreadable").write_text("x")
    return site


class Broken(VisibleTask):
    """Fails where it is told to, with a marked error."""

    where = luigi.Parameter()

    def complete(self):
        if self.where == "complete":
            raise ValueError(f"{MARK}complete")
        return False

    def requires(self):
        if self.where == "requires":
            raise OSError(2, f"{MARK}requires", f"/{MARK}path")
        return []

    def run(self):
        if self.where == "run":
            raise OSError(28, f"{MARK}run", f"/{MARK}path")
        if self.where == "exit":
            os._exit(7)
        if self.where == "yield":
            yield Broken(where="complete")


def build_broken(tap, workers):
    class Factory:
        def create_remote_scheduler(self, url):
            return Remote(url, attempts=1)

        def create_worker(self, scheduler, worker_processes, assistant=False):
            return PoliteWorker(
                scheduler=scheduler,
                worker_processes=worker_processes,
                assistant=assistant,
                wait_interval=0.05,
                wait_jitter=0.0,
                check_complete_on_run=True,
                send_failure_email=False,
                no_install_shutdown_handler=True,
            )

    for where in ("complete", "requires", "run", "nothing", "yield", *(["exit"] if workers > 1 else [])):
        luigi.build(
            [Broken(where=where)],
            worker_scheduler_factory=Factory(),
            workers=workers,
            scheduler_url=tap.url,
            local_scheduler=False,
            log_level="CRITICAL",
        )


def test_nothing_marked_reaches_luigid(central, tmp_path):
    site = marked_host(tmp_path)
    store = site.settings["s3"]
    with wiretap(central.port) as tap:
        for way in (["backup"], ["luigi", "--workers", "2"]):
            run(site, tap.url, way)
            fill(site, 3)
            # Away, and then broken: the store's and the config's errors are full of marks.
            site.configure(s3={**store, "endpoint": f"http://127.0.0.1:9/{MARK}endpoint"})
            run(site, tap.url, way, code=1)
            site.configure(s3=store)
            spoil_store(site, tap, way)
        target = site.tmp / f"{MARK}target"
        where = ["--endpoint", site.endpoint, "--bucket", site.bucket, "--prefix", site.prefix]
        luigi_run(site, tap, "Restore", *where, "--target", target)
        for blob in site.blobs():
            blob.write_bytes(b"damaged")
        luigi_run(site, tap, "Restore", *where, "--target", f"{target}2", "--workers", "2", code=4)
        luigi_run(site, tap, "Prune", *where, "--grace", "0", "--keep-last", "1", code=None)
        site.blobs()[0].unlink()
        luigi_run(site, tap, "Prune", *where, "--grace", "0", "--keep-last", "1", code=None)
        for workers in (1, 2):
            build_broken(tap, workers)
        families = {task["name"] for task in central.tasks().values()}
        assert families >= STEPS | {
            "Restore",
            "RestoreBlob",
            "FetchSnapshotDB",
            "FinishTree",
            "Prune",
            "PlanPrune",
            "Broken",
        }
        assert central.tasks("FAILED")
        told = central.everything()
        heard = bytes(tap.heard).decode("latin-1")
    central.end(signal.SIGTERM)
    state = (central.folder / "state").read_bytes().decode("latin-1")
    assert "web-1" in told and "web-1" in heard and "web-1" in state
    assert MARK not in (central.folder / "log").read_text()
    for secret in (MARK, site.identity, site.recipient, "/tmp", "/site-packages", "Traceback", str(site.tmp)):
        for text in (told, heard, state):
            at = text.find(secret)
            assert at < 0, f"{secret}: ...{text[max(0, at - 300) : at + 100]}"


def spoil_store(site, tap, way):
    """A run that can't store its blobs: an error of another task, with a path in it."""
    blobs = site.store / site.bucket / site.prefix / "blobs"
    blobs.rename(blobs.with_name("aside"))
    blobs.write_text("no directory")
    run(site, tap.url, way, code=1)
    blobs.unlink()
    blobs.with_name("aside").rename(blobs)


def luigi_run(site, tap, *arguments, code=0):
    process = begin(site, tap.url, ["luigi", "--module", "vaultik.tasks", *map(str, arguments)])
    out, said = process.communicate(timeout=120)
    assert "Traceback" not in said
    assert code is None or process.returncode == code, f"{arguments}: {process.returncode} {out} {said}"
