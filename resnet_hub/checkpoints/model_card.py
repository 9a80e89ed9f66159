"""The model card: README.md of a checkpoint folder. The texts are in `templates/`.

The last line of a card is a comment with two digests. The digest of the weights prevents metrics from being carried
over to other weights. The digest of the generated text shows whether a person has edited it since: an edited text is
never overwritten. https://huggingface.co/docs/hub/model-cards describes the metadata at the top."""

import hashlib
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

from resnet_hub.config import CUSTOM, ResNetConfig
from resnet_hub.int8_calibration import CalibrationRecord

if TYPE_CHECKING:
    from jinja2 import Environment


PLACEHOLDER = "user/name"  # repo id in the code samples until the model is pushed
_MAX_METADATA = 2**17  # characters, which PyYAML reads in two seconds; 16 MB would take minutes
# Headings and patterns that version 0.1 wrote too: its cards are updated in place.
_USE = "## Use it"
_SAMPLE = re.compile(r'from_pretrained\("([^"\n]+)"\)')
_MARK = re.compile(
    r"\s*<!-- resnet_hub card; weights: ([0-9a-f]{64}|unknown); (generated|written|edited): ([0-9a-f]{64}|since) -->\s*"
)
_TORCHVISION = {
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
}
_LICENSE_SECTION = re.compile(r"(?=\n\n## Licen[cs]e)")  # older cards have the British word
_ONNX_SAMPLE = re.compile(r"\n\n### ONNX Runtime\n\n```python\n.*?```", re.DOTALL)
_INT8_SECTION = re.compile(rf"## int8\n\n.*?(?={re.escape(_USE)})", re.DOTALL)
# Blank lines, comments, images (also as links), and HTML up to a blank line or a heading
_BEFORE_TEXT = re.compile(r"\A(?:\s+|<!--.*?-->|\[?!\[[^\n]*|<[a-zA-Z/][^\n]*(?:\n(?!\s*\n|# )[^\n]*)*)+", re.DOTALL)
_ABBREVIATIONS = ("e.g.", "i.e.", "etc.", "et al.", "vs.", "cf.", "approx.", "Dr.", "St.")
_SENTENCE_END = re.compile(
    r"(?<=[.!?])" + "".join(rf"(?<!\b{re.escape(text)})" for text in _ABBREVIATIONS) + r"(?<!\b[A-Z]\.)\s+(?=[A-Z])"
)
_IMAGE = re.compile(r"^!\[.*\]\(([^()\s:]+)\)(?:\s+|\Z)", re.MULTILINE)  # of a file, in a line of its own
_MAX_TITLE, _MAX_PURPOSE = 100, 300  # characters that are shown of a stranger's card
_UNLISTED = "other: "  # before the name of a license that the Hub does not list
_FOLD_ABOVE = 20  # labels; a longer list is collapsed


@dataclass(frozen=True, kw_only=True)
class CardContent:
    """Facts for a card that are not in the config. Facts left out are not mentioned; texts are Markdown."""

    title: str = ""
    summary: str = ""
    # Identifier of https://huggingface.co/docs/hub/repositories-licenses, or "other: NAME" for one that is not there
    license: str | None = None
    datasets: Sequence[str] = ()  # ids on the Hub
    dataset_name: str = ""  # shown to readers, also for data that is not on the Hub
    base_model: str | None = None  # id on the Hub
    metrics: Mapping[str, float] = field(default_factory=dict)  # name -> value in 0..1
    split: str = ""  # that the metrics were measured on
    num_images: int = 0  # in that split
    accuracy_note: str = ""  # beside the accuracy, such as its 95% interval
    chose_epoch: bool = False  # whether the kept weights are those with the best metric on that split
    measured_by: str = ""  # engine and precision of the evaluation
    per_class: Mapping[str, float] = field(default_factory=dict)  # label -> recall in 0..1
    class_counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # label -> training, evaluation images
    command: str = ""  # repeats the training
    training: str = ""  # a paragraph: hardware, minutes, seed, epochs
    data_notes: str = ""  # what the check of the dataset found
    limits: str = ""
    image_files: Sequence[str] = ()  # names of image files in the folder

    @property
    def restriction(self) -> str:
        """What the license forbids, in a sentence with the way out."""
        return describe_restriction(self.license)


