"""Streamed Gram matrices: the sum of x xᵀ over all inputs x of a layer, without keeping the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mipprune.errors import InvalidProblem

__all__ = ["Gram", "gram_of"]

# Rounding of a float32 product grows with the number of summed rows; beyond this many the rows are summed in float64.
_CHUNK = 4096
# Width of the column blocks of a product; only blocks on or below the diagonal are computed.
_BLOCK = 512


class Gram:
    r"""The Gram matrix of a layer's inputs, accumulated in float64 over a stream of tokens.

    Parameters
    ----------
    size : int
        Number of inputs d of the layer.
    name : str
        Name of the layer, for messages.
    device : torch.device or str, optional
        Where the matrix is kept; default CPU. Ignored when `path` is given.
    path : Path, optional
        A ``.npy`` file that will hold the matrix instead of memory.

    Notes
    -----
    Holds :math:`X^\top X` for the inputs :math:`X` (tokens x d) seen so far, unscaled: neither divided by the number of
    tokens nor damped. Float32 sums over 1e5 tokens lose definiteness, so products of at most 4096 tokens are formed and
    added in float64.

    Examples
    --------
    >>> import torch
    >>> gram = Gram(2)
    >>> gram.add(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> gram.tokens, gram.matrix().tolist()
    (2, [[10.0, 14.0], [14.0, 20.0]])
    """

    def __init__(
        self, size: int, *, name: str = "", device: torch.device | str | None = None, path: Path | None = None
    ) -> None:
        if size < 1:
            raise InvalidProblem(f"a Gram matrix needs at least one input, got size {size}; check the layer's shape")
        self.size = size
        self.name = name
        self.tokens = 0
        self.path = path
        if path is None:
            self._sum = torch.zeros(size, size, dtype=torch.float64, device=device)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(size, size))
            self._sum = torch.from_numpy(stored)

    def __repr__(self) -> str:
        return f"Gram(size={self.size}, tokens={self.tokens}, name={self.name!r})"

    @property
    def device(self) -> torch.device:
        """Where the matrix is kept."""
        return self._sum.device

    def add(self, inputs: Tensor) -> None:
        """Add the rows of a matrix of inputs.

        Parameters
        ----------
        inputs : Tensor, shape (tokens, size)
            Any floating dtype and device.

        Raises
        ------
        InvalidProblem
            If the shape is wrong or an entry is NaN or infinite.
        """
        if inputs.dim() != 2 or inputs.shape[1] != self.size:
            raise InvalidProblem(
                f"layer {self.name!r} has {self.size} inputs but was given an array of shape {tuple(inputs.shape)}; "
                "pass one token per row"
            )
        self.add_product(gram_of(inputs, name=self.name), inputs.shape[0])

    def add_product(self, product: Tensor, tokens: int) -> None:
        """Add a finished product XᵀX of `tokens` rows.

        Parameters
        ----------
        product : Tensor, shape (size, size)
            Symmetric and positive semidefinite; both are the caller's responsibility.
        tokens : int
            Number of rows of X.
        """
        self._sum += product.to(device=self._sum.device, dtype=torch.float64)
        self.tokens += tokens

    def matrix(self) -> Tensor:
        """The accumulated matrix.

        Returns
        -------
        Tensor, shape (size, size), float64
            A symmetric copy, on `device`.
        """
        return (self._sum + self._sum.T) / 2

    def diagonal(self) -> Tensor:
        """Squared norms of the input features over all tokens.

        Returns
        -------
        Tensor, shape (size,), float64
        """
        return self._sum.diagonal().clone()


def gram_of(inputs: Tensor, *, name: str = "") -> Tensor:
    r"""The product :math:`X^\top X` of one batch of inputs, accurate enough to be summed over many batches.

    Parameters
    ----------
    inputs : Tensor, shape (tokens, size)
        One token per row; any floating dtype and device.
    name : str
        Name of the layer, for messages.

    Returns
    -------
    Tensor, shape (size, size), float64
        Symmetric to the last bit, on the inputs' device.

    Raises
    ------
    InvalidProblem
        If an entry is NaN or infinite.

    Notes
    -----
    On the CPU the products of chunks are formed in float32 (float64 for float64 inputs), half the cost; on a GPU
    always in float64, because float32 products there may silently be computed with ten-bit mantissas (TF32).
    """
    size = inputs.shape[1]
    # Apple's GPUs have no float64: there the sum is formed on the CPU.
    device = torch.device("cpu") if inputs.device.type == "mps" else inputs.device
    double = inputs.dtype == torch.float64 or device.type == "cuda"
    total = torch.zeros(size, size, dtype=torch.float64, device=device)
    with _full_precision():
        for rows in inputs.detach().split(_CHUNK):
            chunk = rows.to(device=device, dtype=torch.float64 if double else torch.float32)
            for start in range(0, size, _BLOCK):
                stop = min(start + _BLOCK, size)
                total[start:, start:stop] += chunk[:, start:].T @ chunk[:, start:stop]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        square = total[start:stop, start:stop]
        square.copy_((square + square.T) / 2)
        total[start:stop, stop:] = total[stop:, start:stop].T
    if not bool(torch.isfinite(total.diagonal()).all()):
        raise InvalidProblem(_non_finite_message(inputs, name))
    return total


def _non_finite_message(inputs: Tensor, name: str) -> str:
    finite = torch.isfinite(inputs)
    if bool(finite.all()):
        return (
            f"the squared inputs of layer {name!r} overflow (largest entry {float(inputs.abs().max()):.1e}); "
            "check the network's normalisation, or run it in float64"
        )
    rows = int((~finite).any(dim=1).sum())
    return (
        f"layer {name!r} received NaN or infinite inputs in {rows} of {inputs.shape[0]} tokens; no Gram matrix can "
        "be formed. Check the calibration data for NaN and, for half precision models, load the model "
        "in float32 or bfloat16"
    )


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep float32 products in full float32 even where the user allowed faster, coarser ones."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
