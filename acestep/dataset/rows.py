"""Reading an encoded dataset: only the frames that are asked for, without copying the rest."""

import bisect
import itertools
import warnings

import datasets
import pyarrow as pa
import torch

# The tensor over the file, which nobody may write to, never leaves this file: a copy of a part of it is handed on.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)


class EncodedRows:
    """Rows of an encoded dataset with their tensors read straight from the memory-mapped Arrow file.

    Args:
        dataset: as `datasets.load_from_disk` or `datasets.load_dataset` gives it.
    """

    def __init__(self, dataset: datasets.Dataset):
        self.dataset = dataset
        # not the tensors, and no audio, which could only be decoded with another library
        texts = [name for name, kind in dataset.features.items() if isinstance(kind, datasets.Value)]
        self._texts = dataset.select_columns(texts)
        self._columns: dict[str, TensorColumn] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_columns": {}}  # a loader's worker maps the file itself

    def texts(self, index: int) -> dict:
        """All columns but the tensors."""
        return self._texts[index]

    def column(self, name: str) -> list:
        """One column that is not a tensor, for all rows."""
        return list(self._texts[name])

    def tensor(self, index: int, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor | None:
        """Rows `start` to `stop` of a tensor column, `[length, channels]` in float32; None where the row has none."""
        if name not in self._columns:
            self._columns[name] = TensorColumn(self.dataset.data.column(name))
        if self.dataset._indices is not None:  # rows were selected or put into another order
            index = self.dataset._indices.column(0)[index].as_py()
        return self._columns[name].tensor(index, start, stop)


class TensorColumn:
    """A column of `Array2D`, in place; where its rows lie is looked up once a chunk.

    Args:
        column: of float16 or float32.
    """

    def __init__(self, column: pa.ChunkedArray):
        self._chunks = column.chunks
        self._ends = list(itertools.accumulate(len(chunk) for chunk in self._chunks))
        self._found: dict[int, tuple[torch.Tensor, list[tuple[int, int, int] | None]]] = {}

    @property
    def nbytes(self) -> int:
        """Of what is stored."""
        return sum(chunk.nbytes for chunk in self._chunks)

    def tensor(self, row: int, start: int = 0, stop: int | None = None) -> torch.Tensor | None:
        """Rows `start` to `stop` of the tensor in a row, float32; None where it is null."""
        number = bisect.bisect_right(self._ends, row)
        if number not in self._found:
            self._found[number] = _places(self._chunks[number])
        values, places = self._found[number]
        place = places[row - self._ends[number]]  # counted from the chunk's end
        if place is None:
            return None
        begin, end, length = place
        # float16 as stored, a view into the file; the float32 copy is the only one made (numpy's conversion is slow)
        return values[begin:end].view(length, -1)[start:stop].to(torch.float32, copy=True)


def _places(chunk: pa.ExtensionArray) -> tuple[torch.Tensor, list[tuple[int, int, int] | None]]:
    """All values of a chunk; and of each row where its values begin and end, and its length (None: the row is null)."""
    rows = chunk.storage  # a list a row of a list a frame
    frames = rows.values
    edges, inner = rows.offsets.to_pylist(), frames.offsets
    places = [
        (inner[first].as_py(), inner[last].as_py(), last - first) if valid else None
        for (first, last), valid in zip(itertools.pairwise(edges), rows.is_valid().to_pylist(), strict=True)
    ]
    return torch.from_numpy(frames.values.to_numpy(zero_copy_only=True)), places
