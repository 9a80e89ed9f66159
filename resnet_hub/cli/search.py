"""`resnet-hub search`: find ResNets on the Hub."""

import json
import sys
from typing import TYPE_CHECKING

from resnet_hub.cli import options
from resnet_hub.cli.options import Arguments, Commands
from resnet_hub.errors import HubError, ResNetHubError

if TYPE_CHECKING:
    from resnet_hub.checkpoints.search import SearchResult
    from resnet_hub.config import ResNetConfig


def add_parser(commands: Commands) -> None:
    parser = options.add_command(commands, "search", run, "find ResNets on the Hub")
    parser.add_argument("text", metavar="TEXT", help="part of the name, such as flowers")
    parser.add_argument(
        "--limit", type=options.parse_positive_int, default=20, metavar="N", help="models to check (default: 20)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def run(arguments: Arguments) -> int:
    """Search the Hub by name for ResNets of this library, timm and transformers, and print those that open here."""
    from concurrent.futures import ThreadPoolExecutor

    from resnet_hub.checkpoints.load import read_config
    from resnet_hub.checkpoints.search import search_models

    def read_config_or_none(result: "SearchResult") -> "ResNetConfig | None":
        try:
            return read_config(result.id)
        except ResNetHubError:
            return None

    results = search_models(arguments.text, limit=arguments.limit)
    with ThreadPoolExecutor(8) as pool:
        configs = pool.map(read_config_or_none, results)
        models = [(result, config) for result, config in zip(results, configs, strict=True) if config]
    width = max((len(result.id) for result, _ in models), default=0)
    for result, config in models:
        facts = {"architecture": config.architecture, "labels": config.num_classes, "downloads": result.downloads}
        if arguments.json:
            print(json.dumps({"model": result.id, **facts}))
        else:
            print(f"{result.id:{width}}  {config.architecture}, {config.num_classes} labels, ", end="")
            print(f"{result.downloads} downloads")
    if not models:
        raise HubError(f"No ResNet on the Hub with {arguments.text!r} in its name opens here. Try another word.")
    if others := len(results) - len(models):
        print(f"{others} more match but do not open here; `resnet-hub info` prints the reason.", file=sys.stderr)
    return 0
