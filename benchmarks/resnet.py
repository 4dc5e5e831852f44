"""A residual network on CIFAR-10, the baseline of vit-cifar10: same pictures, as many parameters.

He et al. 2016, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2: three
stages, 6n + 2 layers, shortcuts without parameters, SGD with momentum 0.9 and weight decay 1e-4.
The stages are twice as wide as theirs, 32, 64 and 128, so that n = 3 (ResNet-20) has 1.07 million
parameters, which are those of vit-cifar10. The rate falls by half a cosine, as ours does, from 0.1.
Pictures are cut out and mirrored, but not mixed. Products are in bfloat16 where the processor
multiplies it, as they are for vit-cifar10.

    TXZOO_DATA=... python benchmarks/resnet.py --epochs 20 --out resnet.jsonl

Beside that file stands `resnet.safetensors`, the last epoch, from which the command goes on.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.images import normalised
from zoo.tasks.classification import classification_scores
from zoo.tasks.image_classification import BATCH, PictureBatches

WIDTHS = (32, 64, 128)


@dataclass(frozen=True)
class Pixels:
    """What `normalised` and `PictureBatches` ask of a configuration."""

    image_size: int = 32
    n_channels: int = 3
    image_mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    image_std: tuple[float, ...] = (0.2470, 0.2435, 0.2616)


class Block(nn.Module):
    """Two convolutions past which the input goes; where channels grow it gets zeros (option A)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.step, self.more = (2, after - before) if before != after else (1, 0)
        self.first = nn.Conv2d(before, after, 3, self.step, 1, bias=False)
        self.norm_1 = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm_2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_2(self.second(F.relu(self.norm_1(self.first(x)))))
        past = F.pad(x[:, :, :: self.step, :: self.step], (0, 0, 0, 0, 0, self.more))
        return F.relu(y + past)


class ResNet(nn.Module):
    """Pixels (B, 3, 32, 32) to logits (B, L)."""

    def __init__(self, n: int, labels: int) -> None:
        super().__init__()
        before, blocks = WIDTHS[0], []
        self.stem = nn.Sequential(nn.Conv2d(3, before, 3, 1, 1, bias=False), nn.BatchNorm2d(before))
        for width in WIDTHS:
            for _ in range(n):
                blocks.append(Block(before, width))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(WIDTHS[-1], labels)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(pixels))).mean((2, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--n", type=int, default=3, help="6n + 2 layers")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="stop early, to see the time a step takes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="a file for a line of JSON an epoch")
    given = parser.parse_args()
    from zoo_cifar.task import Cifar10

    task, device = Cifar10(), torch.device(given.device)
    torch.manual_seed(given.seed)
    module = ResNet(given.n, len(task.labels)).to(device, memory_format=torch.channels_last)
    batches = PictureBatches(
        task.pictures("train"), Pixels(), rows=given.rows, seed=given.seed, flips=True
    )
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    steps = given.epochs * batches.per_epoch
    print(f"{sum(p.numel() for p in module.parameters()):,} parameters, {steps} steps", flush=True)
    kept = given.out and given.out.with_suffix(".safetensors")
    first = resumed(kept, module, optimizer) if kept and kept.exists() else 0
    started = time.monotonic()
    stop = given.steps or steps
    for step in range(first, stop):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 + math.cos(math.pi * step / steps))
        batch = {name: tensor.to(device) for name, tensor in batches(step).items()}
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(module(batch["pixels"]).float(), batch["targets"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % batches.per_epoch == 0 or step + 1 == stop:
            minutes = (time.monotonic() - started) / 60
            found = {"step": step + 1, "minutes": round(minutes, 1), "loss": loss.item()}
            say(found | accuracy(module, task, "validation", device), given.out)
            if kept:
                keep(kept, module, optimizer, step + 1)
    say({"step": stop, "split": "test"} | accuracy(module, task, "test", device), given.out)


def keep(path: Path, module: nn.Module, optimizer: torch.optim.SGD, step: int) -> None:
    """The weights and momenta after `step` steps."""
    tensors = {f"weight {name}": tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        tensors[f"momentum {name}"] = optimizer.state[parameter]["momentum_buffer"]
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path.with_suffix(".new"), metadata={"step": str(step)})
    path.with_suffix(".new").replace(path)


def resumed(path: Path, module: nn.Module, optimizer: torch.optim.SGD) -> int:
    """Loads what `keep` wrote; the steps that were done."""
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(f"weight {name}") for name in module.state_dict()}
        module.load_state_dict(weights)
        for name, parameter in module.named_parameters():
            momentum = file.get_tensor(f"momentum {name}").to(parameter)
            optimizer.state[parameter]["momentum_buffer"] = momentum
        return int(file.metadata()["step"])


def say(found: dict[str, object], out: Path | None) -> None:
    """A line to the terminal and, if there is one, the file."""
    line = json.dumps(found)
    print(line, flush=True)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


@torch.inference_mode()
def accuracy(module: nn.Module, task: object, split: str, device: torch.device) -> dict[str, float]:
    """Of a split in float32, with its standard error."""
    pictures = task.pictures(split)
    module.eval()
    places = range(len(pictures.labels))
    found = [
        module(normalised(pictures(places[start : start + BATCH], 32).to(device), Pixels()))
        for start in range(0, len(places), BATCH)
    ]
    module.train()
    chances = torch.cat(found).double().softmax(-1).cpu().numpy()
    scores = classification_scores(chances, np.asarray(pictures.labels), task.labels)
    return {name: round(scores[name], 5) for name in ("accuracy", "accuracy_stderr")}


if __name__ == "__main__":
    main()
