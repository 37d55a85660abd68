"""Bodies on their way to the audit service: whoever seals them cannot open them again.

A content key is sealed to the service's public key (HPKE) and used for many bodies, because sealing costs as much as a
whole request otherwise. It lives in memory alone and is changed after some minutes.

Source: RFC 9180 (HPKE, DHKEM(X25519, HKDF-SHA256), AES-256-GCM); NIST SP 800-38D section 8.3 for the number of nonces.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from moltbot.audit.v1 import privacy_pb2

from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY_BYTES, NONCE_BYTES = 32, 12
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_INFO = b"moltbot audit bodies"
_KEY_LIVES_S = 600.0
_KEY_SEALS = 1 << 20
_REMEMBERED = 256


class Sealer:
    """Seals bodies to a public key. For one thread.

    Args:
        public_key: X25519, 32 bytes.

    Raises:
        InvalidArgument: It is no such key.
    """

    def __init__(self, public_key: bytes) -> None:
        try:
            self._public = X25519PublicKey.from_public_bytes(public_key)
        except ValueError:
            raise InvalidArgument("the audit service's key is no X25519 key") from None
        self._sealed_key = b""
        self._cipher: AESGCM | None = None
        self._left = 0
        self._until_s = 0.0

    def seal(self, event_id: bytes, body: privacy_pb2.Body) -> privacy_pb2.SealedBody:
        """Seal the bodies of an event."""
        cipher = self._cipher
        if cipher is None or self._left < 1 or time.monotonic() >= self._until_s:
            key = AESGCM.generate_key(8 * KEY_BYTES)
            cipher = self._cipher = AESGCM(key)
            self._sealed_key = _SUITE.encrypt(key, self._public, info=_INFO)
            self._left, self._until_s = _KEY_SEALS, time.monotonic() + _KEY_LIVES_S
        self._left -= 1
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = cipher.encrypt(nonce, body.SerializeToString(), event_id)
        return privacy_pb2.SealedBody(
            event_id=event_id, sealed_key=self._sealed_key, nonce=nonce, ciphertext=ciphertext
        )


class Opener:
    """Opens what was sealed to a key. For one thread.

    Args:
        private_key: Of the pair.
    """

    def __init__(self, private_key: X25519PrivateKey) -> None:
        self._private = private_key
        self._keys: dict[bytes, AESGCM] = {}

    @property
    def public_key(self) -> bytes:
        """What bodies are sealed to, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def open(self, sealed: privacy_pb2.SealedBody) -> privacy_pb2.Body:
        """Open bodies.

        Raises:
            InvalidArgument: They were sealed to another key, changed, or are another event's.
        """
        try:
            cipher = self._keys.get(sealed.sealed_key)
            if cipher is None:
                cipher = AESGCM(_SUITE.decrypt(sealed.sealed_key, self._private, info=_INFO))
                if len(self._keys) >= _REMEMBERED:
                    self._keys.clear()
                self._keys[sealed.sealed_key] = cipher
            return privacy_pb2.Body.FromString(cipher.decrypt(sealed.nonce, sealed.ciphertext, sealed.event_id))
        except (InvalidTag, ValueError) as error:
            raise InvalidArgument(f"the bodies of event {sealed.event_id.hex()} cannot be opened") from error
