"""The web demo: `python app.py`, here or as a Hugging Face Space."""

from resnet_hub.demo import build, launch
from resnet_hub.included_models import DEFAULT_MODEL_NAME, INCLUDED_FOLDER

demo = build(INCLUDED_FOLDER, default=DEFAULT_MODEL_NAME)

if __name__ == "__main__":
    launch(demo)
