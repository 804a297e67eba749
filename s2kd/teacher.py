"""The privileged multimodal teacher: frames and text in, forecast and fused features out.

Reconstructed from the summaries of S²-KD (arXiv 2512.00366) and, for the latent evolution, of SDKD (arXiv 2507.02939);
neither paper has public code. What they leave open is marked "Paper gap".
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from s2kd.layers import Decoder, Encoder, Standardise


class CrossModalAlignment(nn.Module):
    """Transformer block that injects text into visual features: visual queries, text keys and values.

    Gates start at zero, so that a fresh teacher is the visual-only one and text enters as far as it helps
    (Flamingo, arXiv 2204.14198, §2.2). Paper gap: gates, normalisation and the order of attention and perceptron.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, n_heads, dropout=dropout, batch_first=True)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )
        self.mlp_gate = nn.Parameter(torch.zeros(1))

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

    The convolution branch acts as a high-pass, the attention branch as a low-pass (SDKD). Paper gap: the residual
    around the sum, without which a stack of these does not train, and the layer norm before the branches.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.high = nn.Conv2d(width, width, 3, padding=1)
        self.low = nn.MultiheadAttention(width, n_heads, dropout=dropout, batch_first=True)
        self.sum_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, latent: Float[Tensor, "batch width y x"]) -> Float[Tensor, "batch width y x"]:
        grid = latent.shape[-2:]
        cells = self.norm(latent.flatten(2).transpose(1, 2))
        high = F.gelu(self.high(cells.transpose(1, 2).unflatten(2, grid))).flatten(2).transpose(1, 2)
        low, _ = self.low(cells, cells, cells, need_weights=False)
        evolved = self.dropout(self.sum_norm(high + low))
        return latent + evolved.transpose(1, 2).unflatten(2, grid)


class Teacher(nn.Module):
    """Visual encoder → cross-modal alignment with the text → latent evolution → decoder.

    Args:
        mean, std: (channel, y, x), see ``Standardise``.
        text_width: width of the text encoder's token embeddings.
        width, stride, encoder_depth, alignment_depth, evolution_depth, n_heads, dropout: see ``teacher.model`` in
            ``params.yaml``.
    """

    def __init__(
        self,
        mean: Float[Tensor, "channel y x"],
        std: Float[Tensor, "channel y x"],
        n_steps_input: int,
        n_steps_output: int,
        text_width: int,
        width: int,
        stride: int,
        encoder_depth: int,
        alignment_depth: int,
        evolution_depth: int,
        n_heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        n_channels, *grid = mean.shape
        self.standardise = Standardise(mean, std)
        self.encoder = Encoder(n_steps_input, n_channels, tuple(grid), width, stride, encoder_depth)
        self.text_projection = nn.Sequential(nn.Linear(text_width, width), nn.LayerNorm(width))
        # Always attended to, so that a window without text has something to attend to: all keys masked would give NaN.
        self.null_token = nn.Parameter(0.02 * torch.randn(width))
        self.alignment = nn.ModuleList(CrossModalAlignment(width, n_heads, dropout) for _ in range(alignment_depth))
        self.evolution = nn.Sequential(*[LatentEvolution(width, n_heads, dropout) for _ in range(evolution_depth)])
        self.decoder = Decoder(n_steps_output, n_channels, tuple(grid), width, stride)

    def forward(
        self,
        inputs: Float[Tensor, "batch time_in channel y x"],
        text: Float[Tensor, "batch token text_width"],
        text_mask: Bool[Tensor, "batch token"],
    ) -> tuple[Float[Tensor, "batch time_out channel y x"], Float[Tensor, "batch width yl xl"]]:
        """Return the forecast and the fused features.

        Args:
            inputs: frames in physical units.
            text: token embeddings of the narrative.
            text_mask: False where a token is padding.
        """
        latent = self.encoder(self.standardise(inputs))
        grid = latent.shape[-2:]
        null = self.null_token.expand(len(text), 1, -1)
        tokens = torch.cat([null, self.text_projection(text)], dim=1)
        is_padding = F.pad(~text_mask, (1, 0), value=False)
        cells = latent.flatten(2).transpose(1, 2)
        for block in self.alignment:
            cells = block(cells, tokens, is_padding)
        fused = cells.transpose(1, 2).unflatten(2, grid)
        return self.standardise.inverse(self.decoder(self.evolution(fused))), fused
