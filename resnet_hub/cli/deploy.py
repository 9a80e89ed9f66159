"""`resnet-hub deploy`: the web page as a Hugging Face Space."""

from pathlib import Path

from resnet_hub.cli import options, output
from resnet_hub.errors import format_bytes


def add_parsers(commands: options.Commands) -> None:
    deploy = options.add_command(commands, "deploy", run_deploy, "make or update a Space of the web page")
    deploy.add_argument("space", metavar="SPACE", help="user/name; created if it does not exist")
    hardware = "cpu-basic, zero-a10g, t4-small or other hardware of the Hub (default: the Space's own, else cpu-basic)"
    deploy.add_argument("--hardware", metavar="NAME", help=hardware)
    options.add_private(deploy)
    deploy.add_argument("--dry-run", action="store_true", help="list the files to upload, and upload nothing")


def run_deploy(arguments: options.Arguments) -> int:
    """Make a Space of the web page from this package and its checkpoint folders, or update one, in one commit.

    Lists the files to upload with their sizes, then uploads them and prints the URL. An existing Space must be one of
    this package, or empty; files that its owner added stay. It is made by the user who is logged in with
    `hf auth login`, needs no secrets, and can be duplicated.
    """
    from resnet_hub import deploy

    deploy.check_name(arguments.space)
    sizes = {
        name: content.stat().st_size if isinstance(content, Path) else len(content)
        for name, content in deploy.build_space(arguments.hardware or deploy.HARDWARE[0]).items()
    }
    output.print_table((format_bytes(size), name) for name, size in sizes.items())
    print(f"{len(sizes)} files, {format_bytes(sum(sizes.values()))}")
    if not arguments.dry_run:
        print(deploy.deploy(arguments.space, **options.select(arguments, "hardware", "private")))
    return 0
