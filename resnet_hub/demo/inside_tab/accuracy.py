"""The accuracy of a visitor's model without some blocks, on photos that it was not trained on."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import gradio as gr

from resnet_hub.demo import markup
from resnet_hub.demo.i18n import translate
from resnet_hub.demo.models import Models
from resnet_hub.errors import ResNetHubError

if TYPE_CHECKING:
    from resnet_hub.analysis.labelled_images import LabelledImages
    from resnet_hub.demo.runs.run import PageRun
    from resnet_hub.model import ResNet

MAX_IMAGES = 256
MAX_WORK = 40e9  # multiply-adds of one network over all images: some seconds of one thread
_FEWEST = 5  # images; of fewer an accuracy says nothing
_KEPT = 100  # accuracies
_NICENESS = 10


class AccuracyMeter:
    """Measures in one thread of low priority, so that predictions do not wait. It keeps no photos."""

    def __init__(self, models: Models):
        self.models = models
        self._whole: dict[tuple[str, int], float] = {}  # accuracies of whole models, by run id and time of saving

    def render(self, name: str, off: list[str], request: gr.Request) -> str:
        """Render the accuracy of the model with and without its blocks `off`, or why there is none.

        Raises:
            ResNetHubError: The model or its dataset cannot be read.
        """
        scheduler = self.models.scheduler
        run = scheduler.runs.find(name) if scheduler else None
        if run is None:
            return markup.render_text(translate(request, "inside_no_labelled"))
        return self._pool.submit(self._render, run, name, off, request).result()

    def _render(self, run: "PageRun", name: str, off: list[str], request: gr.Request) -> str:
        from resnet_hub.analysis.labelled_images import compute_accuracy
        from resnet_hub.analysis.lesions import remove_blocks

        model: ResNet = self.models.get(name).model
        labelled = load_held_out(run, model)
        if labelled is None:
            return markup.render_text(translate(request, "inside_few_labelled"))
        saved = (run.run_dir.model / "config.json").stat().st_mtime_ns  # a resumed run saves another model
        if (name, saved) not in self._whole:
            if len(self._whole) >= _KEPT:
                self._whole.clear()
            self._whole[name, saved] = compute_accuracy(model, labelled)
        whole = self._whole[name, saved]
        without = compute_accuracy(remove_blocks(model, off), labelled) if off else whole
        values = {"images": len(labelled.targets), "whole": f"{whole:.0%}", "without": f"{without:.0%}"}
        key = "inside_accuracy_without" if off else "inside_accuracy_whole"
        return markup.render_text(translate(request, key, **values), "status")

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        from resnet_hub.training.loader import start_threads

        pool = start_threads(1)
        pool.submit(_lower_priority)
        return pool


def load_held_out(run: "PageRun", model: "ResNet") -> "LabelledImages | None":
    """The photos that a run's model is evaluated on, as many as can be computed; None if they are gone or few."""
    from resnet_hub.analysis.labelled_images import load_labelled_images

    count = min(MAX_IMAGES, int(MAX_WORK / model.config.multiply_adds))
    images = None
    with suppress(ResNetHubError, OSError, ValueError):  # such as a dataset that was deleted from the Hub
        images = run.load_evaluation_images()
    if images is None or min(count, len(images)) < _FEWEST:
        return None
    return load_labelled_images(model.config, images, count=count)


def _lower_priority() -> None:
    if sys.platform == "linux":  # elsewhere it would be that of the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
