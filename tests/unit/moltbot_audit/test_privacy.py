"""Bodies are kept for those they are about, shown, destroyed on demand, and never found in clear on disk."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from moltbot.audit.v1 import privacy_pb2

from moltbot_audit.holds import Holds
from moltbot_audit.key_wrapping import MasterKey
from moltbot_audit.privacy import Privacy
from moltbot_audit.redaction import redact, redact_body, rules_of
from moltbot_audit.vault import Vault, pseudonym_key, subject_id
from moltbot_mesh.audit.sealing import Opener, Sealer
from moltbot_mesh.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from moltbot_mesh.uuid7 import uuid7

if TYPE_CHECKING:
    from pathlib import Path

CANARY = b"canary-7f3a9e"
TRACE = b"t" * 16


class Bodies:
    """A vault with everything around it."""

    def __init__(self, directory: Path, rules=()):
        self.directory = directory
        self.opener = Opener(X25519PrivateKey.generate())
        self.master = MasterKey(os.urandom(32))
        self.vault = Vault(directory / "vault.sqlite", self.master)
        self.holds = Holds(directory / "holds.sqlite")
        self.privacy = Privacy(self.vault, self.holds, self.opener, rules, bytes(32))
        self.sealer = Sealer(self.opener.public_key)

    def body(self, **fields) -> privacy_pb2.Body:
        given = {"tenant": "acme", "data_subject": "alice", "trace_id": TRACE, "time_unix_ns": time.time_ns()}
        return privacy_pb2.Body(**(given | {"input": CANARY, "output": b"answer"} | fields))

    def keep(self, **fields) -> bytes:
        event_id = uuid7()
        self.privacy.keep([self.sealer.seal(event_id, self.body(**fields))])
        return event_id

    def on_disk(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.directory.rglob("*") if path.is_file())


@pytest.fixture
def bodies(tmp_path):
    made = Bodies(tmp_path)
    yield made
    made.privacy.close()


def test_a_body_is_shown_as_it_was_kept(bodies):
    event_id = bodies.keep(commitment_key=b"k" * 32)
    found = bodies.privacy.body(event_id)
    assert (found.input, found.output, found.commitment_key) == (CANARY, b"answer", b"k" * 32)


def test_a_body_is_nowhere_on_disk_in_clear(bodies):
    bodies.keep()
    assert CANARY not in bodies.on_disk()


def test_a_body_that_comes_again_is_kept_once(bodies):
    event_id = uuid7()
    sealed = [bodies.sealer.seal(event_id, bodies.body())]
    assert [bodies.privacy.keep(sealed), bodies.privacy.keep(sealed)] == [1, 0]


def test_a_shredded_subject_leaves_nothing_and_the_others_stay(bodies):
    gone, stays = bodies.keep(), bodies.keep(data_subject="bob")
    assert bodies.privacy.shred_subject("acme", "alice") == 1
    with pytest.raises(NotFound):
        bodies.privacy.body(gone)
    assert bodies.privacy.body(stays).input == CANARY


def test_the_ciphertext_and_the_keys_of_what_was_shredded_are_overwritten(bodies):
    event_id = bodies.keep()
    (ciphertext, key) = bodies.vault._db.execute("SELECT ciphertext, wrapped_key FROM bodies").fetchone()
    (subject_key,) = bodies.vault._db.execute("SELECT wrapped_key FROM subjects").fetchone()
    assert ciphertext[20:60] in bodies.on_disk()
    bodies.privacy.shred_subject("acme", "alice")
    left = bodies.on_disk()
    assert not any(secret[20:40] in left for secret in (ciphertext, key, subject_key))
    assert event_id not in left


def test_a_body_that_arrives_after_it_was_shredded_is_not_kept(bodies):
    before = time.time_ns()
    bodies.privacy.shred_subject("acme", "alice")
    late = bodies.keep(time_unix_ns=before)
    with pytest.raises(NotFound):
        bodies.privacy.body(late)
    assert bodies.privacy.body(bodies.keep(time_unix_ns=time.time_ns())).input == CANARY


def test_a_shredded_trace_leaves_the_subjects_other_traces(bodies):
    gone, stays = bodies.keep(), bodies.keep(trace_id=b"o" * 16)
    assert bodies.privacy.shred_trace(TRACE) == 1
    with pytest.raises(NotFound):
        bodies.privacy.body(gone)
    assert bodies.privacy.body(stays).input == CANARY


def test_tenants_have_subjects_of_their_own(bodies):
    stays = bodies.keep(tenant="other")
    assert bodies.privacy.shred_subject("acme", "alice") == 0
    assert bodies.privacy.body(stays).input == CANARY


def hold(bodies, **fields):
    return bodies.privacy.place_hold(privacy_pb2.Hold(reason="case 7", **fields), "officer")


@pytest.mark.parametrize(
    "held",
    [{"tenant": "acme"}, {"tenant": "acme", "data_subject": "alice"}, {"trace_id": TRACE.hex()}],
)
def test_a_hold_beats_shredding_until_it_is_released(bodies, held):
    event_id = bodies.keep()
    placed = hold(bodies, **held)
    for shred in (lambda: bodies.privacy.shred_subject("acme", "alice"), lambda: bodies.privacy.shred_trace(TRACE)):
        with pytest.raises(FailedPrecondition, match=r"case 7"):
            shred()
    assert bodies.privacy.body(event_id).input == CANARY
    bodies.privacy.release_hold(placed.hold_id)
    assert bodies.privacy.shred_subject("acme", "alice") == 1


@pytest.mark.parametrize(
    "held", [{"tenant": "other"}, {"tenant": "acme", "data_subject": "bob"}, {"trace_id": (b"o" * 16).hex()}]
)
def test_a_hold_on_something_else_forbids_nothing(bodies, held):
    bodies.keep()
    hold(bodies, **held)
    assert bodies.privacy.shred_subject("acme", "alice") == 1


def test_a_hold_beats_expiry(bodies):
    old = {"time_unix_ns": 1_000}
    held, gone = bodies.keep(data_subject="bob", **old), bodies.keep(trace_id=b"o" * 16, **old)
    young = bodies.keep(data_subject="carol")
    hold(bodies, tenant="acme", data_subject="bob")
    assert bodies.privacy.expire(2_000) == 1
    assert bodies.privacy.body(held).input == bodies.privacy.body(young).input == CANARY
    with pytest.raises(NotFound):
        bodies.privacy.body(gone)


@pytest.mark.parametrize(
    "fields",
    [{}, {"data_subject": "alice"}, {"tenant": "acme", "data_subject": "a", "trace_id": "0" * 32}, {"trace_id": "xyz"}],
)
def test_a_hold_on_nothing_is_refused(bodies, fields):
    with pytest.raises(InvalidArgument):
        hold(bodies, **fields)


@pytest.mark.parametrize("name", ["sealed_key", "nonce", "ciphertext", "event_id"])
def test_a_sealed_body_that_was_changed_is_refused(bodies, name):
    sealed = bodies.sealer.seal(uuid7(), bodies.body())
    harmed = bytearray(getattr(sealed, name))
    harmed[-1] ^= 1
    setattr(sealed, name, bytes(harmed))
    with pytest.raises(InvalidArgument):
        bodies.privacy.keep([sealed])


def test_bodies_sealed_to_another_key_are_refused(bodies):
    other = Sealer(Opener(X25519PrivateKey.generate()).public_key)
    with pytest.raises(InvalidArgument):
        bodies.privacy.keep([other.seal(uuid7(), bodies.body())])


def test_another_master_key_opens_nothing(bodies, tmp_path):
    event_id = bodies.keep()
    vault = Vault(tmp_path / "vault.sqlite", MasterKey(os.urandom(32)))
    with pytest.raises(DataLoss):
        vault.get(event_id)
    vault.close()


def test_a_master_key_that_others_may_read_is_refused(tmp_path):
    file = tmp_path / "vault.key"
    MasterKey.load(file)
    file.chmod(0o644)
    with pytest.raises(InvalidArgument, match="chmod 600"):
        MasterKey.load(file)


def test_what_is_redacted_is_never_kept(tmp_path):
    made = Bodies(tmp_path, rules_of(["email", "bank_card"], {"staff": r"STAFF-\d+"}))
    found = made.privacy.body(made.keep(input=b"alice@example.com paid with 4111 1111 1111 1111 as STAFF-42"))
    assert found.input == b"[email] paid with [bank_card] as [staff]"
    assert dict(found.redacted) == {"email": 1, "bank_card": 1, "staff": 1}
    made.privacy.close()


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("identity_number", "id 11010519491231002X.", "id [identity_number]."),
        ("identity_number", "id 110105194912310021.", "id 110105194912310021."),
        ("bank_card", "4111-1111-1111-1112", "4111-1111-1111-1112"),
        ("phone", "call 13812345678 or +86 13812345678", "call [phone] or [phone]"),
        ("phone", "order 138123456789", "order 138123456789"),
        ("api_key", "use mb_abc234_" + "x" * 43, "use [api_key]"),
        ("ip_address", "from 10.1.2.3, version 1.2.3", "from [ip_address], version 1.2.3"),
        ("email", "a.b+c@mail.example.co.uk,", "[email],"),
    ],
)
def test_a_rule_takes_its_kind_and_nothing_else(rule, text, expected):
    assert redact(text, rules_of([rule], {}))[0] == expected


@given(st.text(max_size=2000))
def test_redacting_twice_changes_nothing_more(text):
    rules = rules_of(["email", "phone", "identity_number", "bank_card", "ip_address"], {})
    once, _ = redact(text, rules)
    assert redact(once, rules)[0] == once


@pytest.mark.timeout(60)
def test_redaction_ends_on_hostile_texts():
    rules = rules_of(["email", "phone", "identity_number", "bank_card", "api_key", "ip_address"], {})
    for text in ("1" * 200_000, "a." * 100_000 + "@", "1 " * 100_000, "a@" * 100_000, "1.1." * 50_000):
        assert isinstance(redact(text, rules)[0], str)


@pytest.mark.parametrize(("names", "own"), [(["nothing"], {}), ([], {"x": "("}), ([], {"x": "a*"})])
def test_a_rule_that_cannot_be_used_is_refused(names, own):
    with pytest.raises(InvalidArgument):
        rules_of(names, own)


KEY, IDENTITY = "sk-" + "a1" * 12, "11010519491231002X"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f"keys:\n{KEY}", "keys:\n[api_key]"),
        (f"ids:\t{IDENTITY}\r\n", "ids:\t[identity_number]\r\n"),
        (f"\u8bc1{IDENTITY}", "\u8bc1[identity_number]"),
        (f"\u5bc6\u94a5{KEY}", "\u5bc6\u94a5[api_key]"),
        (f"half a pair \ud83d {KEY}", "half a pair \ud83d [api_key]"),
        (json.dumps({"said": f"\n{KEY}"}), '{"said": "\\n[api_key]"}'),
    ],
    ids=["line break", "tab", "escaped", "Chinese", "surrogate", "JSON in JSON"],
)
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_json_is_redacted_as_the_text_that_it_says_and_stays_json(said, expected, ensure_ascii):
    rules = rules_of(["api_key", "identity_number"], {})
    asked = json.dumps({"messages": [{"content": said}], KEY: [[said]]}, ensure_ascii=ensure_ascii)
    data, changed = redact_body(asked.encode("utf-8", "backslashreplace"), rules)
    assert json.loads(data) == {"messages": [{"content": expected}], "[api_key]": [[expected]]}
    assert sum(changed.values()) == 3


def test_a_member_that_a_later_one_hides_is_redacted_too():
    data, _ = redact_body(f'{{"a": "\\n{KEY}", "a": "b"}}'.encode(), rules_of(["api_key"], {}))
    assert json.loads(data) == {"a": "b"}


def test_numbers_of_json_are_redacted_and_large_ones_do_no_harm():
    data, _ = redact_body(b'{"card": 4111111111111111, "n": %s, "t": 0.5}' % (b"7" * 5000), rules_of(["bank_card"], {}))
    assert json.loads(data)["card"] == "[bank_card]"
    assert json.loads(data)["t"] == 0.5


def test_what_no_rule_changes_keeps_its_very_bytes_and_media_are_passed_over():
    card = "4111111111111111"
    url, sound = f"data:image/png;base64,//{card}//", f"/{card}/" * 20
    asked = b'{ "url":"%s",  "input_audio":{"data":"%s"}}' % (url.encode(), sound.encode())
    assert redact_body(asked, rules_of(["bank_card"], {})) == (asked, {})
    said = json.dumps({"url": f"data: {card}", "data": card}).encode()
    assert card.encode() not in redact_body(said, rules_of(["bank_card"], {}))[0]


@pytest.mark.parametrize("data", [b'{"a": "' + KEY.encode(), b"[" * 200_000 + KEY.encode(), b"\xff " + KEY.encode()])
def test_what_is_no_json_is_redacted_as_text(data):
    assert KEY.encode() not in redact_body(data, rules_of(["api_key"], {}))[0]


def test_a_body_that_arrives_after_its_trace_was_shredded_is_kept_if_a_hold_covers_it(bodies):
    hold(bodies, tenant="acme")
    before = time.time_ns()
    assert bodies.privacy.shred_trace(TRACE) == 0
    assert bodies.privacy.body(bodies.keep(time_unix_ns=before)).input == CANARY
    with pytest.raises(NotFound):
        bodies.privacy.body(bodies.keep(tenant="other", time_unix_ns=before))


def test_a_subject_whose_key_is_damaged_keeps_no_other_from_being_kept(bodies):
    bodies.keep()
    bodies.vault._db.execute("UPDATE subjects SET wrapped_key = x'00'")
    good = uuid7()
    sealed = [bodies.sealer.seal(uuid7(), bodies.body()), bodies.sealer.seal(good, bodies.body(data_subject="bob"))]
    assert bodies.privacy.keep(sealed) == 1
    assert bodies.privacy.body(good).input == CANARY


def test_shredding_says_so_if_another_process_keeps_the_deleted_pages_and_mends_it_when_asked_again(bodies):
    bodies.keep()
    bodies.vault._db.execute("PRAGMA busy_timeout=50")
    (ciphertext,) = bodies.vault._db.execute("SELECT ciphertext FROM bodies").fetchone()
    other = sqlite3.connect(bodies.directory / "vault.sqlite", isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM bodies").fetchone()
    with pytest.raises(Unavailable, match="shred again"):
        bodies.privacy.shred_subject("acme", "alice")
    other.close()
    assert bodies.privacy.shred_subject("acme", "alice") == 0
    assert ciphertext[20:60] not in bodies.on_disk()


def test_a_pseudonym_is_the_same_with_the_same_secret_and_cannot_be_guessed_without_it(bodies):
    def named(secret):
        key = pseudonym_key(secret)
        return Privacy(bodies.vault, bodies.holds, bodies.opener, (), key).pseudonym("acme", "alice")

    assert named(b"a" * 32) == named(b"a" * 32) != named(b"b" * 32)
    assert subject_id("acme", "alice").hex() not in named(b"a" * 32)
