"""The midpoint sweeps as one fused GPU kernel: the codes are read once, mask and potentials written once.

A program holds a few blocks and their transposes in the registers of one warp, sorts lines, and ends when all of its
blocks have passed the test. The arithmetic is that of the compiled kernel, bit for bit. Triton is imported here and
nowhere else; the module runs in Triton's interpreter on the CPU when ``TRITON_INTERPRET=1`` is set before the import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing import Any as constexpr  # Triton reads the names of annotations

__all__ = ["available", "sweep_fused"]

_SIZES = (4, 8, 16, 32, 64)
_ENTRIES = 512  # entries of all blocks of one program: one warp keeps them and their transposes in registers


def available(size: int) -> bool:
    """Tell whether the kernel can run blocks of this size: Triton is installed and the size is a supported one."""
    return size in _SIZES and triton is not None


def _triton() -> tuple[Any, Any]:
    """Return Triton and its language, or nothing where it is not installed: the module can be imported all the same."""
    try:
        import triton
        import triton.language
    except ImportError:
        return None, None
    return triton, triton.language


triton, tl = _triton()
if not TYPE_CHECKING:
    constexpr = None if tl is None else tl.constexpr


def _jit(function: Any) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _middle(table, upper: constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    # Floor of the mean of the two sorted entries at `upper - 1` and `upper`.
    ordered = tl.sort(table, dim=2)
    place = tl.arange(0, table.shape[2])[None, None, :]
    chosen = (place == upper - 1) | (place == upper)
    return tl.sum(tl.where(chosen, ordered, 0), axis=2) >> 1


@_jit
def _moved(potential, target, first, relax, clamp):  # type: ignore[no-untyped-def]  # pragma: no cover
    target = tl.where(clamp, tl.maximum(target, 0), target)
    step = target - potential
    result = tl.where(first, target, potential + step + (step >> relax))
    return tl.where(clamp, tl.maximum(result, 0), result)


@_jit
def _wrong(table, potential, count: constexpr, at_most: constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    # Lines that keep too many or too few.
    kept = tl.sum((table > potential[:, :, None]).to(tl.int32), axis=2)
    if at_most:
        wrong = (kept > count) | ((kept < count) & (potential > 0))
    else:
        wrong = kept != count
    return wrong


@_jit
def _run(  # type: ignore[no-untyped-def]  # pragma: no cover
    codes,
    rows,
    columns,
    mask,
    used,
    number,
    first_sweep,
    eager_at,
    sweeps,
    balance_at,
    count: constexpr,
    size: constexpr,
    group: constexpr,
    at_most: constexpr,
):
    block = tl.program_id(0) * group + tl.arange(0, group)
    inside = block < number
    line = tl.arange(0, size)
    at = block[:, None, None] * size * size
    by_row = tl.load(codes + at + line[None, :, None] * size + line[None, None, :], mask=inside[:, None, None], other=0)
    by_column = tl.load(
        codes + at + line[None, None, :] * size + line[None, :, None], mask=inside[:, None, None], other=0
    )
    place = block[:, None] * size + line[None, :]
    u = tl.load(rows + place, mask=inside[:, None], other=0)
    v = tl.load(columns + place, mask=inside[:, None], other=0)
    best_u, best_v = u, v
    made = tl.zeros([group], dtype=tl.int32)
    active = inside.to(tl.int32)
    sweep = first_sweep
    while (sweep <= sweeps) & (tl.sum(active, axis=0) > 0):
        clamp = at_most & (sweep >= balance_at)
        if at_most:
            shift = (tl.min(v, axis=1) - tl.min(u, axis=1)) >> 1
            balance = sweep == balance_at
            u = tl.where(balance, tl.maximum(u + shift[:, None], 0), u)
            v = tl.where(balance, tl.maximum(v - shift[:, None], 0), v)
        table = by_row - v[:, None, :]
        across = by_column - u[:, None, :]
        wrong = tl.sum(_wrong(table, u, count, at_most).to(tl.int32), axis=1)
        wrong += tl.sum(_wrong(across, v, count, at_most).to(tl.int32), axis=1)
        testing = (sweep >= balance_at) if at_most else True
        ends = (active > 0) & (((wrong == 0) & testing) | (sweep == sweeps))
        best_u = tl.where(ends[:, None], u, best_u)
        best_v = tl.where(ends[:, None], v, best_v)
        active = tl.where(ends, 0, active)
        if tl.sum(active, axis=0) > 0:
            relax = tl.where(sweep < eager_at, 2, 1)
            u = _moved(u, _middle(table, size - count), sweep == 0, relax, clamp)
            v = _moved(v, _middle(by_column - u[:, None, :], size - count), sweep == 0, relax, clamp)
            made += active
        sweep += 1
    kept = (by_row - best_u[:, :, None] - best_v[:, None, :]) > 0
    tl.store(mask + at + line[None, :, None] * size + line[None, None, :], kept.to(tl.int8), mask=inside[:, None, None])
    tl.store(rows + place, best_u, mask=inside[:, None])
    tl.store(columns + place, best_v, mask=inside[:, None])
    tl.store(used + block, made, mask=inside)


def sweep_fused(
    codes: Tensor,
    count: int,
    rows: Tensor,
    columns: Tensor,
    *,
    at_most: bool,
    first_sweep: int,
    eager_at: int,
    sweeps: int,
    balance_at: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the sweeps; parameters and results are those of :func:`~mipprune.kernels.transport_batched.sweep_batched`.

    References
    ----------
    Tillet, Kung, Cox, "Triton: an intermediate language and compiler for tiled neural network computations", MAPL 2019,
    doi:10.1145/3315508.3329973.
    """
    blocks, size, _ = codes.shape
    codes, rows, columns = codes.contiguous(), rows.clone(), columns.clone()
    mask = torch.empty(codes.shape, dtype=torch.int8, device=codes.device)
    used = torch.empty(blocks, dtype=torch.int32, device=codes.device)
    group = max(1, _ENTRIES // (size * size))
    if blocks:
        _run[(-(-blocks // group),)](
            codes,
            rows,
            columns,
            mask,
            used,
            blocks,
            first_sweep,
            eager_at,
            sweeps,
            balance_at,
            count=count,
            size=size,
            group=group,
            at_most=at_most,
            num_warps=1 if size <= 32 else 4,
        )
    return mask.bool(), rows, columns, used
