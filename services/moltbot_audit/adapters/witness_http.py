"""Witnesses over HTTP: asking one, and being one."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import aiohttp
import structlog
from aiohttp import web

from moltbot_audit.checkpoint import parse, valid_cosignatures
from moltbot_audit.witness import SIZE_TYPE
from moltbot_mesh.errors import DataLoss, InvalidArgument, MoltbotError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from moltbot_audit.ledger import Ledger
    from moltbot_audit.witness import Witness

log = structlog.get_logger("moltbot.audit")

_TIMEOUT_S = 10.0
_MOST_BYTES = 64 << 10
_SIZE_DIGITS = 20
"""As many or more are no size of a log."""


class WitnessFollower:
    """Has the log's checkpoints cosigned.

    Args:
        ledger: The log.
        witnesses: Verifier keys by URL prefix.
        interval_s: Between two checkpoints that are sent, in seconds.

    Raises:
        InvalidArgument: A key is not a witness's.
    """

    def __init__(self, ledger: Ledger, witnesses: Mapping[str, str], interval_s: float) -> None:
        for url, key in witnesses.items():
            try:
                valid_cosignatures("", "", key)
            except InvalidArgument as error:
                raise InvalidArgument(f"audit.witnesses: {url}: {error.message}") from None
        self._ledger, self._witnesses, self._interval_s = ledger, witnesses, interval_s
        self._sizes = dict.fromkeys(witnesses, 0)
        """What each is known to have cosigned."""
        self.problems: dict[str, str] = {}
        """Why witnesses did not cosign, by URL prefix."""
        self.disk_problem = ""
        """Why what they cosigned was not kept."""

    async def run(self) -> None:
        """Send checkpoints until cancelled."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while True:
                note, head = self._ledger.checkpoint()
                if head.size and any(size != head.size for size in self._sizes.values()):
                    asked = [self._ask(session, url, key, note) for url, key in self._witnesses.items()]
                    lines = [line for found in await asyncio.gather(*asked) for line in found]
                    if lines:
                        await self._keep(note + "".join(lines))
                await asyncio.sleep(self._interval_s)

    async def _keep(self, note: str) -> None:
        try:
            await asyncio.to_thread(self._ledger.attestations.keep_cosigned, note)
        except OSError as error:
            self._sizes = dict.fromkeys(self._sizes, 0)  # what is lost is asked for again; witnesses tell their size
            if str(error) != self.disk_problem:
                log.critical("cosignatures not kept; trying again", error=str(error))
            self.disk_problem = str(error)
        else:
            self.disk_problem = ""

    async def _ask(self, session: aiohttp.ClientSession, url: str, key: str, note: str) -> Sequence[str]:
        try:
            found = await self._cosignatures(session, url, key, note)
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError, MoltbotError) as error:
            self._tell(url, f"it cannot be asked: {error or type(error).__name__}")
            return ()
        if found:
            if self.problems.pop(url, ""):
                log.info("witness cosigns again", witness=url)
            self._sizes[url] = parse(note).size
        return found

    async def _cosignatures(self, session: aiohttp.ClientSession, url: str, key: str, note: str) -> Sequence[str]:
        head = parse(note)
        for _ in range(2):
            old = self._sizes[url]
            if old > head.size:
                self._tell(url, f"it has seen {old} records, this log has {head.size}: the log was rolled back")
                return ()
            _, proof = await asyncio.to_thread(self._ledger.consistency_proof, old, head.size)
            lines = [f"old {old}", *(base64.b64encode(one).decode() for one in proof)]
            body = "\n".join(lines) + "\n\n" + note
            async with session.post(f"{url.rstrip('/')}/add-checkpoint", data=body.encode()) as answer:
                said = (await read_whole(answer, _MOST_BYTES)).decode()
                if answer.status == 409 and answer.content_type == SIZE_TYPE and _is_size(said.strip()):
                    if int(said) == old:
                        self._tell(url, f"it has seen another history of {old} records: the log was forked")
                        return ()
                    self._sizes[url] = int(said)
                    continue
                if answer.status != 200:
                    self._tell(url, f"it refuses with status {answer.status}: {said[:200].strip()}")
                    return ()
                found = valid_cosignatures(said, head.body, key)
                if not found:
                    self._tell(url, "its answer carries no valid cosignature of its key")
                return found
        return ()

    def _tell(self, url: str, problem: str) -> None:
        if self.problems.get(url) != problem:
            log.critical("checkpoint not cosigned", witness=url, problem=problem)
        self.problems[url] = problem


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < _SIZE_DIGITS


async def read_whole(answer: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body of an answer, in however many pieces it comes.

    Raises:
        DataLoss: It is longer than that.
    """
    body = bytearray()
    async for part in answer.content.iter_any():
        body += part
        if len(body) > most_bytes:
            raise DataLoss(f"the answer is longer than {most_bytes} bytes")
    return bytes(body)


def witness_application(witness: Witness, seen: Callable[[int], None] = lambda _: None) -> web.Application:
    """A witness as an HTTP application.

    Args:
        witness: Answers.
        seen: Told each answer's status.
    """

    async def add_checkpoint(request: web.Request) -> web.Response:
        try:
            text = (await request.read()).decode()
        except UnicodeDecodeError:
            return web.Response(status=400, text="not UTF-8\n")
        reply = await asyncio.to_thread(witness.add_checkpoint, text)
        seen(reply.status)
        return web.Response(status=reply.status, text=reply.body, content_type=reply.content_type)

    application = web.Application(client_max_size=_MOST_BYTES)
    application.router.add_post("/add-checkpoint", add_checkpoint)
    return application
