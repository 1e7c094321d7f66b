"""Record in the index what came of a bundle's slices: content, changes, what vanished or can't be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.index import bundles, contents, entries, runs, streams, unreadable
from vaultik.index.contents import Content
from vaultik.model import Mark

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from vaultik.backup.pieces import Outcome
    from vaultik.index.bundles import Slice
    from vaultik.index.entries import Attributes


def record_slices(
    index: sqlite3.Connection, run: int, bundle: int, read: Iterable[tuple[Slice, Outcome, Sequence[tuple[int, int]]]]
) -> None:
    """Record a bundle's slices.

    Args:
        index: within a transaction.
        run: row id of the run that problems are noted for.
        bundle: the bundle's id.
        read: each slice with what the reader says of it and its content: (file offset, chunk row), ascending.
    """
    read = list(read)
    whole = [item for item in read if _is_whole(*item[:2])]
    contents.set_contents(index, [_whole_file(index, run, *item) for item in whole])
    for item in read:
        # One by one: a file is finished with the last of its slices, and two may be in here.
        if _is_whole(*item[:2]):
            continue
        if bundles.drop_piece(index, bundle, item[0].piece):
            _record_piece(index, run, *item)
        else:
            _record_remains(index, *item)
    bundles.drop_whole_pieces(index, bundle)


def _is_whole(part: Slice, outcome: Outcome) -> bool:
    return outcome.attributes is not None and part.piece.stop is None and not outcome.grown


def _whole_file(
    index: sqlite3.Connection, run: int, part: Slice, outcome: Outcome, content: Sequence[tuple[int, int]]
) -> Content:
    assert outcome.attributes is not None
    return _content(index, run, part, outcome.attributes, content, changed=outcome.changed, again=outcome.again)


def _content(
    index: sqlite3.Connection,
    run: int,
    part: Slice,
    found: Attributes,
    content: Sequence[tuple[int, int]],
    *,
    changed: bool,
    again: bool,
) -> Content:
    marks = part.marks & Mark.SOURCE
    if changed:
        marks |= Mark.CHANGED
        path = entries.path_of(index, part.piece.entry)
        runs.add_problem(index, run, runs.CHANGED, path, "changed while it was read")
    return Content(part.piece.entry, found, marks, again or changed, content)


def _record_piece(
    index: sqlite3.Connection, run: int, part: Slice, outcome: Outcome, content: Sequence[tuple[int, int]]
) -> None:
    """Record what came of an extent, or of a file that could not be read.

    Args:
        index: within a transaction, the piece no longer planned.
        run: row id of the run that problems are noted for.
        part: the slice.
        outcome: what the reader says of it.
        content: (file offset, chunk row), ascending.
    """
    entry, found = part.piece.entry, outcome.attributes
    if found is None:
        path = entries.path_of(index, entry)
        if outcome.is_stream:
            stands = "what it brought before stands for it" if streams.keep(index, entry) else "the snapshot has none"
            runs.add_problem(index, run, runs.UNREADABLE, path, f"{outcome.reason}; {stands}")
        elif outcome.reason is None:
            runs.add_problem(index, run, runs.VANISHED, path, "vanished since the scan")
            entries.remove_trees(index, [entry])
        else:
            _record_unreadable(index, run, entry, outcome.reason, content)
        return
    if outcome.grown:
        contents.plan_reread(index, entry, found)
        return
    changed = outcome.changed or contents.is_other_state(index, entry, found)
    if changed and contents.may_reread(index, entry):
        contents.plan_reread(index, entry, found)
        return
    fits = contents.add_extent(index, entry, content, changed=changed, again=outcome.again)
    is_last = contents.is_last_extent(index, entry)
    if not fits or (is_last and not contents.are_fitting(index, entry)):
        _record_misfit(index, run, entry, found)
    elif is_last:
        state = contents.extents_state(index, entry)
        # Nothing was read beyond what was planned; what is a hole at the end is part of the file all the same.
        size = max(state.end, min(found.size, state.planned_size))
        done = _content(index, run, part, found._replace(size=size), (), changed=state.is_dirty, again=state.again)
        contents.finish_extents(index, done)


def _record_misfit(index: sqlite3.Connection, run: int, entry: int, found: Attributes) -> None:
    """Read a file once more whose extents don't fit together; a second time it counts as unreadable."""
    if contents.may_reread(index, entry):
        contents.plan_reread(index, entry, found)
    else:
        _record_unreadable(index, run, entry, "what was read of its parts does not fit together", ())


def _record_unreadable(
    index: sqlite3.Connection, run: int, entry: int, reason: str, content: Sequence[tuple[int, int]]
) -> None:
    """Record that a file can't be read.

    One that was to be read only to be sealed afresh keeps what is stored of it. Of any other nothing is shown;
    `content`, what was read of it before the failure, is kept in store for the next try.
    """
    known = entries.find_known(index, entry)
    if known is None:
        return
    path = entries.path_of(index, entry)
    if unreadable.keep_content(index, known):
        runs.add_problem(index, run, runs.UNREADABLE, path, f"{reason} (what was stored of it before is kept)")
        return
    unreadable.give_up_content(index, known, content)
    runs.add_problem(index, run, runs.UNREADABLE, path, reason)


def _record_remains(
    index: sqlite3.Connection, part: Slice, outcome: Outcome, content: Sequence[tuple[int, int]]
) -> None:
    """Keep in store what was read of a file that another bundle found unreadable meanwhile."""
    known = entries.find_known(index, part.piece.entry)
    if known is not None and known.marks & Mark.UNREADABLE and outcome.attributes is not None:
        unreadable.add_remains(index, known.id, outcome.attributes.ctime_ns, content)
