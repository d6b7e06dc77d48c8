"""A Hub on loopback, for tests: the real `huggingface_hub` and `datasets` work against it.

    with HubServer(token="hf_test") as hub:
        first = hub.add_repo("user/name", {"config.json": b"{}"})
        hub.add_commit("user/name", {"config.json": b'{"a": 1}'})
        subprocess.run([sys.executable, "scripts/train_lora.py", ...], env=environment(hub, tmp_path))
        assert hub.files("user/lora")["adapter_model.safetensors"] == ...
        assert not any("hf_test" in request.text() for request in hub.requests if "/storage/" in request.path)

As on the Hub, the bytes of LFS files lie elsewhere: the client is sent on to a signed address of a storage. This server
is that too, as `localhost` in place of `127.0.0.1`: a token that follows has gone to another host. It is refused there.

Not there: Xet, pull requests, multi-part LFS uploads, `.gitignore` rules, the YAML of cards (never parsed).
"""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from tests.hub_storage import Commit, HubError, Repository, StoredFile, is_lfs

PAGE_SIZE = 1000  # entries of a tree in one answer, as on the Hub


@dataclass
class Request:
    """One request as it arrived, nothing hidden, and the status of its answer."""

    method: str
    path: str  # with the query, still percent-encoded
    headers: dict[str, str]
    body: bytes = field(default=b"", repr=False)
    status: int | None = None  # None: cut before its end

    def text(self) -> str:
        """All of it as one string, to search for what must not be there."""
        return "\n".join([f"{self.method} {self.path}", json.dumps(self.headers), self.body.decode("latin-1")])


@dataclass
class Fault:
    """A failure to come: the next `times` requests whose address holds `part` are refused, or cut."""

    part: str
    method: str | None
    times: int
    status: int | None  # None: cut


