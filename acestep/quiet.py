"""Manners of the libraries underneath: no notices that a newcomer could not use, no threads that wait by spinning."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Call before importing the libraries; warnings that a user can act on stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # On a busy machine threads that spin while they wait take the cores from those that they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # diffusers still builds the VAE with it, and no user can change that
    warnings.filterwarnings("ignore", message=".*torch.nn.utils.weight_norm.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*torch.jit.script_method.*", category=DeprecationWarning)
    # an optional CPU kernel of bitsandbytes for 4-bit inference, not used in training
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
