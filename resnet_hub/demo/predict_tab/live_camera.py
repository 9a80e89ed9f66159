"""Labels for the frames of a visitor's camera: a route of its own, since Gradio's queue takes three requests a call.

The page sends a frame once it has the labels of the one before. Frames are not stored.
"""

import time
from typing import TYPE_CHECKING

import gradio as gr
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from resnet_hub.demo import markup
from resnet_hub.demo.predict_tab import prediction_markup
from resnet_hub.demo.predict_tab.model_picker import ModelPicker
from resnet_hub.demo.visitor import note_sender
from resnet_hub.errors import ResNetHubError

if TYPE_CHECKING:
    from resnet_hub.inference.classifier import Classifier

TOP = 5
_AT_ONCE = 2  # frames that are decoded and computed at a time
_MAX_WAITING_FRAMES = 32  # frames; the pages of further ones send theirs later


class LiveCamera:
    """The route's endpoint, over the models that all visitors share."""

    def __init__(self, picker: ModelPicker):
        self.picker = picker
        # A model that has to be loaded first keeps no other camera waiting.
        self._frames, self._loads = CapacityLimiter(_AT_ONCE), CapacityLimiter(_AT_ONCE)

    async def classify(self, request: Request) -> Response:
        """The labels of the frame in the body, as HTML; an error has the status 400, too many frames 503."""
        note_sender(request.scope)
        if self._frames.statistics().tasks_waiting >= _MAX_WAITING_FRAMES:
            return PlainTextResponse("There are too many cameras; send the frame again.", 503)
        name, gradio_request = request.query_params.get("model", ""), gr.Request(request)
        try:
            models, frame = self.picker.models, await request.body()
            classifier = models.find_loaded(name)
            if classifier is None:
                classifier = await to_thread.run_sync(models.get, name, limiter=self._loads)
            arguments = (classifier, frame, name, gradio_request)
            html = await to_thread.run_sync(self._classify, *arguments, limiter=self._frames)
        except ResNetHubError as error:
            return HTMLResponse(markup.render_error(error, gradio_request), 400)
        return HTMLResponse(html)

    def _classify(self, classifier: "Classifier", frame: bytes, name: str, request: gr.Request) -> str:
        start = time.perf_counter()
        top, _ = classifier.predict_with_feature_maps(frame, TOP)
        took = prediction_markup.describe_time(
            time.perf_counter() - start, classifier, self.picker.get_title(name, request), request
        )
        return prediction_markup.render_prediction(top, took, request, is_live=True)