def render_card(
    config: ResNetConfig,
    facts: CardContent | None = None,
    *,
    weights_sha256: str,
    dtype: str = "float32",
    repo_id: str = PLACEHOLDER,
) -> str:
    """Render the card of a model.

    Args:
        config: The network, its labels and its preprocessing.
        facts: Facts that are not in the config. Facts left out are not mentioned.
        weights_sha256: Digest of the `model.safetensors` that the metrics in `facts` were measured on.
        dtype: The dtype of the stored weights.
        repo_id: The Hub repo that the code samples load from.

    Returns:
        Metadata, text and a last line that marks the text as generated.
    """
    facts = facts or CardContent()
    longest_fence = max((len(run) for run in re.findall("`+", facts.command)), default=0)
    body = _render(
        "model_card.md",
        config=config,
        facts=facts,
        title=_create_title(config),
        dtype=dtype,
        repo_id=repo_id,
        loaders=_list_loaders(config),
        fence="`" * max(3, 1 + longest_fence),
        fold_above=_FOLD_ABOVE,
    )
    return _compose(_Card(_metadata(config, facts), body, weights_sha256, "generated"))


def mark_generated(card: str, weights_sha256: str) -> str:
    """Mark a text that a person wrote as a card of these weights."""
    before, after = _split_at_mark(card)
    return f"{(before + after).rstrip()}\n\n{_mark(weights_sha256, 'written', _parse(card).body)}\n"


def carry_over_card(old_card: str, new_card: str) -> str:
    """Decide which card is saved with a model that was loaded with `old_card`.

    Args:
        old_card: The card that the model came with.
        new_card: The card rendered for the weights that are saved now.

    Returns:
        For the same weights `old_card`, without its section on int8, since the int8 files are not saved with it. For
        other weights `new_card` or, if a person wrote the old card, its text with the new metadata and no old metrics.
    """
    old, new = _parse(old_card), _parse(new_card)
    if old.weights == new.weights:
        body = _INT8_SECTION.sub("", old.body)
        return old_card if body == old.body or old.origin == "edited" else _compose(old._replace(body=body))
    return new_card if old.origin == "generated" else _merge(old, new)


def remove_missing_images(card: str, names: Container[str]) -> str:
    """Remove the images other than those of these names from a generated card; other cards are returned unchanged."""
    parsed = _parse(card)
    body = _IMAGE.sub(lambda image: image[0] if unquote(image[1]) in names else "", parsed.body)
    return _compose(parsed._replace(body=body)) if parsed.origin == "generated" and body != parsed.body else card


def has_same_weights(card: str, other: str) -> bool:
    """Whether two cards state that they describe the same weights."""
    weights = _parse(card).weights
    return weights == _parse(other).weights != "unknown"


def carry_over_facts(card: str) -> CardContent:
    """The facts of a card that hold for weights which are made from those that it describes."""
    metadata = _parse(card).metadata
    base, datasets = metadata.get("base_model"), metadata.get("datasets")
    return CardContent(
        license=read_license(card),
        base_model=base if isinstance(base, str) else None,
        datasets=[name for name in datasets if isinstance(name, str)] if isinstance(datasets, list) else (),
    )


def update_metadata(remote_card: str, local_card: str) -> str:
    """Merge the card to push with the one in the repo.

    A text that was edited on the Hub stays, with metadata of `local_card`. Metadata that only `remote_card` has stays
    too, except metrics.
    """
    remote, local = _parse(remote_card), _parse(local_card)
    if remote.origin == "edited":
        return _merge(remote, local)
    return _compose(local._replace(metadata=_merge_metadata(remote, local)))


def is_generated(card: str) -> bool:
    """Whether the text is unchanged since it was rendered, so that replacing it loses nothing that a person wrote."""
    return _parse(card).origin == "generated"


def set_repo_id(card: str, repo_id: str, *, onnx: bool = False) -> str:
    """Write `repo_id` into the code samples of a generated card, and with `onnx` add the sample for ONNX Runtime.

    A card that a person wrote is returned unchanged.
    """
    parsed = _parse(card)
    before, use, after = parsed.body.partition(_USE)
    if parsed.origin != "generated" or not (sample := _SAMPLE.search(after)):
        return card
    code, *rest = _LICENSE_SECTION.split(_ONNX_SAMPLE.sub("", after), maxsplit=1)
    code = code.replace(sample[1], repo_id)
    if onnx:
        code += "\n\n" + _render("onnx_sample.md", repo_id=repo_id)
    return _compose(parsed._replace(body=before + use + code + "".join(rest)))


