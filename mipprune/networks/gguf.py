"""Reading Llama-family networks and their tokenizers out of GGUF files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mipprune.errors import InvalidProblem, Unsupported

__all__ = ["interleaved_to_halves", "load_gguf", "read_tokenizer"]

_LOGGER = logging.getLogger("mipprune")

# Names of a block's tensors in GGUF and in transformers; "{l}" is the number of the block.
_BLOCK_TENSORS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_OUTER_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_CONTROL_TOKEN = 3


def load_gguf(path: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any | None]:
    """Build a transformers ``LlamaForCausalLM`` and its tokenizer from a GGUF file.

    Parameters
    ----------
    path : path
        A GGUF file of the Llama architecture, quantised or not.
    dtype : torch.dtype
        The dtype of the built network; quantised weights are expanded.

    Returns
    -------
    model : torch.nn.Module
        A ``transformers.LlamaForCausalLM`` in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerFast or None
        See `read_tokenizer`.

    Raises
    ------
    InvalidProblem
        If the file is missing, is no GGUF file, or lacks a needed entry.
    Unsupported
        If the architecture or a tensor in it is not known here.

    Notes
    -----
    GGUF stores the rows of the query and key matrices in the order in which rotary embeddings turn neighbouring pairs
    of entries; transformers turns entry i with entry i + head size / 2. `interleaved_to_halves` reorders the rows.
    """
    import gguf
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = _open(Path(path))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = LlamaConfig(**_configuration(fields, tensors))
    names = _names(config.num_hidden_layers, tensors)
    model = LlamaForCausalLM(config).to(dtype)
    heads = {"attn_q.weight": config.num_attention_heads, "attn_k.weight": config.num_key_value_heads}
    state: dict[str, Tensor] = {}
    for name, target in names.items():
        values = torch.from_numpy(gguf.dequantize(tensors[name].data, tensors[name].tensor_type).copy()).to(dtype)
        count = heads.get(name.split(".", 2)[-1])
        state[target] = values if count is None else interleaved_to_halves(values, count)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    model.eval()
    return model, read_tokenizer(fields)


def interleaved_to_halves(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of a query or key matrix from neighbouring rotary pairs to half-split ones.

    Parameters
    ----------
    weight : Tensor, shape (heads * size, in)
        Rows in the order 0, size/2, 1, size/2 + 1, ... of each head.
    heads : int
        Number of heads.

    Returns
    -------
    Tensor, shape (heads * size, in)
        Rows in the order 0, 1, 2, ... of each head.

    Examples
    --------
    >>> import torch
    >>> interleaved_to_halves(torch.tensor([[0.0], [2.0], [1.0], [3.0]]), heads=1).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _open(path: Path) -> Any:
    import gguf

    if not path.is_file():
        raise InvalidProblem(f"there is no file {str(path)!r}; give the path of a GGUF file")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise InvalidProblem(f"{str(path)!r} is not a GGUF file: it begins with {magic!r}; download it again")
    return gguf.GGUFReader(path)


def _configuration(fields: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``LlamaConfig``."""
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise Unsupported(
            f"the GGUF file holds a network of architecture {architecture!r}, but only 'llama' can be read; "
            "convert it to a Hugging Face directory and give that instead"
        )
    scaling = fields.get("llama.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in tensors:
        raise Unsupported(
            "the GGUF file uses scaled rotary embeddings, which are not read here; give the Hugging Face directory"
        )

    def need(key: str) -> Any:
        if key not in fields:
            raise InvalidProblem(
                f"the GGUF file has no entry {key!r}, so the network's shape is unknown; download it again"
            )
        return fields[key]

    heads, width = need("llama.attention.head_count"), need("llama.embedding_length")
    if "token_embd.weight" not in tensors:
        raise InvalidProblem("the GGUF file has no tensor 'token_embd.weight'; it is incomplete, download it again")
    return {
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "hidden_size": width,
        "intermediate_size": need("llama.feed_forward_length"),
        "num_hidden_layers": need("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": fields.get("llama.attention.key_length", width // heads),
        "max_position_embeddings": need("llama.context_length"),
        "rms_norm_eps": need("llama.attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": fields.get("llama.rope.freq_base", 10000.0)},
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id"),
    }


def _names(count: int, tensors: Mapping[str, Any]) -> dict[str, str]:
    """The transformers name of every tensor in the file."""
    names = {name: target for name, target in _OUTER_TENSORS.items() if name != "output.weight" or name in tensors}
    for block in range(count):
        for name, target in _BLOCK_TENSORS.items():
            names[f"blk.{block}.{name}"] = f"model.layers.{block}.{target}"
    missing, unknown = names.keys() - tensors.keys(), tensors.keys() - names.keys()
    if missing:
        raise InvalidProblem(f"the GGUF file lacks {len(missing)} tensors, such as {min(missing)!r}; download it again")
    if unknown:
        raise Unsupported(
            f"the GGUF file holds tensors a plain Llama network does not have, such as {min(unknown)!r}; "
            "give the Hugging Face directory of this network instead"
        )
    return names


def read_tokenizer(fields: Mapping[str, Any]) -> Any | None:
    """Rebuild a byte-level BPE tokenizer from the metadata of a GGUF file.

    Parameters
    ----------
    fields : mapping
        Contents of the file's fields by name, such as ``tokenizer.ggml.tokens``.

    Returns
    -------
    transformers.PreTrainedTokenizerFast or None
        None, with a warning in the log, for other kinds of tokenizers.
    """
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    kind, splitting = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    splitter = _splitter(splitting)
    if kind != "gpt2" or splitter is None:
        _LOGGER.warning("the GGUF file's tokenizer (%s, %s) is not supported: the model has none now", kind, splitting)
        return None
    words: Sequence[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    # Tokenizers drop merges whose result has no id of its own, and would refuse them.
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    types: Sequence[int] = fields.get("tokenizer.ggml.token_type", [])
    special = [word for word, kind_of in zip(words, types) if kind_of == _CONTROL_TOKEN]
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    named = {role: fields.get(f"tokenizer.ggml.{key}_token_id") for role, key in roles.items()}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=fields.get("llama.context_length"),
        additional_special_tokens=special,
        **{role: words[number] for role, number in named.items() if number is not None},
    )
    fast.chat_template = fields.get("tokenizer.chat_template")
    return fast


def _splitter(name: str) -> Any | None:
    """How text is cut before merging, by the name llama.cpp gives to it; None when it is not known here."""
    from tokenizers import pre_tokenizers

    bytes_and_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("smollm", "starcoder", "refact", "command-r"):
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_and_words])
    if name in ("default", "gpt-2"):
        return bytes_and_words
    return None
