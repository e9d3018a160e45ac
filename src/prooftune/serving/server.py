"""``prooftune serve``: the server process, with graceful shutdown."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
import uvicorn

from prooftune.errors import Failure
from prooftune.serving.app import Options, create_app
from prooftune.serving.asgi import App
from prooftune.serving.limits import ServerState
from prooftune.serving.registry import ServedBundle, load_bundles, parse_bundle_arguments, warm_up
from prooftune.serving.telemetry import Metrics
from prooftune.utils.progress import notify, spinner

_GRACE_SECONDS = 5
"""Seconds beyond the request timeout after which shutdown no longer waits for a request."""


class Server(uvicorn.Server):
    """A uvicorn server that keeps the port open until the last response is sent.

    After SIGTERM or Ctrl-C, new requests get status 503 instead of a refused connection. A second
    signal stops the server at once.
    """

    def __init__(self, config: uvicorn.Config, activity: ServerState) -> None:
        super().__init__(config)
        self._activity, self._ticks = activity, 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._activity.ready:
            self.force_exit = self.should_exit = True
        self._activity.ready = False

    async def on_tick(self, counter: int) -> bool:
        if not self._activity.ready:
            self._ticks += 1
            # Wait one tick, so that a load balancer sees /readyz fail before the port closes.
            if self._ticks > 2 and self._activity.idle:
                self.should_exit = True
        return await super().on_tick(counter)


@dataclass(frozen=True, slots=True)
class Service:
    """Loaded bundles and the application that serves them."""

    served: dict[str, ServedBundle]
    app: App
    activity: ServerState

    def close(self) -> None:
        """Compute the queued rows, then stop the batching threads."""
        for entry in self.served.values():
            entry.batcher.close(timeout=_GRACE_SECONDS)


def build_service(
    folders: Mapping[str, Path], options: Options, threads: int | None = None
) -> Service:
    """Load and warm up bundles, and create the application.

    Args:
        folders: name -> bundle folder.
        options: limits, API keys, logging.
        threads: CPU threads per model. Default: PyTorch's.

    Raises:
        ProoftuneError: a bundle cannot be loaded, or cannot predict.
    """
    activity = ServerState()
    metrics = Metrics(activity)
    served = load_bundles(folders, options.limits, metrics.observe_batch, threads)
    warm_up(served)
    # Reversed, so that a shared queue is named after the first bundle that uses it.
    for name, entry in {
        entry.batcher: (name, entry) for name, entry in reversed(served.items())
    }.values():
        metrics.track_queue(name, entry.batcher.queued_rows)
    return Service(served, create_app(served, options, activity, metrics), activity)


def serve(bundles: Sequence[str], host: str, port: int, options: Options) -> None:
    """Load bundles and serve until a signal.

    Args:
        bundles: folders, or ``NAME=FOLDER``.
        host: address to listen on.
        port: port to listen on; 0 for any free one.
        options: limits, API keys, logging.

    Raises:
        UsageError: a folder is not a bundle, or a name is invalid.
        Failure: a base model is unavailable, or the port is in use.
    """
    folders = parse_bundle_arguments(bundles)
    listener = open_listener(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    # OpenMP gives every computing thread its own pool of workers. With more workers than cores they
    # sleep after each matmul instead of spinning until the next, which costs 20% of throughput; so
    # this thread, which does not compute after loading, gets no pool.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with spinner(f"Loading {', '.join(folders)}"):
        service = build_service(folders, options, threads)
    if not options.keys and host not in ("127.0.0.1", "::1", "localhost"):
        notify(
            f"{host} is reachable from other machines without an API key: consider --keys",
            "yellow",
        )
    notify(f"{', '.join(folders)} at {url} (playground), {url}/docs (API). Ctrl-C ends it.")
    options.log(
        "started",
        url=url,
        models=list(folders),
        bases=len({entry.batcher for entry in service.served.values()}),
    )
    run(service, listener, options)
    # After uvicorn has stopped: requests in progress still need the batching threads.
    service.close()
    options.log("stopped", accepted=service.activity.accepted, finished=service.activity.finished)


def run(service: Service, listener: socket.socket, options: Options) -> None:
    """Serve on a socket until a signal, or until the activity's `ready` becomes False."""
    # `with_telemetry` logs requests and errors; uvicorn's error messages may quote texts.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        service.app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        backlog=2048,
        # Client addresses are not used, so forwarded headers need not be trusted.
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(options.limits.timeout_seconds) + _GRACE_SECONDS,
    )
    Server(config, service.activity).run(sockets=[listener])


def open_listener(host: str, port: int) -> socket.socket:
    """Bind a socket; called before loading, so that a port in use fails at once.

    Raises:
        Failure: the port is in use, or the address is invalid.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm only if the protocol is given explicitly; otherwise a
    # response body waits some 40 ms for the client to acknowledge the headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # A restarted server can take the port although old connections have not timed out.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise Failure(
            f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}. "
            "Choose another with "
            "--port or --host."
        ) from None
    return listener