def add_int8_section(card: str, record: CalibrationRecord) -> str:
    """Add the measured accuracy of int8 to a generated card; a card that a person wrote is returned unchanged."""
    parsed = _parse(card)
    if parsed.origin != "generated" or _USE not in parsed.body:
        return card
    before, use, after = _INT8_SECTION.sub("", parsed.body).partition(_USE)
    section = _render("int8_section.md", record=record)
    return _compose(parsed._replace(body=f"{before}{section}\n\n{use}{after}"))


def excludes_commercial_use(license: str | None) -> bool:
    """Whether a license forbids commercial use, by its name: cc-by-nc-4.0, or one with the word noncommercial."""
    return re.search(r"(?<![a-z])nc(?![a-z])|non[-_ ]?commercial", (license or "").lower()) is not None


def describe_restriction(license: str | None) -> str:
    """Returns what a license forbids, in a sentence with the way out; "" if it allows commercial use, or is unknown."""
    if not excludes_commercial_use(license):
        return ""
    return (
        f"The license {name_license(license)} does not allow commercial use of the model, nor of models trained from "
        "it; for that, train from another base, such as timm/resnet18.a1_in1k (Apache-2.0)."
    )


def name_license(license: str | None) -> str:
    """The name of a license to show: `CardContent.license` without the mark of a license that the Hub does not list."""
    return (license or "").removeprefix(_UNLISTED)


def read_license(card: str) -> str | None:
    """The license of a card, from its metadata, as `CardContent.license` has it.

    Of several, it is the first that forbids commercial use, or the first.
    """
    match _parse(card).metadata:
        case {"license": "other", "license_name": str(name)} if name.strip():
            return _UNLISTED + " ".join(name.split())[:_MAX_TITLE]
        case {"license": str(license)}:
            return license
        case {"license": [*licenses]}:
            names = [license for license in licenses if isinstance(license, str)]
            return next(filter(excludes_commercial_use, names), names[0] if names else None)
    return None


class Heading(NamedTuple):
    """The beginning of a model card: the title, and a sentence on the purpose of the model."""

    title: str
    purpose: str


def read_heading(card: str) -> Heading:
    """The heading of a card as plain text without links; empty texts where it has none."""
    title, _, text = _BEFORE_TEXT.sub("", _parse(card).body).partition("\n")
    if not title.startswith("# "):
        return Heading("", "")
    paragraph = _BEFORE_TEXT.sub("", text).split("\n\n")[0]
    if paragraph.startswith(("#", "|", "<", "`", "-", "*")):  # not a paragraph
        paragraph = ""
    purpose = _SENTENCE_END.split(_strip_markdown(paragraph), maxsplit=1)[0]
    return Heading(_strip_markdown(title[2:])[:_MAX_TITLE], purpose[:_MAX_PURPOSE])


class Metric(NamedTuple):
    """A metric on a card."""

    name: str
    value: float
    dataset: str
    split: str


def read_metrics(card: str) -> list[Metric]:
    """The metrics of a card's first model, from its metadata. Entries that differ from the Hub's format are skipped."""
    metrics = []
    match _parse(card).metadata.get("model-index"):
        case [{"results": [*results]}, *_]:
            for result in results:
                match result:
                    case {"dataset": {"name": str(dataset), **details}, "metrics": [*entries]}:
                        split = details.get("split")
                        for entry in entries:
                            match entry:
                                case {"type": str(name), "value": int() | float() as value} if abs(value) < 1e9:
                                    split_name = split if isinstance(split, str) else ""
                                    metrics.append(Metric(name, float(value), dataset, split_name))
    return metrics


class _Card(NamedTuple):
    metadata: dict[str, Any]
    body: str
    weights: str  # digest of the weights that it describes, or "unknown"
    origin: str  # "generated", "written" by a person before it was pushed, or "edited" since


def _merge(old: _Card, new: _Card) -> str:
    return _compose(old._replace(metadata=_merge_metadata(old, new), weights=new.weights))


def _merge_metadata(old: _Card, new: _Card) -> dict[str, Any]:
    merged = {key: value for key, value in old.metadata.items() if key != "model-index"} | new.metadata
    if old.origin == "edited" and "license" in old.metadata:  # the choice of a person, whose text may state it too
        merged["license"] = old.metadata["license"]
    if merged.get("license") != "other":
        merged.pop("license_name", None)
    lists = [card.metadata["tags"] for card in (old, new) if isinstance(card.metadata.get("tags"), list)]
    if lists:
        # Only plain values: YAML aliases can nest lists without end.
        plain = [str(tag) for tags in lists for tag in tags if isinstance(tag, str | int | float)]
        merged["tags"] = list(dict.fromkeys(plain))
    return merged


