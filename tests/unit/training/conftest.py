"""What tests of whole runs share."""

import pytest
from PIL import Image


@pytest.fixture
def blank_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plots of a run of a few steps would take half of its time; `test_finalize.py` has them drawn."""
    for name in ("plot_training_curves", "plot_confusion_matrix"):
        monkeypatch.setattr(f"resnet_hub.training.finalize.{name}", lambda _: Image.new("L", (1, 1)))
