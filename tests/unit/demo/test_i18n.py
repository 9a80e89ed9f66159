"""The messages of the page: the same in both languages, and all in use."""

import ast
import re
from dataclasses import fields
from pathlib import Path

from jinja2.nodes import Const

from resnet_hub.demo import i18n
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.demo.markup import TEMPLATES
from resnet_hub.demo.train_tab.model_step import TrainForm


def test_languages_have_the_same_messages() -> None:
    fields = {
        language: {key: sorted(re.findall(r"{([^}]*)}", text)) for key, text in texts.items()}
        for language, texts in MESSAGES.items()
    }
    assert fields.keys() == {"en", "zh"} and list(fields["en"]) == list(fields["zh"])
    assert fields["en"] == fields["zh"]


def test_every_message_is_in_use() -> None:
    modules = [ast.parse(path.read_text(encoding="utf-8")) for path in Path(i18n.__file__).parent.rglob("*.py")]
    nodes = [node for module in modules for node in ast.walk(module)]
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    constants += [field.name for field in fields(TrainForm)]
    for name in TEMPLATES.list_templates():
        source, _, _ = TEMPLATES.loader.get_source(TEMPLATES, name)
        constants += [node.value for node in TEMPLATES.parse(source).find_all(Const)]
    strings = {value.strip("_") for value in constants if isinstance(value, str)}

    def is_used(key: str) -> bool:
        """Whether the code has the key or, as for recipe_finetune and seed_info, both its parts."""
        cuts = [match.start() for match in re.finditer("_", key)]
        return key in strings or any({key[:cut], key[cut + 1 :]} <= strings for cut in cuts)

    # A key with a dot is one of Gradio's own texts, which the page replaces.
    assert [key for key in MESSAGES["en"] if "." not in key and not is_used(key)] == []
