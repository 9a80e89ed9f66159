"""Find the tensors of one ResNet in the content of a weights file, and give them our keys.

Training scripts store the weights under a name, beside optimizer states and settings, and their wrappers give the keys
prefixes. Averaged weights are preferred to raw ones. Nothing of the network, and no other tensor beside it, is left out
silently."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.convert.config_json import find_unsupported_feature
from resnet_hub.errors import CheckpointError, list_untrusted, one_line

if TYPE_CHECKING:
    from torch import Tensor

MAX_NAMES = 8  # keys that a message lists
_MAX_DEPTH, _MAX_MAPPINGS = 5, 1000  # of nested mappings that are searched
_PREFIX = re.compile(r"(?:(?:module|_orig_mod|timm_model)\.)+")  # of DataParallel, torch.compile, transformers
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_RENAMED = {"linear": "fc", "shortcut": "downsample"}  # names in the CIFAR repositories -> ours
_TRANSFORMERS = re.compile(
    r"(?:resnet\.)?(?:embedder\.embedder|encoder\.stages\.(\d{1,4})\.layers\.(\d{1,4})\.(?:shortcut|layer\.(\d)))"
    r"\.(convolution|normalization)(\..+)"
)
_STEM = re.compile(r"((?:.*\.)?)(?:conv1(?:\.0)?\.weight|embedder\.embedder\.convolution\.weight)")
_FIRST_BLOCK = ("layer1.0.conv1.weight", "encoder.stages.0.layers.0.layer.0.convolution.weight")
_OWN = re.compile(r"(?:conv|bn|layer|maxpool)\d*(?:\.|$)|fc\.(?:weight|bias)$")  # keys that belong to a network of ours
_HEADS = ("fc", "linear", "classifier", "head", "last_linear", "cls", "logits")  # names of a last layer
_AVERAGED = re.compile(r"(?:^|[^a-z])(?:ema|swa|avg|average|averaged|polyak|shadow)(?:[^a-z]|$)")
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
_OTHER_COUNTERS = {"steps", "num_updates", "decay", "n"}  # of the averages of MMEngine, Lightning and diffusion models
_RAW_BESIDE_AVERAGE = "current_model_state"  # where Lightning's WeightAveraging moves the raw weights


class StateDict(NamedTuple):
    """The tensors of a network under our keys, and the notes on what was chosen and dropped."""

    source: object
    tensors: "dict[str, Tensor]"
    notes: list[tuple[str, str]]  # topic and sentence

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}


class _Network(NamedTuple):
    """The place of tensors that look like a ResNet: all keys of a mapping that begin with a prefix."""

    path: tuple[str, ...]  # of the mapping
    prefix: str = ""
    is_averaged: bool = False

    @property
    def name(self) -> str:
        return one_line(".".join((*self.path, self.prefix)).strip("."), 80) or "the file itself"


def unwrap_state_dict(content: Any, source: object, *, choice: str | None = None, ignore: bool = False) -> StateDict:
    """Find the tensors of one network, and give them our keys.

    Args:
        content: The result of `read_state_dict`.
        source: Its name in messages.
        choice: "ema" or "raw" for averaged or raw weights, or the name of a network in the file or words of it
            ("teacher"). By default averaged weights are preferred.
        ignore: Leave out other tensors beside the network, such as those of a metric-learning or detection head.

    Raises:
        CheckpointError: The content has several networks, or other tensors beside the network.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source} holds a {type(content).__name__}; expected a state dict: names with tensors.")
    check_settings(content, source)
    notes: list[tuple[str, str]] = []
    mappings = dict(islice(_walk(content), _MAX_MAPPINGS))
    networks = [network for path, mapping in mappings.items() for network in _find_networks(path, mapping)]
    networks = _mark_averaged(networks, mappings)
    network = _choose(networks, choice, source, notes)
    is_found = network is not None
    network = network or _Network(max(mappings, key=lambda path: len(_select_tensors(mappings[path]))))
    if network.path:
        notes.append(("wrapper", f"the weights are under {one_line('.'.join(network.path), 80)!r}"))

    separate = _list_separate_weights(mappings, network.path, networks) if is_found else {}
    outer_names = {name for name, _ in separate}
    ignored = [key for key in _list_ignored(mappings, network, networks) if key not in outer_names]
    prefixes = {other.prefix for other in networks if other.path == network.path}
    own: dict[str, Tensor] = {}
    foreign = {f"{name}.{key}".rstrip("."): tensor for (name, key), tensor in separate.items()}
    renamed: set[str] = set()
    for key, tensor in _select_tensors(mappings[network.path]).items():
        plain_key = _WRAPPED.sub("", key)
        owner = max((prefix for prefix in prefixes if plain_key.startswith(prefix)), key=len, default=network.prefix)
        our_key = rename_key(plain_key.removeprefix(owner))
        is_other = owner != network.prefix and (_OWN.match(our_key) or not network.prefix.startswith(owner))
        if _is_counter(plain_key) or is_other:
            continue  # of an average, or of another network
        if is_found and not (plain_key.startswith(network.prefix) and _OWN.match(our_key)):
            if _is_other_counter(plain_key, tensor):
                ignored.append(plain_key)
            else:
                foreign[plain_key] = tensor
            continue
        if our_key in own:
            raise CheckpointError(f"{source} has {one_line(our_key, 80)} twice, once under another name.")
        own[our_key] = tensor
        renamed |= _describe_renaming(key, plain_key.removeprefix(network.prefix))
    if is_found and "fc.weight" not in own:
        _take_head(own, foreign, network.prefix, notes)
    _check_foreign(foreign, source, notes, ignore)
    if renamed:
        notes.append(("renamed", list_untrusted(sorted(renamed), MAX_NAMES)))
    if ignored:
        notes.append(("ignored", f"{list_untrusted(ignored, MAX_NAMES)}: not weights"))
    return StateDict(source, own, notes)


