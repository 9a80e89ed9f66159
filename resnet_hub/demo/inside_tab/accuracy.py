"""The accuracy of a model without some blocks, on labelled images that it was not trained on.

A visitor's own model has those that its training held out; a model with the labels of CIFAR-10 has test images from the
Hub, where the Hub can be reached.
"""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import gradio as gr

from resnet_hub.demo import markup
from resnet_hub.demo.i18n import translate
from resnet_hub.demo.models import Models
from resnet_hub.demo.space import get_token
from resnet_hub.errors import ResNetHubError

if TYPE_CHECKING:
    from resnet_hub.analysis.labelled_images import LabelledImages
    from resnet_hub.datasets.dataset import ImageDataset
    from resnet_hub.demo.runs.run import PageRun
    from resnet_hub.model import ResNet

CIFAR10 = "uoft-cs/cifar10"  # on the Hub
MAX_IMAGES = 256
MAX_WORK = 40e9  # multiply-adds of one network over all images: some seconds of one thread
_FEWEST = 5  # images; an accuracy on fewer is meaningless
_RETRY_SECONDS = 600.0  # until the next request to the Hub
_NICENESS = 10


class AccuracyMeter:
    """Measures in one thread of low priority, so that predictions do not wait. It keeps no visitor's photos."""

    def __init__(self, models: Models):
        self.models = models
        self._whole: WeakKeyDictionary[ResNet, float] = WeakKeyDictionary()  # accuracies with all blocks
        self._cifar10: ImageDataset | None = None
        self._retry_at = 0.0  # on the monotonic clock

    def render(self, name: str, off: list[str], request: gr.Request) -> str:
        """Render the accuracy of the model with and without its blocks `off`, or why there is none.

        Raises:
            ResNetHubError: The model or its dataset cannot be read.
        """
        read_as_sender = copy_context().run
        return self._pool.submit(read_as_sender, self._render, name, off, request).result()

    def _render(self, name: str, off: list[str], request: gr.Request) -> str:
        from resnet_hub.analysis.labelled_images import compute_accuracy
        from resnet_hub.analysis.lesions import remove_blocks

        model: ResNet = self.models.get(name).model
        scheduler = self.models.scheduler
        run = scheduler.runs.find(name) if scheduler else None
        labelled = load_held_out(run, model) if run else self._load_test_images(model)
        if labelled is None:
            return markup.render_text(translate(request, "inside_few_labelled" if run else "inside_no_labelled"))
        if model not in self._whole:
            self._whole[model] = compute_accuracy(model, labelled)
        whole = self._whole[model]
        without = compute_accuracy(remove_blocks(model, off), labelled) if off else whole
        values = {"images": len(labelled.targets), "whole": f"{whole:.0%}", "without": f"{without:.0%}"}
        key = f"{'inside_accuracy' if run else 'inside_cifar10'}_{'without' if off else 'whole'}"
        return markup.render_text(translate(request, key, **values), "status")

    def _load_test_images(self, model: "ResNet") -> "LabelledImages | None":
        """Test images of CIFAR-10 for a model with its labels; None for other models and where the Hub has none."""
        from resnet_hub.analysis.labelled_images import load_labelled_images
        from resnet_hub.convert.config_json import read_label_set
        from resnet_hub.datasets.stream import open_stream

        if set(model.config.labels) != set(read_label_set("cifar10")):
            return None
        if self._cifar10 is None and time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            with suppress(ResNetHubError):  # offline, for example
                sample = next(iter(open_stream(CIFAR10, split="test", token=get_token()).sample.values()))
                self._cifar10 = sample.subset(range(min(MAX_IMAGES, len(sample))))
        count = _count_images(model)
        if self._cifar10 is None or count < _FEWEST:
            return None
        return load_labelled_images(model.config, self._cifar10, count=count)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        from resnet_hub.training.loader import start_threads

        pool = start_threads(1)
        pool.submit(_lower_priority)
        return pool


def load_held_out(run: "PageRun", model: "ResNet") -> "LabelledImages | None":
    """The photos that a run's model is evaluated on, as many as can be computed; None if they are gone or few."""
    from resnet_hub.analysis.labelled_images import load_labelled_images

    images = None
    with suppress(ResNetHubError, OSError, ValueError):  # such as a dataset that was deleted from the Hub
        images = run.load_evaluation_images()
    count = _count_images(model)
    if images is None or min(count, len(images)) < _FEWEST:
        return None
    return load_labelled_images(model.config, images, count=count)


def _count_images(model: "ResNet") -> int:
    return min(MAX_IMAGES, int(MAX_WORK / model.config.multiply_adds))


def _lower_priority() -> None:
    if sys.platform == "linux":  # elsewhere it would be that of the whole process
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
