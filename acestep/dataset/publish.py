"""An encoded dataset on the Hub: Parquet shards, an index for streaming and a card, in one commit."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from acestep.dataset.card import dataset_card
from acestep.dataset.folders import staging_folder
from acestep.dataset.hub import check_hub_id, on_hub
from acestep.dataset.options import PrepareOptions
from acestep.dataset.schema import TENSORS
from acestep.errors import UserError
from acestep.songs import Song

SHARD_BYTES = 256_000_000
INDEX_COLUMNS = ("shard", "row_group")
_NOT_READ = ("lyrics", "caption", "genre", "sources")  # by training: their prompts are there


def shard_name(split: str, number: int, count: int) -> str:
    """Path of a shard in the repository."""
    return f"data/{split}-{number:05d}-of-{count:05d}.parquet"


def index_name(split: str) -> str:
    """Path of the index of a split: a row for each row, without tensors, saying where it lies."""
    return f"index/{split}.parquet"


def check_hub(options: PrepareOptions) -> None:
    """Find out before the long work whether the dataset can be uploaded, and make the repository.

    Raises:
        UserError: for a refused token, and for a public repository where a private one was asked for.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    repo_id, what = options.hub_dataset_id, f"--hub_dataset_id {options.hub_dataset_id}"
    check_hub_id(repo_id, what)
    api, advice = HfApi(), "Check the connection and start again."
    on_hub(
        lambda: api.create_repo(repo_id, repo_type="dataset", private=options.private or None, exist_ok=True),
        what,
        advice,
    )
    # An existing repository is found with a token that only reads: ask as a writer, without writing anything.
    probe = CommitOperationAdd("README.md", b"#")
    on_hub(lambda: api.preupload_lfs_files(repo_id, [probe], repo_type="dataset"), what, advice)
    if options.private and not on_hub(lambda: api.dataset_info(repo_id), what, advice).private:
        raise UserError(
            f"{what}: is public, and --private was asked for. Make it private on its page, or choose another."
        )


def publish(options: PrepareOptions, songs: dict[str, Song]) -> None:
    """Upload the dataset in `--output_dir`; the repository changes once, when everything is there.

    A shard that has arrived is known to the Hub by its content, so an upload that is started again goes on.

    Args:
        songs: by row id, for their audio.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    loaded = datasets.load_from_disk(options.output_dir)
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict(train=loaded)
    repo_id, api = options.hub_dataset_id, HfApi()
    what = f"--hub_dataset_id {repo_id}"
    advice = (
        f"The dataset is whole in {Path(options.output_dir).name}; the same command with --overwrite goes on where the "
        "upload stopped."
    )
    operations, sizes = [], {}
    datasets.disable_progress_bars()
    with staging_folder(Path(options.output_dir).absolute()) as folder:
        for split, dataset in splits.items():
            public = public_rows(dataset)
            if options.include_audio:
                public = _with_audio(public, songs, options, folder / "audio" / split)
            sizes[split] = 0
            for path, content in _files(split, public, folder):
                sizes[split] += len(content) if isinstance(content, bytes) else content.stat().st_size
                addition = CommitOperationAdd(path, content)
                on_hub(lambda a=addition: api.preupload_lfs_files(repo_id, [a], repo_type="dataset"), what, advice)
                operations.append(addition)
                if isinstance(content, Path):
                    content.unlink()  # only one shard at a time is on the disk
                    print(f"{repo_id}: {path} is there")
        card = dataset_card(splits, sizes, options)
        operations.append(CommitOperationAdd("README.md", card.encode()))
        new = {operation.path_in_repo for operation in operations}
        old = on_hub(lambda: api.list_repo_files(repo_id, repo_type="dataset"), what, advice)
        stale = [path for path in old if path.startswith(("data/", "index/")) and path not in new]
        operations += [CommitOperationDelete(path) for path in stale]
        on_hub(
            lambda: api.create_commit(
                repo_id, operations, repo_type="dataset", commit_message="Upload an encoded ACE-Step dataset"
            ),
            what,
            advice,
        )
    print(f"{repo_id}: {sum(map(len, splits.values()))} rows are on the Hub, {sum(sizes.values()) / 1e6:.1f} MB.")


def public_rows(dataset: datasets.Dataset) -> datasets.Dataset:
    """The rows as the world may see them: names of files without the folders that they lay in."""
    names = [name.rpartition("/")[2] for name in dataset["file_name"]]
    sources = [
        json.dumps({k: v.rpartition("/")[2] for k, v in json.loads(text).items()}, ensure_ascii=False)
        for text in dataset["sources"]
    ]
    order, features = dataset.column_names, dataset.features
    public = dataset.remove_columns(["file_name", "sources"])
    for column, values in (("file_name", names), ("sources", sources)):
        public = public.add_column(column, values, feature=features[column])
    return public.select_columns(order)


def _files(split: str, dataset: datasets.Dataset, folder: Path) -> Iterator[tuple[str, Any]]:
    """Shards as files, then the index as bytes; a row is a row group, so that it can be read by itself."""
    count = max(1, -(-dataset._estimate_nbytes() // SHARD_BYTES))
    count = min(count, len(dataset))
    places: list[tuple[str, int]] = []
    for number in range(count):
        shard = dataset.shard(count, number, contiguous=True)
        name = shard_name(split, number, count)
        places += [(name, row) for row in range(len(shard))]
        path = folder / Path(name).name
        shard.to_parquet(path, batch_size=1)
        yield name, path
    texts = [column for column in dataset.column_names if column not in (*TENSORS, *_NOT_READ, "audio")]
    index = dataset.select_columns(texts)
    for column, values in zip(INDEX_COLUMNS, zip(*places, strict=True), strict=True):
        index = index.add_column(column, list(values))
    content = io.BytesIO()
    index.to_parquet(content)
    yield index_name(split), content.getvalue()


def _with_audio(
    dataset: datasets.Dataset, songs: dict[str, Song], options: PrepareOptions, cache: Path
) -> datasets.Dataset:
    """The rows with their audio as FLAC: written anew, since tags of the files could hold names and paths."""
    import soundfile

    from acestep.songs import SkippedSong, decode_songs
    from acestep.songs.audio_files import SAMPLE_RATE

    def audio():
        rows = [songs[row_id] for row_id in dataset["id"]]
        for song, samples in decode_songs(rows, options.decode_workers, options.decode_timeout):
            if isinstance(samples, SkippedSong):
                raise UserError(f"--include_audio: {song.file_name}: {samples.reason}")
            content = io.BytesIO()
            soundfile.write(content, samples.T, SAMPLE_RATE, format="FLAC", subtype="PCM_24")
            yield {"audio": {"bytes": content.getvalue(), "path": f"{song.row_id}.flac"}}

    # As the plain struct that it is: the Audio type encodes only with torchcodec, and a cast needs nothing.
    plain = datasets.Features({"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    column = datasets.Dataset.from_generator(
        audio, features=plain, cache_dir=str(cache), fingerprint="acestep-audio", writer_batch_size=8
    )
    column = column.cast_column("audio", datasets.Audio(sampling_rate=SAMPLE_RATE))
    # in the order of the schema, which joining forgets
    return datasets.concatenate_datasets([dataset, column], axis=1).select_columns([*dataset.column_names, "audio"])
