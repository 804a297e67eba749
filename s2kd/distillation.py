"""The terms of the distillation loss, as pure functions, and the projection that training alone needs.

``student`` is always φ(h_s), the projected student features, ``teacher`` the tapped latent of the teacher, standardised
per channel over the training windows, so that 0 is a channel's mean. Every loss is a mean over elements in float32, so
that its weight does not depend on grid or width. Sources: S²-KD, arXiv 2512.00366 (its abstract and summaries in words;
the formulas are our reconstruction), and what each loss names.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from s2kd.params import Distillation, Weights
from s2kd.spectral import Axes, Features, amplitude, fields, half_plane, plane_mean
from s2kd.training import prediction_loss

Scalar = Float[Tensor, ""]
Frames = Float[Tensor, "batch time channel y x"]


def semantic_loss(student: Features, teacher: Features, distance: Literal["cosine", "l2"]) -> Scalar:
    """Mean over locations of 1 − cos(φ(h_s), F_T), the angle taken over channels, or mean (φ(h_s) − F_T)².

    Paper gap: only "similarity between projected student features and fused features" is known.
    """
    student, teacher = student.float(), teacher.float()
    if distance == "l2":
        return F.mse_loss(student, teacher)
    # F.cosine_similarity does the same in five times the time when the angle is not taken over the last dimension.
    lengths = student.square().sum(2) * teacher.square().sum(2)
    return (1 - (student * teacher).sum(2) * lengths.clamp_min(1e-12).rsqrt()).mean()


def spectral_loss(
    student: Features, teacher: Features, component: Literal["complex", "amplitude"], axes: Axes
) -> Scalar:
    """Mean |𝓕φ(h_s) − 𝓕F_T| (complex) or mean ||𝓕φ(h_s)| − |𝓕F_T|| (amplitude), 𝓕 the orthonormal FFT, full plane.

    𝓕 runs over (y, x) or over (step, y, x). The amplitude is blind to where a structure is, the complex form is not.

    Paper gap: "FFT and L1 on the same pair" is known; component, axes and norm are ours.
    """
    if component == "complex":  # 𝓕 is linear: one transform instead of two
        rows = fields(student.float() - teacher.float(), axes)
        plane = half_plane(tuple(rows.shape[1:]), rows.device)
        return plane_mean(amplitude(rows, plane), plane)
    rows = fields(student, axes)
    plane = half_plane(tuple(rows.shape[1:]), rows.device)
    return plane_mean((amplitude(rows, plane) - amplitude(fields(teacher, axes), plane)).abs(), plane)


def output_distillation_loss(
    predictions: Frames, teacher_predictions: Frames, scale: Float[Tensor, "channel 1 1"]
) -> Scalar:
    """Mean ((Ŷ_s − Ŷ_T) / σ)², with σ (``scale``) the standard deviation of each channel, forecasts in physical units.

    Response distillation (Hinton et al., arXiv 1503.02531) for regression, as in TAM (see the README's references).
    """
    return ((predictions.float() - teacher_predictions.float()) / scale).square().mean()


def feature_distillation_loss(student: Features, teacher: Features) -> Scalar:
    """Mean (N(φ(h_s)) − N(F_T))², N = zero mean and unit deviation over space for each sample, step and channel.

    The standard feature-based distillation (FitNets, arXiv 1412.6550) in the form of TAM (see the README's references).
    """
    student, teacher = student.float().flatten(1, 2), teacher.float().flatten(1, 2)
    return F.mse_loss(F.instance_norm(student), F.instance_norm(teacher))


def activation_boundary_loss(student: Features, teacher: Features, margin: float) -> Scalar:
    """Mean of (s + m)² where t ≤ 0 and s > −m, of (s − m)² where t > 0 and s < m, of 0 elsewhere.

    The student is to be on the teacher's side of 0, by a margin m (Heo et al., AAAI 2019, arXiv 1811.03233; their
    pre-activations are our latents). One tap, so that the sum over layers is gone; averaged over elements as in TAM.
    """
    side = torch.where(teacher > 0, 1.0, -1.0)
    return F.relu(margin - side * student.float()).square().mean()


def frequency_band_loss(student: Features, teacher: Features, cutoff: float, alpha: float) -> Scalar:
    """Mean (Ψ_h φ(h_s) − Ψ_h F_T)² + α · mean (Ψ_l φ(h_s) − Ψ_l F_T)², Ψ_l the radial low-pass, Ψ_h = 1 − Ψ_l.

    By Parseval it is a weighted mean over the spectrum of the difference; α = 1 gives the plain L2 distance. After SDKD
    (arXiv 2507.02939).

    Paper gap: SDKD's filters, cut-off, α and whether they act on latents or forecasts are not known.

    Args:
        cutoff: highest spatial frequency that Ψ_l lets through, in cycles a latent cell.
    """
    rows = fields(student.float() - teacher.float(), "space")
    plane = half_plane(tuple(rows.shape[1:]), rows.device)
    return plane_mean(amplitude(rows, plane).square(), plane, torch.where(plane.radius <= cutoff, alpha, 1.0))


# The terms that compare latents, by the name of their weight.
LATENT_LOSSES: dict[str, Callable[[Features, Features, Distillation], Scalar]] = {
    "semantic": lambda student, teacher, settings: semantic_loss(student, teacher, settings.semantic),
    "spectral": lambda student, teacher, settings: spectral_loss(
        student, teacher, settings.spectral, settings.spectral_axes
    ),
    "feature": lambda student, teacher, settings: feature_distillation_loss(student, teacher),
    "boundary": lambda student, teacher, settings: activation_boundary_loss(student, teacher, settings.boundary_margin),
    "band": lambda student, teacher, settings: frequency_band_loss(
        student, teacher, settings.band_cutoff, settings.band_alpha
    ),
}


def compares_latents(weights: Weights) -> bool:
    """Whether any term needs the teacher's features, and with them a projection."""
    return any(getattr(weights, name) for name in LATENT_LOSSES)


class DistilledStudent(nn.Module):
    """A student and the projection φ of its features onto the teacher's, which training alone needs.

    The student's grid is brought to the teacher's first: averaged where it is finer, interpolated where it is coarser.
    φ is a stack of 1 × 1 convolutions with GELU between them, linear at depth 1, with the steps of the teacher in
    channels and its step · width as the hidden width.

    Args:
        student: has ``feature_width`` and ``with_features(inputs, phase)``. Built before this, so that one seed gives
            the same student in every variant.
        teacher_shape: (step, width, y, x) of the teacher's features, None where no term compares latents.
    """

    def __init__(
        self, student: nn.Module, teacher_shape: tuple[int, int, int, int] | None, projection_depth: int
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher_shape = teacher_shape
        self.projection = None
        if teacher_shape is not None:
            width = teacher_shape[0] * teacher_shape[1]
            layers: list[nn.Module] = [nn.Conv2d(student.feature_width, width, 1)]
            for _ in range(projection_depth - 1):
                layers += [nn.GELU(), nn.Conv2d(width, width, 1)]
            self.projection = nn.Sequential(*layers)

    def forward(
        self, inputs: Float[Tensor, "batch time_in channel y x"], phase: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch time_out channel y x"], Float[Tensor, "batch h ys xs"], Features | None]:
        """Predictions, the student's features and, where a term compares latents, their projection."""
        predictions, features = self.student.with_features(inputs, phase)
        if self.projection is None:
            return predictions, features, None
        projected = self.projection(match_grid(features, self.teacher_shape[2:]))
        return predictions, features, projected.unflatten(1, self.teacher_shape[:2])


def match_grid(features: Float[Tensor, "batch width ys xs"], grid: tuple[int, int]) -> Float[Tensor, "batch width y x"]:
    """Average over cells where a direction has too many of them, interpolate linearly where it has too few."""
    smaller = tuple(min(sizes) for sizes in zip(features.shape[-2:], grid, strict=True))
    if smaller != tuple(features.shape[-2:]):
        features = F.adaptive_avg_pool2d(features, smaller)
    if smaller != tuple(grid):
        features = F.interpolate(features, size=tuple(grid), mode="bilinear", align_corners=False)
    return features


def unexplained(student: Features, teacher: Features) -> Float[Tensor, " batch"]:
    """1 − ⟨φ(h_s), F_T⟩² / (‖φ(h_s)‖² ‖F_T‖²) of each window: the share of the teacher's latent that φ misses.

    It is the least relative squared error over all scalings of φ, and so compares a cosine with an L2 student.
    """
    student, teacher = student.float().flatten(1), teacher.float().flatten(1)
    lengths = student.square().sum(1) * teacher.square().sum(1)
    return 1 - (student * teacher).sum(1).square() / lengths.clamp_min(1e-12)


def weight_at(progress: float, schedule: Literal["constant", "warmup", "cosine"], fraction: float) -> float:
    """Factor of all distillation weights at a fraction of training.

    Constantly 1; or from 0 to 1 in a straight line over the first ``fraction`` of training; or from 1 to 0 by half a
    cosine over all of it.
    """
    if schedule == "warmup":
        return min(1.0, progress / fraction) if fraction else 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0


def gradient_norm(loss: Scalar, features: Tensor) -> Scalar:
    """Length of the gradient of a loss with respect to features on which it depends, without touching ``.grad``."""
    (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
    return gradient.float().norm()


def distillation_loss(
    predictions: Frames,
    targets: Frames,
    scale: Float[Tensor, "channel 1 1"],
    projected: Features | None,
    teacher: Features | None,
    teacher_predictions: Frames | None,
    features: Float[Tensor, "batch h ys xs"],
    weights: Weights,
    settings: Distillation,
    progress: float,
    valid: Bool[Tensor, "batch time channel y x"] | None = None,
) -> tuple[Scalar, dict[str, Scalar]]:
    """Prediction loss plus the weighted terms; a term of weight zero is not computed.

    With ``settings.balance`` "gradient_norm" each weight is multiplied by ‖∂L_pred/∂h‖ / ‖∂L_term/∂h‖, h the student's
    features, so that a term of weight 1 pulls them as strongly as the prediction does (the adaptive weight of VQGAN,
    arXiv 2012.09841, eq. 7; GradNorm, arXiv 1711.02257, learns such weights). It costs a backward pass down to h for
    each term and for the prediction, and each process takes the ratio of its own share of the batch. h must be the very
    tensor that the predictions come from, which Accelerate's cast of outputs in mixed precision makes it not.

    Args:
        predictions, targets, teacher_predictions: physical units; the teacher's are needed by the output term alone.
        scale: the standard deviation of each channel in physical units.
        projected, features: of ``DistilledStudent``.
        teacher: the stored features of the same windows.
        progress: fraction of training that is done.
        valid: where targets are missing in places, those that are not. The teacher forecasts every cell, and so the
            output term compares all.

    Returns:
        The total, and each term before its weight.
    """
    prediction = prediction_loss(predictions, targets, scale, valid)
    terms = {}
    for name, loss in LATENT_LOSSES.items():
        if getattr(weights, name):
            terms[name] = loss(projected, teacher.detach(), settings)
    if weights.output:
        terms["output"] = output_distillation_loss(predictions, teacher_predictions.detach(), scale)
    total = prediction
    factor = weight_at(progress, settings.schedule, settings.schedule_fraction)
    balanced = settings.balance == "gradient_norm" and bool(terms)
    pull = gradient_norm(prediction, features) if balanced else None
    for name, term in terms.items():
        # A term without a gradient, such as that of a student on top of its teacher, needs no weight.
        ratio = pull / gradient_norm(term, features).clamp_min(1e-12) if balanced else 1.0
        total = total + factor * getattr(weights, name) * ratio * term
    return total, {"prediction": prediction, **terms}
