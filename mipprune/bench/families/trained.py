"""Two small trained networks and the layers they give: weights, second moments of inputs, multiply-adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import InvalidProblem
from .stored import files, read

__all__ = ["NETWORKS", "MLPNet", "ResNet20", "Trained", "layer_costs", "trained_layer", "weight_files"]


class MLPNet(nn.Module):
    """The fully connected network 784-40-20-10 without biases of the pruning literature."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 40, bias=False)
        self.fc2 = nn.Linear(40, 20, bias=False)
        self.fc3 = nn.Linear(20, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (images, 10) for images (images, 1, 28, 28)."""
        x = functional.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc3(functional.relu(self.fc2(x)))
        return logits


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; a shortcut without parameters: every second pixel, missing channels zero (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations (images, outputs, height / stride, width / stride)."""
        shortcut = x[:, :, :: self.stride, :: self.stride]
        before = self.missing // 2
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, before, self.missing - before))
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet20(nn.Module):
    """The residual network with 20 layers for CIFAR-10 (He, Zhang, Ren, Sun, arXiv 1512.03385, section 4.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1)
        self.layer2 = self._stage(16, 32, 2)
        self.layer3 = self._stage(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        rest = [ResidualBlock(outputs, outputs, 1) for _ in range(2)]
        return nn.Sequential(ResidualBlock(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (images, 10) for images (images, 3, 32, 32)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


@dataclass(frozen=True)
class Trained:
    """How a network is built, and how its images are normalised.

    Parameters
    ----------
    build : callable
        Returns the untrained network.
    shape : tuple of int
        Of one image, (channels, height, width).
    mean, deviation : tuple of float
        Of the pixels in [0, 1], per channel.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


NETWORKS = {
    "mnist": Trained(MLPNet, (1, 28, 28), (0.1307,), (0.3081,)),
    "cifar10": Trained(ResNet20, (3, 32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""By the folder under ``--data`` that holds ``*.safetensors`` (weights) and ``train*.npz`` (images)."""


def weight_files(data: Path | None) -> list[str]:
    """Return the weights of known networks that lie under a folder."""
    return files(data, [f"{folder}/*.safetensors" for folder in NETWORKS])


def _network(path: Path) -> tuple[nn.Module, Trained]:
    described = NETWORKS[path.parent.name]
    model = described.build().eval()
    state = {name: torch.from_numpy(np.array(array)) for name, array in read(path).items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InvalidProblem(f"{str(path)!r} holds no weights of {type(model).__name__}: {error}") from error
    return model, described


def _layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    return {name: part for name, part in model.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))}


def _rows(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """What the rows of the weight matrix are multiplied with: (positions, inputs)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    stride, padding = layer.stride[0], layer.padding[0]
    patches = functional.unfold(x, layer.kernel_size, padding=int(padding), stride=stride)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def trained_layer(path: Path, name: str, samples: int = 200) -> tuple[Tensor, Tensor]:
    """Return weights (outputs, inputs) and the Gram matrix (inputs, inputs) of a layer on the first training images.

    Parameters
    ----------
    path : Path
        The weights; ``train*.npz`` with ``images`` (n, height, width[, channels]) uint8 lies beside them.
    name : str
        Of a layer, as in the network.
    samples : int

    Raises
    ------
    InvalidProblem
        If there are no images, or no such layer.
    """
    model, described = _network(path)
    layers = _layers(model)
    if name not in layers:
        raise InvalidProblem(f"{type(model).__name__} has no layer {name!r}; it has {', '.join(layers)}")
    beside = sorted(path.parent.glob("train*.npz"))
    if not beside:
        raise InvalidProblem(f"there is no train*.npz with images beside {str(path)!r}")
    pixels = torch.from_numpy(read(beside[0], "images")["images"][:samples]).float() / 255
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    mean, deviation = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (described.mean, described.deviation))
    layer = layers[name]
    gram = torch.zeros(())

    def add(_: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal gram
        rows = _rows(layer, given[0]).double()
        gram = gram + rows.T @ rows

    handle = layer.register_forward_pre_hook(add)
    with torch.no_grad():
        for part in ((pixels - mean) / deviation).split(50):
            model(part)
    handle.remove()
    return layer.weight.detach().flatten(1).double(), gram


def layer_costs(path: Path) -> dict[str, tuple[Tensor, int]]:
    """Return the weights (outputs, inputs) and the multiply-adds of each weight, by layer, for one image."""
    model, described = _network(path)
    layers = _layers(model)
    uses: dict[str, int] = {}
    handles = [
        layer.register_forward_pre_hook(lambda part, given, name=name: uses.update({name: len(_rows(part, given[0]))}))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        model(torch.zeros(1, *described.shape))
    for handle in handles:
        handle.remove()
    return {name: (layer.weight.detach().flatten(1).double(), uses[name]) for name, layer in layers.items()}
