"""Some rows of a dataset, in a given order, with the interface of all of them."""

from typing import Any

import torch


class SubsetRows:
    """Rows `indices` of `rows`, numbered from 0.

    Args:
        rows: `EncodedRows` or `StreamedRows`.
        indices: of the rows that are kept.
    """

    def __init__(self, rows: Any, indices: list[int]):
        self.rows, self.indices = rows, indices

    def __len__(self) -> int:
        return len(self.indices)

    def texts(self, index: int) -> dict:
        """All columns but the tensors."""
        return self.rows.texts(self.indices[index])

    def column(self, name: str) -> list:
        """One column that is not a tensor, for all rows."""
        values = self.rows.column(name)
        return [values[index] for index in self.indices]

    def tensor(self, index: int, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor | None:
        """Rows `start` to `stop` of a tensor column, `[length, channels]` in float32."""
        return self.rows.tensor(self.indices[index], name, start, stop)
