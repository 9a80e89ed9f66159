"""Every text of the page in English and Chinese.

Fixed texts are translated by the browser (`t`), texts that an answer carries by the server (`say`); both follow the
browser's language.
"""

from typing import Any

import gradio as gr

from resnet_hub.errors import ResNetHubError

TEXTS: dict[str, dict[str, str]] = {
    "en": {
        "head": "# What is in the picture?\nDrop a photo and see what a residual network makes of it.",
        "photo": "Photo",
        "photo_hint": "Drop a photo here, paste one, or tap to choose",
        "classify": "Classify",
        "classes": "Top classes",
        "heat": "Why",
        "examples": "Examples",
        "model": "Model",
        "model_info": "One from the list, or any ResNet on the Hugging Face Hub as user/name",
        "card": "Model card",
        "heat_of": "Why “{label}”",
        "heat_hint": "Bright parts speak for the class; choose another class to see its own.",
        "heat_alt": "The photo: parts that speak for the chosen class glow, parts that the model did not see are faded",
        "took": "{time} on {device}, {model}",
        "no_photo": "Add a photo first.",
        "kept": "Still using {model}.",
        "architecture": "Architecture",
        "parameters": "Parameters",
        "labels": "Labels",
        "preprocessing": "Preprocessing",
        "pixels": "{size} × {size} pixels, {crop}% centre crop, {interpolation}",
        "more": "{count}: {some}, …",
        "no_card": "This model comes without a card.",
        "not_a_model": "“{name}” is neither in the list nor a Hub id such as user/name.",
        "too_large": "{name} has {parameters} parameters, more than this page can hold.",
        "no_head": "{name} has no labels, so it cannot classify.",
        "busy": "Other models are being loaded; try again in a minute.",
    },
    "zh": {
        "head": "# 图片里是什么？\n放入一张照片，看看残差网络认为它是什么。",
        "photo": "照片",
        "photo_hint": "把照片拖到这里、粘贴，或点击选择",
        "classify": "识别",
        "classes": "最可能的类别",
        "heat": "依据",
        "examples": "示例",
        "model": "模型",
        "model_info": "从列表中选择，或输入 Hugging Face Hub 上任意 ResNet 的名称：用户/名称",
        "card": "模型说明",
        "heat_of": "为什么是“{label}”",
        "heat_hint": "明亮的部分支持该类别；点选其他类别可查看其依据。",
        "heat_alt": "照片：支持所选类别的区域发亮，模型没有看到的部分变淡",
        "took": "用时 {time}，{device}，{model}",
        "no_photo": "请先放入一张照片。",
        "kept": "继续使用 {model}。",
        "architecture": "结构",
        "parameters": "参数量",
        "labels": "类别",
        "preprocessing": "预处理",
        "pixels": "{size} × {size} 像素，中心裁剪 {crop}%，{interpolation}",
        "more": "{count} 个：{some}……",
        "no_card": "这个模型没有附带说明。",
        "not_a_model": "“{name}”不在列表中，也不是“用户/名称”形式的 Hub 名称。",
        "too_large": "{name} 有 {parameters} 个参数，超出了本页面的容量。",
        "no_head": "{name} 没有类别，无法识别。",
        "busy": "正在加载其他模型，请稍后再试。",
    },
}

I18N = gr.I18n(**TEXTS, **{"zh-CN": TEXTS["zh"], "zh-TW": TEXTS["zh"]})


class PageError(ResNetHubError):
    """A refusal of the page itself, which it can say in the visitor's language; `str()` is the English sentence."""

    def __init__(self, key: str, **values: object):
        super().__init__(TEXTS["en"][key].format(**values))
        self.key, self.values = key, values


def t(key: str) -> Any:  # Gradio takes its I18nData wherever a text is shown, but does not always say so
    """A fixed text, translated in the browser."""
    return I18N(key)


def say(request: gr.Request | None, key: str, **values: object) -> str:
    """A text of an answer, in the language that the browser asks for."""
    wanted = (request.headers.get("accept-language") or "") if request else ""
    return TEXTS["zh" if wanted.lower().startswith("zh") else "en"][key].format(**values)


def sentence(request: gr.Request | None, error: ResNetHubError) -> str:
    """What to tell the visitor; errors of the library are in English."""
    return say(request, error.key, **error.values) if isinstance(error, PageError) else str(error)
