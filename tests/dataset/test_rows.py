"""Rows read in place are those that `datasets` gives, however the dataset was put together."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets, load_from_disk

from acestep.dataset.assemble import write_dataset
from acestep.dataset.row import song_prompts, song_row
from acestep.dataset.rows import EncodedRows
from acestep.dataset.schema import TENSORS, ModelRecord
from acestep.songs import Song


@pytest.fixture(scope="module", params=["float16", "float32"])
def dataset(request, tmp_path_factory):
    """Twenty rows of different lengths, some of them without a genre."""
    folder, draw = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)

    def rows():
        for number in range(20):
            frames = 1 + number * 7 % 13
            values = {"id": f"{number:032x}", "duration": frames / 25, "sample_rate": 48_000, "channels": 2}
            genre = "pop" if number % 3 else ""
            song = Song(file_name=f"{number}.wav", path=Path("x"), caption="a", genre=genre, genre_ratio=50, **values)
            prompts = song_prompts(song)
            conditions = {kind: draw.standard_normal((3 + number % 4, 6), dtype=np.float32) for kind in prompts}
            mean, std = (draw.standard_normal((frames, 5), dtype=np.float32) for _ in range(2))
            yield song_row(song, prompts, conditions, mean, std)

    record = ModelRecord(model="test", revision=None, vae="v", text_encoder="t", condition_encoder="c")
    write_dataset(rows, folder / "data", record, channels=5, condition_size=6, dtype=request.param)
    return load_from_disk(str(folder / "data"))


WAYS = {
    "whole": lambda dataset: dataset,
    "chosen": lambda dataset: dataset.select([17, 3, 3, 9]),
    "a stretch": lambda dataset: dataset.select(range(5, 14)),
    "shuffled": lambda dataset: dataset.shuffle(seed=1),
    "filtered": lambda dataset: dataset.filter(lambda name: name != "3.wav", input_columns="file_name"),
    "joined": lambda dataset: concatenate_datasets([dataset.select(range(12, 20)), dataset, dataset.select([2])]),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_tensor_is_the_one_of_its_row(dataset, way):
    dataset = WAYS[way](dataset)
    assert len(dataset.data.column("latents").chunks) == (3 if way == "joined" else 1)
    expected = dataset.with_format("numpy")
    for rows in (EncodedRows(dataset), pickle.loads(pickle.dumps(EncodedRows(dataset)))):
        for index in range(len(rows)):
            row = expected[index]
            for name in TENSORS:
                found = rows.tensor(index, name)
                if np.ndim(row[name]) == 0:
                    assert found is None
                    continue
                assert found.dtype == torch.float32
                assert np.array_equal(found.numpy(), row[name].astype(np.float32))
                assert torch.equal(rows.tensor(index, name, 1, 4), found[1:4])
                assert torch.equal(rows.tensor(index, name, 2), found[2:])


def test_what_is_handed_on_is_a_copy(dataset):
    rows = EncodedRows(dataset)
    rows.tensor(4, "latents").zero_()
    assert rows.tensor(4, "latents").abs().max() > 0
