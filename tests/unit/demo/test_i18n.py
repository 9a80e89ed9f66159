"""The messages of the page: the same in both languages, and all in use."""

import ast
import re
from pathlib import Path

from resnet_hub.demo import i18n
from resnet_hub.demo.i18n import MESSAGES


def test_languages_have_the_same_messages() -> None:
    fields = {
        language: {key: sorted(re.findall(r"{([^}]*)}", text)) for key, text in texts.items()}
        for language, texts in MESSAGES.items()
    }
    assert fields.keys() == {"en", "zh"} and list(fields["en"]) == list(fields["zh"])
    assert fields["en"] == fields["zh"]


def test_every_message_is_in_use() -> None:
    modules = [ast.parse(path.read_text(encoding="utf-8")) for path in Path(i18n.__file__).parent.glob("*.py")]
    nodes = [node for module in modules for node in ast.walk(module)]
    strings = {
        node.value.strip("_") for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    def is_used(key: str) -> bool:
        """Whether the code has the key or, as for how_finetune and seed_info, both its parts."""
        cuts = [match.start() for match in re.finditer("_", key)]
        return key in strings or any({key[:cut], key[cut + 1 :]} <= strings for cut in cuts)

    assert [key for key in MESSAGES["en"] if not is_used(key)] == []
