"""Keep other libraries' notices off the screen: a newcomer should read ours."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Call before importing the libraries; warnings that a user can act on stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # diffusers still builds the VAE with it, and no user can change that
    warnings.filterwarnings("ignore", message=".*torch.nn.utils.weight_norm.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*torch.jit.script_method.*", category=DeprecationWarning)
    # an optional CPU kernel of bitsandbytes for 4-bit inference, not used in training
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
