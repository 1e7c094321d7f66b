"""Rows of an SQLite database as Luigi targets: a task is complete when its row is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import luigi

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence


class SQLiteTarget(luigi.Target):
    """The row that a query gives."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], query: str, params: Sequence[object] = ()) -> None:
        """Name a row.

        Args:
            connect: gives this process's connection.
            query: gives a row when what is meant has happened.
            params: of the query.
        """
        self._connect = connect
        self._query = query
        self._params = tuple(params)

    def exists(self) -> bool:
        """Tell whether the query gives a row.

        Raises:
            sqlite3.Error: the database can't be read.
        """
        return self._connect().execute(self._query, self._params).fetchone() is not None
