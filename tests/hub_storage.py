"""What the test Hub holds: repositories, their commits and branches, and the content of their files, all in memory."""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

LFS_THRESHOLD = 10 * 1024 * 1024
# As in the .gitattributes that the Hub gives a new repository: these are LFS files whatever their size.
LFS_SUFFIXES = {".arrow", ".bin", ".flac", ".mp3", ".npz", ".ogg", ".parquet", ".pt", ".safetensors", ".wav", ".zip"}


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def is_lfs(path: str, size: int) -> bool:
    """Whether the Hub wants this file through LFS. An empty one never: the client sends it in the commit."""
    return size > 0 and (size > LFS_THRESHOLD or PurePosixPath(path).suffix in LFS_SUFFIXES)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class HubError(Exception):
    """A request that the Hub refuses: the status, `X-Error-Code` and `X-Error-Message` of its answer."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {"X-Error-Message": message, **(headers or {})}
        if code is not None:
            self.headers["X-Error-Code"] = code


@dataclass(frozen=True)
class StoredFile:
    """The content of one file, and the names that git and LFS give it."""

    content: bytes = field(repr=False)
    blob_id: str
    sha256: str | None  # of an LFS file

    @classmethod
    def of(cls, content: bytes, lfs: bool) -> "StoredFile":
        """Name `content` as git does: by its blob, or by the blob of the pointer that stands for an LFS file."""
        if not lfs:
            return cls(content, git_blob_id(content), None)
        sha256 = hashlib.sha256(content).hexdigest()
        return cls(content, git_blob_id(lfs_pointer(sha256, len(content))), sha256)

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob_id

    def describe(self, path: str) -> dict[str, Any]:
        """The entry of this file in a tree listing."""
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": self.blob_id, "size": len(self.content)}
        if self.sha256 is not None:
            pointer_size = len(lfs_pointer(self.sha256, len(self.content)))
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": pointer_size}
        return entry


@dataclass(frozen=True)
class Commit:
    """One state of a repository: all its files, whichever commit brought them."""

    oid: str
    title: str
    message: str
    date: str
    parent: str | None
    files: dict[str, StoredFile] = field(repr=False)

    def folder(self, path: str, recursive: bool) -> list[dict[str, Any]]:
        """The tree listing of a folder (`""` is the root), or of a single file."""
        if path in self.files:
            return [self.files[path].describe(path)]
        prefix = f"{path}/" if path else ""
        entries: dict[str, dict[str, Any]] = {}
        for name in sorted(self.files):
            if not name.startswith(prefix):
                continue
            parents = [str(parent) for parent in PurePosixPath(name).parents][:-1]
            for entry in [*reversed(parents), name]:
                inside = entry.startswith(prefix) and (recursive or "/" not in entry[len(prefix) :])
                if inside and entry in self.files:
                    entries[entry] = self.files[entry].describe(entry)
                elif inside:
                    entries[entry] = {"type": "directory", "path": entry, "oid": self.folder_id(entry), "size": 0}
        if path and not entries:
            raise HubError(404, f"{path} does not exist", "EntryNotFound", {"X-Repo-Commit": self.oid})
        return list(entries.values())

    def folder_id(self, path: str) -> str:
        """A name of the folder's content; git's own would need its tree format."""
        names = sorted(f"{name} {file.blob_id}" for name, file in self.files.items() if name.startswith(f"{path}/"))
        return hashlib.sha1("\n".join(names).encode()).hexdigest()

    def get(self, path: str) -> StoredFile:
        if path not in self.files:
            raise HubError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": self.oid})
        return self.files[path]


@dataclass
class Repository:
    """A repository: every commit it ever had, and where its branches and tags point."""

    repo_id: str
    repo_type: str
    private: bool = False
    gated: bool = False
    created: str = field(default_factory=now)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.branches["main"] = self._record({}, "initial commit", "", None).oid

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a commit hash names."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        oid = self.branches.get(name) or self.tags.get(name) or revision
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str) -> list[Commit]:
        """The commits that led to a revision, newest first."""
        commits = [self.resolve(revision)]
        while commits[-1].parent is not None:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def last_change(self, revision: str, path: str) -> Commit:
        """The commit that last changed a file or something in a folder."""

        def state(commit: Commit) -> str:
            return commit.files[path].blob_id if path in commit.files else commit.folder_id(path)

        commits = self.history(revision)
        for newer, older in itertools.pairwise(commits):
            if state(newer) != state(older):
                return newer
        return commits[-1]

    def commit(
        self,
        branch: str,
        changed: dict[str, StoredFile],
        deleted: Iterable[str] = (),
        *,
        title: str = "",
        message: str = "",
        parent: str | None = None,
    ) -> Commit:
        """Move a branch to a new commit: deletions first, then additions.

        Args:
            deleted: paths of files, or of folders where they end in `/`.
            parent: the commit that the caller believes to be the branch's head; another one is refused.
        """
        if branch not in self.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head = self.branches[branch]
        if parent is not None and parent != head:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(self.commits[head].files)
        for path in deleted:
            doomed = [name for name in files if name == path or (path.endswith("/") and name.startswith(path))]
            if not doomed:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in doomed:
                del files[name]
        commit = self._record(files | changed, title, message, head)
        self.branches[branch] = commit.oid
        return commit

    def _record(self, files: dict[str, StoredFile], title: str, message: str, parent: str | None) -> Commit:
        content = [f"{path} {file.blob_id}" for path, file in sorted(files.items())]
        text = "\n".join([self.repo_type, self.repo_id, str(len(self.commits)), title, str(parent), *content])
        commit = Commit(hashlib.sha1(text.encode()).hexdigest(), title, message, now(), parent, files)
        self.commits[commit.oid] = commit
        return commit
