"""A hub on this machine: the part of the hub's protocol that reading needs, a second host as storage, and faults."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

SOON = 20  # seconds: less than the libraries' own retries take, and enough on a busy machine


class Blob:
    """Bytes of a file. `parts` lie in zeros up to `size`, so that files of many gigabytes cost nothing."""

    def __init__(self, data=b"", parts=None, size=None, lfs=False):
        self.parts = parts or {0: data}
        self.size = size or len(data)
        self.lfs = lfs
        content = data if parts is None else repr((sorted(self.parts.items()), self.size)).encode()
        # As the hub: the hash of large files, git's of small ones.
        self.etag = (sha256(content) if lfs else sha1(f"blob {len(content)}\0".encode() + content)).hexdigest()

    def read(self, start, count):
        data = bytearray(count)
        for offset, part in self.parts.items():
            low, high = max(start, offset), min(start + count, offset + len(part))
            if low < high:
                data[low - start : high - start] = part[low - offset : high - offset]
        return bytes(data)


@dataclass
class Faults:
    """What goes wrong with the bodies of files named in `files` (all, if empty)."""

    files: tuple[str, ...] = ()
    cut_after: list[int] = field(default_factory=list)  # one entry a response: bytes before the connection ends
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # one entry a response: status, headers
    no_ranges: bool = False
    shift: int = 0  # of the range that is sent and named
    longer: int = 0  # than the range: Content-Length
    etag: str | None = None
    commit: str | None = None
    seconds_per_chunk: float = 0.0
    gated: bool = False
    token: str | None = None  # the only one that may read
    next_page: str | None = None  # where every page of a list of models leads to; {n} is the number of the request


class HubServer(ThreadingHTTPServer):
    """Serves `models`: id to revision to commit, and commit to files. `requests` and `served` say what was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits, self.files, self.collections = {}, {}, {}
        self.requests, self.served, self.spans = [], Counter(), []
        self.tokens, self.agents = [], set()
        self.faults = Faults()
        self.guard = threading.Lock()
        self.sending = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo, files, revision="main"):
        """Put `files` (name to bytes or Blob) under a new commit that `revision` points to; returns the commit."""
        blobs = {
            name: blob if isinstance(blob, Blob) else Blob(blob, lfs=name.endswith((".safetensors", ".bin")))
            for name, blob in files.items()
        }
        commit = sha1(repr((repo, sorted((n, b.etag) for n, b in blobs.items()))).encode()).hexdigest()
        self.commits.setdefault(repo, {})[revision] = commit
        self.files[repo, commit] = blobs
        return commit

    def rest(self):
        """Return once nothing is being sent: a client that has gone is only noticed at the next chunk."""
        while self.sending:
            time.sleep(0.01)

    def forget(self):
        self.requests.clear()
        self.served.clear()
        self.spans.clear()

    def close(self):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the tests


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        url = urlsplit(self.path)
        with self.server.guard:
            self.server.requests.append((self.command, unquote(url.path)))
            self.server.tokens.append((self.headers["Host"].split(":")[0], self.headers.get("Authorization")))
            self.server.agents.add(self.headers["User-Agent"])
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self.api_models(parts[2:], parse_qs(url.query))
        elif parts[:2] == ["api", "collections"]:
            self.api_collection("/".join(parts[2:]))
        elif parts[0] == "storage":
            repo, commit, name = "/".join(parts[1:3]), parts[3], "/".join(parts[4:])
            self.send_file(self.server.files[repo, commit][name], name, {"ETag": '"storage-tag"'}, body)
        elif len(parts) > 4 and parts[2] == "resolve":
            self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body)
        else:
            self.fail(404, "RepoNotFound")

    def api_models(self, parts, query):
        faults, server = self.server.faults, self.server
        if faults.answers and "api" in faults.files:
            status, headers = faults.answers.pop(0)
            return self.fail(status, None, headers)
        if not parts:
            page, known = (
                int(query.get("page", ["0"])[0]),
                sorted(r for r in server.commits if r.startswith(query["author"][0] + "/")),
            )
            link = f'<{server.endpoint}/api/models?author={query["author"][0]}&page={page + 1}>; rel="next"'
            if faults.next_page:
                link = f'<{faults.next_page.format(n=len(server.requests))}>; rel="next"'
            more = {"Link": link} if faults.next_page or len(known) > 2 * page + 2 else {}
            return self.send_json([{"id": repo} for repo in known[2 * page : 2 * page + 2]], more)
        repo, revision = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "main"
        found = self.find(repo, revision)
        if found is None:
            return None
        files = server.files[repo, found].items()
        if "tree" in parts:
            oids = [{"lfs": {"oid": b.etag, "size": b.size, "pointerSize": 130}} if b.lfs else {} for _, b in files]
            entries = [{"type": "file", "path": name, "size": b.size, "oid": b.etag[:40]} for name, b in files]
            return self.send_json([entry | oid for entry, oid in zip(entries, oids, strict=True)])
        siblings = []
        for name, blob in files:
            lfs = {"lfs": {"sha256": blob.etag, "size": blob.size, "pointerSize": 130}} if blob.lfs else {}
            siblings.append(
                {"rfilename": name, "size": blob.size, "blobId": "0" * 40 if blob.lfs else blob.etag, **lfs}
            )
        return self.send_json({"id": repo, "sha": found, "siblings": siblings})

    def api_collection(self, slug):
        if slug not in self.server.collections:
            return self.fail(404, None)
        items = [
            {"_id": str(i), "id": name, "type": kind, "position": i, "lastModified": "2026-01-01T00:00:00.000Z"}
            for i, (kind, name) in enumerate(self.server.collections[slug])
        ]
        return self.send_json(
            {"slug": slug, "title": "t", "owner": {}, "items": items, "lastUpdated": "2026-01-01T00:00:00.000Z",
             "position": 0, "private": False, "theme": "blue", "upvotes": 0}
        )  # fmt: skip

    def find(self, repo, revision):
        commits = self.server.commits.get(repo)
        if commits is None:
            return self.fail(401, None, {"X-Error-Message": "Invalid username or password."})
        commit = commits.get(revision, revision)
        return commit if (repo, commit) in self.server.files else self.fail(404, "RevisionNotFound")

    def resolve(self, repo, revision, name, body):
        faults = self.server.faults
        if faults.gated and self.headers.get("Authorization") != f"Bearer {faults.token}":
            return self.fail(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        commit = self.find(repo, revision)
        if commit is None:
            return None
        blob = self.server.files[repo, commit].get(name)
        if blob is None:
            return self.fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
        hit = not faults.files or name in faults.files
        etag = f'"{faults.etag}"' if hit and faults.etag else f'"{blob.etag}"'
        about = {"X-Repo-Commit": faults.commit if hit and faults.commit else commit, "Accept-Ranges": "bytes"}
        if blob.lfs:  # as the hub: the storage is another host, and only the redirect says which content is meant
            where = f"http://localhost:{self.server.server_port}/storage/{repo}/{commit}/{name}"
            about |= {"X-Linked-Etag": etag, "X-Linked-Size": str(blob.size), "Location": where}
            return self.send(302, b"", about)
        return self.send_file(blob, name, about | {"ETag": etag}, body)

    def send_file(self, blob, name, headers, body):
        faults = self.server.faults
        hit = body and (not faults.files or name in faults.files)
        if hit and faults.answers:
            status, more = faults.answers.pop(0)
            return self.fail(status, None, more)
        start, end, status = 0, blob.size, 200
        asked = self.headers.get("Range")
        if asked and not (hit and faults.no_ranges):
            first, last = asked.removeprefix("bytes=").split("-")
            start, end, status = int(first), int(last) + 1 if last else blob.size, 206
            if hit:
                start, end = start + faults.shift, end + faults.shift
            headers = headers | {"Content-Range": f"bytes {start}-{end - 1}/{blob.size}"}
        self.send_response(status)
        length = end - start + (faults.longer if hit else 0)
        for key, value in (headers | {"Content-Length": str(length)}).items():
            self.send_header(key, value)
        self.end_headers()
        if not body:
            return None
        with self.server.guard:
            stop = start + faults.cut_after.pop(0) if hit and faults.cut_after else end
            self.server.spans.append((name, start, end))
            self.server.sending += 1
        try:
            for at in range(start, min(stop, end), 1 << 18):
                chunk = blob.read(at, min(1 << 18, stop - at, end - at))
                if hit:
                    time.sleep(faults.seconds_per_chunk)
                with self.server.guard:  # before they are sent: a test may look as soon as it has them
                    self.server.served[name] += len(chunk)
                self.wfile.write(chunk)
        finally:
            with self.server.guard:
                self.server.sending -= 1
        if stop < end:
            self.close_connection = True
        return None

    def send_json(self, value, headers=None):
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def fail(self, status, code, headers=None):
        self.send(status, b"", (headers or {}) | ({"X-Error-Code": code} if code else {}))

    def send(self, status, body, headers):
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
