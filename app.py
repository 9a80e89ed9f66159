"""The web demo: `python app.py`, here or as a Hugging Face Space."""

from resnet_hub.bundled_models import DEFAULT_MODEL, SHELF
from resnet_hub.demo import build, launch

demo = build(SHELF, default=DEFAULT_MODEL)

if __name__ == "__main__":
    launch(demo)
