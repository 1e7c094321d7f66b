"""The steps of a backup one after the other in one process, without Luigi: what is left is Luigi's share.

python -m bench.direct CONFIG
"""

from __future__ import annotations

import sys
from pathlib import Path

from vaultik.backup.commit import Outcome, commit_snapshot
from vaultik.backup.session import Session
from vaultik.config import load_config
from vaultik.index import bundles


def main() -> None:
    """Back up."""
    session = Session(load_config(Path(sys.argv[1])), host="bench", run_id="direct")
    session.begin()
    session.scan()
    while (wave := session.next_wave()) is not None:
        for bundle in bundles.wave_bundles(session.index(), session.run, wave):
            session.chunk(bundle, threads=2)
            session.seal(bundle, Path.exists)
            session.upload(bundle, lambda _key, _size: False)
    if commit_snapshot(session, 0) != Outcome.COMMITTED:
        raise SystemExit("something was lost on the way")
    session.finish()
    session.end()


if __name__ == "__main__":
    main()
