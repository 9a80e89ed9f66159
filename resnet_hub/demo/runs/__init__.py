"""Visitors' runs: their folders, the queue and the worker processes."""
