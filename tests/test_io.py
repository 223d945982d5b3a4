"""Files of certificates: what is read equals what was written, and one altered number anywhere is found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mipprune as mp
from mipprune.errors import CertificateError, InvalidProblem, Unsupported
from mipprune.io import Entry, check_file, compact, load, save
from mipprune.io.layout import pack, unpack


def make_problem(supports: mp.Supports, rows: int = 3, width: int = 8, seed: int = 0, **options: Any) -> mp.Problem:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(4 * width, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(rows, width, generator=generator)
    return mp.formulations.layerwise(weight, inputs.T @ inputs, supports, **options)


def make_solution(problem: mp.Problem) -> mp.Solution:
    reference = problem.reference
    point = reference.repair(reference.loss.start())
    split = reference.loss.best_split()
    tangent = mp.Tangent.at(problem, 0.9 * point, split)
    stats = mp.Stats(seconds=0.5, iterations=7, trace=((0.1, 2.0, None), (0.2, 1.5, 1.0)), device="cpu", seed=3)
    return mp.Solution.of(
        problem, point, stop=mp.Stop.CONVERGED, certificate=tangent, stats=stats, solver="test", tolerance=1e-3
    )


def make_tree(problem: mp.Problem) -> mp.Solution:
    """Branch once on the first kept entry, each leaf with the tangent at its own repaired point."""
    solution = make_solution(problem)
    assert isinstance(solution.certificate, mp.Tangent) and solution.mask is not None
    first = int(solution.mask.flatten().nonzero()[0])
    index, children = torch.tensor([first, -1, -1]), torch.tensor([[1, 2], [-1, -1], [-1, -1]])
    draft = mp.Tree(index, children, (solution.certificate, solution.certificate))
    parts = [(part, part.reference.repair(part.loss.start()), leaf.split) for part, leaf in draft.walk(problem)]
    leaves = tuple(mp.Tangent.at(part, 0.8 * point, split) for part, point, split in reversed(parts))
    return mp.Solution.of(
        problem, solution.point, stop=mp.Stop.NODES, certificate=mp.Tree(index, children, leaves), solver="tree"
    )


STRUCTURES: dict[str, mp.Structure] = {
    "cardinality": mp.Sparse(mp.Cardinality(10)),
    "per row": mp.Sparse(mp.PerRow(3)),
    "n of m": mp.Sparse(mp.NofM(2, 4)),
    "groups": mp.Sparse(mp.Groups(torch.tensor([0, 0, 1, 1, 2, 2, 0, 1]), 2)),
    "group size": mp.Sparse(mp.Groups(2, 3)),
    "box": mp.Sparse(mp.NofM(2, 4), box=1.5, price=0.1),
    "box of tensors": mp.Sparse(mp.PerRow(4), box=(torch.full((3, 8), -2.0), torch.full((3, 8), 2.0))),
    "price of each": mp.Sparse(mp.Cardinality(12), price=torch.linspace(0.0, 0.2, 24).reshape(3, 8)),
}


def test_a_restricted_problem_is_restored(tmp_path: Path) -> None:
    whole = make_problem(mp.NofM(2, 4))
    on, off = torch.zeros(3, 8, dtype=torch.bool), torch.zeros(3, 8, dtype=torch.bool)
    on[0, 0] = off[1, 2] = True
    problem = whole.restrict(on, off)
    entry = load(save(tmp_path / "x.safetensors", {"x": (problem, make_solution(problem))}))["x"]
    assert entry.problem.fingerprint == problem.fingerprint != whole.fingerprint
    assert entry.problem.off is not None and torch.equal(entry.problem.off, problem.off)  # type: ignore[arg-type]
    mp.check(entry.problem, entry.solution)


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_is_read_equals_what_was_written(name: str, tmp_path: Path) -> None:
    problem = make_problem(STRUCTURES[name])  # type: ignore[arg-type]
    solution = make_solution(problem)
    info = {"layer": "fc1", "density": 0.5, "bound": float("inf"), "notes": ("a", "b"), "none": None}
    file = save(tmp_path / "x.safetensors", {"fc1": Entry(problem, solution, info)})
    entry = load(file)["fc1"]
    assert entry.problem.fingerprint == problem.fingerprint
    assert entry.info == info
    assert entry.solution.point is not None and torch.equal(entry.solution.point, solution.point)  # type: ignore[arg-type]
    assert entry.solution.stats == solution.stats
    for field in ("value", "bound", "status", "proof", "stop", "fingerprint", "tolerance", "rounding", "solver"):
        assert getattr(entry.solution, field) == getattr(solution, field)
    assert mp.check(entry.problem, entry.solution) == mp.check(problem, solution)
    assert check_file(file)["fc1"].bound == pytest.approx(solution.bound, rel=1e-12)
    # The same content makes the same file.
    assert save(tmp_path / "y.safetensors", {"fc1": Entry(problem, solution, info)}).read_bytes() == file.read_bytes()


def test_trees_claims_and_solutions_without_a_point(tmp_path: Path) -> None:
    problem = make_problem(mp.NofM(2, 4))
    claim = mp.Claim("SCIP", "10.0", 0.0, 1e-6)
    found = make_solution(problem).point
    items = {
        "tree": (problem, make_tree(problem)),
        "claim": (problem, mp.Solution.of(problem, found, stop=mp.Stop.GAP, claim=claim)),
        "nothing": (problem, mp.Solution.of(problem, None, stop=mp.Stop.TIME)),
    }
    entries = load(save(tmp_path / "x.safetensors", items))
    assert list(entries) == list(items)
    assert isinstance(entries["tree"].solution.certificate, mp.Tree)
    assert entries["claim"].solution.claim == claim
    assert entries["nothing"].solution.point is None
    for name, (_, solution) in items.items():
        assert mp.check(*entries[name][:2]) == mp.check(problem, solution)


def test_a_shared_gram_matrix_is_stored_once(tmp_path: Path) -> None:
    gram = torch.eye(64, dtype=torch.float64) + 0.1 * torch.rand(64, 1, dtype=torch.float64)
    gram = gram @ gram.T
    problems = [mp.formulations.layerwise(torch.randn(4, 64), gram, mp.NofM(2, 4)) for _ in range(3)]
    items = {name: (p, make_solution(p)) for name, p in zip("qkv", problems)}
    alone = save(tmp_path / "q.safetensors", {"q": items["q"]}).stat().st_size
    together = save(tmp_path / "qkv.safetensors", items).stat().st_size
    triangle = 8 * 64 * 65 // 2
    assert triangle < alone < 2 * triangle, "the triangle of the Gram matrix and little else"
    assert together < 3 * alone - 1.9 * triangle

    for name, item in items.items():
        save(tmp_path / "layers" / f"{name}.safetensors", {name: item}, share=True)
    assert len(list((tmp_path / "layers" / "shared").iterdir())) == 1
    for name in items:
        assert check_file(tmp_path / "layers" / f"{name}.safetensors")[name].bound is not None


def test_a_shared_gram_matrix_is_checked(tmp_path: Path) -> None:
    problem = make_problem(mp.NofM(2, 4))
    file = save(tmp_path / "x.safetensors", {"x": (problem, make_solution(problem))}, share=True)
    (shared,) = (tmp_path / "shared").iterdir()
    content = bytearray(shared.read_bytes())
    content[-1] ^= 1
    shared.write_bytes(content)
    with pytest.raises(CertificateError, match="x/problem/loss/gram"):
        load(file)
    shared.write_bytes(content[:-9])
    with pytest.raises(CertificateError, match="truncated or altered"):
        load(file)
    shared.unlink()
    with pytest.raises(CertificateError, match="missing"):
        load(file)


# ---------------------------------------------------------------------------------------- a user's own structure


@dataclass(frozen=True, eq=False)
class OwnSupports(mp.NofM):
    """A user's class, stored by its import path."""


