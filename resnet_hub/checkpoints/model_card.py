"""The model card: README.md of a checkpoint folder, for people who did not make the model.

The last line of a card is a comment with two digests: of the weights that the card speaks of, so that figures never
stay with weights they were not measured on, and of the text as it left here, so that what a person has edited since
is never overwritten. https://huggingface.co/docs/hub/model-cards describes the metadata on top."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from resnet_hub.config import CUSTOM, ResNetConfig

if TYPE_CHECKING:
    from resnet_hub.calibration_record import CalibrationRecord


PLACEHOLDER = "user/name"  # stands in the code samples until the model is pushed
_MAX_METADATA = 2**17  # characters, which PyYAML reads in two seconds; 16 MB would take minutes
_USE = "## Use it"
_SAMPLE = re.compile(r'from_pretrained\("([^"\n]+)"\)')
_MARK = re.compile(
    r"\s*<!-- resnet_hub card; weights: ([0-9a-f]{64}|unknown); (generated|written|edited): ([0-9a-f]{64}|since) -->\s*"
)
_TORCHVISION = {
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
}
_ONNX = f"""

### ONNX Runtime

```python
import onnxruntime
from huggingface_hub import hf_hub_download

session = onnxruntime.InferenceSession(hf_hub_download("{PLACEHOLDER}", "onnx/model.onnx"))
# session.run(None, {{"pixel_values": a batch of pictures, preprocessed as above, float32 (N, C, H, W)}})
```"""
_GRAPH = re.compile(r"\n\n### ONNX Runtime\n\n```python\n.*?```", re.DOTALL)
_INT8 = re.compile(rf"## int8\n\n.*?(?={re.escape(_USE)})", re.DOTALL)
_FOLD_ABOVE = 20  # labels; a longer list is folded away


@dataclass(frozen=True, kw_only=True)
class CardContent:
    """What a card says beyond the config; whatever is left out is not claimed. Prose is Markdown, written as it is."""

    title: str = ""
    summary: str = ""
    license: str | None = None  # identifier of https://huggingface.co/docs/hub/repositories-licenses
    datasets: Sequence[str] = ()  # ids on the Hub
    dataset_name: str = ""  # for people; also for data that is not on the Hub
    base_model: str | None = None  # id on the Hub
    metrics: Mapping[str, float] = field(default_factory=dict)  # name -> value in 0..1
    split: str = ""  # that the metrics were measured on
    num_images: int = 0  # of it
    chose_epoch: bool = False  # whether the weights kept are those that did best on that very split
    measured_by: str = ""  # engine and precision that answered then
    per_class: Mapping[str, float] = field(default_factory=dict)  # label -> accuracy in 0..1
    class_counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # label -> trained and measured on
    command: str = ""  # that repeats the training
    training: str = ""  # a paragraph: hardware, minutes, seed, epochs
    limits: str = ""
    image_files: Sequence[str] = ()  # names of image files in the folder


def render_card(
    config: ResNetConfig,
    facts: CardContent | None = None,
    *,
    weights_sha256: str,
    dtype: str = "float32",
    repo_id: str = PLACEHOLDER,
) -> str:
    """The card of a model; `weights_sha256` is the digest of the `model.safetensors` that `facts` were measured on.

    `dtype` is what the weights are stored as.
    """
    facts = facts or CardContent()
    sections = [
        f"# {_text(facts.title) or _title(config)}",
        facts.summary.strip() or _summary(config),
        _results(facts),
        *(f"![{_text(name.rsplit('.', 1)[0])}]({quote(name)})" for name in facts.image_files),
        _classes(facts),
        _labels(config),
        _preprocessing(config),
        _precision(config, dtype),
        _training(facts),
        f"## Limits\n\n{facts.limits.strip() or _limits(config)}",
        _usage(config, repo_id),
        f"## Licence\n\n{_licence(facts)}",
    ]
    body = "\n\n".join(section for section in sections if section)
    return _compose(_Card(_metadata(config, facts), body, weights_sha256, "generated"))


def mark_generated(card: str, weights_sha256: str) -> str:
    """A text from a person, marked as speaking of these weights."""
    head, tail = _cut(card)
    return f"{(head + tail).rstrip()}\n\n{_mark(weights_sha256, 'written', _parse(card).body)}\n"


def carry_over_card(old: str, fresh: str) -> str:
    """The card to save with a model that was loaded with `old`, where `fresh` is the one rendered for it now.

    For the same weights it is `old`, without the int8 that is not saved along. For others its figures are dropped; what
    a person wrote stays.
    """
    was, now = _parse(old), _parse(fresh)
    if was.weights == now.weights:
        body = _INT8.sub("", was.body)
        return old if body == was.body or was.origin == "edited" else _compose(was._replace(body=body))
    return fresh if was.origin == "generated" else _merge(was, now)


def update_metadata(remote: str, local: str) -> str:
    """The card to push over `remote`: a text that was edited on the Hub stays, only metadata of ours is replaced.

    Metadata that `local` says nothing about stays too, except figures.
    """
    was, now = _parse(remote), _parse(local)
    if was.origin == "edited":
        return _merge(was, now)
    return _compose(now._replace(metadata=_merged(was, now)))


def is_generated(card: str) -> bool:
    """Whether the text is as it was rendered, so that no word of a person is lost with it."""
    return _parse(card).origin == "generated"


def set_repo_id(card: str, repo_id: str, *, onnx: bool = False) -> str:
    """A generated card with `repo_id` in its code samples; one that a person wrote as it is.

    With `onnx` it says how to run the graph that comes along.
    """
    parsed = _parse(card)
    before, use, after = parsed.body.partition(_USE)
    if parsed.origin != "generated" or not (sample := _SAMPLE.search(after)):
        return card
    code, licence, rest = _GRAPH.sub("", after).partition("\n\n## Licence")
    code = (code + (_ONNX if onnx else "")).replace(sample[1], repo_id).replace(PLACEHOLDER, repo_id)
    return _compose(parsed._replace(body=before + use + code + licence + rest))


def add_int8_section(card: str, calibration: "CalibrationRecord") -> str:
    """A generated card that says what int8 costs, as it was measured; one that a person wrote as it is."""
    parsed = _parse(card)
    if parsed.origin != "generated" or _USE not in parsed.body:
        return card
    before, after = (_percent(value) for value in (calibration.accuracy, calibration.accuracy_int8))
    used = "It is used where it is faster." if calibration.passed else 'It is used for `precision="int8"` only.'
    text = (
        f"## int8\n\nIn 8-bit integers (`onnx/model_quantized.onnx`) {after} of the answers are right, in float32 "
        f"{before}, both by ONNX Runtime on the {_text(calibration.data)}. {used}\n\n"
    )
    body, _, use = _INT8.sub("", parsed.body).partition(_USE)
    return _compose(parsed._replace(body=body + text + _USE + use))


def read_license(card: str) -> str | None:
    """The identifier of a card's licence, from its metadata."""
    found = _parse(card).metadata.get("license")
    return found if isinstance(found, str) else None


