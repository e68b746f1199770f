"""How good a network is on the site's own validation studies, as the run itself scored it."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedhelp_med.export.deployed import Deployed
from fedhelp_med.federation.deployment import scores


class SessionNetwork(nn.Module):
    """An onnxruntime session that stands where a network stands."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, image: Tensor) -> Tensor:
        """Return the session's logits for images ``B, C, spatial``."""
        array = np.ascontiguousarray(image.detach().cpu().numpy(), np.float32)
        return torch.from_numpy(self.session.run(None, {"image": array})[0])


def validation_score(deployed: Deployed) -> Callable[[nn.Module], float] | None:
    """Return a function that scores a network on the site's validation split; None where that cannot be done.

    The score is the one by which the run chose what the site deploys: the area under the ROC curve, or the mean Dice
    (0 to 1). It needs the studies with their labels, and a bundle whose evaluator has ``StudyResults``.
    """
    if not _has_validation(deployed):
        return None
    parser = deployed.parser("train.json")
    if "validate" not in parser:
        return None
    parser["datalist"] = str(deployed.datalist)
    parser["dataset_dir"] = str(deployed.datalist.parent)
    parser["standalone"] = False
    parser["device"] = "$torch.device('cpu')"
    parser["network"] = None  # set below
    evaluator = parser.get_parsed_content("validate#evaluator")

    def score(network: nn.Module) -> float:
        evaluator.network = network
        evaluator.run()
        if not hasattr(evaluator.state, "studies"):
            return float("nan")
        studies = evaluator.state.studies
        return float(scores(evaluator.state.study_columns, studies, torch.ones(1, len(studies), dtype=torch.float64)))

    return score


def _has_validation(deployed: Deployed) -> bool:
    if not deployed.datalist.is_file():
        return False
    items = json.loads(deployed.datalist.read_text(encoding="utf-8")).get("validation", [])
    return bool(items) and all((deployed.datalist.parent / item["image"]).exists() for item in items)
