"""Calls of the Hugging Face Hub: retries, errors, listings."""
