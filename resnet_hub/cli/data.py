"""`resnet-hub data report` and `resnet-hub data export`: check a dataset, pack it as a ZIP."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_hub.cli import options
from resnet_hub.cli.options import Arguments, Commands
from resnet_hub.cli.output import escape, image_progress

if TYPE_CHECKING:
    from resnet_hub.datasets.dataset import Splits


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("data", help="check a dataset, or pack it as a ZIP")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    report = options.add_command(actions, "report", run_report, "report the contents and problems of a dataset")
    _add_source(report)
    report.add_argument("--json", action="store_true", help="print one JSON object")
    export = options.add_command(actions, "export", run_export, "pack a dataset as a ZIP of class folders")
    _add_source(export)
    export.add_argument("target", type=Path, metavar="ZIP", help="the file to write")
    export.add_argument("--json", action="store_true", help="print one JSON object")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DATA", help=options.DATA_HELP)
    parser.add_argument("--split", help="training split of parquet files or a Hub dataset, such as train[:10%%]")
    options.add_dataset_options(parser, "--revision", "--data-revision")


def run_report(arguments: Arguments) -> int:
    """Report the images per class, unreadable files, duplicates and other problems of a dataset."""
    from resnet_hub.datasets.inspect import create_report

    splits = _load_splits(arguments)
    with image_progress() as progress:
        report = create_report(splits, progress)
    print(report.to_json() + "\n" if arguments.json else report.to_text(), end="")
    report.check()
    return 1 if report.unreadable else 0


def run_export(arguments: Arguments) -> int:
    """Pack a dataset as a ZIP of class folders and print its path. Image files are copied unchanged."""
    from resnet_hub.datasets.export import export_dataset

    splits = _load_splits(arguments)
    target = export_dataset(splits, arguments.target)
    images = {split: len(dataset) for split, dataset in splits.items()}
    facts = {"file": str(target), "bytes": target.stat().st_size, "images": images}
    print(json.dumps(facts) if arguments.json else escape(target))
    return 0


def _load_splits(arguments: Arguments) -> "Splits":
    from resnet_hub.datasets.load import load_dataset

    return load_dataset(arguments.source, split=arguments.split, **options.dataset_options(arguments))
