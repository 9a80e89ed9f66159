"""`resnet-hub push`: upload a checkpoint folder to the Hub."""

import argparse
from pathlib import Path

from resnet_hub.cli import options
from resnet_hub.cli.options import Arguments, Commands


def add_parser(commands: Commands) -> None:
    parser = options.add_command(commands, "push", run, "upload a checkpoint folder to the Hub")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="checkpoint folder")
    parser.add_argument("repo", metavar="REPO", help="user/name; created if it does not exist")
    parser.add_argument("--private", action=argparse.BooleanOptionalAction, help=options.PRIVATE_HELP)
    parser.add_argument("--branch", help="branch to commit to; created if it does not exist")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request; needs no write access")
    parser.add_argument("--message", help="commit message")


def run(arguments: Arguments) -> int:
    """Upload a checkpoint folder to the Hub in one commit and print its URL.

    The commit is made by the user who is logged in with `hf auth login`.
    """
    from resnet_hub.checkpoints.push import push_folder

    settings = {key: getattr(arguments, key) for key in ("private", "branch", "create_pr", "message")}
    print(push_folder(arguments.folder, arguments.repo, **settings))
    return 0
