"""The model of the Predict tab: a picker with search, and what the model is."""

from typing import Any

import gradio as gr

from resnet_hub.demo import markup
from resnet_hub.demo.i18n import message, translate, translate_error
from resnet_hub.demo.models import DefaultModels, Models
from resnet_hub.demo.predict_tab import prediction_markup
from resnet_hub.errors import ResNetHubError


class ModelPicker:
    """Handlers and components of the panel above the photo."""

    def __init__(self, models: Models, defaults: DefaultModels):
        self.models, self.defaults = models, defaults

    def choose(self, name: str | None, current: str, request: gr.Request) -> tuple[Any, ...]:
        """The chosen model and its facts, or an error and the model from before."""
        name = str(name or "").strip()
        try:
            classifier = self.models.get(name)
        except ResNetHubError as error:
            still_using = translate(request, "kept", model=self.get_title(current, request)) if current else ""
            alert = markup.render_text(f"{translate_error(request, error)} {still_using}", "alert")
            return current, current, alert, gr.skip(), gr.skip(), gr.skip()
        is_own_run = self.models.title(name) is not None
        url = f"https://huggingface.co/{name}" if isinstance(self.models.source(name), str) else None
        card, config = classifier.model.card or "", classifier.config
        query = "" if is_own_run else f"?model={name}"
        summary = prediction_markup.render_summary(config, name, self.get_title(name, request), card, query, request)
        facts = prediction_markup.render_model(config, url, request)
        return name, name, "", summary, facts, prediction_markup.render_card(card, request)

    def open(self, name: str, current: str, request: gr.Request) -> tuple[Any, ...]:
        """The model of the link or the default one, for a visitor who has just opened the page; as `choose`."""
        linked = request.query_params.get("model", "")
        if linked and self.models.title(linked) is None:
            chosen = self.choose(linked, current, request)
            if chosen[0] == linked:
                return chosen[0], self._list_and_choose(chosen[0], request), *chosen[2:]
            name, alert = self.defaults.get("predict"), chosen[2]
        else:
            alert = ""
            if (name or "") == self.defaults.included:  # else the visitor has chosen one while the page loaded
                name = self.defaults.get("predict")
        if not name:
            return tuple(gr.skip() for _ in self.choosing["outputs"])
        current, _, notice, *shown = self.choose(name, current, request)
        return current, self._list_and_choose(current, request), notice or alert, *shown

    def suggest(self, current: str, request: gr.Request, typed: gr.KeyUpData) -> tuple[Any, Any]:
        """The models of the page and of the Hub whose names match what is typed, and whether the search failed."""
        if typed.key == "Enter":  # a choice, whose error stays
            return gr.skip(), gr.skip()
        matches = self.models.search(typed.input_value.strip())
        notice = markup.render_search_notice(matches, request)
        return gr.update(choices=self.list_choices(current, request, *(matches or ()))), notice

    def list_choices(self, current: str, request: gr.Request, *others: str) -> list[tuple[str, str]]:
        """Titles and values for the picker. `current` is among them if it is a run of the visitor."""
        own_runs = [(self.get_title(current, request), current)] if self.models.title(current) else []
        return [*own_runs, *self.models.list_choices(request, *others)]

    def get_title(self, model: str, request: gr.Request) -> str:
        """The model's name to show. The id of a visitor's run is a secret that no screenshot must show."""
        title = self.models.title(model)
        return model if title is None else translate(request, "my_model", title=title)

    def _list_and_choose(self, name: str, request: gr.Request) -> Any:
        others = () if self.models.title(name) else (name,)
        return gr.update(choices=self.list_choices(name, request, *others), value=name)

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self) -> None:
        """Add the panel to the page that is being built."""
        self.current = gr.State(self.defaults.included)
        with gr.Row(elem_id="model-panel"):
            with gr.Column(min_width=280):
                self.picker = gr.Dropdown(
                    self.models.list_choices(None),
                    value=self.defaults.included,
                    allow_custom_value=True,
                    label=message("model"),
                    info=message("model_info"),
                    elem_id="model",
                )
                self.notice = gr.HTML(elem_id="notice")
            with gr.Column(min_width=280, scale=2):
                self._summary = gr.HTML(elem_id="summary")
                with gr.Accordion(message("about_model"), open=False, elem_id="about"):
                    self._facts = gr.HTML(elem_id="facts")
                    self._card = gr.HTML(elem_id="card", elem_classes="prose", padding=False)

    def connect(self, page: gr.Blocks, *following: dict[str, Any]) -> None:
        """Attach the handlers. After a choice the photos are classified again, as the events in `following` say."""
        loading: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last"}
        loading |= {"concurrency_limit": 4, "concurrency_id": "load"}
        self.choosing: dict[str, Any] = {
            "fn": self.choose,
            "inputs": [self.picker, self.current],
            "outputs": [self.current, self.picker, self.notice, self._summary, self._facts, self._card],
            "show_progress_on": [self.notice],
        }
        self.choosing |= loading
        chosen = self.picker.input(**self.choosing)
        for event in following:
            chosen = chosen.success(**event)
        opening: dict[str, Any] = self.choosing | {"fn": self.open}
        page.load(**opening)
        searching: dict[str, Any] = loading | {"concurrency_id": "suggest"}
        searching |= {"show_progress": "hidden", "show_progress_on": [self.notice]}
        self.picker.key_up(self.suggest, self.current, [self.picker, self.notice], **searching)