def check_settings(content: Mapping[Any, Any], source: object) -> None:
    """Raise `CheckpointError` where stored settings describe a network that is not supported but has the same keys."""
    for _, mapping in islice(_walk(content), _MAX_MAPPINGS):
        for key, value in mapping.items():
            if feature := find_unsupported_feature(key, value):
                setting = one_line(f"{key}={value}", 80)
                raise CheckpointError(f"{source} says {setting}: its network has {feature}, which is not supported.")


def rename_key(key: str) -> str:
    """Our key for a tensor of transformers, the CIFAR repositories or a wrapper; other keys are returned unchanged."""
    key = _PREFIX.sub("", key, count=1) if _PREFIX.match(key) else key
    if match := _TRANSFORMERS.fullmatch(key):
        stage, block, number, layer, suffix = match.groups()
        parent = f"layer{int(stage) + 1}.{block}." if stage else ""
        if stage and number is None:
            return f"{parent}downsample.{0 if layer == 'convolution' else 1}{suffix}"
        return f"{parent}{'conv' if layer == 'convolution' else 'bn'}{int(number or 0) + 1}{suffix}"
    if key.startswith("classifier.1."):  # of transformers
        return "fc" + key.removeprefix("classifier.1")
    return ".".join(_RENAMED.get(name, name) for name in key.split("."))


