"""TLS towards an upstream on another machine, with files that are read again when they were renewed."""

from __future__ import annotations

import ipaddress
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from moltbot_mesh.errors import FailedPrecondition

log = structlog.get_logger("moltbot.models")

_LOOK_S = 1.0
"""How often the files are looked at, in seconds, while requests come."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How the mesh and an upstream on another machine know each other. Files are PEM."""

    ca_file: str = ""
    """Authorities of the upstream's certificate; those of the system if empty."""
    cert_file: str = ""
    """The mesh's own certificate and its chain, for an upstream that asks for one."""
    key_file: str = ""
    """The key of `cert_file`."""
    server_name: str = ""
    """The name in the upstream's certificate, where that is not the endpoint's host."""
    plain_text: bool = False
    """Whether `triton` on another machine may be spoken to without TLS."""

    @property
    def encrypts(self) -> bool:
        """Whether something is said that only TLS can mean."""
        return bool(self.ca_file or self.cert_file or self.key_file or self.server_name)


@dataclass(frozen=True, slots=True)
class Certificates:
    """The content of the files at one moment."""

    context: ssl.SSLContext
    """For Python's own TLS."""
    ca: bytes | None
    """For gRPC's; `None`: the authorities that gRPC brings."""
    cert: bytes | None
    key: bytes | None


class TlsFiles:
    """The files of one upstream.

    Args:
        model: The manifest's id, for the log.
        tls: Which files.

    Raises:
        FailedPrecondition: A file cannot be read, or certificate and key do not belong together.
    """

    def __init__(self, model: str, tls: Tls) -> None:
        self._model, self._tls = model, tls
        self.server_name = tls.server_name
        self._stamp = self._stamps()
        self._current = self._read()
        self._look_s = time.monotonic() + _LOOK_S

    def current(self) -> Certificates:
        """What the files hold; the same object until they were renewed. What cannot be used leaves the last in use."""
        now_s = time.monotonic()
        if now_s < self._look_s:
            return self._current
        self._look_s = now_s + _LOOK_S
        try:
            stamp = self._stamps()
            if stamp != self._stamp:
                # A renewal of two files is seen half done now and then: it is read again until it fits together.
                self._current, self._stamp = self._read(), stamp
                log.info("certificates read again", model=self._model)
        except FailedPrecondition as error:
            log.warning("certificates not renewed; the last stay in use", error=error.message)
        return self._current

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        found: list[tuple[int, int, int]] = []
        for name in filter(None, (self._tls.ca_file, self._tls.cert_file, self._tls.key_file)):
            try:
                stat = Path(name).stat()
            except OSError as error:
                raise self._unreadable(name, error) from None
            found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
        return tuple(found)

    def _read(self) -> Certificates:
        tls = self._tls
        ca, cert, key = (self._bytes(name) for name in (tls.ca_file, tls.cert_file, tls.key_file))
        context = ssl.create_default_context() if ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if ca is not None:
                context.load_verify_locations(tls.ca_file)
        except (ssl.SSLError, OSError):
            raise FailedPrecondition(f"{tls.ca_file}: no certificates in PEM; mend `tls`") from None
        if tls.cert_file:
            try:
                # A key under a passphrase would make OpenSSL ask on the terminal.
                context.load_cert_chain(tls.cert_file, tls.key_file, password="")
            except (ssl.SSLError, OSError) as error:
                why = getattr(error, "reason", "") or type(error).__name__
                raise FailedPrecondition(
                    f"{tls.cert_file} and {tls.key_file}: not a certificate and its key without "
                    f"passphrase, both PEM ({why})"
                ) from None
        return Certificates(context, ca, cert, key)

    def _bytes(self, name: str) -> bytes | None:
        try:
            return Path(name).read_bytes() if name else None
        except OSError as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: OSError) -> FailedPrecondition:
        return FailedPrecondition(f"{name}: cannot be read: {error.strerror}; mend `tls`")


def grpc_target(endpoint: str) -> tuple[str, bool]:
    """The gRPC target of an endpoint, and whether TLS is spoken there.

    Args:
        endpoint: `unix:/path`, `host:8001`, `grpc://host:8001` or `grpcs://host:8001`.

    Raises:
        ValueError: It is nothing of these.
    """
    scheme, found, target = endpoint.partition("://")
    if not found:
        scheme, target = "grpc", endpoint
    if scheme == "grpc" and target.startswith("unix:"):
        return target, False
    host, _, port = target.rpartition(":")
    if scheme not in {"grpc", "grpcs"} or not host or "/" in host or not (port.isascii() and port.isdigit()):
        raise ValueError("not a gRPC endpoint")
    return target, scheme == "grpcs"


def is_local(target: str) -> bool:
    """Whether a gRPC target is on this machine for certain."""
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
