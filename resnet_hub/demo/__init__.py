"""The web demo, in Gradio: a module for the Predict tab, packages for the others. It holds no model code."""

import os
import tempfile
from pathlib import Path

# A folder that only this user's page uses, and may empty. Gradio reads the variable when it is imported.
_USER = os.getuid() if hasattr(os, "getuid") else "user"
if not os.environ.get("GRADIO_TEMP_DIR"):
    os.environ["GRADIO_TEMP_DIR"] = str(Path(tempfile.gettempdir(), f"resnet_hub_uploads_{_USER}"))
if "SPACE_ID" in os.environ:  # a request without a token argument is no request of the Space's owner either
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # kept for statistics that are not served

from resnet_hub.demo.page import build, launch

__all__ = ["build", "launch"]
