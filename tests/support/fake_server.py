"""A small OpenAI-compatible server in a thread, on the byte tokenizer: it knows what to answer, and fails as told."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass
class Served:
    """What a server does, and what it was asked."""

    answer: Callable[[Body], str]
    """The text for a request."""
    log_p: Callable[[list[int], int], float] = lambda tokens, at: -1.0
    """Log-probability of the token at a place, and 0.5 more for the likeliest one, unless it is above -0.5."""
    echoes: bool = True
    finish: str = "stop"
    failures: list[int] = field(default_factory=list)
    """Statuses that the next requests get."""
    asked: list[tuple[str, Body]] = field(default_factory=list)
    most_at_once: int = 0
    raw: bytes | None = None
    """The reply to every request, with status 200, in place of an answer."""
    seconds_a_byte: float = 0.0
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _now: int = 0

    def reply(self, path: str, body: Body) -> tuple[int, Body]:
        with self._lock:
            self.asked.append((path, body))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            failure = self.failures.pop(0) if self.failures else None
        try:
            if failure is not None:
                return failure, {"error": {"message": "not now"}}
            return 200, self._answer(path, body)
        finally:
            with self._lock:
                self._now -= 1

    def _answer(self, path: str, body: Body) -> Body:
        text = self.answer(body)
        choice: Body = {"index": 0, "finish_reason": self.finish}
        if path.endswith("/chat/completions"):
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        if body.get("echo") and self.echoes:
            tokens = body["prompt"]
            own = [None, *(self.log_p(tokens, at) for at in range(1, len(tokens)))]
            best = [None, *({"best": max(value, min(value + 0.5, -0.5))} for value in own[1:])]
            choice["logprobs"] = {"token_logprobs": [*own, -0.1], "top_logprobs": [*best, {"z": -0.1}]}
            choice["logprobs"] |= {"tokens": [""] * (len(tokens) + 1), "text_offset": [0] * (len(tokens) + 1)}
        usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
        return {"id": "x", "object": "text_completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


@contextmanager
def serving(served: Served, port: int = 0) -> Iterator[Served]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = served.reply(self.path, body)
            data = json.dumps(answer).encode() if served.raw is None else served.raw
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            if not served.seconds_a_byte:
                self.wfile.write(data)
                return
            with contextlib.suppress(OSError):
                for byte in data:
                    time.sleep(served.seconds_a_byte)
                    self.wfile.write(bytes([byte]))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
