import numpy as np
import pytest
import torch

from acestep.dataset.cache_folder import cache_size, clear_cache
from acestep.dataset.encoder import DatasetEncoder
from acestep.dataset.folders import replace_folder
from acestep.dataset.latents import encode_audio, set_tiles
from acestep.dataset.store import TensorStore
from acestep.errors import UserError
from acestep.kept import content_key
from acestep.models.checkpoint import Checkpoint
from acestep.models.tiny import tiny_components
from tests.conftest import REFERENCE


@pytest.mark.parametrize(("seconds", "tile_seconds"), [(11.0, 4), (13.3, 5), (14.0, 10)])
def test_tiles_equal_one_shot(seconds, tile_seconds):
    """The tiny VAE has the released one's kernels, dilations and strides, so its reach to the sides is the same."""
    vae = tiny_components(0, latent_channels=8)["vae"].eval()
    audio = torch.randn(2, int(seconds * 48_000), generator=torch.Generator().manual_seed(0)) * 0.3
    mean, std = encode_audio(vae, audio)
    assert mean.shape == std.shape == (int(np.ceil(seconds * 25)), 8)
    set_tiles(vae, tile_seconds)
    tiled_mean, tiled_std = encode_audio(vae, audio)
    torch.testing.assert_close(tiled_mean, mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(tiled_std, std, rtol=0, atol=1e-5)


def test_too_short_an_overlap_would_be_seen():
    """What the test above would find if tiles did not overlap enough."""
    vae = tiny_components(0, latent_channels=8)["vae"].eval()
    audio = torch.randn(2, 11 * 48_000, generator=torch.Generator().manual_seed(0)) * 0.3
    mean, _ = encode_audio(vae, audio)
    set_tiles(vae, 4)
    vae.tile_sample_overlap = 1920
    assert (encode_audio(vae, audio)[0] - mean).abs().max() > 1e-4


def test_the_reference_vae_in_tiles_gives_the_recorded_posterior():
    from safetensors.torch import load_file

    expected = load_file(REFERENCE / "base" / "expected.safetensors")
    vae = Checkpoint(str(REFERENCE / "base")).vae()
    set_tiles(vae, 4)
    mean, std = encode_audio(vae, expected["vae.waveform"][0])
    torch.testing.assert_close(mean, expected["vae.latent_mean"][0], rtol=0, atol=1e-6)
    torch.testing.assert_close(std, expected["vae.latent_std"][0], rtol=0, atol=1e-6)


def test_models_follow_one_another(songs, model, tmp_path, monkeypatch):
    """VAE, text encoder and condition encoder are never in memory together, and the DiT never is."""
    import gc
    import weakref

    from acestep.songs import SongOptions, scan_songs

    alive: dict[str, weakref.ref] = {}
    together = []

    def watched(component):
        load = getattr(Checkpoint, component)

        def loading(self, *arguments):
            gc.collect()
            others = [name for name, ref in alive.items() if ref() is not None and not next(ref().parameters()).is_meta]
            together.append((component, others))
            loaded = load(self, *arguments)
            alive[component] = weakref.ref(loaded)
            return loaded

        monkeypatch.setattr(Checkpoint, component, loading)

    for component in ("vae", "text_encoder", "condition_encoder", "transformer"):
        watched(component)
    options = SongOptions(decode_workers=1)
    scan = scan_songs(songs, options)
    encoder = DatasetEncoder(Checkpoint(str(model)), TensorStore(tmp_path / "cache"), workers=1)
    prepared = encoder.encode(scan.songs)
    assert prepared.encoded == 3
    assert together == [("vae", []), ("text_encoder", []), ("condition_encoder", [])]


def test_a_store_keeps_what_it_is_given_and_notices_damage(tmp_path):
    store, key = TensorStore(tmp_path), content_key("a", 1)
    tensors = {"mean": torch.randn(3, 4), "half": torch.ones(2, dtype=torch.bfloat16)}
    assert store.get("latents", key) is None
    store.put("latents", key, tensors)
    found = store.get("latents", key)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert key != content_key("a", 2)
    path = store.path("latents", key)
    whole = path.read_bytes()
    for damage in (whole[:-3], whole[:20], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damage)
        assert store.get("latents", key) is None
        assert path in store.damaged
    assert not [entry for entry in path.parent.iterdir() if entry != path]
    assert cache_size(tmp_path) == path.stat().st_size
    (tmp_path / "song.flac").write_text("mine")
    (tmp_path / "latents" / "notes.safetensors").write_text("mine too")
    clear_cache(tmp_path)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["latents", "notes.safetensors", "song.flac"]
    (tmp_path / "latents" / "notes.safetensors").unlink()
    (tmp_path / "song.flac").unlink()
    store.put("latents", key, tensors)
    clear_cache(tmp_path)
    assert not tmp_path.exists()


def test_values_beyond_float16_are_refused_with_the_way_out(tmp_path):
    from acestep.dataset.assemble import _stored

    row = {"file_name": "loud.wav"}
    with pytest.raises(UserError, match=r"loud.wav: latents reaches 1e\+05.*--storage_dtype float32"):
        _stored(np.array([[1e5]], dtype=np.float32), "float16", row, "latents")
    assert _stored(np.array([[1e5]], dtype=np.float32), "float32", row, "latents")[0, 0] == np.float32(1e5)


def test_a_folder_is_replaced_in_one_move(tmp_path):
    for name in ("new", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "target")
    assert (tmp_path / "target" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").write_text("old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "not there", tmp_path / "target")
    assert (tmp_path / "target" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_overwriting_never_takes_what_is_no_dataset(tmp_path):
    from acestep.dataset.assemble import check_output

    (tmp_path / "dataset_info.json").write_text("{}")
    check_output(tmp_path, overwrite=True)
    (tmp_path / "mysong.wav").write_text("mine")
    with pytest.raises(UserError, match=r"holds mysong\.wav beside the dataset"):
        check_output(tmp_path, overwrite=True)
