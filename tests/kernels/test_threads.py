"""Spreading rows over threads: every row once, errors passed on, early ends told."""

from __future__ import annotations

import pytest
import torch

from mipprune.kernels.threads import over_rows


@pytest.mark.parametrize("rows", [0, 1, 7, 100])
@pytest.mark.parametrize("chunk", [1, 3, 200])
def test_every_row_is_visited_once(rows, chunk):
    visits = torch.zeros(rows)

    def task(first, last):
        visits[first:last] += 1

    assert over_rows(task, rows, chunk=chunk) == rows
    assert bool((visits == 1).all())


def test_the_work_ends_early_after_whole_rounds():
    visits, rounds = torch.zeros(1000), []

    def task(first, last):
        visits[first:last] += 1

    done = over_rows(task, 1000, chunk=2, go_on=lambda: len(rounds) < 2 and not rounds.append(1))
    assert 0 < done < 1000
    assert bool((visits[:done] == 1).all()) and not visits[done:].any()


def test_errors_of_a_task_reach_the_caller():
    def task(first, last):
        if first >= 4:
            raise ValueError("row 4")

    with pytest.raises(ValueError, match="row 4"):
        over_rows(task, 50, chunk=2)
