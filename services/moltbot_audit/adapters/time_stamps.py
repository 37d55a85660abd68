"""Time stamps of checkpoints by an authority: that the log had grown so far at a time, even if its key is lost later.

Needs the extra `timestamp`.

Source: RFC 3161 (time-stamp protocol), section 3.4 (over HTTP).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import structlog
from cryptography import x509

from moltbot_audit.adapters.witness_http import read_whole
from moltbot_mesh.errors import DataLoss, FailedPrecondition, InvalidArgument, MoltbotError

if TYPE_CHECKING:
    from pathlib import Path

    from moltbot_audit.ledger import Ledger

log = structlog.get_logger("moltbot.audit")

_TIMEOUT_S, _RETRY_S = 30.0, 60.0
_MOST_BYTES = 1 << 20


class TimeStamper:
    """Has checkpoints stamped.

    Args:
        ledger: The log.
        url: Of the authority.
        ca_file: Certificates (PEM) that its answers must lead to.
        interval_s: Between two stamps, in seconds; a checkpoint that does not grow is stamped once.

    Raises:
        FailedPrecondition: The extra is not installed.
        InvalidArgument: The file holds no certificate.
    """

    def __init__(self, ledger: Ledger, url: str, ca_file: Path, interval_s: float) -> None:
        self._ledger, self._url, self._interval_s = ledger, url, interval_s
        self._library, self._roots = _library(), read_certificates(ca_file)
        self.problem = ""
        """Why the last checkpoint was not stamped."""

    async def run(self) -> None:
        """Stamp until cancelled."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while True:
                wait_s = self._interval_s
                try:
                    await self._step(session)
                except (aiohttp.ClientError, TimeoutError, OSError, MoltbotError) as error:
                    problem = str(error) or type(error).__name__
                    if problem != self.problem:
                        log.error("checkpoint not time-stamped; trying again", url=self._url, error=problem)
                    self.problem = problem
                    wait_s = min(_RETRY_S, self._interval_s)
                await asyncio.sleep(wait_s)

    async def _step(self, session: aiohttp.ClientSession) -> None:
        note, head = self._ledger.attestations.cosigned() or self._ledger.checkpoint()
        if head.size > self._ledger.attestations.newest_time_stamp():
            response = await self._stamp(session, head.body.encode())
            await asyncio.to_thread(self._ledger.attestations.keep_time_stamp, note, response)
        if self.problem:
            log.info("checkpoints are time-stamped again", url=self._url)
        self.problem = ""

    async def _stamp(self, session: aiohttp.ClientSession, data: bytes) -> bytes:
        request = self._library.TimestampRequestBuilder().data(data).build()
        headers = {"Content-Type": "application/timestamp-query"}
        async with session.post(self._url, data=request.as_bytes(), headers=headers) as answer:
            if answer.status != 200:
                raise DataLoss(f"the authority answers with status {answer.status}")
            response = await read_whole(answer, _MOST_BYTES)
        check_time_stamp(response, data, self._roots, request.nonce)
        return response


def check_time_stamp(response: bytes, data: bytes, roots: list[x509.Certificate], nonce: int | None = None) -> str:
    """Check a time stamp.

    Args:
        response: A TimeStampResp in DER.
        data: What was stamped.
        roots: Certificates that it must lead to.
        nonce: Of the request, where it is known.

    Returns:
        The time, in ISO 8601.

    Raises:
        DataLoss: It is not a valid stamp of these data.
        FailedPrecondition: The extra is not installed.
    """
    library = _library()
    try:
        decoded = library.decode_timestamp_response(response)
        builder = library.VerifierBuilder(roots=list(roots), nonce=nonce)
        builder.build().verify_message(decoded, data)
    except (ValueError, library.VerificationError) as error:
        raise DataLoss(f"the time stamp does not hold: {error}") from error
    return decoded.tst_info.gen_time.isoformat()


def read_certificates(file: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file.

    Raises:
        InvalidArgument: It holds none, or cannot be read.
    """
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{file}: no certificates in PEM: {error}") from None
    return found


def _library() -> Any:
    try:
        import rfc3161_client  # noqa: PLC0415 - an extra
    except ImportError:
        raise FailedPrecondition("time stamps need the extra timestamp: pip install 'moltbot[timestamp]'") from None
    return rfc3161_client
