from __future__ import annotations

import dataclasses
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

import pytest

from moltbot_mesh.errors import AlreadyExists
from moltbot_watermark.fingerprint import fingerprint
from moltbot_watermark.output_kind import OutputKind
from moltbot_watermark.output_rows import Output
from moltbot_watermark.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = bytes(range(32))
TEXT = "A river of words runs through the registry and leaves nothing behind but numbers that a key has mixed. " * 2
OUTPUT = Output("acme", 1, 7, "request-1", "audit-1", "0" * 32, "tiny", 1_700_000_000.0)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "registry.sqlite")
    yield registry
    registry.close()


def test_a_request_keeps_its_mark(registry: Registry) -> None:
    mark = registry.reserve("acme", 1, "request-1")
    assert registry.reserve("acme", 1, "request-1") == mark
    assert registry.reserve("acme", 2, "request-1") == mark
    assert registry.reserve("acme", 1, "request-2") != mark
    assert registry.request_of("acme", 1, mark[0])[0] == "request-1"


def test_tenants_do_not_share_requests(registry: Registry) -> None:
    registry.reserve("acme", 1, "request-1")
    mark_id, _ = registry.reserve("other", 1, "request-1")
    assert registry.request_of("acme", 1, mark_id) == ("", 0.0)


def test_threads_reserve_different_marks(registry: Registry) -> None:
    marks: list[tuple[int, int]] = []

    def reserve(thread: int) -> None:
        marks.extend(registry.reserve("acme", 1, f"{thread}-{number}") for number in range(50))

    threads = [threading.Thread(target=reserve, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(marks)) == 200


def test_a_registered_output_is_found_by_its_mark(registry: Registry) -> None:
    text = fingerprint(TEXT, KEY)
    registry.register(OUTPUT, text)
    match = registry.marked("acme", 1, 7, OutputKind.ANSWER, [fingerprint("something else", KEY), text])
    assert match is not None
    assert match.output == OUTPUT
    assert match.exact


def test_a_registered_output_is_found_by_its_text(registry: Registry) -> None:
    registry.register(OUTPUT, fingerprint(TEXT, KEY))
    (exact,) = registry.similar(fingerprint(TEXT.upper(), KEY), "acme")
    assert exact.exact
    (partial,) = registry.similar(fingerprint("Words before it. " + TEXT[:-10], KEY), "")
    assert not partial.exact
    assert 0 < partial.shared <= partial.grams
    assert registry.similar(fingerprint(TEXT, KEY), "other") == []


def test_registering_twice_is_registering_once(registry: Registry) -> None:
    text = fingerprint(TEXT, KEY)
    registry.register(OUTPUT, text)
    registry.register(dataclasses.replace(OUTPUT, create_time_s=1.0), text)
    assert len(registry.similar(text, "acme")) == 1


def test_an_audit_id_has_one_answer_and_the_thoughts_before_it(registry: Registry) -> None:
    thoughts = dataclasses.replace(OUTPUT, kind=OutputKind.REASONING)
    registry.register(OUTPUT, fingerprint(TEXT, KEY))
    registry.register(thoughts, fingerprint("What was thought. " * 9, KEY))
    registry.register(thoughts, fingerprint("What was thought. " * 9, KEY))
    with pytest.raises(AlreadyExists):
        registry.register(thoughts, fingerprint(TEXT, KEY))
    for kind, output in ((OutputKind.ANSWER, OUTPUT), (OutputKind.REASONING, thoughts)):
        match = registry.marked("acme", 1, 7, kind, [fingerprint(TEXT, KEY)])
        assert match is not None
        assert match.output == output
        assert match.exact == (kind is OutputKind.ANSWER)


def test_an_audit_id_cannot_be_bound_to_another_text(registry: Registry) -> None:
    registry.register(OUTPUT, fingerprint(TEXT, KEY))
    with pytest.raises(AlreadyExists) as caught:
        registry.register(OUTPUT, fingerprint("Another text.", KEY))
    assert caught.value.reason == "IDEMPOTENCY_CONFLICT"


def test_what_is_past_its_retention_goes(registry: Registry) -> None:
    mark_id, _ = registry.reserve("acme", 1, "request-1")
    registry.register(OUTPUT, fingerprint(TEXT, KEY))
    assert registry.purge(1_700_000_001.0) == 1
    assert registry.similar(fingerprint(TEXT, KEY), "") == []
    assert registry.request_of("acme", 1, mark_id)[0] == "request-1"
    assert registry.purge(time.time() + 1) == 1
    assert registry.request_of("acme", 1, mark_id) == ("", 0.0)


def test_an_output_registered_after_all_were_purged_is_found(registry: Registry) -> None:
    text = fingerprint(TEXT, KEY)
    registry.register(OUTPUT, text)
    assert registry.index() == 1
    registry.purge(time.time())
    registry.register(OUTPUT, text)
    assert registry.index() == 1
    assert registry.index() == 0
    (match,) = registry.similar(fingerprint("Words before it. " + TEXT, KEY), "")
    assert match.shared > 0


def test_the_database_holds_no_text_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    registry = Registry(path)
    registry.register(OUTPUT, fingerprint("the canary sings in the mine " * 4, KEY))
    registry.close()
    with sqlite3.connect(path) as db:
        assert "canary" not in "\n".join(db.iterdump())
    db.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    registry = Registry(path)
    mark = registry.reserve("acme", 1, "request-1")
    registry.close()
    registry = Registry(path)
    assert registry.reserve("acme", 1, "request-1") == mark
    registry.close()
