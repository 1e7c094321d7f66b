"""`vaultik init`: a commented configuration file, and systemd units for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from vaultik.cli.common import json_option, printable
from vaultik.errors import ConfigError

EPILOG = """\b
Example:
  vaultik init /etc/vaultik.yaml
  vaultik init /etc/vaultik.yaml --systemd     # later, when it is filled in
\b
Exit codes: 0 done; 2 a file is there already or can't be written.
"""

TEMPLATE = """\
# vaultik: what this host backs up, for whom, and where to. `vaultik check THIS_FILE` tries it.

# Directories (or single files) to back up. Absolute; none below another.
source_dirs:
  - /etc
  - /home

# Who can read the backups: age recipients. The identity that belongs to one must not be on this host.
# `vaultik keygen -o FILE`, elsewhere, makes a pair and prints the recipient.
age_recipient: age1...
# More of them; every backup can be opened by each.
#age_recipients: []
# May open lists of blobs, for a host that prunes and verifies, but no file name and no data.
#audit_recipient: age1...
# Signs every snapshot: an OpenSSH ed25519 key without a passphrase (`vaultik keygen --signing`, or this host's own).
#signing_key: /etc/ssh/ssh_host_ed25519_key

s3:
  # URL of the S3 endpoint; left out: AWS. file:///srv/backup is a directory store, a bucket a folder under it.
  endpoint: https://s3.example.org
  bucket: my-backups
  # Put before every object's name. One per host keeps hosts apart.
  prefix: host1/
  # Left out: boto3's own chain (environment, ~/.aws, instance role).
  #access_key_id: ...
  #secret_access_key: ...
  # Instead of secret_access_key: a file that holds it alone, such as systemd's or an orchestrator's.
  #secret_access_key_file: /etc/vaultik.secret
  #region: us-east-1
  # put_only: the credential can only put; nothing else is tried.
  #access: full
  # How the bucket stands in the URL: path or virtual (its host name). Left out: boto3's own setting, else path.
  #addressing: path
  # false for S3 clones that refuse checksums.
  #checksums: true
  # Object Lock, where the bucket has it: nobody can delete what is put for so long. `vaultik prune --extend-lock` renews it.
  #lock: {mode: governance, days: 30}

# What stays out: the rules of .gitignore, anchored patterns count from /.
#exclude:
#  - "*.tmp"
#  - /home/*/.cache/
# Leave out what lies in directories with a CACHEDIR.TAG, or with a file of one of these names.
#exclude_caches: false
#exclude_if_present: [.nobackup]
# Leave out files and directories with the flag of `chattr +d`.
#exclude_nodump: false
# Don't go into other file systems mounted below a source.
#one_file_system: false

# What this host remembers between runs. A cache on a local disk: losing it costs a full upload, never a backup.
#index_path: /var/lib/vaultik/index.sqlite
# Sealed blobs on their way out; needs room for workers + 1 of them. Left out: spool/ beside the index.
#spool_dir: /var/lib/vaultik/spool
# Where snapshots stand under the prefix.
#index_prefix: index/

# Average chunk and largest blob. Changing chunk_size uploads everything again.
#chunk_size: 1MiB
#blob_size_limit: 256MB
# zstd, 1 to 19.
#compression_level: 3
# Luigi processes; left out: as many as the work merits.
#workers: 2

# How often the daemon runs, scans everything, and the least time between runs.
#backup_interval: 1h
#full_scan_interval: 24h
#min_time_between_run: 15m

# Commands whose output becomes a file of the snapshot; a failing one leaves the file as it was, and exit code 3.
#commands:
#  - name: /dumps/shop.sql
#    command: [pg_dump, --no-password, shop]   # or a line for the shell
#    timeout: 24h

# Run around each backup: lines for the shell, or [program, argument]. A failing one before it stops it.
#hooks:
#  before: []
#  after_success: []
#  after_failure: []
#  timeout: 1h
# Told of beginning, success and failure, as healthchecks.io has it (URL/start, URL, URL/fail); or a section
# of start, success and failure with a URL each.
#notify: https://hc-ping.com/your-uuid
# Figures of the last run for Prometheus' node_exporter.
#metrics_path: /var/lib/node_exporter/vaultik.prom

# Bytes a second over all processes; or a section of times of day, such as 08:00-18:00: 1MB.
#upload_limit: 2MB
# 0 to 19, and best-effort or idle: how much a run gives way to others.
#nice: 10
#ionice: idle
"""


@click.command(epilog=EPILOG)
@click.argument("config", default="vaultik.yaml", type=click.Path(path_type=Path))
@click.option("--systemd", is_flag=True, help="Write systemd units for CONFIG, which is there and filled in.")
@click.option(
    "--directory", type=click.Path(path_type=Path), help="With --systemd: where units go (/etc/systemd/system)."
)
@click.option(
    "--name", help="With --systemd: what units' names begin with (vaultik); each config of a host needs its own."
)
@click.option("--force", is_flag=True, help="With --systemd: overwrite CONFIG's units that are there.")
@json_option
def init(config: Path, systemd: bool, directory: Path | None, name: str | None, force: bool, as_json: bool) -> None:
    """Write a commented configuration to CONFIG (default ./vaultik.yaml); never overwrites one."""
    if systemd:
        _write_units(config, directory, name, force=force, as_json=as_json)
        return
    if directory or name or force:
        raise click.UsageError("--directory, --name and --force go with --systemd")
    try:
        fd = os.open(config, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(TEMPLATE)
    except FileExistsError as exc:
        raise ConfigError(
            f"config {config}: exists already", hint="it is never overwritten; name another file"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"config {config}: {exc.strerror}") from exc
    if as_json:
        click.echo(json.dumps({"config": str(config)}))
        return
    shown = printable(os.fspath(config))
    click.echo(f"Wrote {shown}. Fill in source_dirs, age_recipient and s3, then: vaultik check {shown}")


def _write_units(config: Path, directory: Path | None, name: str | None, *, force: bool, as_json: bool) -> None:
    from vaultik.cli.systemd import DIRECTORY, NAME, write_units

    name = name or NAME
    units = write_units(config, directory or DIRECTORY, name=name, force=force)
    if as_json:
        click.echo(json.dumps({"units": [str(path) for path in units]}))
        return
    for path in units:
        click.echo(f"Wrote {printable(os.fspath(path))}")
    click.echo(f"Then: systemctl daemon-reload; systemctl enable --now {name}.service (or {name}-backup.timer)")
