"""Facts of one window, computed from the frames that its view may see; `template` puts them into sentences."""

from datetime import datetime
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from s2kd.dataset import Frames, Meta
from s2kd.narratives.climatology import Climatology, filled, means, terciles, training_starts
from s2kd.narratives.fields import FieldFacts, field_facts, field_measures
from s2kd.narratives.traffic import TrafficFacts, traffic_facts, traffic_measures
from s2kd.windows import train_mask

View = Literal["history", "history_and_target"]
Facts = TrafficFacts | FieldFacts

N_SAMPLED = 256  # training windows whose terciles decide between words
N_DESCRIBED = 3  # channels that a text has room for


def n_seen(view: View, meta: Meta) -> int:
    """Frames of a window that a view may see."""
    return meta.n_steps_input + (meta.n_steps_output if view == "history_and_target" else 0)


def climatology(
    frames: Frames | Float[np.ndarray, "time channel y x"], times: pd.DatetimeIndex, windows: pd.DataFrame, meta: Meta
) -> Climatology:
    """Learn from the training windows what is usual."""
    starts = training_starts(windows, meta)
    seen = train_mask(len(frames), windows, meta.n_steps_input + meta.n_steps_output)
    mean = means(frames, times, seen, meta)
    ungraded = Climatology(mean, mean.sum(axis=(-2, -1), dtype=np.float64), {})
    measures = traffic_measures if meta.domain == "traffic" else field_measures

    def measure(start: int) -> dict[str, np.ndarray]:
        first = times[start].to_pydatetime()
        known = filled(frames[start : start + meta.n_steps_input], first, meta, ungraded)
        return measures(known, first, meta, ungraded)

    return Climatology(mean, ungraded.total, terciles(measure, starts, N_SAMPLED))


def facts(
    frames: Float[np.ndarray, "time channel y x"], start: datetime, meta: Meta, climatology: Climatology, view: View
) -> Facts:
    """Compute the facts of the window whose first frame is stamped ``start``.

    Frames are in physical units. Those that the view may not see are cut off first; missing values count as usual.
    """
    frames = filled(frames[: n_seen(view, meta)], start, meta, climatology)
    compute = traffic_facts if meta.domain == "traffic" else field_facts
    return compute(frames, start, meta, climatology, tuple(range(min(len(meta.channels), N_DESCRIBED))))
