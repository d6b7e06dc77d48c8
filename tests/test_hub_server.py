"""The test Hub against the real clients, each in a process of its own: they read `HF_ENDPOINT` when imported."""

import hashlib
import http.client
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import HubServer, environment

TOKEN = "hf_the_token_that_writes"
READ_TOKEN = "hf_the_token_that_reads"
LARGE = b"".join(hashlib.sha256(b"%d" % block).digest() for block in range(11 * 2**20 // 32))  # 11 MiB

PRELUDE = """
import json, os, sys
from pathlib import Path
from huggingface_hub import *
from huggingface_hub.errors import *
folder, values = Path(sys.argv[1]), json.loads(sys.argv[2])
def outcome(function, *args, **kwargs):
    try:
        return str(function(*args, **kwargs))
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
"""


def client(hub: HubServer, folder: Path, script: str, token: str | None = None, **values: Any) -> Any:
    """Run a script of the real client, which finds `folder` and `values`, and return what it prints last, as JSON."""
    variables = environment(hub, folder / "home")
    if token is not None:
        variables["HF_TOKEN"] = token
    command = [sys.executable, "-c", PRELUDE + script, str(folder), json.dumps(values)]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def sent(hub: HubServer, method: str, part: str) -> list[int | None]:
    """The statuses of the requests to an address."""
    return [request.status for request in hub.requests if request.method == method and part in request.path]


def test_a_snapshot_holds_the_files_of_its_revision(tmp_path: Path) -> None:
    script = """
branches = {
    revision: Path(snapshot_download("user/name", revision=revision, allow_patterns=["*.json", "sub/*"]))
    for revision in values["revisions"]
}
print(json.dumps({
    revision: [path.name, {str(f.relative_to(path)): f.read_text() for f in path.rglob("*") if f.is_file()}]
    for revision, path in branches.items()
}))
"""
    with HubServer() as hub:
        old = hub.add_repo(
            "user/name", {"config.json": b"{}", "sub/song é.txt": b"la", "model.safetensors": b"weights"}
        )
        new = hub.add_commit("user/name", {"config.json": b'{"a": 1}', "sub/b.safetensors": b"w"}, ["sub/song é.txt"])
        hub.repositories["model", "user/name"].branches["user/a-branch"] = old
        found = client(hub, tmp_path, script, revisions=["main", old, "user/a-branch"])
    first = {"config.json": "{}", "sub/song é.txt": "la"}
    assert found["main"] == [new, {"config.json": '{"a": 1}', "sub/b.safetensors": "w"}]
    assert found[old] == found["user/a-branch"] == [old, first]
    assert not any("/model.safetensors" in request.path for request in hub.requests)


def test_listings_name_every_file_across_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
api = HfApi()
info = api.dataset_info("user/songs", files_metadata=True)
print(json.dumps({
    "sha": info.sha,
    "siblings": {s.rfilename: [s.size, s.blob_id, s.lfs and s.lfs.sha256] for s in info.siblings},
    "tree": [f.path for f in api.list_repo_tree("user/songs", repo_type="dataset", recursive=True)],
    "top": [f.path for f in api.list_repo_tree("user/songs", repo_type="dataset", expand=True)],
    "sub": [f.path for f in api.list_repo_tree("user/songs", "a/b", repo_type="dataset")],
    "paths": [
        [f.path, f.last_commit.oid]
        for f in api.get_paths_info("user/songs", ["a", "x.wav", "none"], repo_type="dataset", expand=True)
    ],
    "commits": [c.commit_id for c in api.list_repo_commits("user/songs", repo_type="dataset")],
    "branches": [b.name for b in api.list_repo_refs("user/songs", repo_type="dataset").branches],
}))
"""
    monkeypatch.setattr("tests.hub_routes.PAGE_SIZE", 2)
    with HubServer() as hub:
        first = hub.add_repo("user/songs", {"a/b/c.txt": b"c", "x.wav": b"sound"}, repo_type="dataset")
        last = hub.add_commit("user/songs", {"a/d.txt": b"d"}, repo_type="dataset")
        found = client(hub, tmp_path, script)
        assert found["commits"] == [commit.oid for commit in hub.commits("user/songs", repo_type="dataset")]
    assert found["sha"] == last
    assert found["siblings"]["x.wav"][::2] == [5, hashlib.sha256(b"sound").hexdigest()]
    assert found["siblings"]["a/d.txt"] == [1, hashlib.sha1(b"blob 1\0d").hexdigest(), None]  # what git calls it
    assert found["tree"] == ["a", "a/b", "a/b/c.txt", "a/d.txt", "x.wav"]
    assert found["top"] == ["a", "x.wav"]
    assert found["sub"] == ["a/b/c.txt"]
    assert found["paths"] == [["a", last], ["x.wav", first]]
    assert found["branches"] == ["main"]


def test_an_uploaded_folder_arrives_whole_and_resumes_after_a_failure(tmp_path: Path) -> None:
    script = """
api = HfApi()
url = api.create_repo("user/lora", private=True)
again = api.create_repo("user/lora", exist_ok=True)
failed = outcome(api.upload_folder, repo_id="user/lora", folder_path=folder / "upload")
made = api.upload_folder(repo_id="user/lora", folder_path=folder / "upload", commit_message="Resumed")
same = api.upload_folder(repo_id="user/lora", folder_path=folder / "upload")
api.create_tag("user/lora", tag="v1")
api.delete_file("large.txt", "user/lora")
api.delete_folder("sub", "user/lora")
private = api.model_info("user/lora").private
print(json.dumps([failed, url.repo_id, again, made.oid, same.oid, private, api.whoami()["name"]]))
"""
    upload = {"large.txt": LARGE, "sub/adapter.safetensors": b"weights", "config.json": b"{}", "empty.wav": b""}
    upload["README.md"] = b"---\nlicense: mit\n---\n# Card\n"
    for path, content in upload.items():
        (tmp_path / "upload" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "upload" / path).write_bytes(content)
    with HubServer(token=TOKEN) as hub:
        hub.fail_next("/commit/main", status=403)
        hub.cut_next("/storage/", method="PUT")
        failed, repo_id, again, made, same, private, name = client(hub, tmp_path, script)
        assert "403 Forbidden: A failure that the test asked for" in failed
        assert (repo_id, private, name) == ("user/lora", True, "user")
        assert again == f"{hub.url}/user/lora"
        assert made == same == hub.commits("user/lora", revision="v1")[0].oid
        assert hub.files("user/lora", revision=made) == upload
        assert set(hub.files("user/lora")) == {"config.json", "empty.wav", "README.md"}
        assert [commit.title for commit in hub.commits("user/lora", revision=made)] == ["Resumed", "initial commit"]
    puts = sent(hub, "PUT", "/storage/")
    assert sorted(puts, key=str) == [200, 200, None]  # one was cut and sent again; nothing was sent twice after that
    assert sent(hub, "POST", "/verify") == [200, 200]
    # The token goes to the Hub and to nobody else.
    assert {TOKEN in request.text() for request in hub.requests if "/storage/" in request.path} == {False}
    assert {TOKEN in request.text() for request in hub.requests if "/api/models/" in request.path} == {True}


def test_a_dataset_makes_the_round_trip(tmp_path: Path) -> None:
    script = """
from datasets import Dataset, load_dataset
rows = [{"title": f"song {i}", "latents": [float(i)] * 8} for i in range(20)]
Dataset.from_list(rows).push_to_hub("user/songs", private=True, num_shards=2)
Dataset.from_list(rows[:3]).push_to_hub("user/songs", split="validation", revision="a/branch")
loaded = load_dataset("user/songs", split="train")
streamed = load_dataset("user/songs", split="train", streaming=True)
branch = load_dataset("user/songs", revision="a/branch")
print(json.dumps([loaded.to_list() == rows, list(streamed) == rows, {k: len(v) for k, v in branch.items()}]))
"""
    with HubServer(token=TOKEN) as hub:
        assert client(hub, tmp_path, script) == [True, True, {"train": 20, "validation": 3}]
        shards = [path for path in hub.files("user/songs", repo_type="dataset") if path.endswith(".parquet")]
        assert len(shards) == 2
        assert hub.repositories["dataset", "user/songs"].private
    assert {TOKEN in request.text() for request in hub.requests if "/storage/" in request.path} == {False}


def test_refusals_are_the_errors_that_the_client_has_for_them(tmp_path: Path) -> None:
    script = """
api = HfApi()
def get(repo_id, filename="a.txt", **kwargs):
    return outcome(hf_hub_download, repo_id, filename, **kwargs)
print(json.dumps({
    "private": get("user/private"),
    "without a token": outcome(api.model_info, "user/private", token=False),
    "wrong token": outcome(api.model_info, "user/private", token="hf_wrong"),
    "whoami": outcome(api.whoami, token="hf_wrong"),
    "gated": get("user/gated"),
    "no repository": get("user/none"),
    "no namespace": outcome(api.model_info, "none"),
    "no revision": get("user/private", revision="none"),
    "no file": get("user/private", filename="none.txt"),
    "write": outcome(api.upload_file, path_or_fileobj=b"a", path_in_repo="b.txt", repo_id="user/private"),
    "create": outcome(api.create_repo, "user/other"),
    "create again": outcome(api.create_repo, "user/private", token=values["writer"]),
    "other parent": outcome(
        api.create_commit, "user/private", [CommitOperationAdd("b.txt", b"b")], commit_message="b",
        parent_commit="0" * 40, token=values["writer"],
    ),
}))
"""
    with HubServer(token=TOKEN, read_token=READ_TOKEN) as hub:
        hub.add_repo("user/private", {"a.txt": b"a"}, private=True)
        hub.add_repo("user/gated", {"a.txt": b"a"}, gated=True)
        found = client(hub, tmp_path, script, token=READ_TOKEN, writer=TOKEN)
        assert set(hub.files("user/private")) == {"a.txt"}
    expected = {
        "private": r".*/a\.txt",
        "without a token": "RepositoryNotFoundError: 401",
        "wrong token": "HfHubHTTPError: .*401",
        "whoami": "HfHubHTTPError: Invalid user token",
        "gated": "GatedRepoError: 403",
        "no repository": "RepositoryNotFoundError: 404",
        "no namespace": "RepositoryNotFoundError: 404",
        "no revision": "RevisionNotFoundError: 404",
        "no file": "RemoteEntryNotFoundError: 404",
        "write": "HfHubHTTPError: .*403 Forbidden",
        "create": "HfHubHTTPError: .*403 Forbidden",
        "create again": "HfHubHTTPError: .*409",
        "other parent": "HfHubHTTPError: .*412",
    }
    wrong = {case: text for case, text in found.items() if not re.match(expected[case], text, re.DOTALL)}
    assert not wrong


def test_a_failing_hub_is_retried_and_a_cut_download_resumes_where_it_stopped(tmp_path: Path) -> None:
    script = """
import hashlib
large = Path(hf_hub_download("user/name", "large.safetensors")).read_bytes()
failed = outcome(hf_hub_download, "user/name", "small.txt", revision=values["old"])
lost = outcome(upload_file, path_or_fileobj=b"a", path_in_repo="a.txt", repo_id="user/name")
print(json.dumps([hashlib.sha256(large).hexdigest(), HfApi().list_repo_files("user/name"), failed, lost]))
"""
    content = LARGE * 2  # the client writes, and so keeps, pieces of 10 MiB
    with HubServer() as hub:
        old = hub.add_repo("user/name", {"large.safetensors": content, "small.txt": b"s"})
        hub.cut_next("large.safetensors", method="GET")
        hub.fail_next("/tree/main", status=503)
        hub.fail_next("small.txt", status=500, times=99, method="GET")
        hub.cut_next("/commit/main")
        digest, files, failed, lost = client(hub, tmp_path, script, old=old)
    assert digest == hashlib.sha256(content).hexdigest()
    assert sent(hub, "GET", "/tree/main") == [503, 200]
    assert "500 Internal Server Error" in failed
    assert "RemoteProtocolError" in lost  # of the answer only: the commit was made
    assert files == ["a.txt", "large.safetensors", "small.txt"]
    gets = [request for request in hub.requests if request.method == "GET" and "/storage/" in request.path]
    assert [(request.status, request.headers.get("range")) for request in gets] == [
        (None, None),
        (206, "bytes=10485760-"),
    ]


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [("bytes=2-4", 206, b"cde"), ("bytes=7-", 206, b"hij"), ("bytes=-3", 206, b"hij"), ("bytes=10-", 416, None)],
)
def test_ranges_are_those_of_http(asked: str, status: int, content: bytes | None) -> None:
    with HubServer() as hub:
        hub.add_repo("user/name", {"a.txt": b"abcdefghij"})
        connection = http.client.HTTPConnection(hub.url.removeprefix("http://"))
        connection.request("GET", "/user/name/resolve/main/a.txt", headers={"Range": asked})
        answer = connection.getresponse()
        assert answer.status == status
        assert content is None or answer.read() == content
        connection.close()
