"""Adapters of every kind and layout put on a transformer, at the strength that they were trained with."""

import logging
from pathlib import Path

from torch import nn

from acestep.adapters.adapter import Adapter
from acestep.adapters.applying import TransformerWeights, check_fit, put_on
from acestep.adapters.reading import read_adapter

logger = logging.getLogger(__name__)


def load_adapter(transformer: nn.Module, adapter: str | Path, name: str, revision: str | None = None) -> Adapter:
    """Put an adapter on the transformer through PEFT; its weights are frozen.

    Args:
        adapter: file, folder or Hub id, in every layout that `acestep.adapters.reading.read_adapter` reads.
        name: of the adapter, for `set_adapters`.
        revision: of a Hub repository.

    Returns:
        What was read; its warnings have been logged.

    Raises:
        UserError: when it cannot be read or does not fit the transformer; the layers are named.
    """
    found = read_adapter(adapter, revision, TransformerWeights(transformer))
    check_fit(found, transformer, str(adapter))
    for warning in found.warnings:
        logger.warning("%s: %s", adapter, warning)
    put_on(transformer, found, name)
    return found
