"""Running the application: the socket, signals, and an end that leaves nobody without an answer."""

import ipaddress
import logging
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from persona_prune.common.errors import one_line
from persona_prune.serve.scheduler import Scheduler

log = logging.getLogger(__name__)

_GRACE_SECONDS = 10  # for what is written to clients once the model has stopped


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, not listening yet.

    Raises:
        OSError: there is no such address, or it is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise OSError(
            f"cannot serve on host={host} port={port}: {error.strerror}; choose others (port=0: any)"
        ) from None
    return bound


def is_local(bound: socket.socket) -> bool:
    """Tell whether only this machine can reach the socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def serve(app: FastAPI, scheduler: Scheduler, bound: socket.socket, *, shutdown_seconds: float, ready: str) -> None:
    """Serve until SIGINT or SIGTERM; return when all requests have had their answers and the weights are restored.

    Ends by itself where the scheduler does: nobody would be answered any more.

    Args:
        app: the application.
        scheduler: the one behind it; started here.
        bound: where to listen.
        shutdown_seconds: how long running answers may take to finish after a signal. A second SIGINT ends them.
        ready: what to print once clients can connect.

    Raises:
        RuntimeError: the scheduler ended before it was told to.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(shutdown_seconds) + _GRACE_SECONDS,
    )
    server = _Server(config, scheduler, shutdown_seconds, ready)

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn puts its own handlers in their place while it runs, and when it has ended sends itself the signal again.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    scheduler.start()
    try:
        server.run([bound])
    finally:
        scheduler.close(0)
        scheduler.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    if scheduler.error is not None:
        raise RuntimeError(f"the scheduler ended: {one_line(scheduler.error)}") from scheduler.error


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, scheduler: Scheduler, shutdown_seconds: float, ready: str) -> None:
        super().__init__(config)
        self._scheduler, self._shutdown_seconds, self._ready = scheduler, shutdown_seconds, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._ready, file=sys.stderr, flush=True)

    async def on_tick(self, counter: int) -> bool:
        # Until a signal comes, only the scheduler's own end closes it.
        return await super().on_tick(counter) or self._scheduler.closing

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Before uvicorn waits for the connections: those that wait for the model get their answer now.
        print("stopping: running answers finish, waiting requests are told to come back", file=sys.stderr, flush=True)
        self._scheduler.close(self._shutdown_seconds)
        await super().shutdown(sockets)
