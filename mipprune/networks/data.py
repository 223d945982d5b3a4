"""Calibration batches from whatever a user has: text, token numbers, images or other arrays, in memory or in files."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from mipprune.errors import InvalidProblem
from mipprune.networks.text import english_text, read_text, text_batches

__all__ = ["Batch", "calibration_batches", "image_tensor", "read_arrays"]

Batch = dict[str, Tensor] | Tensor | tuple[Tensor, Tensor]
"""Token numbers with their mask; inputs; or inputs with labels."""

_ARRAY_SUFFIXES = (".npz", ".npy", ".pt", ".safetensors")
_INPUT_NAMES = ("inputs", "images", "input_ids", "x", "X", "data")
_LABEL_NAMES = ("labels", "label", "targets", "y")
# Decides once and for all which rows are held out; the caller's seed only draws among the others.
_SPLIT_SEED = 20


def calibration_batches(
    source: str | Path | Tensor | np.ndarray[Any, Any] | tuple[Any, Any] | None = None,
    tokenizer: Any | None = None,
    *,
    samples: int = 128,
    length: int = 512,
    seed: int = 0,
    batch_size: int = 8,
    held_out: bool = False,
) -> list[Batch]:
    """Draw batches for calibration, or from the part of the data that calibration never sees.

    Parameters
    ----------
    source : str, Path, Tensor, numpy.ndarray, pair of arrays or None
        A file or directory of text (see `mipprune.networks.read_text`); a file of arrays (see `read_arrays`); an
        array with one sample per row, or a pair (inputs, labels); None for `mipprune.networks.english_text`. For text
        in memory use `mipprune.networks.text_batches`.
    tokenizer : object, optional
        Needed for text, see `mipprune.networks.text.encode`.
    samples : int
        Number of windows of text or of rows; all there are where there are fewer.
    length : int
        Tokens in a window of text.
    seed : int
        Decides which samples are drawn; no global random state is used.
    batch_size : int
        Samples in a batch.
    held_out : bool
        One fifth of the data (the last fifth of a text, a fixed random fifth of rows) is held out: False draws from
        the rest, True from the held-out part, so that the two never meet.

    Returns
    -------
    list
        For text dictionaries with ``input_ids`` and ``attention_mask``; for arrays tensors, or pairs (inputs, labels)
        where there are labels.

    Raises
    ------
    InvalidProblem
        If the source is missing, empty or too short, or text comes without a tokenizer.

    Examples
    --------
    >>> import torch
    >>> rows = torch.arange(10.0).reshape(10, 1)
    >>> seen = torch.cat(calibration_batches(rows)).flatten().tolist()
    >>> kept = torch.cat(calibration_batches(rows, held_out=True)).flatten().tolist()
    >>> len(seen), len(kept), sorted(seen + kept) == list(range(10))
    (8, 2, True)
    """
    arrays = _arrays_of(source)
    if arrays is not None:
        return _array_batches(*arrays, samples=samples, seed=seed, batch_size=batch_size, held_out=held_out)
    text = english_text() if source is None else read_text(Path(str(source)))
    if tokenizer is None:
        raise InvalidProblem(
            "calibration text needs a tokenizer, but the model has none; give arrays instead "
            f"(a {', '.join(_ARRAY_SUFFIXES)} file with one sample per row)"
        )
    windows = text_batches(
        text, tokenizer, samples=samples, length=length, seed=seed, batch_size=batch_size, held_out=held_out
    )
    return list(windows)


def _arrays_of(source: object) -> tuple[Tensor, Tensor | None] | None:
    """Inputs and labels where the source is arrays, None where it is text."""
    if isinstance(source, (Tensor, np.ndarray)):
        return torch.as_tensor(source), None
    if isinstance(source, tuple) and len(source) == 2:
        return torch.as_tensor(source[0]), torch.as_tensor(source[1])
    if isinstance(source, (str, Path)):
        return read_arrays(source) if Path(source).suffix in _ARRAY_SUFFIXES else None
    if source is None:
        return None
    raise InvalidProblem(
        f"calibration data cannot be read from a {type(source).__name__}; give a path, an array or a pair (inputs, "
        "labels)"
    )


def _array_batches(
    inputs: Tensor, labels: Tensor | None, *, samples: int, seed: int, batch_size: int, held_out: bool
) -> list[Batch]:
    if samples < 1 or batch_size < 1:
        raise InvalidProblem(f"samples and batch_size must be positive, found {samples} and {batch_size}")
    if labels is not None and len(labels) != len(inputs):
        raise InvalidProblem(f"there are {len(inputs)} inputs but {len(labels)} labels; give one label for each input")
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    cut = len(inputs) - len(inputs) // 5
    part = order[cut:] if held_out else order[:cut]
    if not len(part):
        raise InvalidProblem(
            f"the data hold {len(inputs)} samples, too few to draw from; give at least 5 (1 if none is held out)"
        )
    drawn = part[torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:samples]].sort().values
    chosen = drawn.split(batch_size)
    if labels is None:
        return [inputs[rows] for rows in chosen]
    return [(inputs[rows], labels[rows]) for rows in chosen]


def read_arrays(path: str | Path) -> tuple[Tensor, Tensor | None]:
    """Read inputs, and labels where there are some, from a file of arrays.

    Parameters
    ----------
    path : path
        ``.npy``: one array. ``.npz`` or ``.safetensors``: named arrays; the inputs are the one called ``inputs``,
        ``images``, ``input_ids``, ``x``, ``X`` or ``data`` (or the only one), the labels ``labels``, ``label``,
        ``targets`` or ``y``. ``.pt``: a tensor, a pair or a dictionary of tensors; read without running any code in
        the file. Images of unsigned bytes become floating, see `image_tensor`.

    Returns
    -------
    inputs : Tensor, shape (samples, ...)
    labels : Tensor, shape (samples,), int64, or None

    Raises
    ------
    InvalidProblem
        If the file is missing or holds no such arrays.
    """
    file = Path(path)
    if not file.is_file():
        raise InvalidProblem(f"there is no file {str(file)!r}; check the path of the arrays")
    named = _read_named(file)
    inputs = next((named[name] for name in _INPUT_NAMES if name in named), None)
    labels = next((named[name] for name in _LABEL_NAMES if name in named), None)
    if inputs is None and len(named) == 1:
        inputs = next(iter(named.values()))
    if inputs is None:
        raise InvalidProblem(
            f"{str(file)!r} holds the arrays {sorted(named)}, none of which is called {', '.join(_INPUT_NAMES)}; "
            "rename the inputs"
        )
    if inputs.dtype == torch.uint8:
        inputs = image_tensor(inputs)
    return inputs, None if labels is None else labels.to(torch.int64)


def _read_named(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError

    try:
        return _named_arrays(file)
    except (UnpicklingError, SafetensorError, BadZipFile, ValueError, TypeError, EOFError, RuntimeError) as error:
        raise InvalidProblem(
            f"{str(file)!r} cannot be read as arrays of numbers: {str(error).splitlines()[0]}; "
            "pickled objects are refused because they could run code, save plain arrays instead"
        ) from error


def _named_arrays(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".npy":
        return {"inputs": torch.from_numpy(np.load(file, allow_pickle=False))}
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(file))
    content = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(content, Tensor):
        return {"inputs": content}
    if isinstance(content, (tuple, list)) and len(content) == 2:
        return {"inputs": content[0], "labels": content[1]}
    if isinstance(content, dict):
        return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    raise InvalidProblem(
        f"{str(file)!r} holds a {type(content).__name__}; save a tensor, a pair or a dictionary of tensors"
    )


def image_tensor(
    images: Tensor | np.ndarray[Any, Any],
    mean: float | tuple[float, ...] = 0.0,
    std: float | tuple[float, ...] = 1.0,
) -> Tensor:
    """Turn images of unsigned bytes into what convolutional networks read.

    Parameters
    ----------
    images : Tensor or numpy.ndarray, shape (samples, height, width) or (samples, height, width, channels), uint8
        The channels may also come second already, where the width is not 1, 3 or 4.
    mean, std : float or tuple of float
        Subtracted and divided by after scaling to [0, 1], per channel.

    Returns
    -------
    Tensor, shape (samples, channels, height, width), float32

    Raises
    ------
    InvalidProblem
        If the shape or the dtype is another.

    Examples
    --------
    >>> import numpy as np
    >>> image_tensor(np.full((1, 2, 2, 3), 255, dtype=np.uint8)).shape
    torch.Size([1, 3, 2, 2])
    """
    pixels = torch.as_tensor(images)
    if pixels.dtype != torch.uint8 or pixels.dim() not in (2, 3, 4):
        raise InvalidProblem(
            "images must be unsigned bytes of shape (samples, height, width[, channels]), found "
            f"{pixels.dtype} of shape {tuple(pixels.shape)}; scale floating images yourself"
        )
    if pixels.dim() == 2:
        return (pixels.float() / 255 - torch.tensor(mean)) / torch.tensor(std)
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(1)
    elif pixels.shape[-1] in (1, 3, 4):
        pixels = pixels.permute(0, 3, 1, 2)
    shape = (1, -1, 1, 1)
    return (pixels.float() / 255 - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)
