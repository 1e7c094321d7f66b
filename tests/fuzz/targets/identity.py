"""Identity files and recipients: no identity shows in what is said of them."""

from tests.fuzz.mutation import havoc
from tests.fuzz.sealing import IDENTITIES, IDENTITY
from vaultik.core.identity import parse_identities
from vaultik.errors import IdentityError, RecipientError
from vaultik.recipients import check_recipient

DOCUMENTED = (IdentityError, RecipientError)
_SHOWN = 12
_TOKENS = (
    b"AGE-SECRET-KEY-1",
    b"age1",
    b"\n",
    b"#",
    b" ",
    b"\r",
    b"1",
    b"ssh-ed25519 ",
    b"age1pq1",
    b"\xed\xb2\x80",
    b"\xff",
    b"Q" * 60,
)


def seeds():
    recipient = IDENTITIES[0].recipient
    return [
        text.encode() for text in (f"# made\n{IDENTITY}\n", IDENTITY, recipient, IDENTITY.lower(), f"{IDENTITY}\n" * 20)
    ]


def mutate(data, rng):
    return havoc(data, rng, _TOKENS)[:10_000]


def target(data):
    text = data.decode(errors="surrogatepass" if data[:1] == b"#" else "surrogateescape") if _decodes(data) else ""
    failures = []
    for parse in (parse_identities, check_recipient):
        try:
            parse(text)
        except DOCUMENTED as exc:
            said = f"{exc} {exc.hint}".upper()
            secrets = {IDENTITY[at : at + _SHOWN] for at in range(17, len(IDENTITY) - _SHOWN)}
            assert not any(secret in said for secret in secrets), "a part of an identity is shown"
            failures.append(exc)
    if len(failures) == 2:
        raise failures[0]


def _decodes(data):
    try:
        data.decode(errors="surrogatepass" if data[:1] == b"#" else "surrogateescape")
    except UnicodeDecodeError:
        return False
    return True