def _walk(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """The content and all mappings in it, each once with its path; the outer ones first."""
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    seen = {id(content)}  # a pickle can hold a mapping many times, even in itself
    for _ in range(_MAX_DEPTH + 1):
        yield from level
        inner = [((*path, key), value) for path, mapping in level for key, value in mapping.items()]
        level = []
        for path, value in inner:
            if isinstance(path[-1], str) and isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                level.append((path, value))


def _select_tensors(mapping: Mapping[Any, Any]) -> "dict[str, Tensor]":
    from torch import Tensor

    return {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _find_networks(path: tuple[str, ...], mapping: Mapping[Any, Any]) -> list[_Network]:
    keys = {_WRAPPED.sub("", key): None for key in _select_tensors(mapping)}
    prefixes = dict.fromkeys(match[1] for key in keys if (match := _STEM.fullmatch(key)))
    return [_Network(path, prefix) for prefix in prefixes if any(prefix + first in keys for first in _FIRST_BLOCK)]


def _mark_averaged(networks: list[_Network], mappings: Mapping[tuple[str, ...], Mapping[Any, Any]]) -> list[_Network]:
    """The networks, each with whether it is an average: by its name, or by the counter beside it."""

    def is_averaged(network: _Network) -> bool:
        counters = [key.removesuffix(_COUNTER) for key in _select_tensors(mappings[network.path]) if _is_counter(key)]
        if any(network.prefix.startswith(prefix) for prefix in counters):
            return True
        if network.path and (*network.path[:-1], _RAW_BESIDE_AVERAGE) in mappings:
            return network.path[-1] != _RAW_BESIDE_AVERAGE
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", network.name)
        return bool(_AVERAGED.search(words.lower()))

    return [network._replace(is_averaged=is_averaged(network)) for network in networks]


def _choose(
    networks: list[_Network], choice: str | None, source: object, notes: list[tuple[str, str]]
) -> _Network | None:
    """The network to convert; None if there is none."""
    averaged, raw = ([network for network in networks if network.is_averaged is flag] for flag in (True, False))
    is_named = choice not in (None, "raw", "ema")
    if is_named:
        chosen = [network for network in networks if f".{choice}." in f".{network.name}."]
        chosen = [network for network in chosen if network.name == choice] or chosen
    else:
        chosen = (averaged or raw) if choice is None else averaged if choice == "ema" else raw
    if networks and not chosen and not is_named:
        present, absent = ("averaged", "raw") if choice == "raw" else ("raw", "averaged")
        raise CheckpointError(f"{source} has no {absent} weights, only {present} ones. Leave out --weights {choice}.")
    if networks and len(chosen) != 1:
        names = [network.name for network in chosen or networks]
        cause = "holds several networks" if chosen else f"has no network {one_line(str(choice), 80)!r} but these"
        raise CheckpointError(
            f"{source} {cause}: {list_untrusted(names, MAX_NAMES)}. Choose one, such as --weights {names[0]}."
        )
    if is_named:
        notes.extend(("weights", f"{network.name}, as requested") for network in chosen)
    elif averaged and choice != "raw":
        others = f"; for the raw ones: --weights raw ({raw[0].name})" if raw else ""
        notes.append(("weights", f"averaged ({averaged[0].name}){', as requested' if choice else ''}{others}"))
    elif averaged:
        notes.append(("weights", f"raw ({raw[0].name}), as requested"))
    return chosen[0] if chosen else None


def _list_ignored(
    mappings: Mapping[tuple[str, ...], Mapping[Any, Any]], network: _Network, networks: list[_Network]
) -> list[object]:
    """The keys beside the path of the network that hold no other network, and those beside its tensors without one."""
    ignored: list[object] = []
    for depth, name in enumerate(network.path):
        path = network.path[:depth]
        others = {other.path[depth] for other in networks if other.path[:depth] == path and len(other.path) > depth}
        ignored += [key for key in mappings[path] if key != name and key not in others]
    mapping = mappings[network.path]
    tensors = _select_tensors(mapping)
    return ignored + [key for key in mapping if key not in tensors or _is_counter(key)]


def _describe_renaming(key: str, inner_key: str) -> set[str]:
    """What was changed in a key, whose part without the prefix is `inner_key`, for a note."""
    match = _PREFIX.match(inner_key)
    inner_key = inner_key[match.end() :] if match else inner_key
    changes = {f"{name} to {_RENAMED[name]}" for name in inner_key.split(".") if name in _RENAMED}
    if _TRANSFORMERS.search(inner_key):
        changes.add("those of transformers to ours")
    if not key.endswith(inner_key):  # compiled in parts
        return changes | {f"{match[0]} removed" for match in _WRAPPED.finditer(key)}
    return changes | {f"{prefix} removed" for prefix in (key.removesuffix(inner_key),) if prefix}


def _list_separate_weights(
    mappings: Mapping[tuple[str, ...], Mapping[Any, Any]], path: tuple[str, ...], networks: list[_Network]
) -> "dict[tuple[str, str], Tensor]":
    """The weights beside the mapping of a network, such as those of a head, by their mapping's name and their key.

    Counters, random states and the like are none: weights have two dimensions or more, and so has one of their mapping.
    """
    if not path:
        return {}
    outer = mappings[path[:-1]]
    groups = {name: _select_tensors(mappings.get((*path[:-1], name), {})) for name in outer if isinstance(name, str)}
    groups = {name: group for name, group in groups.items() if not any(n.path == (*path[:-1], name) for n in networks)}
    weights = {
        (name, key): tensor for name, group in groups.items() if _has_matrix(group) for key, tensor in group.items()
    }
    return weights | {(key, ""): tensor for key, tensor in _select_tensors(outer).items() if _has_matrix({key: tensor})}


def _has_matrix(tensors: "Mapping[str, Tensor]") -> bool:
    return any(tensor.ndim > 1 and tensor.is_floating_point() for tensor in tensors.values())


def _take_head(
    own: "dict[str, Tensor]", foreign: "dict[str, Tensor]", prefix: str, notes: list[tuple[str, str]]
) -> None:
    """Move the weight and bias of the head to `own`, if there is a single one of one linear layer, under any name."""
    groups: dict[str, dict[str, Tensor]] = {}
    parents = [prefix[: match.end()] for match in re.finditer(r"\.", prefix)][::-1]
    for key, tensor in foreign.items():
        parent = next((parent for parent in parents if key.startswith(parent)), "")
        name = key.removeprefix(parent).partition(".")[0]
        if name in _HEADS:
            groups.setdefault(f"{parent}{name}", {})[key] = tensor
    linear = []
    for group in groups.values():
        weight = next((key for key in group if key.endswith(".weight")), "")
        bias = f"{weight.removesuffix('weight')}bias"
        if group.keys() == {weight, bias} and (group[weight].ndim, group[bias].ndim) == (2, 1):
            linear.append((weight, bias))
    if len(linear) == 1:
        [(weight, bias)] = linear
        own["fc.weight"], own["fc.bias"] = foreign.pop(weight), foreign.pop(bias)
        notes.append(("head", f"taken from {one_line(weight.removesuffix('.weight'), 80)}, its linear layer"))


def _check_foreign(foreign: Mapping[str, Any], source: object, notes: list[tuple[str, str]], ignore: bool) -> None:
    """Raise `CheckpointError` for tensors beside the network, or note that they are left out."""
    if not foreign:
        return
    names = f"{len(foreign)} {'tensors' if len(foreign) > 1 else 'tensor'} ({list_untrusted(list(foreign), MAX_NAMES)})"
    if not ignore:
        has_head = any({"fc", "linear"} & {*key.split(".")} for key in foreign)
        reason = " Of heads, one linear layer is supported." if has_head else ""
        raise CheckpointError(
            f"{source} has {names} beside the network, which would be lost.{reason} To leave them out: --ignore."
        )
    notes.append(("left out", f"{names}, as requested: they do not belong to the network"))


def _is_counter(key: object) -> bool:
    return isinstance(key, str) and key.split(".")[-1] == _COUNTER


def _is_other_counter(key: str, tensor: "Tensor") -> bool:
    """Whether a tensor beside the network counts the steps of an average, or is its decay."""
    return key.split(".")[-1] in _OTHER_COUNTERS and tensor.numel() == 1
