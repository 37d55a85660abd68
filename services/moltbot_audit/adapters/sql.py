"""SQL over the whole log, by DuckDB: its Parquet files, and the newest records from the segments.

Whoever asks reads: a statement is one SELECT, in a database that reaches no file but those of the log, no network and
no extension, and whose settings are locked. It ends when it takes too long or too much memory.

Source: https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moltbot_audit.adapters import duck
from moltbot_audit.adapters.columns import VERSION
from moltbot_audit.adapters.parquet import write_missing
from moltbot_audit.parquet_files import covered, sealed
from moltbot_audit.segment import segments
from moltbot_mesh.errors import DeadlineExceeded, InvalidArgument, NotFound, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path
    from typing import Self

_MOST_BYTES = 16_384
_MOST_ROWS_AT_ONCE = 1000
_PATTERN = frozenset("*?[")
_NAMES_A_FILE = re.compile(r"\d{20}\.v\d+\.parquet")
_VIEWS = """
CREATE VIEW requests AS SELECT * FROM events WHERE type = 'request';
CREATE VIEW requests_per_day AS SELECT
    time::DATE AS day, tenant, model, count(*) AS requests,
    count(*) FILTER (outcome = 'success') AS succeeded, count(*) FILTER (outcome = 'refused') AS refused,
    count(*) FILTER (outcome = 'failed') AS failed, count(*) FILTER (outcome = 'cancelled') AS cancelled,
    sum(prompt_tokens)::BIGINT AS prompt_tokens, sum(completion_tokens)::BIGINT AS completion_tokens,
    round(quantile_cont(duration_us, 0.5) / 1000, 3) AS median_ms,
    round(quantile_cont(duration_us, 0.99) / 1000, 3) AS p99_ms
    FROM requests GROUP BY ALL ORDER BY ALL;
"""

_LOCKED = """
SET enable_external_access = false; SET python_enable_replacements = false; SET lock_configuration = true;
"""
"""In this order: nothing can be set behind the last one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement found."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]
    """To be read before the next statement."""


def check(statement: str) -> None:
    """Refuse what is not one SELECT, before anything is opened.

    Raises:
        InvalidArgument: It is not; or its syntax is wrong.
        FailedPrecondition: DuckDB is not installed.
    """
    try:
        size = len(statement.encode())  # in bytes: it stands in a record of the log, which has a bound
    except UnicodeEncodeError:
        raise InvalidArgument("the statement is not valid UTF-8") from None
    if size > _MOST_BYTES:
        raise InvalidArgument(f"the statement has {size} bytes; at most {_MOST_BYTES} are taken")
    with duck.connect(64, 1) as db, _translated():
        found = db.extract_statements(statement)
    if len(found) != 1 or found[0].type.name != "SELECT":
        raise InvalidArgument("one SELECT is asked for (also WITH, FROM, DESCRIBE, SUMMARIZE); nothing else is run")


class Analysis:
    """The log as it is now, to be asked by SQL. A context manager.

    Args:
        directory: The log's.
        timeout_s: How long a statement may take, in seconds.
        memory_mib: How much memory it may take.

    Raises:
        NotFound: There is no log.
        InvalidArgument: Its path is one that DuckDB cannot open.
        ResourceExhausted: The newest segment alone takes more memory.
        DataLoss: A sealed segment is damaged.
        FailedPrecondition: DuckDB is not installed.
        Unavailable: A Parquet file cannot be written.
    """

    def __init__(self, directory: Path, *, timeout_s: float = 60.0, memory_mib: int = 1024, threads: int = 2) -> None:
        if not segments(directory / "segments"):
            raise NotFound(f"{directory}: no audit log; name the right --data-dir")
        if _PATTERN & set(str(directory.absolute())):
            raise InvalidArgument(f"{directory}: DuckDB takes a path with * ? or [ for a pattern; reach it by another")
        self._timeout_s = timeout_s
        self._memory_mib = memory_mib
        files = _files(directory)
        self._db = duck.connect(memory_mib, threads)
        try:
            with _translated(memory_mib):
                self._open(directory, files)
        except BaseException:
            self._db.close()
            raise

    def _open(self, directory: Path, files: Sequence[tuple[int, str]]) -> None:
        db = self._db
        duck.make_table(db, "newest")
        behind = max((following for following, _ in files), default=0)
        found = segments(directory / "segments")
        for number, (first, path) in enumerate(found, 1):
            if first >= behind:
                duck.insert(db, "newest", duck.rows(path, first, torn=number == len(found)))
        names = [name for _, name in files]
        parts = ["FROM newest"]
        if names:
            db.execute("SET allowed_paths = $1", [names])
            listed = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
            parts.append(f"SELECT {', '.join(duck.COLUMNS)} FROM read_parquet([{listed}])")  # noqa: S608 - our own
        db.execute(f"CREATE VIEW events AS {' UNION ALL '.join(parts)}; {_VIEWS}")
        db.execute(_LOCKED)

    def run(self, statement: str) -> Answer:
        """Run a statement that `check` took.

        Raises:
            InvalidArgument: It is wrong, or reaches for what it must not.
            DeadlineExceeded: It took too long.
            ResourceExhausted: It took too much memory.
        """
        with self._bounded():
            self._db.execute(statement)
        columns = tuple(str(one[0]) for one in self._db.description or ())
        return Answer(columns, self._rows())

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        while True:
            with self._bounded():
                part = self._db.fetchmany(_MOST_ROWS_AT_ONCE)
            if not part:
                return
            yield from part

    @contextlib.contextmanager
    def _bounded(self) -> Generator[None]:
        late = threading.Event()

        def interrupt() -> None:
            late.set()
            self._db.interrupt()

        timer = threading.Timer(self._timeout_s, interrupt)
        timer.start()
        try:
            with _translated(self._memory_mib):
                yield
        except InvalidArgument:
            if late.is_set():
                raise DeadlineExceeded(
                    f"the statement took longer than {self._timeout_s:g} s; narrow it by time, or give --timeout"
                ) from None
            raise
        finally:
            timer.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()


def _files(directory: Path) -> list[tuple[int, str]]:
    """The Parquet files of the log, whole and in order, each with what is behind its last sequence."""
    size = covered(directory)
    write_missing(directory, size)
    found = sealed(directory, size, VERSION)
    standing = itertools.takewhile(lambda one: one.parquet.exists(), found)
    return [(one.following, str(one.parquet.absolute())) for one in standing]


@contextlib.contextmanager
def _translated(memory_mib: int = 0) -> Generator[None]:
    try:
        yield
    except MemoryError:
        raise _too_large(memory_mib) from None
    except duck.errors() as error:
        if type(error).__name__ == "OutOfMemoryException":
            raise _too_large(memory_mib) from None
        said = str(error).strip()
        if _NAMES_A_FILE.search(said) and "disabled" not in said:
            said += "\nIf the file is damaged, `moltbot audit parquet --rebuild` writes it again."
        raise InvalidArgument(said) from None


def _too_large(memory_mib: int) -> ResourceExhausted:
    return ResourceExhausted(f"the statement needs more than {memory_mib} MiB; narrow it by time, or give --memory-mib")
