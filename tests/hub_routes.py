"""What answers which address of the test Hub, as `huggingface_hub` asks for it."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from tests.hub_http import Reply, Request
from tests.hub_storage import Commit, HubError, Repository, StoredFile, is_lfs

if TYPE_CHECKING:
    from tests.hub_server import HubServer

PAGE_SIZE = 1000  # entries of a tree in one answer, as on the Hub


@dataclass
class Call:
    """A request, and the decoded parts of its address; the names are those of the groups in the patterns below."""

    hub: "HubServer"
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


def answer(hub: "HubServer", request: Request) -> Reply:
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


def page(hub: "HubServer", repo_type: str, repo_id: str) -> str:
    """The address of a repository's page."""
    return f"{hub.url}/{'' if repo_type == 'model' else repo_type + 's/'}{quote(repo_id)}"
