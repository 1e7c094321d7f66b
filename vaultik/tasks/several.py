"""Parameters that hold several texts, under a command that takes each option once and the last of them.

What is misread here selects what `--delete` removes, so nothing is guessed: a JSON list, or an error.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

import luigi

from vaultik.errors import ConfigError


class Several(luigi.Parameter[Any]):
    """A JSON list of texts; what is none is kept as it is, for `check_lists` to say so in a line."""

    def parse(self, text: str) -> object:
        """Read what the command line or luigi.cfg has."""
        with suppress(ValueError):
            return self.normalize(json.loads(text))
        return text

    def serialize(self, value: object) -> str:
        """Return what `parse` reads again."""
        return json.dumps(value)

    def normalize(self, value: object) -> object:
        """Return what can be a key."""
        return tuple(value) if isinstance(value, list) else value


def check_lists(task: luigi.Task) -> None:
    """Check whatever of a task's parameters is `Several`.

    Raises:
        ConfigError: one is no list of texts, has an empty one, or was given more than once.
    """
    for name, parameter in task.get_params():
        if not isinstance(parameter, Several):
            continue
        option = "--" + name.replace("_", "-")
        hint = f"""such as {option} '["one", "another"]'"""
        given = _given(option)
        if len(given) > 1:
            raise ConfigError(f"{option}: given {len(given)} times, and Luigi takes an option once", hint=hint)
        texts = getattr(task, name)
        if not isinstance(texts, tuple) or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{option} {texts}: not a JSON list of texts", hint=hint)
        # Luigi takes an empty value, of a variable that isn't set, for none.
        if "" in texts or "" in given:
            raise ConfigError(f"{option}: empty", hint=hint)


def _given(option: str) -> list[str]:
    """Return what an option was given on this process's command line, also by the beginning of its name."""
    found = []
    for argument, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, equals, value = argument.replace("--Restore-", "--", 1).partition("=")
        if len(name) > len("--") and option.startswith(name):
            found.append(value if equals else following)
    return found
