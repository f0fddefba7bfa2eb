"""RF-DARTS (Zhang et al., arXiv 2208.08835): random features, of which only batch-norm is trained."""

from dataclasses import dataclass
from typing import ClassVar

from daas_lab.methods.method import Method


@dataclass(frozen=True, kw_only=True)
class RFDarts(Method):
    """DARTS on min_w L(w_BN, α): convolutions stay as they were drawn; batch-norms, which have gain and bias here, and
    the classifier are trained. So that a skip connection does not win for helping the others to learn.

    Known from the abstract: no code is public. A gain multiplies its operation's weight, and the two cannot be told
    apart: after the cut the gain is still there. In an operation of one's own the batch-norms are those whose names
    have `norm` in them.
    """

    title: ClassVar[str] = "RF-DARTS"
    colour: ClassVar[str] = "#663333"
    affine: ClassVar[bool] = True

    def trains_weight(self, name: str) -> bool:
        """Batch-norm and the classifier."""
        return "norm" in name or name.startswith(("stem.1.", "classifier."))
