"""`resnet-hub search`: find ResNets on the Hub."""

import json
import sys
from typing import TYPE_CHECKING

from resnet_hub.cli import options, output
from resnet_hub.errors import HubError, ResNetHubError

if TYPE_CHECKING:
    from resnet_hub.config import ResNetConfig


def add_parsers(commands: options.Commands) -> None:
    parser = options.add_command(commands, "search", run, "find ResNets on the Hub")
    parser.add_argument("text", metavar="TEXT", help="part of the name, such as flowers")
    options.add_count(parser, "--limit", 20, "models to check")
    options.add_json(parser, "one JSON object per line")


def run(arguments: options.Arguments) -> int:
    """Search the Hub by name for ResNets of this library, timm and transformers, and print those that can be loaded."""
    from concurrent.futures import ThreadPoolExecutor

    from resnet_hub.checkpoints.load import read_config
    from resnet_hub.checkpoints.search import search_models

    def read_config_or_none(repo_id: str) -> "ResNetConfig | None":
        try:
            return read_config(repo_id)
        except ResNetHubError:
            return None

    results = search_models(arguments.text, limit=arguments.limit)
    with ThreadPoolExecutor(8) as pool:
        configs = pool.map(read_config_or_none, [result.id for result in results])
        models = [(result, config) for result, config in zip(results, configs, strict=True) if config]
    rows = []
    for result, config in models:
        facts = {"architecture": config.architecture, "labels": config.num_classes, "downloads": result.downloads}
        if arguments.json:
            print(json.dumps({"model": result.id, **facts}))
        else:
            rows.append((result.id, "{architecture}, {labels} labels, {downloads} downloads".format(**facts)))
    output.print_table(rows)
    if not models:
        raise HubError(f"No ResNet on the Hub with {arguments.text!r} in its name opens here. Try another word.")
    if others := len(results) - len(models):
        print(f"{others} more match but do not open here; `resnet-hub info` prints the reason.", file=sys.stderr)
    return 0
