"""Trains the networks of section 4.2 of the paper on CIFAR-10: how the recorded histories were made.

    pip install -e ".[train]"
    python scripts/cifar_runs.py --data uoft-cs/cifar10 --jpeg-quality 75 --work runs/cifar
    python scripts/cifar_runs.py --data uoft-cs/cifar10 --jpeg-quality 75 --work runs/cifar --only plain20-seed0
    python scripts/cifar_runs.py --work runs/cifar --list

One after the other: plain and residual networks of 20 and 56 layers, shortcuts A, B and C, several seeds. Each is 6
epochs of one cycle in float32, on one thread. The script may be stopped at any time, also by a kill; started again, it
resumes. The recorded networks learned a JPEG copy of CIFAR-10, which `--jpeg-quality 75` makes. In `--work`:

    histories/NAME.json   errors on training and test images after each epoch; belongs into resnet_hub/analysis/records
    histories/lesions     accuracies without blocks; belongs there too
    weights/NAME          the trained network as a checkpoint folder, in half precision if its values allow it
    runs/NAME             the training state; initial/NAME: the weights that it started from
    jpegQ                 the copy in JPEG files of quality Q
"""

import argparse
import json
import shlex
import time
from pathlib import Path

import torch
from datasets import ClassLabel, Dataset, Features, Image

from resnet_hub import ResNet, evaluate
from resnet_hub.analysis.cifar import EPOCHS, RUNS, NetworkRun, TrainingRecord, list_records, train_network
from resnet_hub.analysis.labeled_images import JPEG_COPY, encode_as_jpeg, load_labeled_images, name_dataset
from resnet_hub.analysis.lesion_records import LESIONS, measure_lesions
from resnet_hub.atomic import write_atomic
from resnet_hub.checkpoints.model_card import CardContent
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import CheckpointError
from resnet_hub.evaluation.reliability import describe_reliability
from resnet_hub.training import events

