"""The privileged multimodal teacher: frames and text in, forecast and fused features out.

Reconstructed from the summaries of S²-KD (arXiv 2512.00366) and, for the latent evolution, of SDKD (arXiv 2507.02939);
neither paper has public code. What they leave open is marked "Paper gap".
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from s2kd.layers import Decoder, Encoder, Standardise

Latent = Float[Tensor, "batch step width yl xl"]


def to_cells(latent: Latent) -> Float[Tensor, "batch cell width"]:
    """The latent as tokens, one a step and place."""
    return latent.movedim(2, -1).flatten(1, 3)


def to_latent(cells: Float[Tensor, "batch cell width"], like: Latent) -> Latent:
    """Undo ``to_cells``, given any latent of the wanted shape."""
    _, n_steps, _, *grid = like.shape
    return cells.unflatten(1, (n_steps, *grid)).movedim(-1, 2)


class CrossModalAlignment(nn.Module):
    """Transformer block that injects text into visual features: visual queries, text keys and values.

    Both branches pass a gate tanh(g), with g = ``gate`` at first: at 0 a fresh teacher is the visual-only one and text
    enters as far as it helps (Flamingo, arXiv 2204.14198, §2.2), which takes more steps than a small record allows; at
    1 they are open. Paper gap: gates, normalisation and the order of attention and perceptron.
    """

    def __init__(self, width: int, n_heads: int, dropout: float, gate: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, n_heads, dropout=dropout, batch_first=True)
        self.attention_gate = nn.Parameter(torch.full((1,), float(gate)))
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )
        self.mlp_gate = nn.Parameter(torch.full((1,), float(gate)))

    def forward(
        self,
        visual: Float[Tensor, "batch cell width"],
        text: Float[Tensor, "batch token width"],
        is_padding: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "batch cell width"]:
        query = self.query_norm(visual)
        attended, _ = self.attention(query, text, text, key_padding_mask=is_padding, need_weights=False)
        visual = visual + torch.tanh(self.attention_gate) * attended
        return visual + torch.tanh(self.mlp_gate) * self.mlp(self.mlp_norm(visual))


class LatentEvolution(nn.Module):
    """One step of the spectrally decoupled evolution: ``z + LayerNorm(high(z) + low(z))``.

    The convolution branch, over space, acts as a high-pass, the attention branch, over space and latent steps, as a
    low-pass (SDKD). Paper gap: the residual around the sum, without which a stack of these does not train, and the
    layer norm before the branches.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.high = nn.Conv2d(width, width, 3, padding=1)
        self.low = nn.MultiheadAttention(width, n_heads, dropout=dropout, batch_first=True)
        self.sum_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, latent: Latent) -> Latent:
        cells = self.norm(to_cells(latent))
        high = to_cells(F.gelu(self.high(to_latent(cells, latent).flatten(0, 1))).unflatten(0, latent.shape[:2]))
        low, _ = self.low(cells, cells, cells, need_weights=False)
        return latent + to_latent(self.dropout(self.sum_norm(high + low)), latent)


class Teacher(nn.Module):
    """Visual encoder → cross-modal alignment with the text → latent evolution → decoder.

    Without text (zero tokens) the same network is the visual-only teacher: it attends to a learned null token alone.

    Args:
        mean, std: see ``Standardise``.
        text_width: width of the text encoder's token embeddings.
        n_steps_latent, width, stride, encoder_depth, alignment_depth, evolution_depth, n_heads, dropout, gate: see
            ``teachers`` in ``params.yaml``.
    """

    def __init__(
        self,
        mean: Float[Tensor, "phase channel y x"],
        std: Float[Tensor, "channel y x"],
        n_steps_input: int,
        n_steps_output: int,
        text_width: int,
        n_steps_latent: int,
        width: int,
        stride: int,
        encoder_depth: int,
        alignment_depth: int,
        evolution_depth: int,
        n_heads: int,
        dropout: float,
        gate: float,
    ) -> None:
        super().__init__()
        n_channels, *grid = std.shape
        self.standardise = Standardise(mean, std)
        self.steps = (n_steps_latent, n_steps_input // n_steps_latent)
        self.encoder = Encoder(self.steps[1], n_channels, tuple(grid), width, stride, encoder_depth)
        self.step_embedding = nn.Parameter(0.02 * torch.randn(n_steps_latent, width, 1, 1))
        self.text_projection = nn.Sequential(nn.Linear(text_width, width), nn.LayerNorm(width))
        # Always attended to, so that a window without text has something to attend to: all keys masked would give NaN.
        self.null_token = nn.Parameter(0.02 * torch.randn(width))
        self.alignment = nn.ModuleList(
            CrossModalAlignment(width, n_heads, dropout, gate) for _ in range(alignment_depth)
        )
        self.evolution = nn.Sequential(*[LatentEvolution(width, n_heads, dropout) for _ in range(evolution_depth)])
        self.decoder = Decoder(n_steps_output, n_channels, tuple(grid), n_steps_latent * width, stride)

    def forward(
        self,
        inputs: Float[Tensor, "batch time_in channel y x"],
        phase: Int[Tensor, " batch"],
        text: Float[Tensor, "batch token text_width"],
        text_mask: Bool[Tensor, "batch token"],
    ) -> tuple[Float[Tensor, "batch time_out channel y x"], dict[str, Latent]]:
        """Return the forecast and the latents that students may learn from, ``fused`` and ``evolved``.

        Args:
            inputs: frames in physical units.
            phase: index of the first of them in the period of ``Standardise``.
            text: token embeddings of the narrative.
            text_mask: False where a token is padding.
        """
        scores = self.standardise(inputs, phase).unflatten(1, self.steps)
        latent = self.encoder(scores.flatten(0, 1)).unflatten(0, scores.shape[:2]) + self.step_embedding
        null = self.null_token.expand(len(text), 1, -1)
        tokens = torch.cat([null, self.text_projection(text)], dim=1)
        is_padding = F.pad(~text_mask, (1, 0), value=False)
        cells = to_cells(latent)
        for block in self.alignment:
            cells = block(cells, tokens, is_padding)
        fused = to_latent(cells, latent)
        evolved = self.evolution(fused)
        predictions = self.standardise.inverse(self.decoder(evolved.flatten(1, 2)), phase + inputs.shape[1])
        return predictions, {"fused": fused, "evolved": evolved}
