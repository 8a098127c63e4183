"""Runs the application until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

# After a signal, running answers may take so long to finish, in seconds.
GRACE = 20


def bind(host: str, port: int) -> socket.socket:
    """A socket on an address, so that a taken port is told before a model is loaded; port 0 takes a free one.

    Raises:
        OSError: the address is taken or not this machine's.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL of a socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


class Server(uvicorn.Server):
    """Serves on a bound socket until SIGINT, SIGTERM or `should_exit`; then lets answers finish for a while.

    Args:
        app: what is served.
        started: called when requests are let in.
        grace: seconds that running answers have to finish after the first signal; a second SIGINT ends them at once.
    """

    def __init__(self, app: FastAPI, started: Callable[[], None], grace: int = GRACE) -> None:
        # Errors go to the log; octavo's own counters take the place of a line a request.
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=grace,
        )
        super().__init__(config)
        self._tell_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self.force_exit:
            self._drop_connections()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # A client that does not read what is left for it would keep its connection open.
        self._drop_connections()
        await asyncio.sleep(0)
        if self.force_exit:
            # uvicorn leaves it out then, but the engine's thread must end all the same.
            await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the signal has done its work with the shutdown and is not raised once more."""
        with contextlib.ExitStack() as stack:
            # Only the main thread may listen to signals; elsewhere `should_exit` ends the server.
            numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
            for number in numbers:
                stack.callback(signal.signal, number, signal.signal(number, self.handle_exit))
            yield

    def _drop_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def serve_on(self, bound: socket.socket) -> None:
        """Serve until the end."""
        asyncio.run(self.serve(sockets=[bound]))
