"""The client of a policy server (`gato serve`): numpy, msgpack and websockets, no JAX.

    from gato_client import Client

    with Client("ws://localhost:8765") as robot:
        robot.open("metaworld/reach-v3", prompt=demonstration)
        action = robot.act(observation)

This folder is one package under two names: `gato_client` where it is installed alone, on a robot, and `gato.client` in
the whole. So it imports itself relatively.
"""

from .client import AuthenticationError, Client, ClientError, FailedError, RefusedError, UnreachableError
from .messages import PROTOCOL, MessageError, decode, encode

__all__ = [
    "PROTOCOL",
    "AuthenticationError",
    "Client",
    "ClientError",
    "FailedError",
    "MessageError",
    "RefusedError",
    "UnreachableError",
    "decode",
    "encode",
]
