"""``prooftune serve``: the process. It stops by finishing what it has taken."""

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
from prooftune.serving.registry import ServedBundle, load_bundles, named, warm_up
from prooftune.serving.telemetry import Metrics
from prooftune.utils.progress import notify, spinner

_LONGER = 5
"""Seconds beyond a request's own limit after which the server stops waiting for it."""


class Server(uvicorn.Server):
    """Uvicorn's, but on SIGTERM or Ctrl-C the port stays open until the last answer is sent:
    requests that come meanwhile are told so (503) and not left hanging. A second signal ends it at
    once."""

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
            # One tick at least, so that whoever asks /readyz is told before the port closes.
            if self._ticks > 2 and self._activity.idle:
                self.should_exit = True
        return await super().on_tick(counter)


@dataclass(frozen=True, slots=True)
class Service:
    """Bundles and the application that answers with them."""

    served: dict[str, ServedBundle]
    app: App
    activity: ServerState

    def close(self) -> None:
        """Compute what waits, and stop the models' threads."""
        for one in self.served.values():
            one.batcher.close(timeout=_LONGER)


def build_service(
    folders: Mapping[str, Path], options: Options, threads: int | None = None
) -> Service:
    """Load bundles, ask each once, and put the application around them; `threads`: as of
    `load_bundles`.

    Raises:
        ProoftuneError: a bundle cannot be loaded, or cannot answer.
    """
    activity = ServerState()
    metrics = Metrics(activity)
    served = load_bundles(folders, options.limits, metrics.note, threads)
    warm_up(served)
    for name, one in {one.batcher: (name, one) for name, one in reversed(served.items())}.values():
        metrics.watch(name, one.batcher.waiting)
    return Service(served, create_app(served, options, activity, metrics), activity)


def serve(bundles: Sequence[str], host: str, port: int, options: Options) -> None:
    """Load bundles and answer until a signal ends it.

    Args:
        bundles: folders, or ``NAME=FOLDER``.
        host, port: where to listen; port 0: any that is free.
        options: limits, keys, logs.

    Raises:
        UsageError: a folder is not a bundle, or a name will not do.
        Failure: a base model is not there, or the port is taken.
    """
    folders = named(bundles)
    listener = listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    # Every thread that computes has helpers of its own, one for each processor. Where there are
    # more of them than processors they go to sleep after every product instead of waiting for the
    # next, which costs a fifth: this thread is to have none.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with spinner(f"Loading {', '.join(folders)}"):
        service = build_service(folders, options, threads)
    if not options.keys and host not in ("127.0.0.1", "::1", "localhost"):
        notify(
            f"{host} can be reached from elsewhere, and everybody may ask: consider --keys",
            "yellow",
        )
    notify(f"{', '.join(folders)} at {url} (playground), {url}/docs (API). Ctrl-C ends it.")
    options.log(
        "started",
        url=url,
        models=list(folders),
        bases=len({one.batcher for one in service.served.values()}),
    )
    run(service, listener, options)
    service.close()
    options.log("stopped", accepted=service.activity.accepted, finished=service.activity.finished)


def run(service: Service, listener: socket.socket, options: Options) -> None:
    """Answer on a socket until a signal, or whoever sets the activity's `ready` to False, ends it."""
    # What uvicorn would say of requests stands in our own lines; its errors quote messages, which
    # may hold texts.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        service.app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        backlog=2048,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(options.limits.timeout_seconds) + _LONGER,
    )
    Server(config, service.activity).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Before the models are loaded, so that a port that is taken costs no time."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, for asyncio turns Nagle's algorithm off only then: with it, a reply's
    # body waits for the client to acknowledge its head, some 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
