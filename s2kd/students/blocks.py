"""What several students are made of."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, drop a residual branch of whole samples with probability ``p``.

    What is kept is scaled by 1 / (1 − p), so that its expectation is the branch itself.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, branch: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        if self.p == 0 or not self.training:
            return branch
        keep = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) >= self.p
        return branch * keep / (1 - self.p)


def rising(drop_path: float, depth: int, first: float = 0.0) -> list[float]:
    """Drop probabilities of ``depth`` blocks, linear from ``first`` (or ``drop_path`` if less) to ``drop_path``."""
    first = min(first, drop_path)
    return [drop_path + (first - drop_path) * (depth - 1 - block) / max(depth - 1, 1) for block in range(depth)]
