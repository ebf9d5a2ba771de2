"""Watch an encoder of handwritten digits while VICReg trains it, and see what watching costs.

    python examples/monitor_digits.py
    python examples/monitor_digits.py --every 1 --out run.jsonl

Four hundred digits make the class means, and four hundred others are classified with them.
"""

from __future__ import annotations

import argparse
import time

import torch
from common import digits, encoder, view

import sslkernels as ssk
from sslkernels.monitor import EmbeddingMonitor
from sslkernels.targets import random_labels

PROBE = 400  # held-out digits; as many more make the class means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--every", type=int, default=10, help="epochs between measurements")
    parser.add_argument("--out", help="a file of JSON lines")
    options = parser.parse_args()

    images, labels = digits()
    model = encoder(1024, seed=0)
    criterion, optimizer = ssk.VICRegLoss(), torch.optim.AdamW(model.parameters(), lr=1e-3)
    chance = random_labels(len(labels), 10)
    train, test = (
        (images[rows], {"digit": labels[rows], "random": chance[rows]})
        for rows in (slice(0, PROBE), slice(PROBE, 2 * PROBE))
    )
    monitor = EmbeddingMonitor(model, ["0", "1"], train, test=test, keep=True, out=options.out)
    generator = torch.Generator().manual_seed(0)
    monitor.measure(0)
    start, watched = time.perf_counter(), monitor.seconds
    for epoch in range(1, options.epochs + 1):
        for rows in torch.randperm(len(images), generator=generator).split(256):
            x, y = (model(view(images[rows], generator)) for _ in range(2))
            terms = criterion.forward_components(x, y)
            optimizer.zero_grad()
            terms.loss.backward()
            optimizer.step()
        if epoch % options.every == 0:
            monitor.measure(epoch, losses=terms)
            found = (
                f"{name} {100 * monitor.value('ncc', layer='0', labeling=name, split='test'):.1f} %"
                for name in ("digit", "random")
            )
            print(f"epoch {epoch}: held-out NCC by", ", ".join(found))
    measuring = monitor.seconds - watched
    training = time.perf_counter() - start - measuring
    print(
        f"training {training:.1f} s, measuring {measuring:.2f} s: "
        f"{100 * measuring / training:.1f} % of it"
    )


if __name__ == "__main__":
    main()
