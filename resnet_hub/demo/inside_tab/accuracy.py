"""The accuracy of a model without some blocks, on labeled images that it was not trained on.

A visitor's own model has those that its training held out. A model with the labels of CIFAR-10 or ImageNet has test
images from the Hub, where the Hub can be reached.
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
import numpy as np

from resnet_hub.demo import markup
from resnet_hub.demo.i18n import PageError, translate
from resnet_hub.demo.inside_tab.test_sets import TestSet, find_test_set
from resnet_hub.demo.models import Models
from resnet_hub.demo.space import choose_hub_token
from resnet_hub.errors import ResNetHubError
from resnet_hub.hub_client import timeouts

if TYPE_CHECKING:
    from resnet_hub.analysis.labeled_images import LabeledImages
    from resnet_hub.datasets.dataset import ImageDataset
    from resnet_hub.demo.runs.run import PageRun
    from resnet_hub.model import ResNet

MAX_TEST_IMAGES = 256
MAX_MULTIPLY_ADDS = 100e9  # multiply-adds of one network over all images: some seconds of one thread
_FEWEST_PHOTOS, _FEWEST_TEST_IMAGES = 5, 20  # an accuracy on fewer is meaningless
_RETRY_SECONDS = 600.0  # until the next request to the Hub
_NICENESS = 10


class AccuracyMeter:
    """Measures in one thread of low priority, so that predictions do not wait. It keeps no visitor's photos."""

    def __init__(self, models: Models):
        self.models = models
        self._whole: WeakKeyDictionary[ResNet, float] = WeakKeyDictionary()  # accuracies with all blocks
        self._samples: dict[TestSet, ImageDataset] = {}
        self._retry_at: dict[TestSet, float] = {}  # on the monotonic clock

    def render(self, name: str, off: list[str], request: gr.Request) -> str:
        """Render the accuracy of the model with and without its blocks `off`, or why there is none.

        Raises:
            ResNetHubError: The model or its dataset cannot be read.
        """
        read_as_sender = copy_context().run
        return self._pool.submit(read_as_sender, self._render, name, off, request).result()

    def _render(self, name: str, off: list[str], request: gr.Request) -> str:
        from resnet_hub.analysis.labeled_images import compute_accuracy
        from resnet_hub.analysis.lesions import remove_blocks

        model: ResNet = self.models.get(name).model
        scheduler = self.models.scheduler
        run = scheduler.runs.find(name) if scheduler else None
        test_set, indices = find_test_set(model.config.labels) or (None, {})
        if run:
            labeled = load_held_out(run, model)
        elif test_set and _count_images(model) < _FEWEST_TEST_IMAGES:
            command = f"resnet-hub reproduce lesion --model {self.models.command_name(name)} --data DATA"
            raise PageError("inside_too_slow", command=command)
        else:
            labeled = self._load_test_images(test_set, indices, model) if test_set else None
        if labeled is None:
            return markup.render_text(translate(request, "inside_few_labeled" if run else "inside_no_labeled"))
        if model not in self._whole:
            self._whole[model] = compute_accuracy(model, labeled)
        whole = self._whole[model]
        without = compute_accuracy(remove_blocks(model, off), labeled) if off else whole
        values = {"images": len(labeled.targets), "whole": f"{whole:.0%}", "without": f"{without:.0%}"}
        values["dataset"] = translate(request, test_set.title) if test_set else ""
        key = f"{'inside_accuracy' if run else 'inside_test_images'}_{'without' if off else 'whole'}"
        return markup.render_text(translate(request, key, **values), "status")

    def _load_test_images(self, test_set: TestSet, indices: dict[str, int], model: "ResNet") -> "LabeledImages | None":
        """Load as many images of a test set as can be computed; None where the Hub has none.

        Args:
            test_set: The dataset on the Hub.
            indices: The model's class index of each of its labels.
            model: The model, by whose config the images are preprocessed.
        """
        from resnet_hub.analysis.labeled_images import load_labeled_images
        from resnet_hub.datasets.dataset import ImageDataset
        from resnet_hub.datasets.image_stream import open_stream

        if test_set not in self._samples and time.monotonic() >= self._retry_at.get(test_set, 0.0):
            self._retry_at[test_set] = time.monotonic() + _RETRY_SECONDS
            with suppress(ResNetHubError):  # offline, for example
                part = {"subset": test_set.subset, "split": test_set.split, "revision": test_set.revision}
                stream = open_stream(test_set.repo_id, **part, token=choose_hub_token(), silence=timeouts.SILENCE)
                images = next(iter(stream.sample.values()))
                # Files may be sorted by class, so images are chosen all over them; only those stay in memory.
                chosen = np.linspace(0, len(images) - 1, min(MAX_TEST_IMAGES, len(images))).astype(np.int64)
                sources, names = [images.read(index) for index in chosen], [images.name(index) for index in chosen]
                self._samples[test_set] = ImageDataset(images.labels, sources, images.targets[chosen], names)
        sample, count = self._samples.get(test_set), _count_images(model)
        if sample is None or set(sample.labels) != set(indices):
            return None
        targets = np.array([indices[label] for label in sample.labels])[sample.targets]
        images = ImageDataset(tuple(model.config.labels), sample.sources, targets, sample.names)
        return load_labeled_images(model.config, images, count=count)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        from resnet_hub.training.loader import start_threads

        pool = start_threads(1)
        pool.submit(_lower_priority)
        return pool


def load_held_out(run: "PageRun", model: "ResNet") -> "LabeledImages | None":
    """The photos that a run's model is evaluated on, as many as can be computed; None if they are gone or few."""
    from resnet_hub.analysis.labeled_images import load_labeled_images

    images = None
    with suppress(ResNetHubError, OSError, ValueError):  # such as a dataset that was deleted from the Hub
        images = run.load_evaluation_images()
    count = _count_images(model)
    if images is None or min(count, len(images)) < _FEWEST_PHOTOS:
        return None
    return load_labeled_images(model.config, images, count=count)


def _count_images(model: "ResNet") -> int:
    return min(MAX_TEST_IMAGES, int(MAX_MULTIPLY_ADDS / model.config.multiply_adds))


def _lower_priority() -> None:
    if sys.platform == "linux":  # elsewhere it would be that of the whole process
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
