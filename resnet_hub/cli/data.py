"""`resnet-hub data report` and `resnet-hub data export`: check a dataset, pack it as a ZIP."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_hub.cli import options, output
from resnet_hub.errors import list_untrusted

if TYPE_CHECKING:
    from resnet_hub.datasets.dataset import Splits
    from resnet_hub.datasets.report import UnreadableImage


def add_parsers(commands: options.Commands) -> None:
    data = commands.add_parser("data", help="check a dataset, or pack it as a ZIP")
    actions = data.add_subparsers(metavar="ACTION", required=True)
    report = options.add_command(
        actions, "report", run_report, "report the contents and problems of a dataset", skips_images=True
    )
    export = options.add_command(actions, "export", run_export, "pack a dataset as a ZIP of class folders")
    for parser in (report, export):
        parser.add_argument("source", metavar="DATA", help=options.DATA_HELP)
        parser.add_argument("--split", help="training split of parquet files or a Hub dataset, such as train[:10%%]")
        options.add_dataset_options(parser, "--revision")
        options.add_json(parser)
    export.add_argument("target", type=Path, metavar="ZIP", help="the file to write")


def run_report(arguments: options.Arguments) -> int:
    """Report the images per class, unreadable files, duplicates and other problems of a dataset."""
    from resnet_hub.datasets.report import create_report

    splits = _load_splits(arguments)
    with output.show_progress() as progress:
        report = create_report(splits, progress)
    print(report.to_json() + "\n" if arguments.json else report.to_text(), end="")
    report.check()
    return 1 if report.unreadable else 0


def run_export(arguments: options.Arguments) -> int:
    """Pack a dataset as a ZIP of class folders and print its path. Image files are copied unchanged."""
    from resnet_hub.datasets.export import export_dataset

    splits = _load_splits(arguments)
    unreadable: list[UnreadableImage] = []
    target = export_dataset(splits, arguments.target, unreadable.append)
    left_out = Counter(image.split for image in unreadable)
    images = {split: len(dataset) - left_out[split] for split, dataset in splits.items()}
    facts = {"file": str(target), "bytes": target.stat().st_size, "images": images}
    print(json.dumps(facts) if arguments.json else output.escape(target))
    if unreadable:
        count = f"{len(unreadable):,} image{'s' if len(unreadable) > 1 else ''}"
        print(f"left out {count}: {list_untrusted([image.reason for image in unreadable])}", file=sys.stderr)
    return 0


def _load_splits(arguments: options.Arguments) -> "Splits":
    from resnet_hub.datasets.load import load_dataset

    return load_dataset(arguments.source, split=arguments.split, **options.get_dataset_options(arguments))
