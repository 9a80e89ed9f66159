"""The web demo: `python app.py`, here or as a Hugging Face Space."""

from resnet_hub.demo import build, launch
from resnet_hub.shelf import DEFAULT_MODEL, SHELF

demo = build(SHELF, default=DEFAULT_MODEL)

if __name__ == "__main__":
    launch(demo)