class Metric(NamedTuple):
    """A figure of a card."""

    name: str
    value: float
    dataset: str
    split: str


def read_metrics(card: str) -> list[Metric]:
    """The figures of a card's first model, from its metadata; what is not as the Hub has it is passed over."""
    found = []
    match _parse(card).metadata.get("model-index"):
        case [{"results": [*results]}, *_]:
            for result in results:
                match result:
                    case {"dataset": {"name": str(dataset), **about}, "metrics": [*metrics]}:
                        split = about.get("split")
                        for metric in metrics:
                            match metric:
                                case {"type": str(name), "value": int() | float() as value} if abs(value) < 1e9:
                                    found.append(
                                        Metric(name, float(value), dataset, split if isinstance(split, str) else "")
                                    )
    return found


class _Card(NamedTuple):
    metadata: dict[str, Any]
    body: str
    weights: str  # digest of the weights that it speaks of, or "unknown"
    origin: str  # "generated", "written" by a person before it was pushed, or "edited" since


def _merge(old: _Card, new: _Card) -> str:
    return _compose(old._replace(metadata=_merged(old, new), weights=new.weights))


def _merged(old: _Card, new: _Card) -> dict[str, Any]:
    merged = {key: value for key, value in old.metadata.items() if key != "model-index"} | new.metadata
    if old.origin == "edited" and "license" in old.metadata:  # a person's decision, and their text may state it too
        merged["license"] = old.metadata["license"]
    lists = [card.metadata["tags"] for card in (old, new) if isinstance(card.metadata.get("tags"), list)]
    if lists:
        plain = [str(tag) for tags in lists for tag in tags if isinstance(tag, str | int | float)]
        merged["tags"] = list(dict.fromkeys(plain))  # others may be lists of lists of aliases without end
    return merged


def _compose(card: _Card) -> str:
    from huggingface_hub.utils import yaml_dump

    metadata = yaml_dump(card.metadata, sort_keys=False).strip()
    return f"---\n{metadata}\n---\n\n{card.body.strip()}\n\n{_mark(card.weights, card.origin, card.body)}\n"


def _mark(weights: str, origin: str, body: str) -> str:
    return f"<!-- resnet_hub card; weights: {weights}; {origin}: {'since' if origin == 'edited' else _digest(body)} -->"


def _digest(body: str) -> str:
    """Of what a reader sees: editors change line ends and trailing blanks."""
    lines = (line.rstrip() for line in body.strip().splitlines())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _cut(card: str) -> tuple[str, str]:
    """The card before and after its mark."""
    marks = list(_MARK.finditer(card))
    return (card[: marks[-1].start()], card[marks[-1].end() :]) if marks else (card, "")


