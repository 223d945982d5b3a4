"""Canonical data: constant and sense, bounds of binaries, cones, completion of starts, files that others can read."""

from __future__ import annotations

import math

import cvxpy as cp
import numpy as np
import pytest
import torch

from mipprune import Cardinality, InvalidProblem, Linear, Masks, NofM, PerRow, Problem
from mipprune.core.canonical import Canonical, complete, to_highs_lp, to_scip, write_model
from mipprune.formulations import layerwise

pytestmark = pytest.mark.exact


def scip_optimum(path_or_model):
    import pyscipopt

    model = path_or_model
    if not isinstance(model, pyscipopt.Model):
        model = pyscipopt.Model()
        model.hideOutput()
        model.readProblem(str(path_or_model))
    model.hideOutput()
    model.optimize()
    assert model.getStatus() == "optimal"
    return model.getObjVal(), model.getDualbound()


def highs_optimum(path_or_model):
    import highspy

    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    if isinstance(path_or_model, highspy.HighsModel):
        highs.passModel(path_or_model)
    else:
        highs.readModel(str(path_or_model))
    highs.run()
    assert highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return highs.getInfo().objective_function_value, highs.getInfo().mip_dual_bound


def minimisation():
    """Optimum 100 - 9 - 4 = 87: two of the three gains 2, 9, 4."""
    z = cp.Variable(3, boolean=True, name="z")
    return cp.Problem(cp.Minimize(100 - np.array([2.0, 9.0, 4.0]) @ z), [cp.sum(z) <= 2]), 87.0


def maximisation():
    """Optimum 7 + 9 + 2*1.5 = 19: one z, and x <= 1.5 z for it alone."""
    z, x = cp.Variable(2, boolean=True, name="z"), cp.Variable(2, name="x")
    objective = cp.Maximize(7 + np.array([3.0, 9.0]) @ z + 2 * cp.sum(x))
    return cp.Problem(objective, [cp.sum(z) <= 1, x <= 1.5 * z, x >= -1.5 * z]), 19.0


def least_squares():
    """Optimum 11 + 1 + 4: the largest of three targets is met, |x| <= 5 z."""
    z, x = cp.Variable(3, boolean=True, name="z"), cp.Variable(3, name="x")
    squares = cp.sum(cp.square(x - np.array([1.0, 4.0, 2.0])))
    return cp.Problem(cp.Minimize(11 + squares), [cp.sum(z) <= 1, x <= 5 * z, x >= -5 * z]), 16.0


def norm():
    """Optimum 50 - 5: the same set, but the plain norm of what is left of (3, 4, 12), maximised with its sign."""
    z, x = cp.Variable(3, boolean=True, name="z"), cp.Variable(3, name="x")
    distance = cp.norm(x - np.array([3.0, 4.0, 12.0]))
    return cp.Problem(cp.Maximize(50 - distance), [cp.sum(z) <= 1, x <= 20 * z, x >= -20 * z]), 45.0


LINEAR, CONIC = [minimisation, maximisation], [least_squares, norm]


@pytest.mark.parametrize("build", LINEAR + CONIC)
def test_scip_sees_constant_and_sense(build):
    problem, optimum = build()
    model, _ = to_scip(Canonical.from_cvxpy(problem))
    value, bound = scip_optimum(model)
    assert value == pytest.approx(optimum, abs=2e-4)
    assert bound == pytest.approx(optimum, abs=2e-4)


@pytest.mark.parametrize("build", LINEAR)
def test_highs_bound_is_restored(build):
    problem, optimum = build()
    canonical = Canonical.from_cvxpy(problem)
    value, bound = highs_optimum(to_highs_lp(canonical))
    assert canonical.restored(value) == pytest.approx(optimum)
    assert canonical.restored(bound) == pytest.approx(optimum)
    assert canonical.is_linear


@pytest.mark.parametrize("build", LINEAR + CONIC)
@pytest.mark.parametrize("suffix", [".mps", ".lp", ".cip"])
def test_files_read_back_to_the_same_optimum(build, suffix, tmp_path):
    problem, optimum = build()
    path = tmp_path / f"model{suffix}"
    write_model(problem, path)
    assert scip_optimum(path)[0] == pytest.approx(optimum, abs=2e-4)
    if build in LINEAR and suffix != ".cip":
        assert highs_optimum(path)[0] == pytest.approx(optimum)


def test_a_problem_writes_itself_with_readable_names(tmp_path):
    problem = Problem(Linear(torch.tensor([[-3.0, -1.0, -2.0, -4.0]]), constant=5.0), Masks(NofM(2, 4)))
    problem.write(tmp_path / "masks.mps")
    assert highs_optimum(tmp_path / "masks.mps")[0] == pytest.approx(-2.0)
    problem.write(tmp_path / "masks.lp")
    assert "w_0_3" in (tmp_path / "masks.lp").read_text()
    with pytest.raises(InvalidProblem, match=r"\.mps"):
        problem.write(tmp_path / "masks.txt")


@pytest.mark.parametrize("suffix", [".mps", ".lp", ".cip"])
def test_a_layer_writes_itself(suffix, tmp_path):
    problem = layerwise(torch.tensor([[3.0, -4.0, 1.0]]), torch.eye(3), Cardinality(1), damping=0.0)
    problem.write(tmp_path / f"layer{suffix}")
    assert scip_optimum(tmp_path / f"layer{suffix}")[0] == pytest.approx(10.0, rel=1e-4)