def test_a_users_own_dataclass_is_stored_by_its_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("users_own_module")
    module.OwnSupports = OwnSupports  # type: ignore[attr-defined]
    monkeypatch.setattr(OwnSupports, "__module__", "users_own_module")
    monkeypatch.setitem(sys.modules, "users_own_module", module)
    problem = make_problem(OwnSupports(2, 4))
    file = save(tmp_path / "x.safetensors", {"x": (problem, make_solution(problem))})
    assert type(load(file)["x"].problem.structure.supports) is OwnSupports  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, "users_own_module")
    with pytest.raises(Unsupported, match=r"import its module first.*--import"):
        load(file)


def test_what_is_no_dataclass_is_refused(tmp_path: Path) -> None:
    class Plain(mp.NofM):
        def __init__(self) -> None:
            super().__init__(2, 4)
            object.__setattr__(self, "on", object())

    problem = make_problem(mp.NofM(2, 4))
    with pytest.raises(Unsupported, match="cannot be stored"):
        save(tmp_path / "x.safetensors", {"x": Entry(problem, make_solution(problem), {"plain": Plain()})})


def test_unusable_requests_are_named(tmp_path: Path) -> None:
    problem, other = make_problem(mp.NofM(2, 4)), make_problem(mp.NofM(2, 4), seed=1)
    with pytest.raises(InvalidProblem, match="nothing to save"):
        save(tmp_path / "x.safetensors", {})
    with pytest.raises(InvalidProblem, match="another problem"):
        save(tmp_path / "x.safetensors", {"x": (other, make_solution(problem))})
    with pytest.raises(InvalidProblem, match="no file"):
        load(tmp_path / "absent.safetensors")
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, str(tmp_path / "weights.safetensors"))
    with pytest.raises(InvalidProblem, match="holds no problems"):
        load(tmp_path / "weights.safetensors")
    assert not list(tmp_path.glob("x.*")), "a failed save leaves nothing behind"