WIDTH = 16  # channels of the first stage, as in the paper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="CIFAR-10: a folder of parquet files, or the id of a dataset on the Hub")
    parser.add_argument("--jpeg-quality", type=int, metavar="Q", help="encode the images again as JPEG, such as 75")
    parser.add_argument("--data-name", default="", help="the dataset in words, for records and cards")
    parser.add_argument("--work", type=Path, required=True, help="folder of states, histories and checkpoints")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names such as plain20-seed0 (default: all)")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--width", type=int, default=WIDTH, help="channels of the first stage; less for a trial")
    parser.add_argument("--images", type=int, default=2000, help="test images of the lesions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="print what is finished, and end")
    arguments = parser.parse_args()
    if arguments.list:
        print_histories(arguments.work)
        return
    runs = {run.name: run for run in RUNS}
    if unknown := sorted(set(arguments.only or ()) - runs.keys()):
        parser.error(f"there is no network {unknown[0]}; choose from {', '.join(runs)}")
    if not arguments.data:
        parser.error("--data is needed to train")
    torch.set_num_threads(arguments.threads)
    arguments.data_name = arguments.data_name or name_dataset(arguments.data, arguments.jpeg_quality)
    arguments.command = format_command(arguments)
    if arguments.jpeg_quality is not None:
        arguments.data = write_jpeg_copy(arguments.data, arguments.work, arguments.jpeg_quality)
    for name in arguments.only or runs:
        run_network(runs[name], arguments)
    print_histories(arguments.work)


def format_command(arguments: argparse.Namespace) -> str:
    """The command of the records: with the name of the dataset, also if a JPEG copy of it was made beforehand."""
    data, _, quality = arguments.data_name.partition(JPEG_COPY)
    words = ["python", "scripts/cifar_runs.py", "--data", data, *(("--jpeg-quality", quality) if quality else ())]
    for option, default in (("epochs", EPOCHS), ("width", WIDTH)):
        if (value := getattr(arguments, option)) != default:
            words += [f"--{option}", str(value)]
    return shlex.join([*words, "--work", "runs/cifar"])


def write_jpeg_copy(data: str, work: Path, quality: int) -> Path:
    """Write a copy of a dataset in JPEG as parquet files, unless it is there, and return its folder."""
    folder = work / f"jpeg{quality}"
    if not folder.is_dir():
        draft = folder.with_name(f"{folder.name}.part")
        draft.mkdir(parents=True, exist_ok=True)
        for split, images in load_dataset(data).items():
            sources = encode_as_jpeg(images, quality).sources
            columns = {"image": [{"bytes": content} for content in sources], "label": images.targets.tolist()}
            features = Features({"image": Image(), "label": ClassLabel(names=list(images.labels))})
            Dataset.from_dict(columns, features=features).to_parquet(draft / f"{split}.parquet")
        draft.rename(folder)
    return folder


def run_network(run: NetworkRun, arguments: argparse.Namespace) -> None:
    """Train a network unless it is finished, and save its checkpoint folder."""
    print(f"{time.strftime('%H:%M:%S')} {run.name}", flush=True)
    record = train_network(
        run,
        arguments.data,
        arguments.work,
        epochs=arguments.epochs,
        width=arguments.width,
        command=f"{arguments.command} --only {run.name}",
        data_name=arguments.data_name,
        report=print_event,
    )
    folder = arguments.work / "weights" / run.name
    if not (folder / "README.md").is_file():
        save_checkpoint(record, folder, arguments)
    path = arguments.work / "histories" / LESIONS / f"{run.name}.json"
    if not path.is_file():
        measure_network(record, folder, path, arguments)


def print_event(event: events.Event) -> None:
    if isinstance(event, events.Epoch) and event.accuracy is not None:
        loss = "" if event.train_loss is None else f"loss {event.train_loss:.4f}, "
        print(
            f"{time.strftime('%H:%M:%S')}   epoch {event.epoch}: {loss}test error {1 - event.accuracy:.2%}, "
            f"{event.seconds / 60:.1f} minutes",
            flush=True,
        )


def save_checkpoint(record: TrainingRecord, folder: Path, arguments: argparse.Namespace) -> None:
    """Save the network, in half precision if its values allow it, and evaluate what was saved."""
    model = ResNet.from_pretrained(arguments.work / "runs" / record.name / "model")
    model.card = None
    draft = folder.with_name(f"{folder.name}.part")
    dtype: str | None = "float16"
    try:
        model.save_pretrained(draft, dtype=dtype)
    except CheckpointError:  # the first layers of a deep plain network can grow beyond it, as their gradients explode
        dtype = None
        model.save_pretrained(draft)
    evaluation = evaluate(ResNet.from_pretrained(draft), arguments.data, split="test", worst=0)
    is_plain = record.shortcut == "none"
    kind = "plain network" if is_plain else f"residual network with shortcuts {record.shortcut}"
    name = f"Plain network of {record.layers} layers" if is_plain else f"ResNet-{record.layers}"
    card = CardContent(
        title=f"{name} for 10 kinds of vehicles and animals, 32 pixels",
        summary=f"The {kind} of {record.layers} layers of He et al. 2015 (https://arxiv.org/abs/1512.03385), section "
        "4.2, one of several that were trained alike to compare them: see `resnet-hub reproduce degradation`.",
        license="apache-2.0",
        datasets=["uoft-cs/cifar10"],
        dataset_name=record.data,
        metrics={"accuracy": evaluation.accuracy},
        split="test",
        num_images=evaluation.num_images,
        measured_by="PyTorch in float32" + (", from the weights in half precision" if dtype else ""),
        command=record.command,
        training=f"{record.last.epoch} epochs of one cycle in {record.last.seconds / 60:.0f} minutes on "
        f"{record.hardware}, started on {record.date}, seed {record.seed}, torch {record.torch}. The weights are those "
        f"of the last epoch. Training error {record.train_error:.2%}, without augmentation. The scores are calibrated: "
        "a temperature, fitted on the test images, is folded into the head. "
        + describe_reliability(model.config.reliability, "test images"),
    )
    ResNet.from_pretrained(draft, dtype="auto").save_pretrained(folder, card=card)  # its card marks the end


def measure_network(record: TrainingRecord, folder: Path, path: Path, arguments: argparse.Namespace) -> None:
    """Record the accuracies of the saved network without each of its blocks, without several, and in other orders."""
    model = ResNet.from_pretrained(folder)
    labeled = load_labeled_images(model.config, arguments.data, count=arguments.images, split="test")
    lesions = measure_lesions(
        record.name,
        model,
        labeled,
        command=f"{record.command} --images {arguments.images}",  # trains the network, and measures it
        data=record.data,
        split="test",
    )
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps(lesions.to_dict(), indent=1) + "\n")
    print(f"{time.strftime('%H:%M:%S')}   a block costs {lesions.study.mean_drop:.2%} on average", flush=True)


def print_histories(work: Path) -> None:
    print(f"{'network':<20} {'epochs':>6} {'minutes':>8} {'train error':>12} {'test error':>11}")
    for record in list_records(work / "histories"):
        if record.epochs:
            last = record.last
            row = f"{record.name:<20} {last.epoch:>6} {last.seconds / 60:>8.1f} {record.train_error:>12.2%}"
            print(f"{row} {record.test_error:>11.2%}{'' if record.is_finished else '  unfinished'}")


if __name__ == "__main__":
    main()
