"""Text for calibration and evaluation: where it comes from and how it becomes batches of tokens."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mipprune.errors import InvalidProblem

__all__ = ["encode", "english_text", "read_text", "text_batches", "token_blocks"]

_TEXT_SUFFIXES = (".txt", ".md", ".rst", ".json", ".jsonl")


def english_text() -> str:
    """Technical English prose that is part of every Python installation: its language reference, about 700 kB.

    Returns
    -------
    str
        Enough for about 150,000 tokens. It comes with Python, so it needs no download, but it is of one kind
        (documentation): use text of the domain in question where there is some.

    Examples
    --------
    >>> len(english_text()) > 300_000
    True
    """
    from pydoc_data.topics import topics

    return "\n\n".join(str(topics[name]) for name in sorted(topics))


def read_text(path: str | Path) -> str:
    """Read text from a file or from all text files under a directory.

    Parameters
    ----------
    path : path
        A ``.txt``, ``.md`` or ``.rst`` file; a ``.json`` or ``.jsonl`` file of strings or of objects with an entry
        ``text``; any of them compressed as ``.gz``; or a directory of such files, which are read in alphabetical order.

    Returns
    -------
    str
        Documents are separated by empty lines.

    Raises
    ------
    InvalidProblem
        If nothing is there, a file is not text, or the result is empty.
    """
    root = Path(path)
    if root.is_dir():
        files = [file for file in sorted(root.rglob("*")) if file.is_file() and _is_text(file)]
        if not files:
            raise InvalidProblem(
                f"the directory {str(root)!r} holds no {', '.join(_TEXT_SUFFIXES)} files (or .gz of them)"
            )
    elif root.is_file():
        files = [root]
    else:
        raise InvalidProblem(f"there is no file or directory {str(root)!r}; check the path of the text")
    text = "\n\n".join(document for file in files for document in _documents(file))
    if not text.strip():
        raise InvalidProblem(f"{str(root)!r} holds no text; give a file with some")
    return text


def _is_text(file: Path) -> bool:
    plain = file.with_suffix("") if file.suffix == ".gz" else file
    return plain.suffix in _TEXT_SUFFIXES


def _documents(file: Path) -> Iterator[str]:
    plain = file.with_suffix("") if file.suffix == ".gz" else file
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = content.decode("utf-8")
        if plain.suffix == ".jsonl":
            yield from (_document(json.loads(line), file) for line in text.splitlines() if line.strip())
        elif plain.suffix == ".json":
            entries = json.loads(text)
            yield from (_document(entry, file) for entry in (entries if isinstance(entries, list) else [entries]))
        else:
            yield text
    except (UnicodeDecodeError, json.JSONDecodeError, gzip.BadGzipFile) as error:
        raise InvalidProblem(
            f"{str(file)!r} cannot be read as text: {error}; give UTF-8 text, JSON or JSON lines"
        ) from error


def _document(entry: object, file: Path) -> str:
    text = entry.get("text") if isinstance(entry, dict) else entry
    if not isinstance(text, str):
        raise InvalidProblem(f"an entry of {str(file)!r} is neither a string nor an object with a string 'text'")
    return text


def encode(tokenizer: Any, text: str) -> list[int]:
    """Turn text into token numbers, without special tokens.

    Parameters
    ----------
    tokenizer : object
        A transformers tokenizer, a ``tokenizers.Tokenizer``, or any function from a string to a sequence of integers.
    text : str
        The text.

    Returns
    -------
    list of int

    Examples
    --------
    >>> encode(lambda text: [ord(letter) for letter in text], "ab")
    [97, 98]
    """
    if hasattr(tokenizer, "convert_tokens_to_ids"):
        # verbose=False: a whole corpus is longer than the model's context, and is cut into blocks afterwards.
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if hasattr(tokenizer, "encode"):
        return list(tokenizer.encode(text, add_special_tokens=False).ids)
    if callable(tokenizer):
        return [int(token) for token in tokenizer(text)]
    raise InvalidProblem(
        f"a tokenizer is needed to read text, found {type(tokenizer).__name__}; give one from transformers or "
        "tokenizers, or "
        "calibrate with arrays of token numbers"
    )


def token_blocks(text: str, tokenizer: Any, length: int, count: int | None = None) -> Tensor:
    """Cut text into consecutive blocks of tokens, from its beginning.

    Parameters
    ----------
    text : str
        The text; tokenised as one piece.
    tokenizer : object
        See `encode`.
    length : int
        Tokens in a block.
    count : int, optional
        Number of blocks; default: as many as there are, the incomplete last one dropped.

    Returns
    -------
    Tensor, shape (count, length), int64

    Raises
    ------
    InvalidProblem
        If the text is too short.

    Examples
    --------
    >>> token_blocks("abcdefg", lambda text: [ord(letter) for letter in text], length=3).tolist()
    [[97, 98, 99], [100, 101, 102]]
    """
    tokens = encode(tokenizer, text)
    available = len(tokens) // length
    wanted = available if count is None else count
    if available < max(wanted, 1):
        raise InvalidProblem(
            f"the text has {len(tokens)} tokens, enough for {available} blocks of {length}, but {max(wanted, 1)} are "
            "asked for; "
            "give more text, or ask for fewer or shorter blocks"
        )
    return torch.tensor(tokens[: wanted * length], dtype=torch.int64).reshape(wanted, length)


def text_batches(
    text: str,
    tokenizer: Any,
    *,
    samples: int,
    length: int,
    seed: int = 0,
    batch_size: int = 8,
    held_out: bool = False,
) -> list[dict[str, Tensor]]:
    """Sample windows of tokens from text, as batches for a transformers model.

    Parameters
    ----------
    text : str
        The text.
    tokenizer : object
        See `encode`. Special tokens that it puts around a text ([CLS] and [SEP], or a beginning-of-text token) are
        put around each window.
    samples : int
        Number of windows. They do not overlap; where the text is too short for so many, all there are.
    length : int
        Tokens in a window, special tokens included.
    seed : int
        Decides which windows are drawn.
    batch_size : int
        Windows in a batch.
    held_out : bool
        False draws from the first four fifths of the tokens, True from the last fifth, so that the two never meet.

    Returns
    -------
    list of dict
        With ``input_ids`` and ``attention_mask``, each a Tensor of shape (windows, length), int64.

    Raises
    ------
    InvalidProblem
        If the text is shorter than one window, or a number is not positive.
    """
    before, after = _special_tokens(tokenizer)
    inner = length - len(before) - len(after)
    if samples < 1 or batch_size < 1 or inner < 1:
        raise InvalidProblem(
            f"samples, batch_size and length must leave room for at least one token, found samples={samples}, "
            f"batch_size={batch_size}, length={length} (of which {len(before) + len(after)} are special tokens)"
        )
    tokens = torch.tensor(encode(tokenizer, text), dtype=torch.int64)
    cut = len(tokens) * 4 // 5
    part = tokens[cut:] if held_out else tokens[:cut]
    if len(part) < inner:
        raise InvalidProblem(
            f"the text has {len(part)} tokens in its {'last fifth' if held_out else 'first four fifths'}, not enough "
            "for one "
            f"window of {length}; give more text or ask for shorter windows"
        )
    windows = part[: len(part) // inner * inner].reshape(-1, inner)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[:samples]
    chosen = windows[order.sort().values]
    parts = [torch.tensor(before).expand(len(chosen), -1), chosen, torch.tensor(after).expand(len(chosen), -1)]
    ids = torch.cat([part.to(torch.int64) for part in parts], dim=1)
    return [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(batch_size)]


def _special_tokens(tokenizer: Any) -> tuple[Sequence[int], Sequence[int]]:
    """What a transformers tokenizer puts before and after a text."""
    if not hasattr(tokenizer, "convert_tokens_to_ids"):
        return [], []
    word = encode(tokenizer, "word")
    framed = list(tokenizer("word")["input_ids"])
    for start in range(len(framed) - len(word) + 1):
        if framed[start : start + len(word)] == word:
            return framed[:start], framed[start + len(word) :]
    return [], []
