"""Describe every window in words: frames and windows in, one narrative a line out."""

import argparse
import json
from pathlib import Path

from s2kd.stage import UserError, atomic, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True, help="frames.zarr of a data set")
    parser.add_argument("--windows", type=Path, required=True, help="windows.csv: id, start and split of each window")
    parser.add_argument("--meta", type=Path, required=True, help="meta.json of the data set")
    parser.add_argument("--narratives", type=Path, required=True, help="output, JSON lines: id, origin, text")
    args = parser.parse_args()

    from s2kd.dataset import Meta, load_frames, load_times, load_windows
    from s2kd.narratives import controls, template
    from s2kd.params import load_params

    params = load_params("narrative")
    narrate = {"template": template.narrate}[params.backend]
    meta, windows, times = Meta.load(args.meta), load_windows(args.windows), load_times(args.frames)
    length = meta.n_steps_input + meta.n_steps_output
    if not len(windows) or windows["start"].max() + length > len(times):
        raise UserError(
            f"{args.windows}: {len(windows)} windows of {length} frames do not fit the {len(times)} frames of "
            f"{args.frames}; run `dvc repro download` to make both again"
        )

    texts = controls.texts(
        lambda: narrate(load_frames(args.frames), times, windows, meta, params.view), times, windows, meta, params
    )
    origin = {
        "backend": params.backend, "view": params.view, "control": params.text, "corruption": params.corruption
    }  # fmt: skip
    n_words = 0
    with atomic(args.narratives) as temporary, temporary.open("w", encoding="utf-8") as file:
        for id, text in zip(windows["id"].tolist(), texts, strict=True):
            if not text.strip() and params.text != "none":
                raise UserError(
                    f"{args.narratives}: narrative.backend {params.backend!r} has no words for window {id} of "
                    f"{args.windows}; choose another backend in params.yaml"
                )
            file.write(json.dumps({"id": id, **origin, "text": text}, ensure_ascii=False) + "\n")
            n_words += len(text.split())
    print(
        f"{args.narratives}: {len(windows)} narratives by {params.backend}, view {params.view}, text {params.text}, "
        f"{params.corruption:.0%} of the facts swapped, {n_words / len(windows):.0f} words each"
    )


if __name__ == "__main__":
    run(main)
