"""Calls of the Hugging Face Hub: retries, timeouts, transfers by Xet, errors, listings, uploads."""
