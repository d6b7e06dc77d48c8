"""Fine-tune ACE-Step 1.5 on your own songs: prepare a dataset, train an adapter, make music with it."""

__version__ = "0.1.0"
