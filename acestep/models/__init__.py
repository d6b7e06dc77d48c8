"""The network: opening and converting checkpoints, conditioning, a tiny model."""
