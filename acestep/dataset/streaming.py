"""Rows of a dataset on the Hub, each read when it is its turn; nothing is kept on the disk.

`datasets` streams shards from front to back and gives each process shards of its own, so which songs meet in a batch
would depend on the number of processes and of workers. Here every shard is shared out by its rows: any row can be read
by itself (a row is a row group of its Parquet file), each process fetches those of its own samples, and a run that
streams takes the same samples in the same order as one that has downloaded all of it. Processes together fetch what one
would, but for the shards' footers and the index, which each of them reads.
"""

import io
import os
from collections import OrderedDict
from typing import Any

import torch

from acestep.dataset.hub import on_hub
from acestep.dataset.publish import INDEX_COLUMNS, index_name
from acestep.dataset.rows import TensorColumn
from acestep.errors import UserError

OPEN_SHARDS = 64  # whose footers (some 5 kB a row) are kept in memory
KEPT_BYTES = 2**26  # of tensors read last, as stored: held-out songs are read again for every noise level


class StreamedRows:
    """Rows of a dataset on the Hub; the same interface as `EncodedRows`.

    Args:
        repo_id: of the dataset.
        commit: the revision that the whole run reads.
        split: "train" or "validation".

    Raises:
        UserError: when the dataset has no index, or the Hub cannot be reached.
    """

    def __init__(self, repo_id: str, commit: str, split: str = "train"):
        from pyarrow import parquet

        self.repo_id, self.commit = repo_id, commit
        self._shards: OrderedDict[str, Any] = OrderedDict()
        self._kept: OrderedDict[tuple[int, str], TensorColumn] = OrderedDict()
        self._process = os.getpid()
        try:
            table = self._on_hub(lambda: parquet.read_table(io.BytesIO(self._file(index_name(split)).read())))
        except FileNotFoundError:
            raise UserError(
                f"--dataset {repo_id}: has no {index_name(split)}, so it cannot be streamed: prepare_dataset.py did "
                "not upload it. Leave --streaming out."
            ) from None
        self._index = table.combine_chunks()

    def __len__(self) -> int:
        return self._index.num_rows

    def texts(self, index: int) -> dict:
        """The columns that training reads; long texts are not in the index."""
        return {name: values[0] for name, values in self._index.slice(index, 1).to_pydict().items()}

    def column(self, name: str) -> list:
        """One column that is not a tensor, for all rows."""
        return self._index.column(name).to_pylist()

    def tensor(self, index: int, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor | None:
        """Rows `start` to `stop` of a tensor column, `[length, channels]` in float32; None where the row has none."""
        return self._column(index, name).tensor(0, start, stop)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_shards": OrderedDict(), "_kept": OrderedDict()}

    def _column(self, index: int, name: str) -> TensorColumn:
        """One tensor column of one row."""
        if (index, name) not in self._kept:
            shard, row_group = (self._index.column(column)[index].as_py() for column in INDEX_COLUMNS)
            table = self._on_hub(lambda: self._shard(shard).read_row_group(row_group, columns=[name]))
            self._kept[index, name] = TensorColumn(table.column(0))
            while len(self._kept) > 1 and sum(column.nbytes for column in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end((index, name))
        return self._kept[index, name]

    def _shard(self, name: str) -> Any:
        """An open shard; its footer is read once."""
        from pyarrow import parquet

        if self._process != os.getpid():  # connections do not survive a fork
            self._process, self._shards = os.getpid(), OrderedDict()
        if name not in self._shards:
            self._shards[name] = parquet.ParquetFile(self._file(name))
            if len(self._shards) > OPEN_SHARDS:
                self._shards.popitem(last=False)
        self._shards.move_to_end(name)
        return self._shards[name]

    def _file(self, name: str) -> Any:
        from huggingface_hub import HfFileSystem

        # without a cache: exactly the bytes that are asked for are fetched
        return HfFileSystem().open(f"datasets/{self.repo_id}@{self.commit}/{name}", "rb", cache_type="none")

    def _on_hub(self, action: Any) -> Any:
        return on_hub(action, f"--dataset {self.repo_id}", "Check the connection and start again.")
