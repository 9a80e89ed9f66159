"""Other libraries' checkpoints: their configs and their state dicts."""
