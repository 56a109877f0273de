"""A small stand-in for the Hugging Face hub on localhost: the questions a snapshot download asks, and its refusals."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Repositories by id: a folder of files, or the error code the hub answers with."""

    def __init__(self) -> None:
        self.repos: dict[str, Path | str] = {}
        self.status = 200
        self.asked: list[str] = []
        """Paths of the requests that were made."""
        self.url = ""

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        got = [path for path in self.asked if path.startswith("GET") and "/resolve/" in path]
        return {path.split("/resolve/")[1].split("/", 1)[1] for path in got}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve until the block ends."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = self.path.split("?")[0]
            hub.asked.append(f"{self.command} {path}")
            if hub.status != 200:
                return self.send(hub.status, b"{}")
            name = "/".join(path.removeprefix("/api/models/").strip("/").split("/")[:2])
            repo = hub.repos.get(name, "RepoNotFound")
            if isinstance(repo, str):
                return self.send(403 if repo == "GatedRepo" else 404, b"{}", {"X-Error-Code": repo})
            files = sorted(file for file in repo.rglob("*") if file.is_file())
            if "/revision/" in path and path.split("/revision/")[1] not in ("main", "v1", COMMIT):
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if "/tree/" in path:
                sizes = {str(file.relative_to(repo)): (file.stat().st_size, _etag(file)) for file in files}
                entries = [{"type": "file", "path": at, "size": size, "oid": oid} for at, (size, oid) in sizes.items()]
                return self.send(200, json.dumps(entries).encode())
            if path.startswith("/api/"):
                siblings = [{"rfilename": str(file.relative_to(repo))} for file in files]
                return self.send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
            file = repo / path.split("/resolve/")[1].split("/", 1)[1]
            if not file.is_file():
                return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT}
            body = file.read_bytes()
            return self.send(200, body, headers)

        def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
