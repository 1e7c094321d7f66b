"""What somebody could store who has the bucket and the recipient: snapshot DBs of any content, well sealed."""

import contextlib
import dataclasses
import hashlib
import io
import sqlite3

from vaultik.core import manifest
from vaultik.core.age_seal import seal
from vaultik.core.age_stream import open_stream
from vaultik.core.frames import MAGIC_PADDING, FrameEncoder, decode_stream, skippable_frame
from vaultik.core.padding import padding_frame
from vaultik.secrets import load_identities


def open_db(site) -> bytes:
    """The newest snapshot DB as SQLite wrote it."""
    (path,) = site.objects(".sqlite.zst.age")[-1:]
    with path.open("rb") as file:
        return b"".join(decode_stream(open_stream(file, load_identities(site.key)), size_limit=1 << 30))


def put_db(site, plain: bytes, frame: bytes | None = None, padding: int = 0) -> None:
    """Put a DB in the newest one's place, under a name that its bytes fit."""
    (path,) = site.objects(".sqlite.zst.age")[-1:]
    frame = FrameEncoder(3).encode(plain) if frame is None else frame
    sealed = io.BytesIO()
    more = skippable_frame(MAGIC_PADDING, bytes(padding)) if padding else b""
    seal([frame, padding_frame(len(frame)), more], sealed, [site.recipient])
    snapshot = path.name.split(".")[0]
    path.unlink()
    name = f"{snapshot}.{hashlib.sha256(sealed.getvalue()).hexdigest()}.sqlite.zst.age"
    (path.parent / name).write_bytes(sealed.getvalue())


def forge(site, *statements: str, schema: bool = False, padding: int = 0) -> None:
    """Change the newest snapshot's DB by SQL."""
    plain = site.tmp / "forged.sqlite"
    plain.write_bytes(open_db(site))
    with contextlib.closing(sqlite3.connect(plain)) as db:
        if schema:
            db.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            db.execute(statement)
        db.commit()
        if not schema:
            db.execute("VACUUM")
    put_db(site, plain.read_bytes(), padding=padding)
    plain.unlink()


def forge_whole(site, *statements: str, blobs=None) -> None:
    """Change the newest snapshot's DB by SQL, and its manifest so that it names that, and other blobs if need be."""
    forge(site, *statements)
    (db,), (path,) = site.objects(".sqlite.zst.age")[-1:], site.objects(".manifest.zst.age")[-1:]
    with path.open("rb") as file:
        facts = manifest.decode(
            b"".join(decode_stream(open_stream(file, load_identities(site.key)), size_limit=1 << 20))
        )
    key = str(db.relative_to(site.store / site.bucket / site.prefix))
    text = manifest.encode(dataclasses.replace(facts, dbs=((key, db.stat().st_size),), blobs=blobs or facts.blobs))
    frame, sealed = FrameEncoder(3).encode(text), io.BytesIO()
    seal([frame, padding_frame(len(frame))], sealed, [site.recipient])
    path.unlink()
    name = f"{facts.snapshot}.{hashlib.sha256(sealed.getvalue()).hexdigest()}.manifest.zst.age"
    (path.parent / name).write_bytes(sealed.getvalue())
