"""`resnet-hub push`: upload a checkpoint folder to the Hub."""

import sys
from pathlib import Path

from resnet_hub.cli import options, output
from resnet_hub.errors import format_bytes


def add_parsers(commands: options.Commands) -> None:
    parser = options.add_command(commands, "push", run, "upload a checkpoint folder to the Hub")
    options.add_folder(parser)
    parser.add_argument("repo", metavar="REPO", help="user/name; created if it does not exist")
    options.add_private(parser)
    parser.add_argument("--branch", help="branch to commit to; created if it does not exist")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request; needs no write access")
    parser.add_argument("--message", help="commit message")
    parser.add_argument(
        "--include", metavar="PATTERN", action="append", default=[], help="upload these files too, such as eval/*.json"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the files to upload, and upload nothing")


def run(arguments: options.Arguments) -> int:
    """Upload a checkpoint folder to the Hub in one commit and print its URL.

    Only the checkpoint's own files are uploaded: config, weights, model card and its images, ONNX graphs, license. The
    commit is made by the user who is logged in with `hf auth login`.
    """
    from resnet_hub.checkpoints.push import check_uploadable_folder, push_folder, select_upload_files
    from resnet_hub.hub_client.errors import check_repo_id

    check_repo_id(arguments.repo)
    folder = Path(arguments.folder).expanduser()
    check_uploadable_folder(folder)
    selection = select_upload_files(folder, arguments.include)
    if selection.skipped:
        print(f"not uploaded: {', '.join(map(output.escape, selection.skipped))}", file=sys.stderr)
    output.print_restriction(folder)
    if arguments.dry_run:
        print(*map(output.escape, selection.files), sep="\n")
        return 0
    if sys.stderr.isatty():  # the client's progress bars follow, for large files
        size = sum(path.stat().st_size for path in selection.files.values())
        print(f"uploading {len(selection.files)} files, {format_bytes(size)}", file=sys.stderr)
    settings = options.select(arguments, "private", "branch", "create_pr", "message", "include")
    print(push_folder(arguments.folder, arguments.repo, **settings))
    return 0
