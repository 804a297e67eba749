"""The terms of the distillation loss, as pure functions, and the projection that training alone needs.

``student`` is always φ(h_s), the projected student features, ``teacher`` the fused features F_T, detached and
standardised per channel over the training windows. Every loss is a mean, so that its weight does not depend on grid or
width. Sources: S²-KD, arXiv 2512.00366 (its abstract and summaries in words; the formulas are our reconstruction).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from s2kd.params import Weights
from s2kd.spectral import half_plane_mean, rfft2
from s2kd.students import Student
from s2kd.training import prediction_loss

Features = Float[Tensor, "batch width yl xl"]


def semantic_loss(student: Features, teacher: Features) -> Float[Tensor, ""]:
    """Mean over locations of 1 − cos(φ(h_s), F_T), the angle taken over channels.

    Paper gap: only "similarity between projected student features and fused features" is known.
    """
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean()


def spectral_loss(student: Features, teacher: Features) -> Float[Tensor, ""]:
    """Mean |FFT2(φ(h_s)) − FFT2(F_T)|: L1 of the complex difference, orthonormal FFT over space, full plane.

    Paper gap: "FFT and L1 on the same pair" is known; complex rather than amplitude, space rather than space-time and
    the norm are ours.
    """
    return half_plane_mean((rfft2(student) - rfft2(teacher)).abs(), student.shape[-1])


def feature_distillation_loss(student: Features, teacher: Features) -> Float[Tensor, ""]:
    """Mean (N(φ(h_s)) − N(F_T))², N = zero mean and unit deviation over space for each sample and channel.

    The standard feature-based distillation (FitNets, arXiv 1412.6550) in the form of TAM (see the README's references).
    """
    return F.mse_loss(F.instance_norm(student.float()), F.instance_norm(teacher.float()))


LOSSES = {"semantic": semantic_loss, "spectral": spectral_loss, "feature": feature_distillation_loss}


class Distillation(nn.Module):
    """A student and the linear projection φ of its features onto the teacher's, which training alone needs."""

    def __init__(self, student: Student, student_width: int, teacher_shape: tuple[int, int, int] | None) -> None:
        """Args: ``teacher_shape`` (width, y, x) of the fused features, None for a student trained alone."""
        super().__init__()
        self.student = student
        self.grid = teacher_shape[1:] if teacher_shape else None
        self.projection = nn.Conv2d(student_width, teacher_shape[0], 1) if teacher_shape else None

    def forward(
        self, inputs: Float[Tensor, "batch time_in channel y x"]
    ) -> tuple[Float[Tensor, "batch time_out channel y x"], Features | None]:
        features = self.student.features(inputs)
        projected = None
        if self.projection is not None:
            # Pooling is the identity where the two latent grids agree, as they do by default.
            projected = self.projection(F.adaptive_avg_pool2d(features, self.grid))
        return self.student.decode(features), projected


def distillation_loss(
    predictions: Float[Tensor, "batch time channel y x"],
    targets: Float[Tensor, "batch time channel y x"],
    scale: Float[Tensor, "channel 1 1"],
    projected: Features | None,
    teacher: Features | None,
    weights: Weights,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Prediction loss plus the weighted terms; a term of weight zero is not computed.

    Returns:
        The total, and each term before its weight.
    """
    terms = {"prediction": prediction_loss(predictions, targets, scale)}
    total = terms["prediction"]
    for name, loss in LOSSES.items():
        if weight := getattr(weights, name):
            terms[name] = loss(projected, teacher.detach())
            total = total + weight * terms[name]
    return total, terms
