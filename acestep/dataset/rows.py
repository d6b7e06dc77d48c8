"""Reading an encoded dataset: only the frames that are asked for, without copying the rest."""

import datasets
import numpy as np
import torch


class EncodedRows:
    """Rows of an encoded dataset with their tensors read straight from the memory-mapped Arrow file.

    Args:
        dataset: as `datasets.load_from_disk` gives it.
    """

    def __init__(self, dataset: datasets.Dataset):
        self.dataset = dataset
        self._arrow = dataset.with_format("arrow")
        texts = [name for name, kind in dataset.features.items() if not isinstance(kind, datasets.Array2D)]
        self._texts = dataset.select_columns(texts)

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
        column = self._arrow[index].column(name).chunk(0).storage
        if column.is_null()[0].as_py():
            return None
        channels = self.dataset.features[name].shape[1]
        frames = column.flatten()[start:stop]
        # float16 as stored, a view into the file; the float32 copy is the only one made
        values = frames.flatten().to_numpy(zero_copy_only=True).reshape(-1, channels)
        return torch.from_numpy(values.astype(np.float32))
