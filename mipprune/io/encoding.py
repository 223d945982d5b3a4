"""Frozen dataclasses of the package (and of users) as JSON, with their tensors set apart."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import losses, structures
from ..core import adapters, certificate, parts, problem, solution, sparse_tree
from ..errors import CertificateError, MippruneError, Unsupported
from .layout import pack, unpack

__all__ = ["TensorStore", "canonical", "decode", "encode", "encode_fields", "sha256", "tensor_digest"]


def canonical(document: Any) -> str:
    """Return a JSON document as the one text that stands for it: sorted keys, no blanks, shortest exact numbers."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def sha256(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """Return the SHA-256 of dtype, shape and bytes of a tensor, in hexadecimal."""
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    data = tensor.detach().cpu()
    # A copy: a single entry may count as contiguous with any stride, which cannot be viewed as bytes.
    flat = torch.empty(data.numel(), dtype=data.dtype).copy_(data.reshape(-1))
    digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class TensorStore:
    """Tensors on their way to a file; equal ones, such as a Gram matrix shared by layers, are kept once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.digests: dict[str, str] = {}
        self._key_of: dict[str, str] = {}

    def add(self, tensor: Tensor, path: str) -> dict[str, Any]:
        """Add a tensor under a path such as ``layer/problem/loss/gram``; returns its reference as JSON."""
        layout, parts = pack(tensor)
        keys = {}
        for part, stored in parts.items():
            digest = tensor_digest(stored)
            if digest not in self._key_of:
                key = path if part == "values" else f"{path}.{part}"
                while key in self.tensors:  # two items whose names overlap, such as "a" and "a/problem"
                    key += "+"
                self._key_of[digest] = key
                self.tensors[key], self.digests[key] = stored, digest
            keys[part] = self._key_of[digest]
        return {**layout, "parts": keys}


@cache
def _types() -> dict[str, type]:
    """The types of the package that occur in files, by their short names."""
    own = [getattr(module, name) for module in (adapters, certificate, sparse_tree) for name in module.__all__]
    known = [*losses.ALL, *structures.ALL, *own, parts.Parts, problem.Problem, solution.Stats]
    enums: list[type] = [solution.Status, solution.Proof, solution.Stop]
    return {kind.__name__: kind for kind in [*known, *enums]}


def _name_of(kind: type) -> str:
    if _types().get(kind.__name__) is kind:
        return kind.__name__
    return f"{kind.__module__}:{kind.__qualname__}"


def _type_of(name: str) -> type:
    """The type of a name; a file never makes foreign code run, so a user's module must have been imported before."""
    if name in _types():
        return _types()[name]
    module_name, _, qualname = name.partition(":")
    if module_name == "mipprune" or module_name.startswith("mipprune."):
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise Unsupported(
                f"this version of mipprune has no module {module_name!r}, which the file needs"
            ) from error
    elif module_name in sys.modules:
        module = sys.modules[module_name]
    else:
        raise Unsupported(
            f"the file uses the type {name!r}; import its module first (files never import code by themselves; "
            "on the command line: --import MODULE)"
        )
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not (is_dataclass(found) or issubclass(found, Enum)):
        raise Unsupported(f"the file uses {name!r}, which is not a dataclass; has the class been renamed?")
    return found


def encode(value: Any, store: TensorStore, path: str) -> Any:
    """Turn a value into JSON, its tensors into references.

    Parameters
    ----------
    value : object
        None, numbers, strings, enumerations, tensors and arrays, and tuples, lists, dictionaries and dataclasses of
        such, nested at will.
    store : TensorStore
        Receives the tensors.
    path : str
        Where the value stands, for the names of tensors and for messages.

    Raises
    ------
    Unsupported
        If something else occurs.
    """
    if isinstance(value, Enum):
        return {"enum": _name_of(type(value)), "value": value.value}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        return {"tensor": store.add(value, path)}
    if isinstance(value, (tuple, list)):
        items = [encode(item, store, f"{path}/{number}") for number, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(item, store, f"{path}/{key}") for key, item in value.items()}}
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": _name_of(type(value)), "fields": encode_fields(value, store, path)}
    raise Unsupported(
        f"{path} is a {type(value).__name__}, which cannot be stored; a user's own structures and losses must be "
        "dataclasses of numbers, strings, tensors and such dataclasses"
    )


def encode_fields(value: Any, store: TensorStore, path: str) -> dict[str, Any]:
    """Encode the constructor arguments of a dataclass, by name."""
    return {
        field.name: encode(getattr(value, field.name), store, f"{path}/{field.name}")
        for field in fields(value)
        if field.init
    }


def decode(document: Any, fetch: Callable[[str], Tensor]) -> Any:
    """Restore what `encode` turned into JSON.

    Parameters
    ----------
    document : object
        The JSON.
    fetch : callable
        Returns the stored tensor of a key.

    Raises
    ------
    CertificateError
        If the document is malformed or makes no valid object.
    Unsupported
        If it names a type that is not known here.
    """
    if isinstance(document, list):
        return [decode(item, fetch) for item in document]
    if not isinstance(document, dict):
        return document
    if "float" in document:
        return float(document["float"])
    if "tensor" in document:
        reference = document["tensor"]
        return unpack(reference, {part: fetch(key) for part, key in reference["parts"].items()})
    if "tuple" in document:
        return tuple(decode(item, fetch) for item in document["tuple"])
    if "dict" in document:
        return {key: decode(item, fetch) for key, item in document["dict"].items()}
    if "enum" in document:
        return _construct(document["enum"], {"value": document["value"]})
    if "type" in document:
        return _construct(document["type"], {k: decode(v, fetch) for k, v in document["fields"].items()})
    raise CertificateError(f"header: {canonical(document)[:80]} has no meaning")


def _construct(name: str, arguments: dict[str, Any]) -> Any:
    kind = _type_of(name)
    try:
        if set(arguments) <= set(inspect.signature(kind).parameters):
            return kind(**arguments)
        return _filled(kind, arguments)
    except (TypeError, ValueError) as error:
        if isinstance(error, CertificateError):
            raise
        reason = str(error) if isinstance(error, MippruneError) else f"{type(error).__name__}: {error}"
        raise CertificateError(f"header: the stored {name} is not a valid one ({reason})") from error


def _filled(kind: type, values: dict[str, Any]) -> Any:
    """An instance of a class whose own constructor takes other names than its fields (such as ``Sparse``)."""
    if missing := {field.name for field in fields(kind)} ^ set(values):
        raise TypeError(f"unknown or missing fields {sorted(missing)}")
    instance: Any = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    return instance