def test_binaries_are_bounded_and_integers_sorted():
    a, b = cp.Variable(40, boolean=True, name="a"), cp.Variable(3, integer=True, name="b")
    canonical = Canonical.from_cvxpy(cp.Problem(cp.Minimize(cp.sum(a) + cp.sum(b)), [b >= -2, b <= 7]))
    block = canonical.blocks["a"]
    assert (canonical.lower[block] == 0).all() and (canonical.upper[block] == 1).all()
    assert canonical.integer.tolist() == sorted([*block.tolist(), *canonical.blocks["b"].tolist()])


def test_matrix_variables_keep_their_orientation():
    w = cp.Variable((2, 3), name="w")
    target = np.arange(6.0).reshape(2, 3)
    canonical = Canonical.from_cvxpy(cp.Problem(cp.Minimize(cp.sum(w)), [w >= target]))
    highs_values = complete(canonical, {"w": target})
    assert np.array_equal(canonical.values(highs_values, "w"), target)


def test_squares_and_perspectives_are_rotated_cones_and_norms_are_not():
    problem = layerwise(torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]]), PerRow(1))
    canonical = Canonical.from_cvxpy(problem.to_cvxpy())
    lifted, fixed, body = canonical.rotated
    assert len(body) == len(fixed) == len(lifted) == 8 and not canonical.norms
    integer = set(canonical.integer.tolist())
    for row in range(len(fixed)):
        assert set(fixed.row(row)[0].tolist()) <= integer, "the factor that stays put is constant or a binary"
    assert len(Canonical.from_cvxpy(norm()[0]).norms) == 1


def test_completed_start_has_the_value_of_the_point():
    weight = torch.tensor([[1.0, -2.0, 0.5], [3.0, 1.0, 2.0]], dtype=torch.float64)
    gram = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 3.0]], dtype=torch.float64)
    problem = layerwise(weight, gram, PerRow(2))
    point = problem.repair(weight)
    canonical = Canonical.from_cvxpy(problem.to_cvxpy())
    for unit, factors in ((1.0, {}), (0.01, {"w": np.full((2, 3), 7.0)})):
        scaled = canonical.scaled(unit, factors)
        x = complete(scaled, {"w": point.numpy(), "z": (point != 0).numpy()})
        assert scaled.restored(scaled.cost @ x + scaled.offset) == pytest.approx(problem.value(point), rel=1e-9)
        np.testing.assert_allclose(scaled.values(x, "w"), point.numpy(), atol=1e-12)
        lifted, fixed, body = scaled.rotated
        assert (body.at(x) ** 2 <= lifted.at(x) * fixed.at(x) + 1e-9).all()


def test_a_start_off_its_mask_is_not_completed():
    problem = layerwise(torch.tensor([[1.0, 2.0]]), torch.eye(2), Cardinality(1))
    canonical = Canonical.from_cvxpy(problem.to_cvxpy())
    assert complete(canonical, {"w": np.array([[1.0, 2.0]]), "z": np.array([[0.0, 1.0]])}) is None


def test_scales_are_checked():
    canonical = Canonical.from_cvxpy(minimisation()[0])
    with pytest.raises(InvalidProblem, match="positive"):
        canonical.scaled(0.0)
    with pytest.raises(InvalidProblem, match="integer"):
        canonical.scaled(1.0, {"z": np.full(3, 2.0)})


def test_models_outside_the_cones_are_named():
    x = cp.Variable(name="x")
    with pytest.raises(InvalidProblem, match="second-order"):
        Canonical.from_cvxpy(cp.Problem(cp.Minimize(cp.exp(x)), [x <= 2]))
    with pytest.raises(InvalidProblem, match="second-order"):
        Canonical.from_cvxpy(cp.Problem(cp.Minimize(-cp.square(x)), [x <= 2]))


def test_logarithms_reach_scip_as_they_are():
    x, y = cp.Variable(2, pos=True, name="x"), cp.Variable(boolean=True, name="y")
    goal = -2 * cp.sum(cp.log(x)) + cp.sum(x) + cp.square(x[0] - x[1]) + 0.5 * y
    canonical = Canonical.from_cvxpy(cp.Problem(cp.Minimize(goal), [x[0] <= 1 + 4 * y]))
    assert canonical.exponential == 2
    assert not canonical.is_linear
    model, variables = to_scip(canonical)
    model.optimize()
    assert model.getStatus() == "optimal"
    found = canonical.values(np.array([model.getVal(v) for v in variables]), "x")
    assert model.getObjVal() == pytest.approx(4 - 4 * math.log(2) + 0.5, abs=1e-5)  # both at 2, the switch paid for
    np.testing.assert_allclose(found, [2, 2], atol=1e-2)


def test_constant_rows_that_cannot_hold_make_the_model_infeasible():
    import pyscipopt

    x = cp.Variable(name="x", nonneg=True)
    canonical = Canonical.from_cvxpy(cp.Problem(cp.Minimize(x), [x * 0 >= 1]))
    model, _ = to_scip(canonical)
    assert isinstance(model, pyscipopt.Model)
    model.optimize()
    assert model.getStatus() == "infeasible"
