"""Running compiled kernels that release the interpreter lock over rows, on as many threads as torch may use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["over_rows"]


def over_rows(
    task: Callable[[int, int], None], rows: int, *, chunk: int = 8, go_on: Callable[[], bool] = lambda: True
) -> int:
    """Call ``task(first, last)`` for consecutive ranges of rows and return how many rows were done, from the first on.

    Parameters
    ----------
    task : callable
        Must be safe for disjoint ranges at the same time; results must not depend on the order of the calls.
    rows, chunk : int
        Number of rows, and of rows in one call.
    go_on : callable
        Asked before each round of calls; ``False`` ends the work early.

    Notes
    -----
    Own threads rather than numba's parallel loops: two of those at once, from two threads of the caller, abort the
    process under some of numba's threading layers.
    """
    threads = max(1, min(torch.get_num_threads(), -(-rows // chunk)))
    done = 0
    with ThreadPoolExecutor(max_workers=threads) as pool:
        while done < rows and go_on():
            starts = range(done, min(done + 4 * threads * chunk, rows), chunk)
            futures = [pool.submit(task, first, min(first + chunk, rows)) for first in starts]
            try:
                for future in futures:
                    future.result()
            except BaseException:  # an interrupt, or the task's own error: what has not begun need not run
                pool.shutdown(cancel_futures=True)
                raise
            done = min(done + 4 * threads * chunk, rows)
    return done
