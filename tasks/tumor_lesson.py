"""How a network of tumour diagnosis is taught: the loss of its outlines and of its types, where they are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.spec import Experiment
from builder.targets import Target, Targets
from builder.task import Objective
from tasks.tumor_answers import Showing, grid_of, parted, shown, teaching, types_of

if TYPE_CHECKING:
    import torch

_USUAL = {"name": "usual", "params": {}}


def objective(experiment: Experiment, train: Targets) -> Objective:
    """Loss of the outlines + `type_weight` * cross-entropy of the types, each over the scans that have them."""
    import torch

    from builder import losses

    assert train.classes is not None and train.masked is not None
    outline, grid = losses.of_outlines(experiment.training.loss), grid_of(experiment.data)
    shows = Showing(train.dataset)
    taught = train.classes[teaching(train.classes, shown(train), train.masked, train.cases, shows)]
    plain = experiment.training.model_copy(update={"loss": experiment.training.loss.model_copy(update=_USUAL)})
    kinds: Any = None
    if types_of(train.num_classes) and len(taught):
        kinds = losses.of_classes(plain, taught, train.num_classes, False)

    class Lesson(torch.nn.Module):
        """A module, so that the weights of the classes go to the device with it."""

        def __init__(self) -> None:
            super().__init__()
            self.outline, self.kinds = outline, kinds

        def forward(self, output: torch.Tensor, target: Target) -> torch.Tensor:
            assert target.classes is not None and target.masks is not None and target.masked is not None
            scores, places = parted(output, grid)
            loss = output.sum() * 0.0  # a batch may have nothing to teach
            if target.masked.any():
                # To the losses a volume is a tall picture: they count every place alike.
                given, masks = (p[target.masked].flatten(1, -2)[:, None] for p in (places, target.masks))
                loss = loss + self.outline(given, masks)
            if self.kinds is not None:
                assert target.cases is not None
                known = (target.classes, target.masks.flatten(1).any(1), target.masked, target.cases)
                classes, showing, masked, cases = (tensor.cpu().numpy() for tensor in known)
                rows = torch.from_numpy(teaching(classes, showing, masked, cases, shows)).to(output.device)
                if rows.any():
                    weight = float(self.outline.type_weight)  # type: ignore[arg-type]
                    loss = loss + weight * self.kinds(scores[rows], target.classes[rows])
            return loss

    return Lesson()
