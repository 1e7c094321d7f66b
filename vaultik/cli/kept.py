"""Options of what restores: which attributes come back, and in whose names."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from vaultik.restore.kept import parse_kept

if TYPE_CHECKING:
    from collections.abc import Callable

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
        keeps = parse_kept(map_owner, map_group, without, numeric=numeric_ids, no_owner=no_owner)
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
