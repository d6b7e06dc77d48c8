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

import hmac
import os
import secrets
import threading
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlencode

from tests.hub_faults import Faults
from tests.hub_http import Request, Server
from tests.hub_routes import answer
from tests.hub_storage import Commit, HubError, Repository, StoredFile, is_lfs


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
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # LFS content by its SHA-256, committed or not
        self.faults = Faults()
        self._secret = secrets.token_bytes(16)
        self._server = Server(lambda request: answer(self, request), self.faults)
        self.requests, self.lock = self._server.requests, self._server.lock

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
        self.faults.add("refuse", path_substring, method, times, status=status)

    def cut_next(self, path_substring: str, times: int = 1, method: str | None = None) -> None:
        """Close the connection in the middle of the next bodies: of a file sent to the client, or by it (PUT).

        Any other request is carried out and half of its answer lost: a commit, say, is made. Redirects and HEAD pass.
        """
        self.faults.add("cut", path_substring, method, times)

    def hold_next(self, path_substring: str, after: int = 0) -> threading.Event:
        """Take half of the next file that is sent here (PUT) and then nothing, until the client is gone.

        Args:
            after: how many files are let pass before.

        Returns:
            What is set when half of it has arrived.
        """
        return self.faults.add("hold", path_substring, "PUT", 1, after=after).reached

    # What the routes ask for

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
