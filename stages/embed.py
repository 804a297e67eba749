"""Encode each distinct narrative once with a frozen text encoder: ragged token embeddings in one safetensors file."""

import argparse
from pathlib import Path

from s2kd.stage import UserError, atomic, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--narratives", type=Path, required=True, help="one line of JSON a window")
    parser.add_argument("--embeddings", type=Path, required=True, help="safetensors file to write")
    args = parser.parse_args()

    import json

    import torch
    from accelerate import PartialState
    from safetensors.torch import save_file

    from s2kd.embeddings import encode
    from s2kd.params import load_params

    encoder, narrative = load_params("text_encoder"), load_params("narrative")
    texts = [json.loads(line)["text"] for line in args.narratives.read_text(encoding="utf-8").splitlines()]
    if narrative.text != "none" and not all(texts):
        raise UserError(f"{args.narratives}: line {texts.index('') + 1} has an empty text; run `dvc repro -f narrate`")
    distinct = sorted(set(texts))
    tokens = encode(distinct, encoder)

    if PartialState().is_main_process:
        index = {text: position for position, text in enumerate(distinct)}
        lengths = torch.tensor([0, *map(len, tokens)])
        embeddings = {
            "values": torch.cat(tokens),  # (token, width), float16; no rows where the control is without text
            "offsets": lengths.cumsum(0),  # text i holds the rows offsets[i] to offsets[i + 1]
            "text_of_window": torch.tensor([index[text] for text in texts]),
        }
        provenance = {
            "encoder": encoder.model,
            "sha256": encoder.sha256 or "unchecked",
            "weights": encoder.weights,
            "backend": narrative.backend,
            "view": narrative.view,
            "control": narrative.text,
            "corruption": str(narrative.corruption),
            "seed": str(narrative.seed),
        }
        with atomic(args.embeddings) as temporary:
            save_file(embeddings, temporary, metadata=provenance)
        size = args.embeddings.stat().st_size / 1e6
        print(f"{len(texts)} narratives, {len(distinct)} distinct, {lengths.sum()} tokens, {size:.0f} MB")


if __name__ == "__main__":
    run(main)
