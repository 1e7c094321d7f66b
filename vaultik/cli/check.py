"""`vaultik check`: try everything that a backup needs, and say of each how it is."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from vaultik.backup.sources import check_source
from vaultik.cli.common import json_option, plural, printable
from vaultik.cli.progress import human_bytes
from vaultik.config import load_config
from vaultik.config.secret import secret_access_key
from vaultik.core.age_seal import seal
from vaultik.core.chunker import Chunker
from vaultik.core.names import blob_key
from vaultik.core.sshsig import public_line
from vaultik.directories import others_may_write
from vaultik.errors import ConfigError, LocalIndexError, SourceError, StoreError, VaultikError
from vaultik.model import BlobId
from vaultik.recipients import check_recipient
from vaultik.signing import load_signing_key
from vaultik.store.open import open_store
from vaultik.store.s3_policy import USES
from vaultik.store.s3_policy import policy as policy_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultik.config import Config
    from vaultik.store.base import Rights, Store

EPILOG = """\b
Example:
  vaultik check /etc/vaultik.yaml
\b
Puts one object, an empty age file under a blob's name, to try the right to, and once more over it; prune removes it.
Asks to delete one that isn't there. --policy prints what AWS, SeaweedFS and MinIO take: put-only and backup for the
credential of a host, restore (also for verify) and prune for others, bucket so that nobody replaces an object.
Exit codes: 0 all well (or warnings only); 2 configuration; 1 something else would fail.
"""

OK, WARN, FAIL = "ok", "warn", "FAIL"
_CLOCK_OFF_S = 3600
_WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")
_FEW_WATCHES = 65_536


class Finding(NamedTuple):
    """One thing that was tried."""

    what: str
    state: str
    text: str
    hint: str | None = None
    exit_code: int = 0


@click.command(epilog=EPILOG)
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    type=click.Choice(USES),
    help="Print the least policy for a credential of that use, or for the bucket, and try nothing.",
)
@json_option
def check(config: Path, policy: str | None, as_json: bool) -> None:
    """Try what CONFIG says: recipients, sources, index, spool, store and its rights, clock, limits."""
    settings = load_config(config)
    if policy is not None:
        click.echo(json.dumps(_policy(policy, settings), indent=2))
        return
    findings = [Finding("config", OK, str(config)), *(Finding("config", WARN, text) for text in settings.warnings)]
    for what, probe in _PROBES.items():
        findings += _tried(what, probe, settings)
    if as_json:
        click.echo(json.dumps([f._asdict() for f in findings]))
    else:
        for finding in findings:
            click.echo(f"{finding.state:4}  {finding.what}: {printable(finding.text)}")
            if finding.hint:
                click.echo(f"        hint: {printable(finding.hint)}")
    sys.exit(max((f.exit_code for f in findings), default=0))


def _policy(use: str, settings: Config) -> dict[str, object]:
    if settings.local_store is not None:
        raise ConfigError(
            f"--policy: {settings.local_store}: a directory has no policies",
            hint="who may do what there is a matter of its owner and mode",
        )
    return policy_for(use, settings.s3.bucket, settings.s3.prefix, locks=settings.s3.lock is not None)


def _tried(what: str, probe: Callable[[Config], list[Finding]], settings: Config) -> list[Finding]:
    try:
        return probe(settings)
    except VaultikError as exc:
        return [Finding(what, FAIL, str(exc), exc.hint, exc.exit_code)]


def _recipients(config: Config) -> list[Finding]:
    names = [check_recipient(text) for text in config.recipients]
    if config.audit_recipient:
        check_recipient(config.audit_recipient)
    return [Finding("recipients", OK, ", ".join(names))]


def _signing(config: Config) -> list[Finding]:
    if config.signing_key is None:
        return []
    from vaultik.tasks.settings import host_name

    key = load_signing_key(config.signing_key)
    found = [Finding("signing", OK, f"for --signers: {host_name()} {public_line(key.public)}")]
    if stat.S_IMODE(config.signing_key.stat().st_mode) & 0o077:
        hint = f"chmod 600 {config.signing_key}"
        found.append(Finding("signing", WARN, f"{config.signing_key}: others may read it, and sign as this host", hint))
    return found


def _chunker(config: Config) -> list[Finding]:
    Chunker(config.chunk_size)
    return [Finding("chunker", OK, "fastcdc's compiled module")]


def _sources(config: Config) -> list[Finding]:
    findings = []
    for source in config.source_dirs:
        shown = os.fsdecode(source)
        try:
            check_source(source)
        except SourceError as exc:
            findings.append(Finding("source", FAIL, str(exc).removeprefix("source "), exc.hint, exc.exit_code))
            continue
        if not os.access(source, os.R_OK):
            findings.append(Finding("source", WARN, f"{shown}: this user may not read it; run as root?"))
        else:
            findings.append(Finding("source", OK, shown))
    return findings


def _index(config: Config) -> list[Finding]:
    from vaultik.index.state import probe

    found = Finding("index", OK, f"{config.index_path}: {probe(config.index_path, config.path)}")
    return [found, *_planted("index", config.index_path.parent)]


def _spool(config: Config) -> list[Finding]:
    place = next(path for path in (config.spool_dir, *config.spool_dir.parents) if path.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise LocalIndexError(f"{config.spool_dir}: no right to write in {place}", hint="set spool_dir, or run as root")
    free, needed = shutil.disk_usage(place).free, ((config.workers or 2) + 1) * config.blob_size_limit
    text = f"{config.spool_dir}: {human_bytes(free)} free, up to {human_bytes(needed)} needed"
    if free < needed:
        return [Finding("spool", WARN, text, "set spool_dir to a larger disk, or blob_size_limit lower")]
    return [Finding("spool", OK, text), *_planted("spool", config.spool_dir)]


def _planted(what: str, directory: Path) -> list[Finding]:
    if directory.exists() and directory.stat().st_mode & stat.S_IWOTH:
        text, hint = (
            f"{directory}: everybody may write in it",
            "name a directory below it, which is made for this user alone",
        )
        return [Finding(what, FAIL, text, hint, LocalIndexError.exit_code)]
    if directory.exists() and others_may_write(directory):
        text = f"{directory}: others than this user may write in it, and put files of theirs in the place of vaultik's"
        return [Finding(what, WARN, text, f"chmod go-w {directory}, or chown it")]
    return []


def _commands(config: Config) -> list[Finding]:
    named = [(command.name, command.command) for command in config.commands]
    for kind in ("before", "after_success", "after_failure"):
        named += [(f"hooks.{kind}", command) for command in getattr(config.hooks, kind)]
    hint = "name its whole path: cron's PATH is short as well"
    missing = [
        Finding("commands", WARN, f"{what}: no program {command[0]}", hint)
        for what, command in named
        if shutil.which(command[0]) is None
    ]
    return missing or ([Finding("commands", OK, plural(len(named), "program") + " found")] if named else [])


def _metrics(config: Config) -> list[Finding]:
    if config.metrics_path is None:
        return []
    if not os.access(config.metrics_path.parent, os.W_OK | os.X_OK):
        hint = "make the directory, or let this user write in it"
        return [Finding("metrics", WARN, f"{config.metrics_path}: can't be written", hint)]
    return [Finding("metrics", OK, str(config.metrics_path))]


def _store(config: Config) -> list[Finding]:
    s3 = config.s3
    store = open_store(
        s3.endpoint,
        s3.bucket,
        s3.prefix,
        region=s3.region,
        access_key_id=s3.access_key_id,
        secret_access_key=secret_access_key(s3),
        put_only=s3.access == "put_only",
        checksums=s3.checksums,
        lock=(s3.lock.mode, s3.lock.days) if s3.lock else None,
        addressing=s3.addressing,
        create=True,
    )
    try:
        return [*_rights(store, config), _clock(store)]
    finally:
        store.close()


def _rights(store: Store, config: Config) -> list[Finding]:
    findings = []
    if config.s3.access == "full":
        store.children("")
        findings.append(Finding("store", OK, f"{store.location}: can be listed"))
    sealed = io.BytesIO()
    digest = seal([], sealed, config.recipients).sha256
    key, body = blob_key(BlobId(digest)), sealed.getvalue()
    store.put(key, body, sha256=digest)
    findings.append(Finding("store", OK, f"{store.location}: can be written"))
    is_conditional = not store.put(key, body, sha256=digest)
    rights = store.rights(key, body)
    return findings + (_credential(rights, config, is_conditional=is_conditional) if rights else [])


def _credential(rights: Rights, config: Config, *, is_conditional: bool) -> list[Finding]:
    """Say what the credential may do, and what a host had better not be able to do once somebody has taken it over."""
    has = [name for name in ("list", "get", "delete") if getattr(rights, name)]
    findings = [Finding("rights", OK, f"put{''.join(f', {name}' for name in has)}")]
    keeps = "what is deleted stays as an older version, unless the credential may delete those too"
    least = f"vaultik check {config.path} --policy {'put-only' if config.s3.access == 'put_only' else 'backup'}"
    if rights.delete_versions:
        findings.append(
            Finding(
                "rights", WARN, "can delete for good: so can whoever takes this host over", f"{least} prints the least"
            )
        )
    elif rights.delete:
        text = "can delete" + (f"; {keeps}" if rights.is_versioned else ": so can whoever takes this host over")
        findings.append(Finding("rights", WARN, text, f"{least} prints the least"))
    if rights.get:
        findings.append(Finding("rights", WARN, "can get: a backup needs no such right", f"{least} prints the least"))
    if rights.overwrite and not rights.is_versioned:
        hint = (
            "version the bucket, or give it the policy of --policy bucket"
            if is_conditional
            else "version or lock the bucket"
        )
        text = "can overwrite objects" if is_conditional else "the store doesn't know conditional puts"
        findings.append(Finding("rights", WARN, f"{text}: whoever takes this host over can spoil its backups", hint))
    elif rights.is_versioned:
        findings.append(
            Finding("rights", OK, "the bucket is versioned: what is overwritten stays behind the newest version")
        )
    return findings


def _clock(store: Store) -> Finding:
    off = store.now() - time.time()
    if abs(off) > _CLOCK_OFF_S:
        error = StoreError(f"this machine's clock and the store's differ by {off:.0f} s")
        return Finding("clock", FAIL, str(error), "set this machine's clock", error.exit_code)
    return Finding("clock", OK, f"{abs(off):.0f} s from the store's")


def _inotify(_config: Config) -> list[Finding]:
    watches = int(_WATCHES.read_text())
    if watches < _FEW_WATCHES:
        return [
            Finding(
                "inotify",
                WARN,
                f"{watches:,} watches at most",
                f"for the daemon: sysctl fs.inotify.max_user_watches={8 * _FEW_WATCHES}",
            )
        ]
    return [Finding("inotify", OK, f"{watches:,} watches at most")]


_PROBES: dict[str, Callable[[Config], list[Finding]]] = {
    "recipients": _recipients,
    "signing": _signing,
    "chunker": _chunker,
    "source": _sources,
    "index": _index,
    "spool": _spool,
    "commands": _commands,
    "metrics": _metrics,
    "store": _store,
    "inotify": _inotify,
}
