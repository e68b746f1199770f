"""What one network teaches another, as losses of two logit tensors: ``loss(student_logits, teacher_logits)``.

A strong teacher is believed entirely (:class:`ForwardDistillationLoss`, its whole soft label); a weak one only
as to which classes are likelier than others (:class:`MarginRankingLoss`, :class:`RankNetLoss`,
:class:`ListMLELoss`, chosen by name with :func:`ranking_loss`). :class:`EmbeddingDistillationLoss` compares embeddings,
which have no classes; :func:`public_loss` is what public images teach through the task head. All others take logits
``B, C`` or ``B, C, H, W[, D]`` with C softmax channels or one sigmoid channel, keep the gradient away from the teacher,
and average over images and positions, so that a weight means the same for classification and for 2-D and 3-D
segmentation.
"""

from fedhelp_med.losses.embedding import EmbeddingDistillationLoss
from fedhelp_med.losses.forward import ForwardDistillationLoss
from fedhelp_med.losses.logits import LogitsError, as_categorical, check_pair, class_indices
from fedhelp_med.losses.public import public_loss, sum_of_terms
from fedhelp_med.losses.ranking import ListMLELoss, MarginRankingLoss, RankNetLoss, ranking_loss

__all__ = [
    "EmbeddingDistillationLoss",
    "ForwardDistillationLoss",
    "ListMLELoss",
    "LogitsError",
    "MarginRankingLoss",
    "RankNetLoss",
    "as_categorical",
    "check_pair",
    "class_indices",
    "public_loss",
    "ranking_loss",
    "sum_of_terms",
]