def _parse(card: str) -> _Card:
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    card = card.removeprefix("\ufeff")
    body = "\n\n".join(part for part in _cut(card) if part)
    metadata: Any = {}
    if block := REGEX_YAML_BLOCK.search(body):
        body = body[block.end() :]
        try:
            metadata = yaml.safe_load(block[2]) if len(block[2]) <= _MAX_METADATA else {}
        except (yaml.YAMLError, ValueError, RecursionError):  # dates and numbers that cannot be are ValueErrors
            metadata = {}  # what no reader of cards can read is not worth keeping
    marks = _MARK.findall(card)
    weights, origin, digest = marks[-1] if marks else ("unknown", "edited", "")
    if digest != _digest(body):
        origin = "edited"
    return _Card(metadata if isinstance(metadata, dict) else {}, body, weights, origin)


def _loaders(config: ResNetConfig) -> list[str]:
    """Libraries besides ours that open the checkpoint."""
    if config.architecture == CUSTOM or config.stem == "3x3":
        return []
    if config.in_channels != 3 or not config.num_classes:
        return ["timm"]
    return ["timm", "transformers", *(["torchvision"] if config.architecture in _TORCHVISION else [])]


def _metadata(config: ResNetConfig, facts: CardContent) -> dict[str, Any]:
    from huggingface_hub import EvalResult, ModelCardData

    task = "image-classification" if config.num_classes else "image-feature-extraction"
    others = [library for library in _loaders(config) if library != "torchvision"]
    name = facts.dataset_name or ", ".join(facts.datasets) or "private data"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=facts.datasets[0] if facts.datasets else "imagefolder",
            dataset_name=name,
            dataset_split=facts.split or None,
            metric_type=metric,
            metric_value=round(value, 6),
        )
        for metric, value in facts.metrics.items()
    ]
    data = ModelCardData(
        library_name="timm" if others else "resnet_hub",
        pipeline_tag=task,
        tags=[task, "resnet", "resnet_hub", *others],
        license=facts.license,
        datasets=list(facts.datasets) or None,
        base_model=facts.base_model,
        model_name=facts.title or _title(config),
        eval_results=results or None,
    )
    metadata = data.to_dict()
    metadata.pop("model_name", None)
    return metadata


def _title(config: ResNetConfig) -> str:
    return config.architecture.replace(CUSTOM, "ResNet") + (
        f" with {config.num_classes} labels" if config.num_classes else " without a head"
    )


def _summary(config: ResNetConfig) -> str:
    work = "sorts pictures into one of its labels" if config.num_classes else "turns pictures into feature vectors"
    return (
        f"A residual network ([He et al. 2015](https://arxiv.org/abs/1512.03385), `{config.architecture}`) "
        f"that {work}: {config.num_parameters:,} parameters, "
        f"{config.multiply_adds / 1e9:.2g} billion multiply-adds a picture."
    )


def _results(facts: CardContent) -> str:
    if not facts.metrics:
        return ""
    data = _text(facts.dataset_name or ", ".join(facts.datasets))
    where = " of ".join(part for part in (f"the {_text(facts.split)} split" if facts.split else "", data) if part)
    if facts.num_images:
        where = " of ".join(part for part in (f"{facts.num_images:,} pictures", where) if part)
    table = _table(["Metric", "Value"], [[_text(name), _percent(value)] for name, value in facts.metrics.items()])
    by = f"by {_text(facts.measured_by)}" if facts.measured_by else ""
    told = " ".join(part for part in (f"on {where}" if where else "", by) if part)
    said = [f"Measured {told}."] if told else []
    if facts.chose_epoch:
        said.append("The same pictures chose the epoch whose weights are kept, so expect a little less on others.")
    return "\n\n".join(part for part in ("## Results", " ".join(said), table) if part)


def _classes(facts: CardContent) -> str:
    """A row a label: how often it is recognised, and how many pictures stand behind that."""
    columns, rows = ["Label", "Accuracy"], [[_text(label), _percent(value)] for label, value in facts.per_class.items()]
    if facts.class_counts:
        columns += ["Trained on", "Measured on"]
        for row, label in zip(rows, facts.per_class, strict=True):
            row += [f"{count:,}" for count in facts.class_counts[label]]
    table = _table(columns, rows)
    return _folded("Labels, accuracy of each", table) if len(rows) > _FOLD_ABOVE else table


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in [columns, *rows]]
    lines.insert(1, "|---|" + "---:|" * (len(columns) - 1))
    return "\n".join(lines) if rows else ""


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def _labels(config: ResNetConfig) -> str:
    if not config.num_classes:
        return ""
    if config.num_classes <= _FOLD_ABOVE:
        return "## Labels\n\n" + ", ".join(_text(label) for label in config.labels)
    rows = "\n".join(f"{index}. {_text(label)}" for index, label in config.id2label.items())
    return f"## Labels\n\n{_folded(f'{config.num_classes} labels', rows)}"


