"""Measuring adapters: loss on songs that they have not seen, and what is generated compared with held-out songs."""