# --------------------------------------------------------------------------------------- tampering in memory


def bumped(tensor: Tensor) -> Tensor:
    """The tensor with its first non-zero entry enlarged by one percent."""
    changed = tensor.clone()
    first = tuple(changed.nonzero()[0])
    changed[first] = changed[first] * 1.01
    return changed


def with_tangent(change: Callable[[mp.Tangent], mp.Tangent]) -> Callable[[mp.Solution], mp.Solution]:
    return lambda solution: replace(solution, certificate=change(solution.certificate))  # type: ignore[arg-type]


def flipped(mask: Tensor) -> Tensor:
    changed = mask.clone()
    changed[0, 0] = ~changed[0, 0]
    return changed


MEMORY: dict[str, tuple[Callable[[mp.Solution], mp.Solution], str]] = {
    "weight": (lambda s: replace(s, point=bumped(s.point)), "value"),
    "pruned weight": (lambda s: replace(s, point=torch.where(s.mask, s.point, 1.0)), "mask"),
    "mask": (lambda s: replace(s, mask=flipped(s.mask)), "mask"),
    "value": (lambda s: replace(s, value=s.value * (1 - 1e-9)), "value"),
    "bound up": (lambda s: replace(s, bound=s.bound + 1e-6 * s.value), "bound"),
    "bound down": (lambda s: replace(s, bound=s.bound - 1e-6 * s.value), "bound"),
    "fingerprint": (
        lambda s: replace(s, fingerprint="0" + s.fingerprint[1:] if s.fingerprint[0] != "0" else "1"),
        "fi",
    ),
    "tangent point": (with_tangent(lambda t: replace(t, point=bumped(t.point))), "bound"),
    "split": (with_tangent(lambda t: replace(t, split=0.99 * t.split)), "bound"),
    "invalid split": (with_tangent(lambda t: replace(t, split=10.0 * t.split)), "split"),
    "no certificate": (lambda s: replace(s, certificate=None), "certificate"),
    "violation": (lambda s: replace(s, violation=1.0), "violates"),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_a_number_altered_in_memory_is_found(kind: str) -> None:
    problem = make_problem(mp.NofM(2, 4))
    solution = make_solution(problem)
    mp.check(problem, solution)
    change, named = MEMORY[kind]
    with pytest.raises(CertificateError, match=named):
        mp.check(problem, change(solution))


@pytest.mark.parametrize("field", ["gram", "center", "offset"])
def test_altered_problem_data_are_found(field: str) -> None:
    problem = make_problem(mp.NofM(2, 4))
    solution = make_solution(problem)
    data = getattr(problem.loss, field)
    changed = data + 1e-9 * (torch.eye(8) if field == "gram" else 1.0)
    other = replace(problem, loss=replace(problem.loss, **{field: changed}))  # type: ignore[type-var]
    with pytest.raises(CertificateError, match="fingerprint"):
        mp.check(other, solution)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("index", [6, -1, -1]),
        ("index", [-1, -1, -1]),
        ("index", [99, -1, -1]),
        ("index", [-2, -1, -1]),
        ("children", [[1, 1], [-1, -1], [-1, -1]]),
        ("children", [[2, 1], [-1, -1], [-1, -1]]),
    ],
)
def test_an_altered_tree_is_found(field: str, value: Any) -> None:
    problem = make_problem(mp.Cardinality(4), rows=1)
    solution = make_tree(problem)
    mp.check(problem, solution)
    assert isinstance(solution.certificate, mp.Tree)
    tree = replace(solution.certificate, **{field: torch.tensor(value)})
    with pytest.raises(CertificateError):
        mp.check(problem, replace(solution, certificate=tree))


