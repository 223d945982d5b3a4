"""What one weight costs in a forward pass, for any torch network, by watching the operations that use it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mipprune.errors import InvalidProblem
from mipprune.networks.feeding import batch_size, evaluating, feed

__all__ = ["weight_costs", "weight_macs"]

_COPIES = frozenset({torch.ops.aten._to_copy, torch.ops.aten.clone, torch.ops.aten.contiguous})


class _Watch(TorchDispatchMode):
    """Books the FLOPs of every operation with a formula on the parameters among its arguments.

    Parameters are known by their memory, so that views, chunks and functional uses count (the projections of
    attention, tied weights, modules called several times), and copies in another format are followed.
    """

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = dict.fromkeys(parameters, 0)
        self.used = dict.fromkeys(parameters, False)
        self._places = [
            (p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), name) for name, p in parameters.items()
        ]
        self._copies: list[Tensor] = []  # kept alive, so that their memory is not given to something else

    def _names(self, values: Any) -> Iterator[str]:
        for value in tree_leaves(values):
            if isinstance(value, Tensor) and value.ndim >= 2 and value.numel():
                place = value.data_ptr()
                yield from {name for first, last, name in self._places if first <= place < last}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry:
            with self:
                whole = func.decompose(*args, **kwargs)
            if whole is not NotImplemented:
                return whole
        out = func(*args, **kwargs)
        names = list(self._names((args, kwargs)))
        if packet in flop_registry:
            count = flop_registry[packet](*args, **kwargs, out_val=out)
            for name in names:
                self.flops[name] += count
                self.used[name] = True
        elif packet is torch.ops.aten.embedding:  # a look-up: used, at no cost
            self.used.update(dict.fromkeys(names, True))
        elif packet in _COPIES and names and isinstance(out, Tensor):
            self._copies.append(out)
            end = out.data_ptr() + out.numel() * out.element_size()
            self._places += [(out.data_ptr(), end, name) for name in names]
        return out


@contextmanager
def _plain_recurrence() -> Iterator[None]:
    """Switch fused recurrent layers off, which show no product to a counter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")  # restoring the flags says so
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield


def _flops(model: nn.Module, batch: object, missing: float | None) -> dict[str, float]:
    parameters = {name: p.data for name, p in model.named_parameters() if p.ndim >= 2}
    if not parameters:
        raise InvalidProblem("the network has no weight matrices, so there is nothing whose cost could be counted")
    if any(p.device.type == "meta" for p in parameters.values()):
        raise InvalidProblem("the network is on the meta device; load its weights to count operations")
    with evaluating(model), _plain_recurrence(), _Watch(parameters) as watch:
        feed(model, batch)
    unused = [name for name, used in watch.used.items() if not used]
    if unused and missing is None:
        shown = ", ".join(unused[:5]) + (", ..." if len(unused) > 5 else "")
        raise InvalidProblem(
            f"no counted operation used {len(unused)} of the {len(parameters)} weight tensors ({shown}): they are "
            "never called for this batch, or an operation without a FLOP formula uses them. Give missing=0.0 to take "
            "them as free (they then use the budget of non-zeros only), register a formula with "
            "torch.utils.flop_counter.register_flop_formula, or give costs of your own"
        )
    samples = max(batch_size(batch), 1)
    return {
        name: (watch.flops[name] / (samples * p.numel())) if watch.used[name] else float(missing or 0.0)
        for name, p in parameters.items()
    }


def weight_costs(model: nn.Module, batch: object, *, missing: float | None = None) -> dict[str, float]:
    """Return the FLOPs that each single weight costs in the forward pass of one sample.

    Parameters
    ----------
    model : torch.nn.Module
        Any network; it is run once, in evaluation mode and without gradients.
    batch : Tensor, numpy.ndarray, tuple, list or mapping
        As for calibration. The first axis counts samples; a sequence of tokens is one sample.
    missing : float, optional
        Cost of the weight tensors that no counted operation used. By default such a tensor is an error.

    Returns
    -------
    dict
        FLOPs for each weight (a multiply-add is 2), by parameter name, for parameters of at least two axes; biases and
        normalisation are left out. A weight of a convolution is used once for each output position, one of a linear
        layer once for each position it is applied to; embeddings are free. A tensor of n weights costs n times as much.

    Raises
    ------
    InvalidProblem
        If there are no weight matrices, or some were not used and ``missing`` is not given.

    Notes
    -----
    Operations are counted by the formulas of ``torch.utils.flop_counter`` and booked on the parameters whose memory
    they read, not on modules: attention counts whether or not its projections are modules of their own (the fused path,
    which no counter sees, is switched off), and so do weights used functionally or several times. Zeros do not lower
    the count. What multiplies activations with each other belongs to no weight.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10))
    >>> weight_costs(net, torch.zeros(2, 3, 8, 8))
    {'0.weight': 72.0, '2.weight': 2.0}
    """
    return _flops(model, batch, missing)


def weight_macs(model: nn.Module, batch: object, *, missing: float | None = None) -> dict[str, float]:
    """Return the multiply-adds (MACs) that each single weight costs: half of :func:`weight_costs`.

    Parameters
    ----------
    model, batch, missing
        See :func:`weight_costs`.

    Examples
    --------
    >>> import torch
    >>> weight_macs(torch.nn.Linear(4, 2), torch.zeros(1, 7, 4))
    {'weight': 7.0}
    """
    return {name: cost / 2.0 for name, cost in _flops(model, batch, missing).items()}
