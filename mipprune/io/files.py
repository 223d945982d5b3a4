"""Files of solutions with everything that is needed to re-check their bounds without any solver."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.certificate import Certificate, Tangent, Tree
from ..core.parts import Parts, parts_of
from ..core.problem import Problem
from ..core.solution import Checked, Solution, check
from ..core.sparse_tree import SparseTree
from ..errors import CertificateError, InvalidProblem, MippruneError, Unsupported
from .encoding import TensorStore, canonical, decode, encode, encode_fields, sha256, tensor_digest

__all__ = ["Entry", "check_file", "compact", "load", "save", "write_atomically"]

_FORMAT = 1
_SHARED = "shared"


class Entry(NamedTuple):
    """A problem with its solution, and anything else worth keeping beside them."""

    problem: Problem
    """what was solved; all its data"""
    solution: Solution
    """the point, its value, the bound and what the bound rests on"""
    info: Mapping[str, Any] = MappingProxyType({})
    """plain data for reports: names, settings, times"""


def save(
    path: str | Path,
    items: Mapping[str, Entry | tuple[Problem, Solution]],
    *,
    share: bool = False,
) -> Path:
    """Write problems with their solutions and certificates to one file, so that anyone can re-check the bounds.

    Parameters
    ----------
    path : path
        The file, by convention ``*.safetensors``. It appears complete or not at all: written beside, moved into place.
    items : mapping of str to Entry or (problem, solution)
        By name, for instance of the layer.
    share : bool
        Put Gram matrices into the folder ``shared`` beside the file, each under its own digest, so that several files
        with the same matrix hold it once. The folder then belongs to the files.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InvalidProblem
        If there is nothing to save, or a solution was made for another problem than the one beside it.
    Unsupported
        If a user's own loss or structure is not a dataclass of storable data.

    Notes
    -----
    The file is a safetensors file. The entry ``mipprune`` of its metadata is a JSON document with two parts:
    ``content`` (versions, problems, solutions, and the SHA-256 of every tensor) and ``sha256``, the digest of that
    content. Nothing is rounded: tensors are stored in the smallest layout that restores them exactly.

    Examples
    --------
    >>> import tempfile, mipprune as mp
    >>> problem = mp.formulations.layerwise(torch.tensor([[1.0, 2.0]]), torch.eye(2), mp.Cardinality(1))
    >>> point = torch.tensor([[0.0, 2.0]])
    >>> certificate = mp.Tangent.at(problem, point)
    >>> solution = mp.Solution.of(problem, point, stop=mp.Stop.CONVERGED, certificate=certificate)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = save(f"{folder}/layer.safetensors", {"layer": (problem, solution)})
    ...     restored = load(file)["layer"]
    ...     mp.check(restored.problem, restored.solution).bound == solution.bound
    True
    """
    target = Path(path)
    if not items:
        raise InvalidProblem("there is nothing to save; give at least one problem with its solution")
    store, contents, sections = TensorStore(), {}, {}
    for name, item in items.items():
        entry = Entry(*item)
        if entry.solution.fingerprint != entry.problem.fingerprint:
            raise InvalidProblem(
                f"{name!r}: the solution was made for another problem than the one given with it; save them as they "
                "were solved"
            )
        contents[name] = _encoded(entry, store, name)
        sections.update({f"{name}/{section}": sha256(canonical(part)) for section, part in _sections(contents[name])})
    shared = _share(store, target.parent / _SHARED) if share else []
    content = {
        "format": _FORMAT,
        "versions": _versions(),
        "order": list(contents),
        "items": contents,
        "tensors": store.digests,
        "shared": shared,
        "sections": sections,
    }
    header = canonical({"content": content, "sha256": sha256(canonical(content))})
    _write(target, {key: t for key, t in store.tensors.items() if key not in shared}, header)
    return target


def load(path: str | Path) -> dict[str, Entry]:
    """Read what `save` wrote, verifying every digest on the way.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    dict of str to Entry
        On the CPU. That the numbers agree with each other is the matter of `mipprune.check`, or of `check_file`.

    Raises
    ------
    InvalidProblem
        If there is no such file, or it is not one of this package.
    CertificateError
        If anything in it was altered; names the first thing that differs.
    Unsupported
        If it was written by a newer version, or uses a type whose module was not imported.
    """
    from safetensors import SafetensorError, safe_open

    source = Path(path)
    if not source.is_file():
        raise InvalidProblem(f"there is no file {str(source)!r}; check the path")
    try:
        with safe_open(source, framework="pt") as stored:
            content = _verified_content((stored.metadata() or {}).get("mipprune"), source)
            shared = content["shared"]
            extra = set(stored.keys()) ^ (set(content["tensors"]) - set(shared))
            if extra:
                raise CertificateError(f"{str(source)!r}: the tensor {min(extra)!r} was added or removed")
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, UnicodeDecodeError) as error:
        raise CertificateError(
            f"{str(source)!r} is not a complete safetensors file ({error}); it was truncated or altered"
        ) from error
    for key in shared:
        tensors[key] = _shared_tensor(source.parent / _SHARED, content["tensors"][key], key)
    for key, digest in content["tensors"].items():
        if tensor_digest(tensors[key]) != digest:
            raise CertificateError(f"{str(source)!r}: the tensor {key!r} was altered (its SHA-256 differs)")
    return {name: _decoded(content["items"][name], tensors) for name in content["order"]}


def check_file(path: str | Path, *, exact: bool = False) -> dict[str, Checked]:
    """Re-check every certificate of a file from the stored problems; no solver is involved.

    Parameters
    ----------
    path : path
        A file written by `save`.
    exact : bool
        In rational arithmetic, see `mipprune.check`; for small problems.

    Returns
    -------
    dict of str to Checked
        The recomputed quantities, by item.

    Raises
    ------
    CertificateError
        Naming the item and the first quantity that differs.
    InvalidProblem, Unsupported
        See `load`.
    """
    checked = {}
    for name, entry in load(path).items():
        try:
            checked[name] = check(entry.problem, entry.solution, exact=exact)
        except CertificateError as error:
            raise CertificateError(f"{str(path)!r}, {name!r}: {error}") from error
    return checked


def compact(problem: Problem, solution: Solution, *, dtype: torch.dtype = torch.float32) -> Solution:
    """Round the points of tangency of a certificate to a shorter format, and evaluate the bound there.

    Parameters
    ----------
    problem : Problem
        What the solution solves.
    solution : Solution
        With or without certificate.
    dtype : torch.dtype
        float32, or bfloat16 for a quarter of the size.

    Returns
    -------
    Solution
        With the rounded certificate and its bound; the solution itself when it has none. Since a tangent is a proof at
        *any* point, rounding the point costs a little of the bound and nothing of the proof.

    Examples
    --------
    >>> import mipprune as mp
    >>> problem = mp.formulations.layerwise(torch.tensor([[1.0, 0.1]]), torch.eye(2), mp.Cardinality(1))
    >>> point = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    >>> full = mp.Solution.of(problem, point, stop=mp.Stop.CONVERGED, certificate=mp.Tangent(point + 0.01))
    >>> small = compact(problem, full)
    >>> small.certificate.point.dtype, mp.check(problem, small).bound == small.bound
    (torch.float32, True)
    """
    if solution.certificate is None:
        return solution
    return Solution.of(
        problem,
        solution.point,
        stop=solution.stop,
        certificate=_rounded(problem, solution.certificate, dtype),
        claim=solution.claim,
        tolerance=solution.tolerance,
        stats=solution.stats,
        solver=solution.solver,
    )


def _rounded(problem: Problem, certificate: Certificate, dtype: torch.dtype) -> Certificate:
    if isinstance(certificate, Tree):
        leaves = [replace(leaf, point=leaf.point.cpu().to(dtype)) for leaf in certificate.leaves]
        return replace(certificate, leaves=tuple(leaves))
    if isinstance(certificate, Tangent):
        return replace(certificate, point=certificate.point.cpu().to(dtype))
    if isinstance(certificate, Parts):
        pieces = zip(parts_of(problem), certificate.certificates, strict=True)
        return Parts(tuple(_rounded(part.problem, piece, dtype) for part, piece in pieces))
    if isinstance(certificate, SparseTree):
        return replace(certificate, point_value=certificate.point_value.to(dtype).double()).sealed(problem)[0]
    return certificate


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file that appears complete or not at all, also when the process is killed.

    Parameters
    ----------
    path : path
        The file; its folder is created.
    data : bytes
        The whole content.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _write(target: Path, tensors: dict[str, Tensor], header: str) -> None:
    from safetensors.torch import save as serialise

    write_atomically(target, serialise(tensors, metadata={"mipprune": header}))


def _versions() -> dict[str, str]:
    package = sys.modules[__name__.partition(".")[0]]
    return {
        "mipprune": str(package.__version__),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _encoded(entry: Entry, store: TensorStore, name: str) -> dict[str, Any]:
    return {
        "problem": encode_fields(entry.problem, store, f"{name}/problem"),
        "solution": encode_fields(entry.solution, store, f"{name}/solution"),
        "info": encode(dict(entry.info), store, f"{name}/info"),
    }


def _decoded(item: dict[str, Any], tensors: dict[str, Tensor]) -> Entry:
    try:
        problem = decode({"type": "Problem", "fields": item["problem"]}, tensors.__getitem__)
        fields = {key: decode(value, tensors.__getitem__) for key, value in item["solution"].items()}
        return Entry(problem, Solution(**fields), decode(item["info"], tensors.__getitem__))
    except MippruneError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CertificateError(f"header: what is stored makes no solution ({type(error).__name__}: {error})") from error


def _sections(item: dict[str, Any]) -> list[tuple[str, Any]]:
    """The parts of an item that get a digest of their own, so that a message can name the one that was altered."""
    return [
        *((f"problem/{key}", part) for key, part in item["problem"].items()),
        *((f"solution/{key}", part) for key, part in item["solution"].items()),
        ("info", item["info"]),
    ]


def _verified_content(header: str | None, source: Path) -> dict[str, Any]:
    if header is None:
        raise InvalidProblem(
            f"{str(source)!r} holds no problems and solutions; certificates are the files written by mipprune.save"
        )
    try:
        document = json.loads(header)
        content: dict[str, Any] = document["content"]
        intact = canonical(document) == header and sha256(canonical(content)) == document["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CertificateError(f"{str(source)!r}: the header was altered ({error})") from error
    if not intact:
        raise CertificateError(f"{str(source)!r}: {_first_difference(content)} was altered (its SHA-256 differs)")
    if content["format"] != _FORMAT:
        raise Unsupported(
            f"{str(source)!r} has format {content['format']}, this version reads format {_FORMAT}; update mipprune"
        )
    return content


def _first_difference(content: dict[str, Any]) -> str:
    try:
        sections = content["sections"]
        for name, item in content["items"].items():
            for section, part in _sections(item):
                if sections[f"{name}/{section}"] != sha256(canonical(part)):
                    return f"{name}/{section}"
    except (KeyError, TypeError, AttributeError, ValueError):
        return "the header"
    return "the header (versions or digests)"


def _share(store: TensorStore, folder: Path) -> list[str]:
    """Write the Gram matrices to files named after their digests; returns their keys."""
    from safetensors.torch import save as serialise

    keys = [key for key in store.tensors if key.endswith("/gram")]
    for key in keys:
        file = folder / f"{store.digests[key]}.safetensors"
        if not file.is_file():
            write_atomically(file, serialise({"values": store.tensors[key]}))
    return keys


def _shared_tensor(folder: Path, digest: str, key: str) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialise

    file = folder / f"{digest}.safetensors"
    if not file.is_file():
        raise CertificateError(
            f"{key!r}: its file {str(file)!r} is missing; keep the folder {_SHARED!r} with the files"
        )
    try:
        stored: dict[str, Tensor] = deserialise(file.read_bytes())
        return stored["values"]
    except (SafetensorError, KeyError) as error:
        raise CertificateError(f"{key!r}: {str(file)!r} was truncated or altered ({error})") from error
