"""What tests share: a Hub on loopback, small datasets and models, the page."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the repository
