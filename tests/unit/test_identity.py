"""Identity files, plain and under a passphrase, as they are read."""

import base64

import pyrage
import pytest

from tests.support.passphrase import seal
from vaultik.core.identity import generate, is_encrypted, open_identities, takes_passphrase
from vaultik.errors import IdentityError
from vaultik.secrets import load_identities

IDENTITY, RECIPIENT = generate()
TEXT = f"# created: now\n{IDENTITY}\n".encode()
SEALED = seal(TEXT, "pass")
ARMORED = seal(TEXT, "pass", armored=True)
FOR_A_KEY = pyrage.encrypt(TEXT, [pyrage.x25519.Recipient.from_str(RECIPIENT)])
BROKEN = ARMORED[:98]


def test_what_kind_of_file_it_is():
    assert [is_encrypted(data) for data in (TEXT, SEALED, ARMORED, b"\n" + ARMORED, FOR_A_KEY)] == [False] + [True] * 4
    assert all(takes_passphrase(data) for data in (SEALED, ARMORED, b"\r\n" + ARMORED.replace(b"\n", b"\r\n")))
    assert not any(takes_passphrase(data) for data in (FOR_A_KEY, BROKEN, b"", TEXT))


@pytest.mark.parametrize("data", [SEALED, ARMORED.replace(b"\n", b"\r\n")])
def test_its_passphrase_opens_it_and_nothing_else(data):
    assert open_identities(data, "pass") == TEXT
    for sealed, passphrase in ((data, "Pass"), (data[:-60], "pass")):
        with pytest.raises(IdentityError, match="not its passphrase, or it is damaged") as caught:
            open_identities(sealed, passphrase)
        assert caught.value.__context__ is None or caught.value.__suppress_context__


class TestLoading:
    @pytest.fixture
    def file(self, tmp_path, monkeypatch):
        monkeypatch.delenv("VAULTIK_PRIVATE_KEY", raising=False)
        return tmp_path / "key"

    def test_who_is_asked_is_told_what_for(self, file, monkeypatch):
        file.write_bytes(SEALED)
        asked = []
        (identity,) = load_identities(file, lambda what: asked.append(what) or "pass")
        assert identity.recipient == RECIPIENT
        monkeypatch.setenv("VAULTIK_PRIVATE_KEY", ARMORED.decode())
        (identity,) = load_identities(None, lambda what: asked.append(what) or "pass")
        assert identity.recipient == RECIPIENT
        assert asked == [f"identity file {file}", "VAULTIK_PRIVATE_KEY"]

    def test_a_plain_one_asks_nobody(self, file):
        file.write_bytes(TEXT)
        assert load_identities(file, pytest.fail)[0].recipient == RECIPIENT

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (SEALED, "it is encrypted with a passphrase, and nobody can be asked"),
            (FOR_A_KEY, "it is encrypted, and not with a passphrase"),
            (BROKEN, "it is encrypted, and not with a passphrase"),
            (seal(b"\xff\xfe", "pass"), "not a text file"),
            (seal(b"# nothing\n", "pass"), "none in it"),
            (b"\xff" + TEXT, "not a text file"),
            (b"ssh-ed25519 AAAA\n", "line 1 is no X25519 identity"),
            (base64.b64encode(b"x" * 60), "line 1 is no X25519 identity"),
        ],
        # The bytes are others each time, and every process must know the tests by the same names.
        ids=["sealed", "for a key", "broken", "binary inside", "nothing inside", "binary", "ssh", "base64"],
    )
    def test_one_that_can_not_be_used_is_named(self, file, data, words):
        file.write_bytes(data)
        with pytest.raises(IdentityError, match=f"identity file {file}: {words}") as caught:
            load_identities(file, None if data == SEALED else lambda _: "pass")
        assert IDENTITY[20:40] not in str(caught.value) + str(caught.value.hint)
