"""Reading an encoded dataset: only the frames that are asked for, without copying the rest."""

import warnings

import datasets
import pyarrow as pa
import torch

# The tensor over the file, which nobody may write to, lives for one line: a copy of it is handed on.
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
        self._tensors = {
            name: dataset.select_columns([name]).with_format("arrow")
            for name, kind in dataset.features.items()
            if isinstance(kind, datasets.Array2D)
        }

    def __len__(self) -> int:
        return len(self.dataset)

    def texts(self, index: int) -> dict:
        """All columns but the tensors."""
        return self._texts[index]

    def column(self, name: str) -> list:
        """One column that is not a tensor, for all rows."""
        return list(self._texts[name])

    def tensor(self, index: int, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor | None:
        """Rows `start` to `stop` of a tensor column, `[length, channels]` in float32; None where the row has none."""
        return to_tensor(self._tensors[name][index].column(0).chunk(0), start, stop)


def to_tensor(column: pa.ExtensionArray, start: int = 0, stop: int | None = None) -> torch.Tensor | None:
    """Rows `start` to `stop` of the `Array2D` in a column of one row, float32; None where it is null."""
    storage = column.storage
    if storage.null_count:
        return None
    frames = storage.flatten()[start:stop]
    # float16 as stored, a view into the file; the float32 copy is the only one made (numpy's conversion is slow)
    values = torch.from_numpy(frames.flatten().to_numpy(zero_copy_only=True)).reshape(len(frames), -1)
    return values.to(torch.float32, copy=True)