def _compose(card: _Card) -> str:
    from huggingface_hub.utils import yaml_dump

    metadata = yaml_dump(card.metadata, sort_keys=False).strip()
    return f"---\n{metadata}\n---\n\n{card.body.strip()}\n\n{_mark(card.weights, card.origin, card.body)}\n"


def _mark(weights: str, origin: str, body: str) -> str:
    return f"<!-- resnet_hub card; weights: {weights}; {origin}: {'since' if origin == 'edited' else _digest(body)} -->"


def _digest(body: str) -> str:
    """Digest of the visible text: editors change line ends and trailing blanks."""
    lines = (line.rstrip() for line in body.strip().splitlines())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _split_at_mark(card: str) -> tuple[str, str]:
    """The card before and after its mark."""
    marks = list(_MARK.finditer(card))
    return (card[: marks[-1].start()], card[marks[-1].end() :]) if marks else (card, "")


def _parse(card: str) -> _Card:
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    card = card.removeprefix("\ufeff")
    body = "\n\n".join(text for text in _split_at_mark(card) if text)
    metadata: Any = {}
    if block := REGEX_YAML_BLOCK.search(body):
        body = body[block.end() :]
        try:
            metadata = yaml.safe_load(block[2]) if len(block[2]) <= _MAX_METADATA else {}
        except (yaml.YAMLError, ValueError, RecursionError):  # impossible dates and numbers are ValueErrors
            metadata = {}  # no other reader of cards can read it either
    marks = _MARK.findall(card)
    weights, origin, digest = marks[-1] if marks else ("unknown", "edited", "")
    if digest != _digest(body):
        origin = "edited"
    return _Card(metadata if isinstance(metadata, dict) else {}, body, weights, origin)


def _list_loaders(config: ResNetConfig) -> list[str]:
    """The other libraries that can load the checkpoint."""
    if config.architecture == CUSTOM or config.stem == "3x3":
        return []
    if config.in_channels != 3 or not config.num_classes:
        return ["timm"]
    return ["timm", "transformers", *(["torchvision"] if config.architecture in _TORCHVISION else [])]


def _metadata(config: ResNetConfig, facts: CardContent) -> dict[str, Any]:
    from huggingface_hub import EvalResult, ModelCardData

    task = "image-classification" if config.num_classes else "image-feature-extraction"
    others = [library for library in _list_loaders(config) if library != "torchvision"]
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
    is_unlisted = (facts.license or "").startswith(_UNLISTED)
    data: Any = ModelCardData(
        library_name="timm" if others else "resnet_hub",
        pipeline_tag=task,
        tags=[task, "resnet", "resnet_hub", *others],
        license="other" if is_unlisted else facts.license,
        license_name=name_license(facts.license) if is_unlisted else None,
        datasets=list(facts.datasets) or None,
        base_model=facts.base_model,
        model_name=facts.title or _create_title(config),
        eval_results=results or None,
    )
    return {key: value for key, value in data.to_dict().items() if key != "model_name"}


def _create_title(config: ResNetConfig) -> str:
    return config.architecture.replace(CUSTOM, "ResNet") + (
        f" with {config.num_classes} labels" if config.num_classes else " without a head"
    )


@cache
def _templates() -> "Environment":
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "text": _escape_markdown,
        "percent": _format_percent,
        "numbers": _format_numbers,
        "quote": quote,
        "license_name": name_license,
    }
    return environment


def _render(template: str, **values: object) -> str:
    return _templates().get_template(template).render(values)


def _format_numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _format_percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _strip_markdown(text: str) -> str:
    """Markdown as one line of plain text: links become their text."""
    text = re.sub(r"\[([^\[\]]*)\]\([^()\s]*\)", r"\1", " ".join(text.split()))
    return re.sub(r"\\([^\w\s])", r"\1", text).replace("`", "").replace("**", "")


def _escape_markdown(untrusted: str) -> str:
    """Escape untrusted text for Markdown: one line without markup, HTML or links."""
    text = re.sub(r"([\\`*_\[\]<>&|~$!@#])", r"\\\1", " ".join(untrusted.split()))
    text = re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", text)  # would begin a list or a heading
    return re.sub(r"(?i)\bwww\.", r"www\\.", text).replace("://", "\\://")
