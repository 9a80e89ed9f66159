"""The web demo: `python app.py`, here or as a Hugging Face Space."""

from pathlib import Path

from resnet_hub.demo import build, launch

demo = build(Path(__file__).with_name("weights"), default="resnet18-tiny-imagenet")

if __name__ == "__main__":
    launch(demo)
