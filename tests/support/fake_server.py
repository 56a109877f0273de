"""A small OpenAI-compatible server in a thread, on the byte tokenizer: it knows what to answer, and fails as told."""

import json
import threading
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
    finish: str = "stop"
    failures: list[int] = field(default_factory=list)
    """Statuses that the next requests get."""
    asked: list[tuple[str, Body]] = field(default_factory=list)
    most_at_once: int = 0
    raw: bytes | None = None
    """The reply to every request, with status 200, in place of an answer."""
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
            self.wfile.write(data)

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
