"""From an encoded dataset to an adapter: batches, flow matching, the loop."""
