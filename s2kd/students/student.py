"""The vision-only student: frames in, forecast out. Nothing here knows of text or of a teacher."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from s2kd.layers import Standardise
from s2kd.students.mlp_mixer import MLPMixer
from s2kd.students.resnet import ResNet
from s2kd.students.simvp import SimVP
from s2kd.students.unet import UNet

BACKBONES = {"unet": UNet, "simvp": SimVP, "resnet": ResNet, "mlp_mixer": MLPMixer}


class Student(nn.Module):
    """Standardise → pad the grid → backbone → crop → physical units.

    A backbone is built from (n_steps_input, n_steps_output, n_channels, grid, options of its own), maps standard scores
    to (standard scores, features), takes a grid whose sides its ``multiple`` divides, and tells its ``feature_width``.

    Args:
        mean, std: see ``Standardise``.
        model: one entry of ``students`` in ``params.yaml``: the ``name`` of a backbone and its options.
    """

    def __init__(
        self,
        mean: Float[Tensor, "phase channel y x"],
        std: Float[Tensor, "channel y x"],
        n_steps_input: int,
        n_steps_output: int,
        model: dict[str, Any],
    ) -> None:
        super().__init__()
        n_channels, *grid = std.shape
        options = {key: value for key, value in model.items() if key != "name"}
        self.n_steps_input, self.grid = n_steps_input, tuple(grid)
        self.standardise = Standardise(mean, std)
        self.backbone = BACKBONES[model["name"]](n_steps_input, n_steps_output, n_channels, self.grid, **options)
        self.padding = [0, -grid[1] % self.backbone.multiple, 0, -grid[0] % self.backbone.multiple]

    @property
    def feature_width(self) -> int:
        """Channels of the features that ``with_features`` returns."""
        return self.backbone.feature_width

    def with_features(
        self, inputs: Float[Tensor, "batch time_in channel y x"], phase: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch time_out channel y x"], Float[Tensor, "batch width yl xl"]]:
        """Forecast in physical units from frames in physical units, and the latent that distillation compares."""
        scores = self.standardise(inputs, phase)
        # The edge is repeated on the right and at the bottom; what the backbone says about those cells is cropped.
        padded = F.pad(scores.flatten(1, 2), self.padding, mode="replicate").unflatten(1, scores.shape[1:3])
        scores, features = self.backbone(padded)
        scores = scores[..., : self.grid[0], : self.grid[1]]
        return self.standardise.inverse(scores, phase + self.n_steps_input), features

    def forward(
        self, inputs: Float[Tensor, "batch time_in channel y x"], phase: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time_out channel y x"]:
        """Forecast in physical units from frames in physical units."""
        return self.with_features(inputs, phase)[0]
