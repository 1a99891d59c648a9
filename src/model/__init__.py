"""The network, and the checkpoints that carry it."""
