"""The copy in ClickHouse, by its HTTP interface.

A server here plays ClickHouse's HTTP as its documentation has it, and keeps what it is sent. With MOLTBOT_CHDB_PYTHON
(a Python that has `chdb`, which is ClickHouse's engine as a library) what was sent also runs in the engine itself: the
schema, the inserts and the removal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from moltbot.audit.v1 import audit_pb2 as pb

from moltbot_audit.adapters.clickhouse import open_clickhouse
from moltbot_audit.adapters.columns import Row
from moltbot_audit.checkpoint import Signer
from moltbot_audit.event import decode
from moltbot_audit.ledger import Ledger
from moltbot_audit.merkle import leaf_hash
from moltbot_audit.module import MODULE
from moltbot_audit.settings import ClickHouseSettings
from moltbot_audit.sink import Forwarder
from moltbot_mesh.audit.administration import SPILL
from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unavailable
from moltbot_mesh.telemetry import Metrics, Telemetry, TelemetrySettings
from moltbot_mesh.uuid7 import uuid7

SCHEMA = Path(__file__).parents[2] / "deploy/clickhouse/audit_events.sql"
_ERRORS = {
    "no table": (404, "60", "Code: 60. DB::Exception: Table moltbot.audit_events does not exist. (UNKNOWN_TABLE)"),
    "wrong password": (403, "516", "Code: 516. DB::Exception: moltbot: Authentication failed. (AUTHENTICATION_FAILED)"),
    "too many parts": (500, "252", "Code: 252. DB::Exception: Too many parts. (TOO_MANY_PARTS)"),
    "late": (200, "", "Code: 159. DB::Exception: Timeout exceeded. (TIMEOUT_EXCEEDED)"),
}


class Server:
    """Keeps the rows that it is sent, as ReplacingMergeTree does: one for each sorting key."""

    def __init__(self):
        self.seen = []
        self.rows = {}
        self.failures = []
        self.lose_answers = 0

    async def answer(self, request):
        query, body = request.query["query"], (await request.read()).decode()
        self.seen.append((request.method, request.path, dict(request.query), dict(request.headers), body))
        if self.failures:
            status, code, text = _ERRORS[self.failures.pop(0)]
            return web.Response(status=status, text=text, headers={"X-ClickHouse-Exception-Code": code} if code else {})
        if query.startswith("INSERT INTO moltbot.audit_events ("):
            names = query.partition("(")[2].partition(")")[0].split(", ")
            for line in body.splitlines():
                row = dict(zip(names, json.loads(line), strict=True))
                self.rows[row["tenant"], row["sequence"]] = row
        if self.lose_answers:
            self.lose_answers -= 1
            request.transport.abort()
        return web.Response(headers={"X-ClickHouse-Summary": '{"written_rows":"1"}'})

    @contextlib.asynccontextmanager
    async def serve(self, tls=None):
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        try:
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()


def event(**fields):
    given = {
        "event_id": uuid7(), "time_unix_ns": 1_700_000_000_123_456_789, "type": pb.EVENT_TYPE_REQUEST,
        "outcome": pb.OUTCOME_SUCCESS, "tenant": "acme", "subject": "key-1", "action": "POST /v1/chat/completions",
        "object": "tab\t, new line\n, quote ' and \x00 \U0001f600", "attributes": {"k'\"\\": "v\n"},
        "input_commitment": bytes(range(32)), "duration_us": (1 << 64) - 1,
    }  # fmt: skip
    return pb.AuditEvent(**(given | fields))


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "log", Signer.load(tmp_path / "log.key", "test/log"), decode, 1 << 16, 0.02)
    ledger.append([decode(event(tenant=f"t{n % 3}").SerializeToString()) for n in range(700)])
    yield ledger
    ledger.close()


@contextlib.asynccontextmanager
async def copied(ledger, settings, position):
    """A copy that is kept up meanwhile."""
    async with open_clickhouse(settings) as sink:
        forwarder = Forwarder(ledger, sink, position, batch_records=settings.batch_records, interval_s=0.02)
        running = asyncio.create_task(forwarder.run())
        try:
            yield forwarder
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_every_record_arrives_with_every_column_once(ledger, tmp_path):
    server = Server()
    async with server.serve() as port:
        settings = ClickHouseSettings(url=f"http://127.0.0.1:{port}", batch_records=300)
        async with copied(ledger, settings, tmp_path / "position") as forwarder:
            await until(lambda: forwarder.lag_records == 0)
    assert sorted(sequence for _, sequence in server.rows) == list(range(700))
    row = server.rows["t1", 1]
    assert tuple(row) == Row._fields
    assert row["leaf_hash"] == leaf_hash(ledger.at(1).payload).hex()
    assert (row["duration_us"], row["attributes"]) == ((1 << 64) - 1, {"k'\"\\": "v\n"})
    method, path, query, headers, _ = server.seen[0]
    assert (method, path, headers["X-ClickHouse-User"]) == ("POST", "/", "default")
    assert (query["async_insert"], query["wait_end_of_query"]) == ("0", "1")
    assert "X-ClickHouse-Key" not in headers


async def test_lost_answers_and_refusals_cost_no_record_and_leave_no_second_one(ledger, tmp_path, monkeypatch):
    monkeypatch.setattr("moltbot_audit.sink.backoff_s", lambda *_, **__: 0.01)
    server = Server()
    server.failures = list(_ERRORS)
    server.lose_answers = 2
    async with server.serve() as port:
        settings = ClickHouseSettings(url=f"http://127.0.0.1:{port}", batch_records=300)
        async with copied(ledger, settings, tmp_path / "position") as forwarder:
            await until(lambda: forwarder.lag_records == 0)
    assert sorted(sequence for _, sequence in server.rows) == list(range(700))
    assert len(server.seen) == 3 + len(_ERRORS) + 2
    sent = [body for *_, body in server.seen]
    assert sent[0] == sent[1] == sent[len(_ERRORS) + 2]  # byte for byte: the server drops it by its hash


@pytest.mark.parametrize("failure", _ERRORS)
async def test_what_the_server_says_is_told(ledger, failure):
    server = Server()
    server.failures = [failure]
    async with server.serve() as port, open_clickhouse(ClickHouseSettings(url=f"http://127.0.0.1:{port}")) as sink:
        with pytest.raises(Unavailable, match=r"Code: \d+"):
            await sink.write([ledger.at(0)])


async def test_expired_records_are_removed_there(ledger):
    server = Server()
    async with server.serve() as port, open_clickhouse(ClickHouseSettings(url=f"http://127.0.0.1:{port}")) as sink:
        await sink.forget(512)
    assert server.seen[0][2]["query"] == "ALTER TABLE moltbot.audit_events DELETE WHERE sequence < 512"


async def test_a_server_that_is_not_there_or_says_nothing_is_told_in_time(ledger):
    ended = asyncio.Event()

    async def silent(_reader, writer):
        await ended.wait()
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with open_clickhouse(ClickHouseSettings(url=f"http://127.0.0.1:{port}", timeout_s=0.2)) as sink:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await sink.write([ledger.at(0)])
        ended.set()
        listening.close()
        await asyncio.sleep(0.05)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await sink.write([ledger.at(0)])


async def test_the_password_is_read_from_its_file_each_time(ledger, tmp_path):
    password = tmp_path / "password"
    password.write_text("first\n")
    password.chmod(0o600)
    server = Server()
    async with server.serve() as port:
        settings = ClickHouseSettings(url=f"http://127.0.0.1:{port}", user="moltbot", password_file=password)
        async with open_clickhouse(settings) as sink:
            await sink.write([ledger.at(0)])
            password.write_text("second\n")
            await sink.write([ledger.at(0)])
            password.chmod(0o644)
            with pytest.raises(InvalidArgument, match="chmod 600"):
                await sink.write([ledger.at(0)])
    told = [(headers["X-ClickHouse-User"], headers["X-ClickHouse-Key"]) for _, _, _, headers, _ in server.seen]
    assert told == [("moltbot", "first"), ("moltbot", "second")]
    assert not any("first" in str(query) for _, _, query, *_ in server.seen)


async def test_over_tls_only_a_certificate_that_is_trusted_is_talked_to(ledger, tmp_path):
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    made = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    named = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    subprocess.run(["openssl", *made, *named, "-keyout", key, "-out", chain], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain, key)
    server = Server()
    async with server.serve(tls) as port:
        url = f"https://127.0.0.1:{port}"
        async with open_clickhouse(ClickHouseSettings(url=url)) as sink:
            with pytest.raises(Unavailable, match="certificate"):
                await sink.write([ledger.at(0)])
        assert server.seen == []
        async with open_clickhouse(ClickHouseSettings(url=url, ca_file=chain)) as sink:
            await sink.write([ledger.at(0)])
    assert len(server.rows) == 1
    with pytest.raises(MoltbotError, match="ca_file"):
        async with open_clickhouse(ClickHouseSettings(url=url, ca_file=key)):
            pass


@dataclass
class Runtime:
    """What the audit module is opened with."""

    data_dir: Path
    url: str
    telemetry: Telemetry
    module: str = "audit"
    instance: str = "audit-1"

    @property
    def shared_dir(self):
        return self.data_dir / "shared"

    def settings(self, section):
        return section(checkpoint_interval_s=0.05, clickhouse={"url": self.url, "interval_s": 0.05})


async def test_the_service_copies_its_log_and_tells_how_far_behind_it_is(tmp_path):
    server, metrics = Server(), Metrics()

    def lag():
        return metrics.registry.get_sample_value("moltbot_audit_sink_lag_records", {"sink": "clickhouse"})

    async with server.serve() as port:
        telemetry = Telemetry("audit", metrics, TelemetrySettings(), "audit-1")
        runtime = Runtime(tmp_path, f"http://127.0.0.1:{port}", telemetry)
        server.failures = ["too many parts"]
        (runtime.shared_dir / SPILL).mkdir(parents=True)
        async with MODULE.open(runtime) as service:
            (runtime.shared_dir / SPILL / "1.event").write_bytes(event(tenant="spilled").SerializeToString())
            await until(lambda: lag() == 1)
            await until(lambda: lag() == 0)
            assert list(service.missing()) == []
    assert [tenant for tenant, _ in server.rows] == ["spilled"]


def test_the_schema_has_the_columns_that_are_sent():
    table = SCHEMA.read_text().partition("audit_events\n(\n")[2].partition("\n)\nENGINE")[0]
    columns = [line.split()[0] for line in table.splitlines() if not line.strip().startswith("INDEX")]
    assert tuple(columns) == (*Row._fields, "time")


_ENGINE = """
import json, sys
from chdb import session
engine = session.Session()
for statement in json.load(sys.stdin):
    print(json.dumps(str(engine.query(statement, "CSV"))))
