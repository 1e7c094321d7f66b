"""Options of what restores: which attributes come back, and in whose names."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from vaultik.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultik.restore.kept import Kept

F = TypeVar("F", bound="Callable[..., Any]")


def attribute_options(command: F) -> F:
    """Add the options; the command is called with what they say, as `keeps`."""

    @functools.wraps(command)
    def parsed(
        *args: Any,
        numeric_ids: bool,
        map_owner: tuple[str, ...],
        map_group: tuple[str, ...],
        no_owner: bool,
        without: tuple[str, ...],
        **kwargs: Any,
    ) -> Any:
        keeps = _kept(map_owner, map_group, without, numeric=numeric_ids, no_owner=no_owner)
        return command(*args, **kwargs, keeps=keeps)

    for option in (
        click.option(
            "--without",
            multiple=True,
            metavar="CLASS[,CLASS...]",
            help="Leave out what is of a class: owner, mode (ACLs too), times, xattrs, acls, flags. New files get what any"
            " new one gets, and an update doesn't compare it.",
        ),
        click.option("--no-owner", is_flag=True, help="The same as --without owner: what is restored is this user's."),
        click.option(
            "--map-group",
            multiple=True,
            metavar="OLD:NEW",
            help="The same for groups; may be repeated, as --map-owner.",
        ),
        click.option(
            "--map-owner",
            multiple=True,
            metavar="OLD:NEW",
            help="Give what was OLD's (a name or number, * for all) to NEW of this system; the first that fits holds.",
        ),
        click.option(
            "--numeric-ids", is_flag=True, help="Owners by their numbers (default: by name, where it is known here)."
        ),
    ):
        parsed = option(parsed)
    return cast("F", parsed)


def _kept(
    users: tuple[str, ...], groups: tuple[str, ...], without: tuple[str, ...], *, numeric: bool, no_owner: bool
) -> Kept:
    from vaultik.restore.kept import CLASSES, OWNER, Kept
    from vaultik.restore.owners import parse_owners

    left_out = {part.strip() for text in without for part in text.split(",")} | ({OWNER} if no_owner else set())
    for name in sorted(left_out):
        if name not in CLASSES:
            raise ConfigError(f"--without {name}: no class of attributes", hint=f"one of {', '.join(CLASSES)}")
    if OWNER in left_out and (numeric or users or groups):
        raise ConfigError("--no-owner: leaves nothing to map or number", hint="give one or the other")
    return Kept(parse_owners(users, groups, numeric=numeric), frozenset(left_out))
