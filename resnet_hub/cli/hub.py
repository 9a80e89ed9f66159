"""`resnet-hub push` and `resnet-hub search`: upload a checkpoint folder to the Hub, and find ResNets there."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_hub.cli import options, output
from resnet_hub.errors import HubError, ResNetHubError

if TYPE_CHECKING:
    from resnet_hub.config import ResNetConfig


def add_parsers(commands: options.Commands) -> None:
    push = options.add_command(commands, "push", run_push, "upload a checkpoint folder to the Hub")
    options.add_folder(push)
    push.add_argument("repo", metavar="REPO", help="user/name; created if it does not exist")
    options.add_private(push)
    push.add_argument("--branch", help="branch to commit to; created if it does not exist")
    push.add_argument("--create-pr", action="store_true", help="open a pull request; needs no write access")
    push.add_argument("--message", help="commit message")
    push.add_argument(
        "--include", metavar="PATTERN", action="append", default=[], help="upload these files too, such as eval/*.json"
    )
    push.add_argument("--dry-run", action="store_true", help="list the files to upload, and upload nothing")
    search = options.add_command(commands, "search", run_search, "find ResNets on the Hub")
    search.add_argument("text", metavar="TEXT", help="part of the name, such as flowers")
    options.add_count(search, "--limit", 20, "models to check")
    options.add_json(search, "one JSON object per line")


def run_push(arguments: options.Arguments) -> int:
    """Upload a checkpoint folder to the Hub in one commit and print its URL.

    Only the checkpoint's own files are uploaded: config, weights, model card and its images, ONNX graphs, licence. The
    commit is made by the user who is logged in with `hf auth login`.
    """
    from resnet_hub.checkpoints.load import read_config
    from resnet_hub.checkpoints.push import push_folder
    from resnet_hub.checkpoints.upload_files import select_upload_files
    from resnet_hub.hub_client.errors import hub_errors

    with hub_errors(arguments.repo):
        pass  # an invalid name raises before anything is listed
    read_config(arguments.folder)
    selection = select_upload_files(Path(arguments.folder).expanduser(), arguments.include)
    if selection.skipped:
        print(f"not uploaded: {', '.join(map(output.escape, selection.skipped))}", file=sys.stderr)
    if arguments.dry_run:
        print(*map(output.escape, selection.files), sep="\n")
        return 0
    settings = options.select(arguments, "private", "branch", "create_pr", "message", "include")
    print(push_folder(arguments.folder, arguments.repo, **settings))
    return 0


def run_search(arguments: options.Arguments) -> int:
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
    width = max((len(result.id) for result, _ in models), default=0)
    for result, config in models:
        facts = {"architecture": config.architecture, "labels": config.num_classes, "downloads": result.downloads}
        if arguments.json:
            print(json.dumps({"model": result.id, **facts}))
        else:
            print("{0:{1}}  {architecture}, {labels} labels, {downloads} downloads".format(result.id, width, **facts))
    if not models:
        raise HubError(f"No ResNet on the Hub with {arguments.text!r} in its name opens here. Try another word.")
    if others := len(results) - len(models):
        print(f"{others} more match but do not open here; `resnet-hub info` prints the reason.", file=sys.stderr)
    return 0
