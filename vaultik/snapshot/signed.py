"""Who signed a snapshot: the line of its manifest that vouches for everything else (FORMAT.md, "Manifest")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.core import manifest, sshsig
from vaultik.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaultik.core.sshsig import Signer
    from vaultik.snapshot.find import FoundSnapshot


def check_signed(found: FoundSnapshot, facts: manifest.Manifest, signers: Sequence[Signer]) -> Signer:
    """Check that a manifest is signed in its host's name, and that it vouches for the DB that stands beside it; return by whom.

    Raises:
        SignatureError: it isn't, or doesn't.
    """
    what = f"manifest of {found.name.snapshot}"
    try:
        signer = sshsig.check(facts.signatures, manifest.NAMESPACE, manifest.iter_signed(facts), signers, facts.host)
    except SignatureError as exc:
        raise SignatureError(
            f"{what}: {exc}", hint="--signers names whom to believe; an older snapshot may be signed"
        ) from exc
    if facts.dbs != ((found.name.key, found.size_bytes),):
        raise SignatureError(f"{what}: what is signed names another DB than the one that is stored")
    return signer
