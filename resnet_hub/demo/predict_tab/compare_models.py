"""Two models on the photo of the Predict tab, side by side."""

import time
from typing import TYPE_CHECKING, Any

import gradio as gr

from resnet_hub.demo import markup
from resnet_hub.demo.i18n import message, translate
from resnet_hub.demo.predict_tab import prediction_markup
from resnet_hub.demo.predict_tab.model_picker import ModelPicker
from resnet_hub.errors import ResNetHubError
from resnet_hub.images.load import load_image

if TYPE_CHECKING:
    from PIL import Image

    from resnet_hub.inference.classifier import Classifier

TOP = 5
_SIDE = 512  # pixels of the shorter side at which the photo is decoded, or more if a model needs them


class ModelComparison:
    """Handlers and components of the panel below the labels."""

    def __init__(self, picker: ModelPicker):
        self.picker = picker

    def compare(self, photo: dict[str, Any] | None, model: str, other: str | None, request: gr.Request) -> str:
        """Labels, heat map, time and size of both models for the photo; without a photo or a model, ask for one."""
        if photo is None or not other:
            return markup.render_text(translate(request, "no_other_model" if photo else "no_photo"), "alert")
        try:
            names = (model, str(other).strip())
            classifiers = [self.picker.models.get(name).prepare_engine() for name in names]
            side = max(_SIDE, *(classifier.decode_size or 0 for classifier in classifiers))
            image = load_image(photo["path"], name=photo["orig_name"], near=side)
            columns = [
                self._describe(name, classifier, image, request)
                for name, classifier in zip(names, classifiers, strict=True)
            ]
        except ResNetHubError as error:
            return markup.render_error(error, request)
        return markup.render("two_models.html", request, columns=columns)

    def _describe(
        self, name: str, classifier: "Classifier", image: "Image.Image", request: gr.Request
    ) -> dict[str, Any]:
        from resnet_hub.inference.gradcam import overlay_heat_map

        start = time.perf_counter()
        top, feature_maps = classifier.predict_with_feature_maps(image, TOP)
        seconds = time.perf_counter() - start
        config = classifier.config
        index = config.labels.index(top[0]["label"])
        heat_map = overlay_heat_map(classifier, image, index, feature_maps=feature_maps, max_side=_SIDE)
        return {
            "title": self.picker.get_title(name, request),
            "best": prediction_markup.name_label(top[0]["label"], request),
            "is_sure": top.verdict == "sure",
            "prediction": prediction_markup.render_prediction(top, "", request, is_live=True),
            "heat": markup.encode_jpeg(heat_map),
            "photo": markup.encode_jpeg(image.resize(heat_map.size)),
            "time": f"{seconds * 1000:.0f} ms",
            "size": translate(request, "size", parameters=f"{config.num_parameters / 1e6:,.1f}"),
            "work": f"{config.multiply_adds / 1e9:,.2g}",
            "input": f"{config.image_size} × {config.image_size}",
        }

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self) -> None:
        """Add the panel to the page that is being built."""
        with gr.Column(elem_id="compare-panel"):
            gr.HTML(message("compare_head"), elem_classes="panel-head")
            gr.HTML(message("compare_hint"), elem_classes="hint")
            with gr.Row(elem_id="compare-choice", equal_height=True):
                self._other = gr.Dropdown(
                    self.picker.models.list_choices(None),
                    value=None,
                    allow_custom_value=True,
                    label=message("other_model"),
                    elem_id="other-model",
                )
                self._button = gr.Button(message("compare"), elem_id="compare-button", min_width=0)
            self._notice = gr.HTML(elem_id="compare-notice")
            self.result = gr.HTML(elem_id="compared")

    def connect(self, photo: gr.Image) -> None:
        """Attach the handlers."""
        private: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last"}
        comparing: dict[str, Any] = private | {
            "fn": self.compare,
            "inputs": [photo, self.picker.current, self._other],
            "outputs": self.result,
            "show_progress": "minimal",
            "preprocess": False,
            "concurrency_limit": 2,
            "concurrency_id": "compare",
        }
        self.asked = self._button.click
        self._button.click(**comparing)
        self._other.input(**comparing)
        searching: dict[str, Any] = private | {"concurrency_id": "suggest", "concurrency_limit": 4}
        searching |= {"show_progress": "hidden", "show_progress_on": [self._notice]}
        self._other.key_up(self.picker.suggest, self.picker.current, [self._other, self._notice], **searching)
