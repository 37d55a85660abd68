"""A disk or a database that fails is told apart, and when it works again so do the sessions."""

from __future__ import annotations

import sqlite3

import pytest

from moltbot_context.adapters.sqlite_sessions import SqliteSessions
from moltbot_context.turns import StoredMessage, Turn
from moltbot_mesh.errors import DataLoss, ResourceExhausted, Unavailable


class Failing:
    """A connection that fails one statement, as a full or broken disk does."""

    def __init__(
        self, db: sqlite3.Connection, statement: str, error: str, code: int, *, rolled_back: bool = False
    ) -> None:
        self._db = db
        self._statement = statement
        self._error = error
        self._code = code
        self._rolled_back = rolled_back
        self.left = 1

    def execute(self, statement, *args):
        if self.left and statement.startswith(self._statement):
            self.left -= 1
            if self._rolled_back:  # SQLite does so by itself on some errors
                self._db.execute("ROLLBACK")
            error = sqlite3.OperationalError(self._error)
            error.sqlite_errorcode = self._code
            raise error
        return self._db.execute(statement, *args)

    def __getattr__(self, name):
        return getattr(self._db, name)


def turn(turn_id: str) -> Turn:
    return Turn(turn_id, (StoredMessage("user", "hello"),), "r-1", "m")


@pytest.fixture
async def sessions(tmp_path):
    found = SqliteSessions(tmp_path / "sessions.sqlite", 100)
    async with found.open():
        yield found


@pytest.mark.parametrize("statement", ["COMMIT", "INSERT INTO turns"])
@pytest.mark.parametrize("rolled_back", [False, True], ids=["transaction open", "rolled back"])
async def test_a_full_disk_refuses_one_turn_and_takes_the_next(sessions, statement, rolled_back):
    db = sessions._write_db
    sessions._write_db = Failing(db, statement, "disk is full", sqlite3.SQLITE_FULL, rolled_back=rolled_back)
    with pytest.raises(ResourceExhausted, match="disk is full"):
        await sessions.append("acme", "s", turn("t-1"))
    await sessions.append("acme", "s", turn("t-2"))
    assert [one.turn_id for one in await sessions.turns("acme", "s", 10, 0)] == ["t-2"]


async def test_a_database_that_is_locked_may_be_asked_again(sessions):
    sessions._write_db = Failing(sessions._write_db, "BEGIN", "database is locked", sqlite3.SQLITE_BUSY)
    with pytest.raises(Unavailable):
        await sessions.append("acme", "s", turn("t-1"))
    await sessions.append("acme", "s", turn("t-1"))


async def test_a_read_that_fails_tells_nothing_of_the_database(sessions):
    sessions._read_db = Failing(sessions._read_db, "SELECT", "disk I/O error", sqlite3.SQLITE_IOERR)
    with pytest.raises(Unavailable) as raised:
        await sessions.get("acme", "s")
    assert "SELECT" not in raised.value.message
    assert isinstance(raised.value.__cause__, sqlite3.OperationalError)


async def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "sessions.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DataLoss, match=r"sessions\.sqlite"):
        async with SqliteSessions(tmp_path / "sessions.sqlite", 100).open():
            pass