@dataclass
class Reply:
    """The answer to a request."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> "Reply":
        return cls(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})


class HubServer:
    """A Hub that serves and takes repositories while the context is open.

    Args:
        token: the token that writes and that opens private repositories; any other one is refused. With None, nobody
            is asked for a token and any token will do.
        read_token: a second token, which reads private repositories and is refused when it writes.
        user: the owner of both tokens, and so of repositories created without a namespace.
    """

    def __init__(self, token: str | None = None, read_token: str | None = None, user: str = "user"):
        self.token = token
        self.read_token = read_token
        self.user = user
        self.requests: list[Request] = []
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # LFS content by its SHA-256, committed or not
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self._secret = secrets.token_bytes(16)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What `HF_ENDPOINT` is to be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    # What a test prepares and looks at

    def add_repo(
        self,
        repo_id: str,
        files: dict[str, bytes] | None = None,
        *,
        repo_type: str = "model",
        revision: str = "main",
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Create a repository with these files on a branch, and return the hash of their commit.

        Nobody has been let into a gated repository: its files are listed and refused.
        """
        with self.lock:
            repo = self.repositories[repo_type, repo_id] = Repository(repo_id, repo_type, private, gated)
            repo.branches.setdefault(revision, repo.branches["main"])
            return self.add_commit(repo_id, files or {}, repo_type=repo_type, revision=revision)

    def add_commit(
        self,
        repo_id: str,
        files: dict[str, bytes],
        deleted: Iterable[str] = (),
        *,
        repo_type: str = "model",
        revision: str = "main",
    ) -> str:
        """Commit files to a branch as someone else would, and return the hash."""
        with self.lock:
            changed = {path: self._keep(path, content) for path, content in files.items()}
            return self.repositories[repo_type, repo_id].commit(revision, changed, deleted, title="Add files").oid

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """The content of every file at a revision."""
        with self.lock:
            commit = self.repositories[repo_type, repo_id].resolve(revision)
            return {path: file.content for path, file in commit.files.items()}

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[Commit]:
        """The commits of a revision, newest first; the last one is the empty one that every repository begins with."""
        with self.lock:
            return self.repositories[repo_type, repo_id].history(revision)

    def fail_next(self, path_substring: str, status: int = 500, times: int = 1, method: str | None = None) -> None:
        """Refuse the next requests whose address (decoded, with its query) holds `path_substring`."""
        self._faults.append(Fault(path_substring, method, times, status))

    def cut_next(self, path_substring: str, times: int = 1, method: str | None = None) -> None:
        """Close the connection in the middle of the next bodies: of a file sent to the client, or by it (PUT).

        Any other request is carried out and half of its answer lost: a commit, say, is made. Redirects and HEAD pass.
        """
        self._faults.append(Fault(path_substring, method, times, None))

    # What the handler asks for

    def fault(self, request: Request, cut: bool) -> Fault | None:
        """The fault that is due for this request, counted as used."""
        with self.lock:
            for fault in self._faults:
                if fault.times < 1 or (fault.status is None) != cut or fault.method not in (None, request.method):
                    continue
                if fault.part in unquote(request.path):
                    fault.times -= 1
                    return fault
        return None

    def role(self, request: Request) -> str | None:
        """What the request's token allows: "write", "read", or None where there is none."""
        if self.token is None:
            return "write"
        authorization = request.headers.get("authorization")
        if authorization is None:
            return None
        if authorization == f"Bearer {self.token}":
            return "write"
        if self.read_token is not None and authorization == f"Bearer {self.read_token}":
            return "read"
        raise HubError(401, "Invalid credentials in Authorization header")

    def repository(self, request: Request, repo_type: str, repo_id: str, write: bool = False) -> Repository:
        """The repository, if the request may see it, and change it where it is going to."""
        role = self.role(request)
        repo = self.repositories.get((repo_type, repo_id))
        if repo is None or (repo.private and role is None):
            status, message = (404, "Repository not found") if role else (401, "Invalid username or password.")
            raise HubError(status, message, "RepoNotFound")
        if write:
            self.require_write(role)
        return repo

    def require_write(self, role: str | None) -> None:
        if role is None:
            raise HubError(401, "Invalid username or password.")
        if role != "write":
            raise HubError(403, "You don't have the rights to write with this token")

    def storage_url(self, method: str, sha256: str, **query: str) -> str:
        """The signed address in the storage from which an object is read, or to which it is written."""
        query["signature"] = self.sign(method, sha256)
        return f"http://localhost:{self._server.server_port}/storage/{sha256}?{urlencode(query)}"

    def sign(self, method: str, sha256: str) -> str:
        return hmac.new(self._secret, f"{method} {sha256}".encode(), "sha256").hexdigest()

    def _keep(self, path: str, content: bytes) -> StoredFile:
        file = StoredFile.of(content, is_lfs(path, len(content)))
        if file.sha256 is not None:
            self.objects[file.sha256] = content
        return file


