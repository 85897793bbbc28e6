"""What a server allows, and to whom it listens."""

from __future__ import annotations

import dataclasses
import hmac
import ipaddress
import os
from pathlib import Path

from gato.tokenizers.errors import GatoError

TOKEN_VARIABLE = "GATO_TOKEN"
SHORTEST_TOKEN = 16


class ServeError(GatoError):
    """A server that cannot be started as asked."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Attributes:
    sessions: most at a time.
    message: most bytes of a message from a client.
    idle: seconds without a message after which a connection is closed.
    patience: seconds to wait for further sessions before a batch runs.
    """

    sessions: int = 16
    message: int = 16 << 20
    idle: float = 600.0
    patience: float = 0.003


def read_token(file: Path | None) -> str | None:
    """The token in a file, else in the environment variable GATO_TOKEN, else None. Raises ServeError: unusable."""
    where = str(file) if file is not None else f"${TOKEN_VARIABLE}"
    try:
        token = file.read_text("utf-8").strip() if file is not None else os.environ.get(TOKEN_VARIABLE, "").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"{where}: cannot read the token: {getattr(error, 'strerror', None) or 'no text'}") from None
    if not token and file is None:
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ServeError(
            f"{where}: a token has at least {SHORTEST_TOKEN} printable ASCII characters and no space; "
            "make one: openssl rand -hex 32"
        )
    return token


def check_address(host: str, token: str | None) -> None:
    """Raises ServeError if others than this machine could connect without a token."""
    if token is None and not is_loopback(host):
        raise ServeError(
            f"--host {host}: other machines could connect, so a token is needed: --token-file FILE or {TOKEN_VARIABLE}"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def authorised(header: list[str], token: str | None) -> bool:
    """Whether the values of the request's ``Authorization`` header carry the token, in constant time."""
    if token is None:
        return True
    given = header[0].removeprefix("Bearer ") if len(header) == 1 else ""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
