"""Texts that a teacher may get instead of the real narrative, which tell what it is in a text that helps."""

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

import numpy as np
import pandas as pd
from jaxtyping import Int

from s2kd.dataset import Meta
from s2kd.narratives.calendar import has_calendar
from s2kd.narratives.template import CALENDAR, Sentences, narrate_calendar
from s2kd.params import Narrative
from s2kd.stage import UserError

CONSTANT = {  # as long as a sentence of a narrative, and true of every window
    "traffic": "Traffic flows through the regions of the map as time goes by.",
    "weather": "The weather changes over the regions of the map as time goes by.",
    "fluid": "The fluid flows through the regions of the map as time goes by.",
}


def texts(
    narratives: Callable[[], Iterator[Sentences]],
    times: pd.DatetimeIndex,
    windows: pd.DataFrame,
    meta: Meta,
    params: Narrative,
) -> Iterator[str]:
    """Text of each window as ``narrative.text`` and ``narrative.corruption`` ask for it.

    Args:
        narratives: makes the sentences of the real ones, in the order of ``windows``; not called without need.

    Raises:
        UserError: data without a calendar, a window without another in its split, facts to swap in a text without.
    """
    if params.corruption and params.text != "real":
        raise UserError(
            f"params.yaml: narrative.corruption = {params.corruption} swaps facts of the real narrative, but "
            f"narrative.text = {params.text!r}; set narrative.text to real or narrative.corruption to 0"
        )
    if params.text == "calendar" and not has_calendar(meta):
        what = "is a fluid, which has no calendar" if meta.domain == "fluid" else "has no dates, hence no calendar"
        raise UserError(f"params.yaml: narrative.text = 'calendar', but {meta.dataset} {what}; choose another text")
    if params.text == "none":
        return repeat("", len(windows))
    if params.text == "constant":
        return repeat(CONSTANT[meta.domain], len(windows))
    if params.text == "calendar":
        told = narrate_calendar(times, windows, meta)
    elif params.text == "real" and not params.corruption:
        told = narratives()
    else:
        donor = donors(windows, meta.n_steps_input + meta.n_steps_output, params.seed)
        real = list(narratives())
        given = [real[index] for index in donor]
        told = given if params.text == "shuffled" else corrupt(real, given, params.corruption, params.seed)
    return (" ".join(sentences.values()) for sentences in told)


def donors(windows: pd.DataFrame, length: int, seed: int) -> Int[np.ndarray, " window"]:
    """Row of the window whose text each window gets: of its split, never itself, each row once.

    The two share no frame, unless a split of few windows makes that impossible. It depends on no view, so that views
    can be compared.

    Args:
        windows: in order of ``start``.
        length: frames of a window, those to be forecast included.
    """
    rng = np.random.default_rng(seed)
    donor = np.arange(len(windows))
    for split, rows in windows.groupby("split").indices.items():
        if len(rows) < 2:
            raise UserError(
                "params.yaml: narrative.text 'shuffled' and narrative.corruption take facts from another window of "
                f"the split, but {split!r} has only one; give it more frames or set text to real and corruption to 0"
            )
        donor[rows] = rows[_permutation(windows["start"].to_numpy()[rows], length, rng)]
    return donor


def corrupt(
    narratives: Sequence[Sentences], given: Sequence[Sentences], fraction: float, seed: int
) -> Iterator[Sentences]:
    """Replace each fact with probability ``fraction`` by the fact of the same kind in the narrative at its side.

    A fact is a sentence that is not of the `CALENDAR`. What is swapped varies by window, and whatever a fraction swaps,
    any larger fraction swaps too. A fact that the other narrative lacks (a flat map has no highest place) is left out;
    one that it tells in the same words looks untouched.
    """
    for row, (own, other) in enumerate(zip(narratives, given, strict=True)):
        swapped = np.random.default_rng([seed, row]).random(len(own)) < fraction
        mixed = {
            kind: other.get(kind) if swap and kind not in CALENDAR else sentence
            for (kind, sentence), swap in zip(own.items(), swapped, strict=True)
        }
        yield {kind: sentence for kind, sentence in mixed.items() if sentence}


def _permutation(
    starts: Int[np.ndarray, " window"], length: int, rng: np.random.Generator
) -> Int[np.ndarray, " window"]:
    """Draw a permutation and exchange the donors of a pair until none overlaps its receiver."""
    donor = rng.permutation(len(starts))
    for receiver, start in enumerate(starts):
        if abs(start - starts[donor[receiver]]) < length:
            fits = (abs(start - starts[donor]) >= length) & (abs(starts - starts[donor[receiver]]) >= length)
            if not fits.any():  # in so short a split, half of it away is as far as all can go
                return np.roll(np.arange(len(starts)), len(starts) // 2)
            partner = rng.choice(np.flatnonzero(fits))
            donor[[receiver, partner]] = donor[[partner, receiver]]
    return donor
