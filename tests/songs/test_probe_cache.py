"""What a scan knows of files from the last time, and when it does not trust that."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from acestep.songs import Scan, SongOptions, probe_cache, scan_songs, workers
from acestep.songs.probe_cache import ProbeCache
from tests.songs.clips import write_song

NAMES = ["a.wav", "b.mp3", "c.ogg"]
SETTLED_NS = 300_000_000  # in place of two seconds, to wait less


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three songs, and a file that holds none, under a name to look for."""
    folder = tmp_path_factory.mktemp("planted") / "secretfolder"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        write_song(folder / name, 0.5, seed=number)
    (folder / "d.flac").write_bytes(b"no audio")
    return folder


@pytest.fixture
def folder(original: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The songs at rest."""
    monkeypatch.setattr(probe_cache, "SETTLED_NS", SETTLED_NS)
    rest(original)
    return original


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the files that workers were asked to decode."""
    names: list[str] = []
    run = workers.Worker.run

    def counted(self, function, arguments, timeout):
        names.append(arguments[0].name)
        return run(self, function, arguments, timeout)

    monkeypatch.setattr(workers.Worker, "run", counted)
    return names


def rest(folder: Path) -> None:
    """Wait until the files are old enough to be trusted."""
    newest = max(max(path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in folder.iterdir())
    time.sleep(max(0.0, (newest + SETTLED_NS - time.time_ns()) / 1e9) + 0.01)


def scan(folder: Path, cache: Path, **options) -> tuple[Scan, ProbeCache]:
    probes = ProbeCache(cache)
    return scan_songs(folder, SongOptions(decode_workers=1, **options), cache=probes), probes


def test_what_has_not_changed_is_decoded_once_and_found_alike(folder, tmp_path, decoded):
    first, probes = scan(folder, tmp_path)
    assert sorted(decoded) == [*NAMES, "d.flac"]
    assert (probes.checked, probes.known) == (4, 0)
    decoded.clear()
    second, probes = scan(folder, tmp_path)
    assert decoded == ["d.flac"]  # what was refused is looked at again: the reason may have gone
    assert (probes.checked, probes.known) == (1, 3)
    assert second == first == scan_songs(folder, SongOptions(decode_workers=1))
    assert [song.lossy for song in second.songs] == [False, True, True]


def test_a_new_text_beside_a_song_decodes_nothing(folder, tmp_path, decoded):
    scan(folder, tmp_path)
    decoded.clear()
    (folder / "a.caption.txt").write_text("a caption")
    found, _ = scan(folder, tmp_path)
    (folder / "a.caption.txt").unlink()
    assert decoded == ["d.flac"]
    assert found.songs[0].caption == "a caption"


def test_a_song_that_was_replaced_is_found_out_though_size_and_time_are_the_same(folder, tmp_path, decoded):
    first, _ = scan(folder, tmp_path)
    path = folder / "a.wav"
    before = path.stat()
    write_song(path, 0.5, seed=99)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    decoded.clear()
    second, _ = scan(folder, tmp_path)
    assert "a.wav" in decoded
    assert second.songs[0].id != first.songs[0].id


def test_a_file_that_was_only_just_written_is_not_taken_as_known(folder, tmp_path, decoded):
    os.utime(folder / "a.wav")  # as if it had been written this moment: another write in this tick would not show
    scan(folder, tmp_path)
    decoded.clear()
    scan(folder, tmp_path)
    assert "a.wav" in decoded
    rest(folder)
    scan(folder, tmp_path)
    decoded.clear()
    scan(folder, tmp_path)
    assert decoded == ["d.flac"]


def test_a_file_that_changes_while_it_is_checked_is_not_kept(folder, tmp_path):
    probes, arguments = ProbeCache(tmp_path), (1e9, False)
    assert probes.get(folder / "a.wav", arguments) is None
    os.utime(folder / "a.wav", ns=(1, 1))
    probes.put(folder / "a.wav", arguments, probe_cache.Probe("0" * 32, 1, 48_000, 2))
    assert not list(tmp_path.rglob("*.json"))


def test_other_options_and_other_code_ask_again(folder, tmp_path, decoded, monkeypatch):
    scan(folder, tmp_path)
    for options in ({"downmix": True}, {"max_decoded_gb": 0.5}):
        decoded.clear()
        scan(folder, tmp_path, **options)
        assert len(decoded) == 4
    for name, value in (("probing_version", lambda: "other"), ("decoder_version", lambda _: "libsndfile 9")):
        decoded.clear()
        with monkeypatch.context() as patch:
            patch.setattr(probe_cache, name, value)
            scan(folder, tmp_path)
        assert len(decoded) == 4


def test_damage_is_noticed_and_no_entry_names_a_path(folder, tmp_path, decoded):
    first, _ = scan(folder, tmp_path)
    entries = sorted((tmp_path / "probes").rglob("*.json"))
    assert len(entries) == 3
    for path in entries:
        for planted in (b"secretfolder", b"a.wav", b"b.mp3", b"c.ogg", str(tmp_path).encode()):
            assert planted not in path.read_bytes() + path.name.encode()
    whole = entries[0].read_bytes()
    for damage in (b"", whole[:-3], b"[1]", b"\xff\xfe", whole.replace(b'"channels": 2', b'"channels": 1')):
        entries[0].write_bytes(damage)
        decoded.clear()
        second, probes = scan(folder, tmp_path)
        assert second == first
        assert len(decoded) == 2
        assert probes.damaged == {entries[0]}
        assert entries[0].read_bytes() == whole
