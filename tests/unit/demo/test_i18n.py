"""The messages of the page: the same in both languages, and all in use; the library's own texts in Chinese."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from helpers.data import encode_image
from helpers.page import from_browser
from jinja2.nodes import Const

from resnet_hub.datasets.load import load_dataset
from resnet_hub.demo import i18n
from resnet_hub.demo.i18n import MESSAGES, PHRASES
from resnet_hub.demo.markup import TEMPLATES
from resnet_hub.demo.train_tab.model_step import TrainForm
from resnet_hub.errors import ResNetHubError
from resnet_hub.images.load import load_image


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


def test_phrases_are_of_texts_that_the_library_has() -> None:
    package = Path(i18n.__file__).parents[1]
    nodes = [node for path in package.rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    texts += [path.read_text(encoding="utf-8") for path in package.glob("c*/**/*.[mt][dx]*")]  # cards and labels
    texts += [path.read_text(encoding="utf-8") for path in package.parent.glob("weights/*/README.md")]
    texts.append("Measured on; Labels, accuracy of each; Licence")  # of cards of older versions
    corpus = "\n".join(texts)

    def find_literals(phrase: str) -> list[str]:
        """The longest parts between the places that vary, such as names and plurals."""
        parts = re.split(r"{\w+}|\w*\([a-z|]+\)|it is |none |[.,:] ?", phrase)  # where the library joins texts, too
        return sorted(filter(None, map(str.strip, parts)), key=len)[-1:]

    assert [phrase for phrase in PHRASES if not all(part in corpus for part in find_literals(phrase))] == []
    fields = re.compile(r"{(\w+)}")
    for phrase, chinese in PHRASES.items():
        assert set(fields.findall(chinese)) <= set(fields.findall(phrase)), phrase


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("1 image cannot be read and will be left out: a.jpg.", "有 1 张图像无法读取，将不使用：a.jpg。"),
        (
            "Left out 2 items (not an image): a.txt and 1 more.",
            "没有使用 2 项（不是图像）：a.txt 等（另有 1 个）。",
        ),
        (
            "The dataset has 1 copy of 1 image (none with identical files), such as a = b. "
            "Copies stay on the same side of the validation split.",
            "数据集中 1 张图像另有 1 份副本（没有完全相同的文件），例如 a = b。划分验证图像时，副本总在同一边。",
        ),
        (
            "The dataset 'u/x' cannot be fetched: the Hub at http://127.0.0.1:9 cannot be reached (ConnectError). "
            "Check the connection and try again.",
            "数据集 'u/x' 无法取得：连接不上 Hub（http://127.0.0.1:9，ConnectError）。请检查网络连接后再试。",
        ),
        ("<b>No phrase</b> {0} has this.", "<b>No phrase</b> {0} has this."),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_texts_of_the_library_are_translated(text: str, chinese: str) -> None:
    assert i18n.translate_text(from_browser("zh-CN"), text) == chinese
    assert i18n.translate_text(from_browser("en"), text) == text


def test_errors_of_files_are_chinese(tmp_path: Path) -> None:
    files = {"empty.jpg": b"", "text.jpg": b"nothing", "cut.png": encode_image(0, 0)[:60], "no.zip": b"PK"}
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ResNetHubError) as failure:
            load_dataset(path) if path.suffix == ".zip" else load_image(path)
        text = i18n.translate_error(from_browser("zh"), failure.value)
        assert name in text and not re.search(r"[a-z]+ [a-z]+", text), text