def _preprocessing(config: ResNetConfig) -> str:
    side = config.image_size
    what = "it is resized to a square of" if config.crop_mode == "squash" else "the short side is resized to"
    first = f"{what} {config.resize_size} pixels ({config.interpolation})"
    return (
        f"## Preprocessing\n\nA picture is turned upright, {first}, its centre of {side} x {side} is cropped, values "
        f"are scaled to 0..1, and {config.in_channels} channels are normalised with mean {_numbers(config.mean)} "
        f"and deviation {_numbers(config.std)}. `config.json` says the same to programs."
    )


def _precision(config: ResNetConfig, dtype: str) -> str:
    if dtype == "float32":
        return ""
    size = f"{2 * config.num_parameters / 1e6:.1f} MB, half of what float32 takes"
    return (
        f"## Precision\n\nThe weights are stored as {dtype}: {size}. Here, in timm, in torchvision and in transformers "
        "they are computed with as float32."
    )


def _licence(facts: CardContent) -> str:
    """`other` is what the Hub's metadata call a licence that its list has not: no word for people."""
    if facts.license in ("other", "unknown"):
        return "Another one than the Hub's list has; what is known of it stands above, the author knows the rest."
    return _text(facts.license or "") or "None is given: ask the author before you build on the model."


def _training(facts: CardContent) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", facts.command)), default=0))
    command = f"{fence}bash\n{facts.command.strip()}\n{fence}" if facts.command else ""
    base = f"It started from the weights of {_text(facts.base_model)}." if facts.base_model else ""
    parts = [facts.training.strip(), base, command]
    return "## Training\n\n" + "\n\n".join(part for part in parts if part) if any(parts) else ""


def _limits(config: ResNetConfig) -> str:
    if not config.num_classes:
        return "It has no head: its features are for other models to build on."
    return (
        f"It knows {config.num_classes} labels and gives one of them to any picture, also to one that shows none. "
        "Pictures unlike those it was trained on get worse answers, often with high scores."
    )


def _usage(config: ResNetConfig, repo_id: str) -> str:
    classes, short = config.num_classes, config.resize_size
    resize = (short, short) if config.crop_mode == "squash" else short
    samples = {
        "resnet_hub": f"""
from resnet_hub import Classifier

classify = Classifier.from_pretrained("{repo_id}")
classify("photo.jpg", top_k={min(5, classes)})
"""
        if classes
        else f"""
from resnet_hub import ResNet

model = ResNet.from_pretrained("{repo_id}")
""",
        "timm": f"""
import timm
from PIL import Image

model = timm.create_model("hf-hub:{repo_id}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
model(transform(Image.open("photo.jpg").convert("RGB"))[None]){".softmax(1)" if classes else ""}
"""
        if config.in_channels == 3
        else f"""
import timm

model = timm.create_model("hf-hub:{repo_id}", pretrained=True).eval()
""",
        "transformers": f"""
from transformers import pipeline

pipeline("image-classification", model="{repo_id}")("photo.jpg")
""",
        "torchvision": f"""
from huggingface_hub import hf_hub_download
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms
from torchvision.models import {config.architecture}

model = {config.architecture}(num_classes={classes})
model.load_state_dict(load_file(hf_hub_download("{repo_id}", "model.safetensors")))
transform = transforms.Compose([
    transforms.Resize({resize}, transforms.InterpolationMode.{config.interpolation.upper()}),
    transforms.CenterCrop({config.image_size}),
    transforms.ToTensor(),
    transforms.Normalize({config.mean}, {config.std}),
])
model.eval()(transform(Image.open("photo.jpg").convert("RGB"))[None]).softmax(1)
""",
    }
    loaders = ["resnet_hub", *_loaders(config)]
    code = "\n".join(f"### {name}\n\n```python\n{samples[name].strip()}\n```\n" for name in loaders)
    only = (
        "No other library knows this network: it opens in resnet_hub, and as ONNX (`resnet-hub export`) in any runtime."
        if len(loaders) == 1
        else ""
    )
    return "\n\n".join(part for part in (_USE, code.strip(), only) if part)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _text(words: str) -> str:
    """Words from a stranger as plain Markdown text: no markup, no HTML, no links, one line."""
    words = re.sub(r"([\\`*_\[\]<>&|~$!@#])", r"\\\1", " ".join(words.split()))
    words = re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", words)  # would begin a list or a heading
    return re.sub(r"(?i)\bwww\.", r"www\\.", words).replace("://", "\\://")
