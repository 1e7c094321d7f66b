"""The errors that vaultik raises, and what each means for the caller.

Its one job is the tree below. It knows nothing of where errors come from; foreign exceptions are
mapped to these where they enter (`raise ... from exc`), so that nothing else leaves a module.

    VaultikError                      exit 1
    +-- ConfigError                   exit 2   the configuration or a command-line value
    |   +-- RecipientError            exit 2   not a usable recipient
    |   +-- IdentityError             exit 2   no usable identity was given
    +-- SelectionError                exit 2   no such snapshot or path, or several
    +-- NoMatchingIdentityError       exit 2   the identity opens none of the object's stanzas
    +-- SourceError                   exit 1   the directories to back up
    |   +-- SourceChangedError        exit 1   a file changed while it was read
    +-- CommandError                  exit 1   a command that the config names failed
    +-- IntegrityError                exit 4   something stored is missing or damaged; never retried
    |   +-- FormatError               exit 4   bytes that don't follow FORMAT.md
    |   +-- AuthenticationError       exit 4   age refused a header or a segment
    |   +-- DigestMismatchError       exit 4   bytes that don't have the hash they should
    |   +-- SignatureError            exit 4   a manifest that nobody signed who should have
    +-- StoreError                    exit 1   the bucket or directory
    |   +-- ObjectNotFoundError       exit 1   no object of that name
    |   +-- StoreAccessError          exit 1   refused: credential, rights, no such bucket
    |   +-- StoreUnavailableError     exit 1   no answer after retries; trying later may help
    |   +-- LostBodyError             exit 1   the file to be put is gone or can't be read
    +-- PruneRefusedError             exit 1   nothing is deleted while that is so
    +-- LocalIndexError               exit 1   the index, its lock or the spool
    |   +-- IndexLockedError          exit 1   another run holds the lock
    +-- RestoreError                  exit 1   the target directory
    |   +-- UnsafePathError           exit 4   a name that would lead out of the target
    +-- TaskFailedError               its own  what a task in another process raised
"""

from __future__ import annotations

from typing import ClassVar


class VaultikError(Exception):
    """Base of every error that vaultik raises on purpose.

    The message is one line that names the thing and the reason; `hint`, where there is one, is
    the next line and says what to do.
    """

    exit_code: int = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(VaultikError):
    """The configuration or a command-line value can't be used."""

    exit_code = 2


class RecipientError(ConfigError):
    """A string is not a usable recipient."""


class IdentityError(ConfigError):
    """No usable identity was given."""


class SelectionError(VaultikError):
    """No snapshot or path fits what was asked for, or several do."""

    exit_code = 2


class NoMatchingIdentityError(VaultikError):
    """The identity opens none of the object's recipient stanzas."""

    exit_code = 2


class SourceError(VaultikError):
    """A directory or file to back up can't be used."""


class SourceChangedError(SourceError):
    """A file changed while it was read."""


class CommandError(VaultikError):
    """A command that the config names failed, or took too long."""


class IntegrityError(VaultikError):
    """Something stored is missing or damaged. Never retried, never a warning."""

    exit_code = 4
    layer: bytes | None = None
    """The id of the layer that it is, of a snapshot DB that builds on one: other snapshots may need it too."""


class FormatError(IntegrityError):
    """Bytes don't follow FORMAT.md."""


class MisplacedError(IntegrityError):
    """An object calls itself by a key that ends like its own: it is looked at under another prefix."""


class AuthenticationError(IntegrityError):
    """age refused a header or a segment."""


class DigestMismatchError(IntegrityError):
    """Bytes don't have the hash that they should have."""


class SignatureError(IntegrityError):
    """A manifest isn't signed by anybody who should have signed it."""


class StoreError(VaultikError):
    """The store failed."""


class ObjectNotFoundError(StoreError):
    """The store holds no object of that name."""


class StoreAccessError(StoreError):
    """The store refused: credential, rights or no such bucket."""


class StoreUnavailableError(StoreError):
    """The store gave no usable answer after retries."""

    retryable = True


class LostBodyError(StoreError):
    """The local file that was to be stored is gone, or can't be read."""


class PruneRefusedError(VaultikError):
    """A prune deletes nothing while that is so; the hint names the way out."""


class LocalIndexError(VaultikError):
    """The local index, its lock or the spool can't be used."""


class IndexLockedError(LocalIndexError):
    """Another run holds the index's lock."""


class RestoreError(VaultikError):
    """The target of a restore can't be used."""


class UnsafePathError(RestoreError):
    """A stored name would lead out of the target."""

    exit_code = 4


class TaskFailedError(VaultikError):
    """A task failed, maybe in another process: its error's message, hint and exit code."""

    def __init__(self, message: str, hint: str | None, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
