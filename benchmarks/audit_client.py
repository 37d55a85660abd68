"""The clients of the audit service in its benchmark: a process of their own, as in a mesh of separate services."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import grpc
from moltbot.audit.v1 import audit_pb2, audit_pb2_grpc

from moltbot_mesh.uuid7 import uuid7


def event() -> audit_pb2.AuditEvent:
    """As the gateway records a request: about 430 bytes."""
    return audit_pb2.AuditEvent(
        event_id=uuid7(),
        time_unix_ns=time.time_ns(),
        type=audit_pb2.EVENT_TYPE_REQUEST,
        outcome=audit_pb2.OUTCOME_SUCCESS,
        tenant="acme",
        subject="key-0123456789",
        action="POST /v1/chat/completions",
        object="local-large",
        ingress=audit_pb2.INGRESS_CLASS_REMOTE,
        request_id="req-0123456789abcdef",
        trace_id=os.urandom(16),
        span_id=b"s" * 8,
        service="gateway",
        instance="host-1-abcdef",
        model="local-large",
        prompt_tokens=812,
        completion_tokens=244,
        duration_us=812_233,
        input_commitment=b"i" * 32,
        output_commitment=b"o" * 32,
        peer="10.1.2.3",
        http_status=200,
        attributes={"task_type": "chat", "rule": "default"},
        producer=audit_pb2.Producer(producer_id=b"p" * 16, epoch=3, counter=12345),
    )


async def client(socket: str, count: int, streams: int, window: int, batch: int) -> None:
    """Streams with several batches under way each; prints seconds, CPU seconds and the batches' latencies."""
    latencies: list[float] = []
    batches = count // streams // batch
    payloads = [[event().SerializeToString() for _ in range(batch)] for _ in range(batches * streams)]

    async def one(mine: list[list[bytes]]) -> None:
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            room, before = asyncio.Semaphore(window), {}

            async def requests():
                for batch_id, events in enumerate(mine):
                    await room.acquire()
                    before[batch_id] = time.perf_counter()
                    yield audit_pb2.AppendStreamRequest(batch_id=batch_id, events=events)

            async for response in audit_pb2_grpc.AuditServiceStub(channel).AppendStream(requests()):
                latencies.append(time.perf_counter() - before.pop(response.batch_id))
                room.release()

    started, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one(payloads[n * batches : (n + 1) * batches]) for n in range(streams)))
    print(json.dumps([time.perf_counter() - started, time.process_time() - cpu_s, latencies]))


if __name__ == "__main__":
    asyncio.run(client(*json.loads(sys.argv[1])))
