"""A small stand-in for the Hugging Face hub on localhost: the questions a snapshot download asks, and uploads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Repositories by id: a folder of files, or the error code the hub answers with."""

    def __init__(self) -> None:
        self.repos: dict[str, Path | str] = {}
        self.status = 200
        self.asked: list[str] = []
        """Paths of the requests that were made."""
        self.url = ""
        self.created: list[dict[str, Any]] = []
        """Repositories that an upload made."""
        self.files: dict[str, bytes] = {}
        """Files of the commits that were sent."""
        self.is_silent = False
        """Uploads get no answer."""
        self.ends = threading.Event()

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

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.is_silent:
                hub.ends.wait(60)
            elif hub.status != 200 or self.headers.get("Authorization") != "Bearer secret":
                self.send(401, {"error": f"Invalid credentials: {self.headers['Authorization']}"})
            elif self.path.endswith("/repos/create"):
                hub.created.append(json.loads(data))
                self.send(200, {"url": f"{hub.url}/me/small"})
            elif self.path.endswith("/validate-yaml"):
                self.send(200, {"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                mode = {"uploadMode": "regular", "shouldIgnore": False}
                self.send(200, {"files": [{"path": file["path"], **mode} for file in json.loads(data)["files"]]})
            else:
                for line in map(json.loads, data.splitlines()):
                    if line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.send(200, {"commitUrl": f"{hub.url}/me/small/commit/0123", "commitOid": "0123"})

        def answer(self) -> None:
            path = self.path.split("?")[0]
            hub.asked.append(f"{self.command} {path}")
            if hub.status != 200:
                return self.send(hub.status, {})
            name = "/".join(path.removeprefix("/api/models/").strip("/").split("/")[:2])
            repo = hub.repos.get(name, "RepoNotFound")
            if isinstance(repo, str):
                return self.send(403 if repo == "GatedRepo" else 404, {}, {"X-Error-Code": repo})
            files = sorted(file for file in repo.rglob("*") if file.is_file())
            if "/revision/" in path and path.split("/revision/")[1] not in ("main", "v1", COMMIT):
                return self.send(404, {}, {"X-Error-Code": "RevisionNotFound"})
            if "/tree/" in path:
                sizes = {str(file.relative_to(repo)): (file.stat().st_size, _etag(file)) for file in files}
                entries = [{"type": "file", "path": at, "size": size, "oid": oid} for at, (size, oid) in sizes.items()]
                return self.send(200, entries)
            if path.startswith("/api/"):
                siblings = [{"rfilename": str(file.relative_to(repo))} for file in files]
                return self.send(200, {"id": name, "sha": COMMIT, "siblings": siblings})
            file = repo / path.split("/resolve/")[1].split("/", 1)[1]
            if not file.is_file():
                return self.send(404, {}, {"X-Error-Code": "EntryNotFound"})
            return self.send(200, file.read_bytes(), {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT})

        def send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ends.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