# ---------------------------------------------------------------------------------------- tampering with files


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    problem = make_problem(mp.NofM(2, 4))
    tree_problem = make_problem(mp.Cardinality(4), rows=1)
    items = {
        "layer": Entry(problem, make_solution(problem), {"density": 0.5}),
        "tree": Entry(tree_problem, make_tree(tree_problem)),
    }
    return save(tmp_path / "x.safetensors", items)


def rewrite(file: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None], *, sign: bool = False) -> None:
    """Alter header content and tensors; with `sign` all digests are recomputed, as a forger would."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from mipprune.io.encoding import canonical, sha256, tensor_digest

    with safe_open(file, framework="pt") as source:
        header = json.loads(source.metadata()["mipprune"])
        tensors = {key: source.get_tensor(key) for key in source.keys()}  # noqa: SIM118
    change(header["content"], tensors)
    if sign:
        header["content"]["tensors"] = {key: tensor_digest(tensor) for key, tensor in tensors.items()}
        header["sha256"] = sha256(canonical(header["content"]))
    save_file(tensors, str(file), metadata={"mipprune": canonical(header)})


def keys_of(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as source:
        return sorted(source.keys())


def test_every_single_tensor_is_guarded(stored: Path) -> None:
    """One bit of each stored tensor: Gram matrix, weights, mask, V, D, tree index and children, ..."""
    original = stored.read_bytes()
    keys = keys_of(stored)
    kinds = " ".join(keys)
    for kind in ("gram", "center", "point", "bits", "split", "index", "children"):
        assert kind in kinds
    for key in keys:

        def change(content: dict[str, Any], tensors: dict[str, Tensor], key: str = key) -> None:
            tensors[key].reshape(-1).view(torch.uint8)[0] ^= 1

        rewrite(stored, change)
        with pytest.raises(CertificateError, match=key.replace("+", "[+]")):
            load(stored)
        stored.write_bytes(original)
    assert set(load(stored)) == {"layer", "tree"}


HEADER = {
    "value": ("layer", "solution", "value"),
    "bound": ("layer", "solution", "bound"),
    "fingerprint": ("layer", "solution", "fingerprint"),
    "rounding": ("layer", "solution", "rounding"),
    "tolerance": ("layer", "solution", "tolerance"),
    "status": ("layer", "solution", "status"),
    "stats": ("layer", "solution", "stats"),
    "tree": ("tree", "solution", "certificate"),
    "structure": ("layer", "problem", "structure"),
    "offset": ("layer", "problem", "loss"),
    "info": ("layer", "info", None),
}


@pytest.mark.parametrize("kind", HEADER)
def test_a_number_altered_in_the_header_is_named(kind: str, stored: Path) -> None:
    name, section, field = HEADER[kind]

    def change(content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        holder = content["items"][name]
        if field is None:
            holder[section] = nudged(holder[section])
        else:
            holder[section][field] = nudged(holder[section][field])

    rewrite(stored, change)
    with pytest.raises(CertificateError, match=f"{name}/{section}" + (f"/{field}" if field else "")):
        load(stored)


def nudged(document: Any) -> Any:
    """The document with the first number (or text) in it changed."""
    text = json.dumps(document)
    for old in [c for c in text if c.isdigit()] or [c for c in text if c.isalpha()]:
        new = "2" if old == "1" else "1"
        try:
            changed = json.loads(text.replace(old, new, 1))
        except ValueError:
            continue
        if changed != document:
            return changed
    raise AssertionError(f"nothing to change in {text}")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("versions", lambda content: content["versions"].update(torch="0.0.0")),
        ("digest", lambda content: content["tensors"].update({min(content["tensors"]): "0" * 64})),
        ("section digest", lambda content: content["sections"].update({"layer/info": "0" * 64})),
        ("item", lambda content: content["items"].pop("tree")),
        ("format", lambda content: content.update(format=2)),
    ],
)
def test_the_rest_of_the_header_is_guarded(part: str, change: Callable[[dict[str, Any]], object], stored: Path) -> None:
    rewrite(stored, lambda content, tensors: change(content) and None)
    with pytest.raises(CertificateError):
        load(stored)


@pytest.mark.parametrize("kind", ["removed", "added", "renamed"])
def test_missing_and_foreign_tensors_are_named(kind: str, stored: Path) -> None:
    def change(content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        if kind in ("removed", "renamed"):
            moved = tensors.pop("layer/problem/loss/gram")
        if kind == "added":
            tensors["layer/more"] = torch.zeros(1)
        elif kind == "renamed":
            tensors["layer/other"] = moved

    rewrite(stored, change)
    with pytest.raises(CertificateError, match="added or removed"):
        load(stored)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("layer/problem/loss/gram", "fingerprint"),
        ("layer/problem/loss/center", "fingerprint"),
        ("layer/solution/point", "value"),
        ("layer/solution/certificate/point", "bound|mask|value"),
        ("layer/solution/certificate/split", "bound|split"),
    ],
)
def test_a_forger_who_recomputes_the_digests_is_found_by_the_check(key: str, named: str, stored: Path) -> None:
    """The digests guard against accidents; against a forger stands the recomputation from the data."""

    def change(content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors[key] = bumped(tensors[key].double())

    rewrite(stored, change, sign=True)
    load(stored)
    with pytest.raises(CertificateError, match=named):
        check_file(stored)


def test_a_forged_bound_is_found_by_the_check(stored: Path) -> None:
    def change(content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        content["items"]["layer"]["solution"]["bound"] = 0.999 * content["items"]["layer"]["solution"]["value"]

    rewrite(stored, change, sign=True)
    with pytest.raises(CertificateError, match=r"'layer': bound: stored"):
        check_file(stored)


def test_no_byte_of_a_file_can_change_unseen(stored: Path) -> None:
    original = stored.read_bytes()
    positions = np.random.default_rng(0).choice(len(original), size=300, replace=False)
    for position in [*range(16), *positions.tolist(), len(original) - 1]:
        for bit in (0, 5):
            content = bytearray(original)
            content[position] ^= 1 << bit
            stored.write_bytes(content)
            with pytest.raises((CertificateError, InvalidProblem)):
                load(stored)
    for length in (0, 4, 100, len(original) // 2, len(original) - 1):
        stored.write_bytes(original[:length])
        with pytest.raises(CertificateError, match="truncated or altered"):
            load(stored)


# ------------------------------------------------------------------------------------------ layouts and rounding


@settings(max_examples=60)
@given(
    st.sampled_from(["float64", "float32", "bfloat16", "int64", "bool"]),
    st.lists(st.integers(0, 9), min_size=0, max_size=3),
    st.sampled_from(["dense", "sparse", "symmetric", "narrow", "negative zeros"]),
    st.integers(0, 1000),
)
def test_layouts_restore_every_bit(dtype: str, shape: list[int], kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    if kind == "symmetric":
        shape = [9, 9]
    tensor = 10 * torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "symmetric":
        tensor = tensor + tensor.T
    if kind == "narrow":
        tensor = tensor.to(torch.bfloat16).double()
    if kind in ("sparse", "negative zeros"):
        kept = torch.rand(shape, generator=generator) < 0.3
        tensor = torch.where(kept, tensor, -0.0 if kind == "negative zeros" else 0.0)
    tensor = tensor.to(getattr(torch, dtype))
    layout, parts = pack(tensor)
    restored = unpack(json.loads(json.dumps(layout)), parts)
    assert restored.dtype == tensor.dtype
    assert restored.shape == tensor.shape
    assert restored.reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).contiguous().view(torch.uint8).tolist()
    assert sum(part.nbytes for part in parts.values()) <= tensor.nbytes + (tensor.numel() + 7) // 8


@pytest.mark.parametrize("make", [make_solution, make_tree])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounded_tangents_still_prove(make: Callable[[mp.Problem], mp.Solution], dtype: torch.dtype) -> None:
    problem = make_problem(mp.Cardinality(6))
    solution = make(problem)
    small = compact(problem, solution, dtype=dtype)
    mp.check(problem, small)
    assert small.bound is not None and solution.bound is not None
    assert abs(small.bound - solution.bound) < 0.05 * abs(solution.value)
    assert small.value == solution.value
    assert small.stats == solution.stats
    with_none = mp.Solution.of(problem, solution.point, stop=mp.Stop.TIME)
    assert compact(problem, with_none) is with_none