def environment(hub: HubServer, cache_dir: str | Path) -> dict[str, str]:
    """The whole environment of a subprocess that is to use this Hub, with its caches in `cache_dir`.

    `HF_TOKEN` is the token that writes; replace it to try another, or `""` for none.

    Xet is off because the client decides on it alone: where `hf_xet` is installed, every LFS file is sent through it,
    whatever the Hub answered. For downloads the Hub decides, and this one never offers it.
    """
    prefixes = ("HF_", "HUGGING_FACE_", "HUGGINGFACE_", "TRANSFORMERS_OFFLINE")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)} | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache_dir),
        "HF_HUB_CACHE": str(Path(cache_dir, "hub")),
        "HF_DATASETS_CACHE": str(Path(cache_dir, "datasets")),
        "HF_TOKEN": hub.token or "",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong in an answer, but not that a client went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, finds what answers it, and writes the answer."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave together: apart, the second waits 40 ms for the first to be acknowledged
    timeout = 60
    server: _Server

    def handle_request(self) -> None:
        hub = self.server.hub
        headers = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        request = Request(self.command, self.path, headers)
        hub.requests.append(request)
        length = int(self.headers.get("Content-Length") or 0)
        if self.command == "PUT" and hub.fault(request, cut=True):
            request.body = self.rfile.read(length // 2)
            self.close_connection = True
            return
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        request.body = b"".join(iter(self._chunk, b"")) if chunked else self.rfile.read(length)
        fault = hub.fault(request, cut=False)
        try:
            if fault is not None and fault.status is not None:
                raise HubError(fault.status, "A failure that the test asked for")
            with hub.lock:
                reply = answer(hub, request)
        except HubError as error:
            reply = Reply.of({"error": error.message}, error.status, error.headers)
        self._write(request, reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def _chunk(self) -> bytes:
        """The next piece of a chunked body, `b""` after the last one."""
        content = self.rfile.read(int(self.rfile.readline().split(b";")[0], 16))
        self.rfile.readline()
        return content

    def _write(self, request: Request, reply: Reply) -> None:
        whole = reply.status // 100 != 2 or request.method == "HEAD" or len(reply.body) < 2
        cut = not whole and self.server.hub.fault(request, cut=True) is not None
        request.status = None if cut else reply.status
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if request.method != "HEAD":
            self.wfile.write(reply.body[: len(reply.body) // 2] if cut else reply.body)
        self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `HubServer.requests` is the log."""


# What answers which address


@dataclass
class Call:
    """A request, and the decoded parts of its address; the names are those of the groups in the patterns below."""

    hub: HubServer
    request: Request
    query: dict[str, list[str]]
    kind: str = "models"
    repo_id: str = ""
    revision: str = "main"
    path: str = ""
    name: str = ""

    @property
    def repo_type(self) -> str:
        return self.kind.removesuffix("s")

    @property
    def json(self) -> Any:
        return json.loads(self.request.body or b"{}")

    def repository(self, write: bool = False) -> Repository:
        return self.hub.repository(self.request, self.repo_type, self.repo_id, write)


Answer = Callable[[Call], Reply]
ROUTES: list[tuple[str, re.Pattern[str], Answer]] = []
API = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+(?:/[^/]+)?)"
PAGE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo_id>[^/]+(?:/[^/]+)?)"
REVISION = "/(?P<revision>[^/]+)"


def route(methods: str, pattern: str) -> Callable[[Answer], Answer]:
    def register(function: Answer) -> Answer:
        ROUTES.extend((method, re.compile(pattern), function) for method in methods.split())
        return function

    return register


def answer(hub: HubServer, request: Request) -> Reply:
    """Find the route of a request and run it. `%2F` does not separate: a branch may be called `a/b`."""
    address = urlsplit(request.path)
    for method, pattern, function in ROUTES:
        match = pattern.fullmatch(address.path)
        if method == request.method and match:
            parts = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
            return function(Call(hub, request, parse_qs(address.query), **parts))
    raise HubError(404, f"The test Hub does not know {request.method} {address.path}")


@route("GET", "/api/whoami-v2")
def whoami(call: Call) -> Reply:
    role = call.hub.role(call.request)
    if role is None:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "test", "role": role, "createdAt": "2026-01-01T00:00:00.000Z"}
    auth = {"type": "access_token", "accessToken": token}
    name = call.hub.user
    return Reply.of({"type": "user", "id": "1", "name": name, "fullname": name, "orgs": [], "auth": auth})


@route("POST", "/api/validate-yaml")
def validate_yaml(call: Call) -> Reply:
    return Reply.of({"errors": [], "warnings": []})


@route("POST", "/api/repos/create")
def create_repo(call: Call) -> Reply:
    call.hub.require_write(call.hub.role(call.request))
    repo_type = call.json.get("type") or "model"
    repo_id = f"{call.json.get('organization') or call.hub.user}/{call.json['name']}"
    described = {"url": page(call.hub, repo_type, repo_id), "name": repo_id, "id": repo_id}
    if (repo_type, repo_id) in call.hub.repositories:
        message = f"You already created this {repo_type} repo"
        return Reply.of({"error": message, **described}, 409, {"X-Error-Message": message})
    private = call.json.get("visibility") == "private" or bool(call.json.get("private"))
    call.hub.repositories[repo_type, repo_id] = Repository(repo_id, repo_type, private)
    return Reply.of(described)


@route("GET", API + "/tree" + REVISION + "(?:/(?P<path>.+))?")
def tree(call: Call) -> Reply:
    repo = call.repository()
    commit = repo.resolve(call.revision)
    entries = commit.folder(call.path, recursive=asks_for("recursive", call.query))
    start = int(call.query.get("cursor", ["0"])[0])
    headers = {}
    if len(entries) > start + PAGE_SIZE:
        following = urlencode({**call.query, "cursor": [str(start + PAGE_SIZE)]}, doseq=True)
        headers["Link"] = f'<{call.hub.url}{urlsplit(call.request.path).path}?{following}>; rel="next"'
    entries = entries[start : start + PAGE_SIZE]
    return Reply.of(expanded(repo, commit, entries) if asks_for("expand", call.query) else entries, headers=headers)


@route("POST", API + "/paths-info" + REVISION)
def paths_info(call: Call) -> Reply:
    repo = call.repository()
    commit = repo.resolve(call.revision)
    form = parse_qs(call.request.body.decode())
    known = {entry["path"]: entry for entry in commit.folder("", recursive=True)}
    entries = [known[path] for path in form.get("paths", []) if path in known]
    return Reply.of(expanded(repo, commit, entries) if asks_for("expand", form) else entries)


def asks_for(option: str, query: dict[str, list[str]]) -> bool:
    return query.get(option, [""])[0].lower() in ("true", "1")


def expanded(repo: Repository, commit: Commit, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a listing, each with the commit that last changed it."""
    changes = [repo.last_change(commit.oid, entry["path"]) for entry in entries]
    last = [{"id": change.oid, "title": change.title, "date": change.date} for change in changes]
    return [{**entry, "lastCommit": change} for entry, change in zip(entries, last, strict=True)]


@route("GET", API + "/refs")
def refs(call: Call) -> Reply:
    repo = call.repository()
    branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in repo.branches.items()]
    tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in repo.tags.items()]
    return Reply.of({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


@route("GET", API + "/commits" + REVISION)
def commits(call: Call) -> Reply:
    authors = [{"user": call.hub.user}]
    history = call.repository().history(call.revision)
    described = [{"id": c.oid, "title": c.title, "message": c.message, "date": c.date} for c in history]
    return Reply.of([{**commit, "authors": authors} for commit in described])


@route("POST", API + "/branch/(?P<name>[^/]+)")
def create_branch(call: Call) -> Reply:
    repo = call.repository(write=True)
    if call.name in repo.branches:
        raise HubError(409, f"Reference already exists: {call.name}")
    repo.branches[call.name] = repo.resolve(call.json.get("startingPoint", "main")).oid
    return Reply.of({})


@route("POST", API + "/tag" + REVISION)
def create_tag(call: Call) -> Reply:
    repo = call.repository(write=True)
    if call.json["tag"] in repo.tags:
        raise HubError(409, f"Tag already exists: {call.json['tag']}")
    repo.tags[call.json["tag"]] = repo.resolve(call.revision).oid
    return Reply.of({})


@route("POST", API + "/preupload" + REVISION)
def preupload(call: Call) -> Reply:
    commit = call.repository(write=True).resolve(call.revision)
    files = []
    for file in call.json["files"]:
        mode = "lfs" if is_lfs(file["path"], file["size"]) else "regular"
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        if file["path"] in commit.files:
            files[-1]["oid"] = commit.files[file["path"]].etag
    return Reply.of({"files": files, "commitOid": commit.oid})


@route("POST", API + "/commit" + REVISION)
def create_commit(call: Call) -> Reply:
    repo = call.repository(write=True)
    if "create_pr" in call.query:
        raise HubError(400, "The test Hub has no pull requests")
    header: dict[str, str] = {}
    changed: dict[str, StoredFile] = {}
    deleted: list[str] = []
    for line in call.request.body.splitlines():
        operation = json.loads(line)
        key, value = operation["key"], operation["value"]
        if key == "header":
            header = value
        elif key == "file":
            changed[value["path"]] = StoredFile.of(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in call.hub.objects:
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            changed[value["path"]] = StoredFile.of(call.hub.objects[value["oid"]], lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            deleted.append(value["path"].rstrip("/") + ("/" if key == "deletedFolder" else ""))
        else:
            raise HubError(400, f"The test Hub does not know the operation {key}")
    texts = {"title": header["summary"], "message": header.get("description", "")}
    made = repo.commit(call.revision, changed, deleted, **texts, parent=header.get("parentCommit"))
    url = f"{page(call.hub, call.repo_type, call.repo_id)}/commit/{made.oid}"
    return Reply.of({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


@route("GET", API + f"(?:/revision{REVISION})?")  # after the others: their last words could be a name
def repo_info(call: Call) -> Reply:
    repo = call.repository()
    commit = repo.resolve(call.revision)
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
    for sibling in siblings if "blobs" in call.query else []:
        entry = commit.files[sibling["rfilename"]].describe(sibling["rfilename"])
        sibling |= {"size": entry["size"], "blobId": entry["oid"]}
        if "lfs" in entry:
            sibling["lfs"] = {**entry["lfs"], "sha256": entry["lfs"]["oid"]}
    described = {
        "id": call.repo_id,
        "author": call.repo_id.partition("/")[0],
        "sha": commit.oid,
        "createdAt": repo.created,
        "lastModified": commit.date,
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": siblings,
    }
    return Reply.of(described)


@route("GET HEAD", PAGE + "/resolve" + REVISION + "/(?P<path>.+)")
def resolve(call: Call) -> Reply:
    repo = call.repository()
    if repo.gated:
        status = 403 if call.hub.role(call.request) else 401
        raise HubError(status, f"Access to {repo.repo_type} {repo.repo_id} is restricted.", "GatedRepo")
    commit = repo.resolve(call.revision)
    file = commit.get(call.path)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
    if file.sha256 is None:
        return ranged(call.request, file.content, headers)
    headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
    headers["Location"] = call.hub.storage_url("GET", file.sha256, filename=call.path)
    return Reply(302, b"Found", headers)


@route("POST", PAGE + r"\.git/info/lfs/objects/batch")
def lfs_batch(call: Call) -> Reply:
    call.repository(write=True)
    verify = {"href": f"{page(call.hub, call.repo_type, call.repo_id)}.git/info/lfs/objects/verify"}
    objects: list[dict[str, Any]] = []
    for wanted in call.json["objects"]:
        objects.append({"oid": wanted["oid"], "size": wanted["size"]})
        if wanted["oid"] not in call.hub.objects:  # one that is here needs no upload
            upload = {"href": call.hub.storage_url("PUT", wanted["oid"])}
            objects[-1]["actions"] = {"upload": upload, "verify": verify}
    return Reply.of({"transfer": "basic", "objects": objects})


@route("POST", PAGE + r"\.git/info/lfs/objects/verify")
def lfs_verify(call: Call) -> Reply:
    call.repository(write=True)
    if len(call.hub.objects.get(call.json["oid"], b"")) != call.json["size"]:
        raise HubError(404, f"Object {call.json['oid']} has not arrived")
    return Reply.of({})


@route("GET HEAD PUT", "/storage/(?P<name>[0-9a-f]{64})")
def storage(call: Call) -> Reply:
    if "authorization" in call.request.headers:  # S3 does so too
        raise HubError(400, "Only one auth mechanism allowed: the signature, or an Authorization header")
    put = call.request.method == "PUT"
    if call.query.get("signature") != [call.hub.sign("PUT" if put else "GET", call.name)]:
        raise HubError(403, "The signature does not match")
    headers = {"ETag": f'"{call.name}"', "Accept-Ranges": "bytes"}
    if not put:
        return ranged(call.request, call.hub.objects[call.name], headers)
    if hashlib.sha256(call.request.body).hexdigest() != call.name:
        raise HubError(400, "The content is not the one that was announced")
    call.hub.objects[call.name] = call.request.body
    return Reply(headers=headers)


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Reply:
    """The content, or the one range of it that the request asks for."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", "").replace(" ", ""))
    if not match or match.groups() == ("", ""):
        return Reply(200, content, headers)
    first, last = match.groups()
    start = int(first) if first else max(len(content) - int(last), 0)
    stop = min(int(last) + 1, len(content)) if first and last else len(content)
    if start >= stop:
        raise HubError(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
    headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
    return Reply(206, content[start:stop], headers)


def page(hub: HubServer, repo_type: str, repo_id: str) -> str:
    """The address of a repository's page."""
    return f"{hub.url}/{'' if repo_type == 'model' else repo_type + 's/'}{quote(repo_id)}"
