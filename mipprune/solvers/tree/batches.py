"""Many nodes of a regression tree relaxed at once, on the device where the problem was declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...kernels.node_batches import Quadratics, Stack, relax_together
from .strategy import Array, Node, Relaxed

if TYPE_CHECKING:
    from .regression import RegressionBound

__all__ = ["Batches"]


class Batches:
    """The data of a strategy on a device, and what relaxes nodes with them.

    Parameters
    ----------
    strategy : RegressionBound
    """

    def __init__(self, strategy: RegressionBound) -> None:
        device = torch.device(strategy.device)
        self.device = torch.device("cpu") if device.type == "mps" else device  # MPS has no float64
        self._form = Quadratics(strategy.loss.dense.to(self.device), self._sent(strategy.pull), strategy.constant)
        self._price = self._sent(strategy.price)

    def _sent(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def evaluate(
        self, strategy: RegressionBound, nodes: list[Node], cutoff: float, accuracy: float, stop: Callable[[], bool]
    ) -> list[list[Relaxed]]:
        """Return tangents for each node; what is not solved here to the accuracy is finished entry by entry.

        A limit on the number of kept entries that still binds has no price here, so such nodes go the usual way.
        """
        cells = [strategy.cell(node) for node in nodes]
        together = [i for i, cell in enumerate(cells) if cell.left >= int((cell.fixed == 0).sum())]
        out = [[] if i in together else strategy.evaluate(node, cutoff, accuracy, stop) for i, node in enumerate(nodes)]
        if not together:
            return out
        starts = np.stack([np.where(cells[i].fixed < 0, 0.0, strategy.dense(nodes[i].start)) for i in together])
        sides = {
            name: self._sent(np.stack([getattr(cells[i], name) for i in together]))
            for name in ("fixed", "shift", "l2", "lower", "upper")
        }
        found = relax_together(
            self._form,
            Stack(price=self._price, **sides),
            self._sent(starts),
            cutoff=cutoff,
            accuracy=accuracy,
            go_on=lambda: not stop(),
        )
        points, slopes, bounds, values = (part.cpu().numpy() for part in found)
        for row, i in enumerate(together):
            if bounds[row] < cutoff and values[row] - bounds[row] > accuracy and not stop():
                solved = strategy.solver.solve(cells[i], points[row], 0.0, cutoff, accuracy, stop)
            else:
                solved = strategy.bounded(cells[i], points[row], slopes[row], 0.0)._replace(value=float(values[row]))
            out[i] = [strategy.relaxed_of(nodes[i], cells[i], solved)]
        return out
