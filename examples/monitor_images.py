"""What do a backbone's layers cluster by, on your own images, checkpoint after checkpoint?

    python examples/monitor_images.py cifar-10-batches-py    # CIFAR-10, as unpacked
    python examples/monitor_images.py cifar-100-python       # classes and superclasses
    python examples/monitor_images.py imagenet/train --size 224 \\
        --model timm:resnet50 --layers layer3 layer4 --checkpoints epoch10.pt epoch20.pt

A folder of images has one folder per class. Backbones come from timm or torchvision where they are
installed, by name and without weights; ``small`` is a network of this file. Checkpoints are state
dicts.
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sslkernels.monitor import EmbeddingMonitor
from sslkernels.targets import random_labels

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def small() -> nn.Module:
    def block(inputs: int, outputs: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    return nn.Sequential(block(3, 32), block(32, 64), block(64, 128), nn.AdaptiveAvgPool2d(1))


def backbone(name: str) -> nn.Module:
    library, _, model = name.rpartition(":")
    if library == "timm":
        import timm

        return timm.create_model(model, num_classes=0)
    if library == "torchvision":
        import torchvision

        return torchvision.models.get_model(model)
    return small()


def cifar(folder: Path) -> tuple[Tensor, dict[str, Tensor]]:
    """The training images of CIFAR-10 or CIFAR-100 in their python version, and their labels."""
    parts = sorted(folder.glob("data_batch_*")) or [folder / "train"]
    batches = []
    for part in parts:
        with open(part, "rb") as file:
            batches.append(pickle.load(file, encoding="bytes"))
    data = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
    names = {b"labels": "class", b"fine_labels": "class", b"coarse_labels": "superclass"}
    labels = {
        name: torch.tensor([label for batch in batches for label in batch[key]])
        for key, name in names.items()
        if key in batches[0]
    }
    return torch.from_numpy(data).float() / 255, labels


class Folder(torch.utils.data.Dataset):
    """``root/class/image``: images as [3, size, size] in [0, 1], with the labels by name."""

    def __init__(self, root: Path, rows: int, size: int) -> None:
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir())
        found = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((root / name).iterdir())
            if path.suffix.lower() in IMAGES
        ]
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:rows]
        self.found = [found[i] for i in order]
        self.chance = random_labels(len(self.found), len(self.classes))
        self.size = size

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, int | Tensor]]:
        from PIL import Image

        path, label = self.found[index]
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((self.size, self.size)))
        image_tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        return image_tensor, {"class": label, "random": self.chance[index]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="small", help="small, timm:NAME or torchvision:NAME")
    parser.add_argument("--layers", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--checkpoints", nargs="*", default=[], help="state dicts, in order")
    parser.add_argument("--rows", type=int, default=20_000, help="images to measure on, at most")
    parser.add_argument("--size", type=int, default=64, help="side of an image of a folder")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", default="monitor.jsonl", help="a file of JSON lines")
    options = parser.parse_args()

    model = backbone(options.model)
    if any(options.data.glob("data_batch_*")) or (options.data / "train").is_file():
        images, labels = cifar(options.data)
        rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        rows = rows[: options.rows]
        labels = {name: values[rows] for name, values in labels.items()}
        classes = int(labels["class"].max()) + 1
        labels["random"] = random_labels(len(rows), classes)
        monitor = EmbeddingMonitor(model, options.layers, (images[rows], labels), out=options.out)
    else:
        folder = Folder(options.data, options.rows, options.size)
        loader = torch.utils.data.DataLoader(folder, 256, num_workers=options.workers)
        monitor = EmbeddingMonitor(
            model, options.layers, loader, num_classes=len(folder.classes), out=options.out
        )
    for step, checkpoint in enumerate(options.checkpoints or [None]):
        if checkpoint is not None:
            model.load_state_dict(torch.load(checkpoint, map_location="cpu"))
        monitor.measure(step)
        for layer in options.layers:
            found = ", ".join(
                f"{name} {100 * monitor.value('ncc', layer=layer, labeling=name):.1f} %"
                for name in monitor.labelings
            )
            print(f"{checkpoint or 'as built'}, {layer}: NCC by {found}")


if __name__ == "__main__":
    main()
