"""TaxiBJ+: taxi flows of Beijing on 128 x 128 cells (Liang et al. 2021, WWW), in the windows of EarthFarseer."""

from pathlib import Path

import xarray as xr

from s2kd.params import TaxiBJPlusSource
from s2kd.sources import arrays
from s2kd.sources.taxibj import check_shape, pre_cut
from s2kd.stage import UserError

N_STEPS = 12  # of a window's input and of its output
GRID = (2, 128, 128)  # inflow and outflow, rows, columns
ORIGIN = "https://github.com/easylearningscores/EarthFarseer (Dataloader_api/dataloader_taxibj_12_12.py)"
LICENCE = "not stated; not public"
CITATION = "Liang et al. (2021), Fine-grained Urban Flow Prediction, WWW"


def load(source: TaxiBJPlusSource) -> xr.Dataset:
    """Open the six arrays of inputs and outputs; each window is an event of 24 frames, with the published split.

    Values are as in the files. Whether these are taxis is not published, hence no unit; nor are dates, places or which
    way the rows run.
    """
    folder = Path(source.path)
    counts = {"train": source.n_train, "val": source.n_validation, "test": source.n_test}
    parts = []
    for split, expected in counts.items():
        paths = [folder / f"{split}_{part}_data_reshaped.npy" for part in ("input", "output")]
        for path in paths:
            if not path.is_file():
                raise UserError(
                    f"{path} is missing; TaxiBJ+ has no public download: ask the authors of {ORIGIN}, which reads "
                    "these files, and name their folder in source.path of params.yaml"
                )
        pair = [arrays.npy(path) for path in paths]
        for path, array in zip(paths, pair, strict=True):
            check_shape(str(path), array.shape, (expected, N_STEPS, *GRID))
        parts.append(("validation" if split == "val" else split, *pair))
    channels = {"in": ("", "inflow"), "out": ("", "outflow")}
    return pre_cut(parts, channels, {"source": folder.name, "license": LICENCE, "references": CITATION})
