"""SSHSIG: what is signed here ssh-keygen believes, and the other way round; what is not quite right nobody does."""

import base64
import subprocess
import textwrap

import pytest

from vaultik.core.sshsig import SigningKey, check, generate_signing_key, parse_signers, public_line
from vaultik.errors import ConfigError, SignatureError

NAMESPACE = "vaultik-manifest-v1"
MESSAGE = [b'{"blobs":[', b'],"format":1}', b"\n"]


@pytest.fixture
def key():
    return SigningKey(generate_signing_key()[0])


def believed(key, principals="web-1", options=""):
    return parse_signers(f"{principals} {options} {public_line(key.public)} comment\n")


def keygen(*arguments, code=0, **kwargs):
    done = subprocess.run(["ssh-keygen", *map(str, arguments)], capture_output=True, check=False, **kwargs)
    assert done.returncode == code, done
    return done


def armored(line):
    body = "\n".join(textwrap.wrap(line.decode(), 70))
    return f"-----BEGIN SSH SIGNATURE-----\n{body}\n-----END SSH SIGNATURE-----\n"


class TestWithSshKeygen:
    def test_it_believes_what_is_signed_here(self, key, tmp_path):
        (tmp_path / "sig").write_text(armored(key.sign(NAMESPACE, MESSAGE)))
        (tmp_path / "allowed").write_text(f'web-1 namespaces="{NAMESPACE}" {public_line(key.public)}\n')
        verify = ["-Y", "verify", "-f", tmp_path / "allowed", "-I", "web-1", "-n", NAMESPACE, "-s", tmp_path / "sig"]
        keygen(*verify, input=b"".join(MESSAGE))
        keygen(*verify, input=b"another\n", code=255)

    def test_what_it_signs_is_believed_here(self, tmp_path):
        keygen("-t", "ed25519", "-N", "", "-q", "-f", tmp_path / "key")
        signed = keygen("-Y", "sign", "-f", tmp_path / "key", "-n", NAMESPACE, "-q", input=b"".join(MESSAGE)).stdout
        line = b"".join(signed.splitlines()[1:-1])
        signers = parse_signers(f"web-* {(tmp_path / 'key.pub').read_text()}")
        assert check([line], NAMESPACE, MESSAGE, signers, "web-1") == signers[0]
        again = SigningKey((tmp_path / "key").read_bytes())
        assert again.sign(NAMESPACE, MESSAGE) == line, "ed25519 signatures are deterministic"

    def test_a_new_key_is_one_to_it(self, tmp_path):
        text, public = generate_signing_key()
        (tmp_path / "key").write_bytes(text)
        (tmp_path / "key").chmod(0o600)
        assert keygen("-y", "-f", tmp_path / "key").stdout.decode().strip() == public_line(public)

    @pytest.mark.parametrize("kind", [["-t", "rsa", "-b", "2048"], ["-t", "ecdsa"]])
    def test_keys_of_other_kinds_sign_nothing(self, kind, tmp_path):
        keygen(*kind, "-N", "", "-q", "-f", tmp_path / "key")
        with pytest.raises(ConfigError, match="not an ed25519 key"):
            SigningKey((tmp_path / "key").read_bytes())
        with pytest.raises(ConfigError, match="no ssh-ed25519 key"):
            parse_signers(f"* {(tmp_path / 'key.pub').read_text()}")

    def test_a_key_with_a_passphrase(self, tmp_path):
        keygen("-t", "ed25519", "-N", "secret", "-q", "-f", tmp_path / "key")
        with pytest.raises(ConfigError, match="without a passphrase"):
            SigningKey((tmp_path / "key").read_bytes())


class TestWhatIsNotRight:
    def test_every_bit_of_a_signature(self, key):
        line = key.sign(NAMESPACE, MESSAGE)
        assert check([b"AAAA", line], NAMESPACE, MESSAGE, believed(key), "web-1").public == key.public
        data = bytearray(base64.b64decode(line))
        for bit in range(8 * len(data)):
            data[bit // 8] ^= 1 << bit % 8
            with pytest.raises(SignatureError):
                check([base64.b64encode(data)], NAMESPACE, MESSAGE, believed(key), "web-1")
            data[bit // 8] ^= 1 << bit % 8

    @pytest.mark.parametrize("length", range(0, 180, 7))
    def test_every_length(self, key, length):
        line = base64.b64encode(base64.b64decode(key.sign(NAMESPACE, MESSAGE))[:length])
        with pytest.raises(SignatureError):
            check([line], NAMESPACE, MESSAGE, believed(key), "web-1")

    def test_another_message_namespace_or_key(self, key):
        line = key.sign(NAMESPACE, MESSAGE)
        other = SigningKey(generate_signing_key()[0])
        for signatures, message, signers in (
            ([line], [b"another"], believed(key)),
            ([key.sign("file", MESSAGE)], MESSAGE, believed(key)),
            ([line], MESSAGE, believed(other)),
            ([], MESSAGE, believed(key)),
            ([b"!"], MESSAGE, believed(key)),
        ):
            with pytest.raises(SignatureError):
                check(signatures, NAMESPACE, message, signers, "web-1")

    @pytest.mark.parametrize(
        ("principals", "options", "fits"),
        [
            ("web-1", "", True),
            ("web-?", "", True),
            ("*", "", True),
            ("db-1,web-1", "", True),
            ("db-1", "", False),
            ("web-1x", "", False),
            ("web.1", "", False),
            ("*,!web-1", "", False),
            ("!web-1", "", False),
            ("*", f'namespaces="{NAMESPACE}"', True),
            ("*", 'namespaces="git,vaultik-*"', True),
            ("*", 'namespaces="git"', False),
        ],
    )
    def test_in_whose_name_and_for_what(self, key, principals, options, fits):
        line = key.sign(NAMESPACE, MESSAGE)
        signers = believed(key, principals, options)
        if fits:
            assert check([line], NAMESPACE, MESSAGE, signers, "web-1")
        else:
            with pytest.raises(SignatureError):
                check([line], NAMESPACE, MESSAGE, signers, "web-1")

    @pytest.mark.parametrize(
        "line",
        [
            "web-1",
            "web-1 ssh-ed25519",
            "web-1 ssh-ed25519 !!!!",
            "web-1 ssh-ed25519 AAAA",
            "web-1 nothing at all",
            "web-1 cert-authority ssh-ed25519 AAAA",
            'web-1 valid-before="20300101" ssh-ed25519 AAAA',
            f'web-1 namespaces="git",namespaces="{NAMESPACE}" ssh-ed25519 AAAA',
            'web-1 namespaces="open ssh-ed25519 AAAA',
            "",
            "# a comment only",
        ],
    )
    def test_files_that_say_nothing_or_too_much(self, line):
        with pytest.raises(ConfigError):
            parse_signers(line)

    @pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
    def test_a_comment_ends_with_its_line_and_nothing_else(self, key, end):
        """What Python takes for an end of a line, ssh-keygen doesn't."""
        with pytest.raises(ConfigError, match="no ssh-ed25519 key"):
            parse_signers(f"# once there was{end}* {public_line(key.public)}\n")

    def test_the_key_is_never_shown(self):
        text, public = generate_signing_key()
        key = SigningKey(text)
        assert repr(key) == f"SigningKey({public_line(public)})"
        broken = text.replace(b"\n", b"\nA", 2)
        with pytest.raises(ConfigError) as caught:
            SigningKey(broken)
        assert text.splitlines()[2].decode() not in str(caught.value)
        assert caught.value.__cause__ is None
