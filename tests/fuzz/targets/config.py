"""Configurations: a `Config` in which everything holds, or one line that shows no secret."""

import os

from tests.fuzz.folder import private_folder
from tests.fuzz.mutation import havoc, splice
from tests.fuzz.sealing import IDENTITIES, IDENTITY
from vaultik.config import iter_keys, load_config
from vaultik.errors import ConfigError
from vaultik.recipients import check_recipient

DOCUMENTED = (ConfigError,)
_VALUES = (
    "1h", "10", "true", "idle", "[/etc, /usr]", "'a*'", "/var/x", "1", "-1", "0", "1MiB", "99999999999999999999", "0x" + "f" * 5000, "1:59:59", ".inf", ".nan", "2001-01-01", "2001-99-99", "yes", "~",
    "''", '"\\ud800"', '"\\U00110000"', '"\\0"', '"\\udc80"', "[]", "{}", "[a, b]", "{a: b}", "/", "/a/../b", "//x", "*a", "&a [x, x]",
    "!!int ''", "!!float x", "!!bool x", "!!timestamp x", "!!binary '='", "!!set {a}", "!!omap [a: b]", "!!str [a]", "!foo x", "!!null x",
    "<<", "=", "10MB/s", "{'08:00-18:00': 1MB}", "http://[::1", "https://u:p@h/x", "file:///x", "'[z-a]'", "'[[:alpha:]'", "'**/**/x'", IDENTITY,
)  # fmt: skip
_FITTING = (
    ("backup_interval", "2h"), ("full_scan_interval", "7d"), ("min_time_between_run", "0"), ("nice", "19"), ("ionice", "best-effort"),
    ("chunk_size", "64KiB"), ("blob_size_limit", "1GB"), ("workers", "2"), ("exclude", "['a*', '!b', '/etc/**/c']"), ("source_dirs", "[/a/../b, /c/]"),
    ("one_file_system", "true"), ("exclude_if_present", "[.nobackup]"), ("index_prefix", "x/y"), ("prefix", "p"), ("endpoint", "'https://[::1]:9'"),
    ("spool_dir", '"/x\\udc80"'), ("upload_limit", "2MB/s"), ("notify", "'https://hc.example.org/x'"), ("metrics_path", "/x.prom"),
    ("commands", "[{name: /d/x, command: a b}]"), ("hooks", "{before: [a b], timeout: 0}"), ("region", "~"), ("compression_level", "0x10"),
)  # fmt: skip
"""Keys with values that they may have."""
_KEYS = tuple(key.rpartition(".")[2] for key in iter_keys())
_TOKENS = tuple(
    text.encode("utf-8", "surrogatepass")
    for text in (*_VALUES, ": ", "- ", "? ", "\n", "\n  ", "---\n", "...\n", "%YAML 1.2\n", "<<: *a\n", "&a ", "*a", "|\n", ">-\n", "\t", "\x85", "\u2028", "\ufeff", "\x07", "[" * 100, "{" * 100)
)  # fmt: skip


def seeds():
    recipient = IDENTITIES[0].recipient
    small = f"source_dirs: [/etc]\nage_recipient: {recipient}\ns3: {{endpoint: 'file:///x', bucket: b}}\n"
    large = f"""# everything
source_dirs:
  - /etc
  - /home
s3:
  endpoint: https://s3.example.org
  bucket: b
  prefix: host/
  access_key_id: a
  secret_access_key: s
  region: r
  addressing: path
exclude: ["*.tmp", "/home/*/.cache", "!keep", "[a-z]x"]
age_recipients: [{recipient}]
audit_recipient: {recipient}
backup_interval: 1h
chunk_size: 1MiB
blob_size_limit: 256MB
index_path: /var/lib/x/index.sqlite
commands: [{{name: /dumps/db.sql, command: [pg_dump, x], timeout: 1h}}]
hooks: {{before: ["true"], after_failure: [[/bin/x, y]], timeout: 60s}}
notify: {{success: "https://hc.example.org/x", failure: "https://hc.example.org/y"}}
metrics_path: /var/lib/x.prom
upload_limit: {{"08:00-18:00": 2MB, "22:00-03:00": 1MB}}
nice: 10
ionice: idle
"""
    laughs = "a: &a [x, x]\n" + "".join(
        f"{n}: &{n} [*{p}, *{p}, *{p}, *{p}]\n" for p, n in zip("abcdefghi", "bcdefghij", strict=True)
    )
    return [
        text.encode()
        for text in (
            small,
            large,
            small + laughs,
            small + "x: " + "[" * 200,
            small + "m: &m {a: b}\nn: {<<: [*m, *m]}\n",
        )
    ]


def mutate(data, rng):
    """Blind changes, lines of known keys with values of all kinds, pieces of other configs."""
    match rng.randrange(6):
        case 0:
            return splice(data, rng.choice(seeds()), rng)
        case 1 | 2 | 3:
            lines = data.split(b"\n")
            key, value = rng.choice(_FITTING) if rng.random() < 0.5 else (rng.choice(_KEYS), rng.choice(_VALUES))
            old = [n for n, text in enumerate(lines) if text.strip().startswith(key.encode() + b":")]
            at = rng.choice(old) if old else rng.choice((0, len(lines)))
            indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())] if old else b""
            line = f"{key}: {value}" if rng.random() < 0.95 else f"? {value}\n: {key}"
            lines[at : at + len(old[:1])] = [indent + line.encode()]
            return b"\n".join(lines)[: 1 << 16]
    return havoc(data, rng, _TOKENS)[: 1 << 16]


_FOLDER = private_folder()


def target(data):
    path = _FOLDER / "c.yaml"
    path.write_bytes(data)
    try:
        config = load_config(path)
    except ConfigError as exc:
        said = f"{exc} {exc.hint}".upper()
        assert IDENTITY[20:40] not in said, "an identity is shown"
        raise
    assert config.source_dirs
    for source in config.source_dirs:
        assert source.startswith(b"/")
        assert b"\0" not in source
        assert os.path.normpath(source) == source
    assert all(check_recipient(text) == text for text in config.recipients)
    assert config.recipients
    assert config.backup_interval > 0
    for text in (config.s3.prefix, config.index_prefix, str(config.index_path), str(config.spool_dir), *config.exclude):
        assert b"\0" not in os.fsencode(text)
