"""A chat completions server on this machine that misbehaves as told."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Chat = dict[str, Any]
"""A request's body."""


@dataclass
class Judge:
    """What the server does and what it has seen.

    `say` gives the reply's words; `act`, by the attempt's number for that request from 0, may
    answer in its place and then returns True.
    """

    url: str = ""
    say: Callable[[Chat], str] = lambda chat: '{"score": 4}'
    act: Callable[[_Handler, Chat, int], bool] = lambda handler, chat, attempt: False
    finish: str = "stop"
    seen: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def times_asked(self) -> Counter[str]:
        return Counter(self.seen)


@contextlib.contextmanager
def serving() -> Iterator[Judge]:
    """Serve on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    judge = Judge(f"http://127.0.0.1:{server.server_address[1]}/v1")
    server.judge = judge  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        judge.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def judge(self) -> Judge:
        match: Judge = self.server.judge  # type: ignore[attr-defined]
        return match

    def log_message(self, *_: Any) -> None:
        """Keep the terminal clean."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        judge = self.judge
        with judge.lock:
            attempt = judge.seen.count(body)
            judge.seen.append(body)
            judge.keys.append(self.headers.get("Authorization"))
            judge.at_once += 1
            judge.most_at_once = max(judge.most_at_once, judge.at_once)
        chat = json.loads(body)
        # The client hangs up on what takes too long.
        with contextlib.suppress(OSError):
            if not judge.act(self, chat, attempt):
                self.words(judge.say(chat))
        with judge.lock:
            judge.at_once -= 1

    def words(self, text: str | None) -> None:
        self.json(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": self.judge.finish,
                        "message": {"role": "assistant", "content": text},
                    }
                ],
            }
        )

    def json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode())

    def send(
        self, status: int, content: bytes, kind: str = "application/json", **headers: str
    ) -> bool:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            **headers,
        }.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        return True

    def forever(self, piece: bytes, pause: float) -> bool:
        """A response that begins well and never ends."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        while not self.judge.closing.is_set():
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(pause)
        return True

    def forever_headers(self) -> bool:
        """A response with headers that never end, one byte at a time."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.judge.closing.is_set():
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)
        return True

    def sleep(self, seconds: float) -> bool:
        self.judge.closing.wait(seconds)
        return False

    def hang_up(self) -> bool:
        self.close_connection = True
        return True
