"""A method's plans executed on a tiny site with a public set: the small site's guidance, from config to gradient."""

from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from methods_plans import merged, plan_of

from fedhelp_med.handlers import FoundationGuidance

pytestmark = pytest.mark.integration


def executed(site: Any, plan: Any, **changes: Any) -> Any:
    """The parser of a site that has a labelled public set, after its trainer ran an epoch."""
    parser = merged(plan)
    datalist: Path = site("private", training=8)
    options = {
        "dataset_dir": str(datalist.parent),
        "standalone": False,
        "in_channels": 1,
        "channel_dim": "no_channel",
        "class_names": ["0", "1"],
        "max_epochs": 1,
        "public_datalist": str(site("public", training=6, classes=3, seed=9)),
        **SMALL,
        **changes,
    }
    parser.update(options)
    parser.get_parsed_content("train#trainer").run()
    return parser


def test_a_small_site_is_guided_through_an_auxiliary_head_of_the_public_classes(site: Any) -> None:
    parser = executed(site, plan_of("fedhelp", "paper", "small"))
    (guidance,) = parser.get_parsed_content("method_handlers")
    trainer = parser.get_parsed_content("train#trainer")
    assert isinstance(guidance, FoundationGuidance)
    assert guidance.average > 0  # it acted
    assert guidance.network is trainer.network
    assert guidance.auxiliary.out_features == 3
    held = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(p) for module in (trainer.network, guidance.auxiliary) for p in module.parameters()}