"""


@pytest.mark.skipif("MOLTBOT_CHDB_PYTHON" not in os.environ, reason="needs a Python with chdb (900 MB)")
@pytest.mark.timeout(300)
async def test_clickhouses_own_engine_takes_the_schema_the_records_and_the_removal(ledger, tmp_path):
    server = Server()
    async with server.serve() as port:
        settings = ClickHouseSettings(url=f"http://127.0.0.1:{port}", batch_records=300)
        async with copied(ledger, settings, tmp_path / "position") as forwarder:
            await until(lambda: forwarder.lag_records == 0)
        async with open_clickhouse(settings) as sink:
            await sink.write([ledger.at(n) for n in range(250, 350)])  # another batch of what stands already
            await sink.forget(100)
    *inserts, removal = [f"{query['query']}\n{body}" for _, _, query, _, body in server.seen]
    bare = "\n".join(line for line in SCHEMA.read_text().splitlines() if not line.startswith("--"))
    schema = [statement for statement in bare.split(";") if statement.strip()]
    count = "SELECT count() FROM moltbot.audit_events"
    told = (
        "SELECT leaf_hash, object, time, duration_us, attributes FROM moltbot.audit_events FINAL WHERE sequence = 650"
    )
    asked = [
        *schema, *inserts[:-1], *inserts[:-1], count, inserts[-1], f"{count} FINAL", told,
        "SELECT sum(requests), sum(succeeded) FROM moltbot.audit_requests_per_day",
        f"{removal.strip()} SETTINGS mutations_sync = 1", f"{count} FINAL",
    ]  # fmt: skip
    done = await asyncio.to_thread(
        subprocess.run,
        [os.environ["MOLTBOT_CHDB_PYTHON"], "-c", _ENGINE],
        input=json.dumps(asked), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()][len(schema) + 2 * (len(inserts) - 1) :]
    assert answers[0] == "700\n"  # the second time each batch was dropped by its hash
    assert answers[2] == "700\n"
    assert answers[3].startswith(
        f'"{leaf_hash(ledger.at(650).payload).hex()}","tab\t, new line\n, quote \' and \x00 \U0001f600"'
    )
    assert '"2023-11-14 22:13:20.123456789",18446744073709551615,' in answers[3]
    assert answers[4] == "700,700\n"
    assert answers[6] == "600\n"
