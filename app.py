"""The web demo: `python app.py`, here or as a Hugging Face Space."""

from pathlib import Path

from resnet_hub.demo import build, launch

# The ten classes of the one are surer than the two hundred of the other, whose features are the better start.
demo = build(Path(__file__).with_name("weights"), default="resnet20-cifar10", base="resnet18-tiny-imagenet")

if __name__ == "__main__":
    launch(demo)
