"""Checkpoint folders, on this disk and on the Hugging Face Hub."""
