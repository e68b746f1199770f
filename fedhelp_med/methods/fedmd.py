"""FedMD: consensus on public images instead of shared weights (Li and Wang 2019, arXiv 1910.03581)."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from fedhelp_med.handlers import PublicConsensus
from fedhelp_med.methods.base import Method, Role, RolePlan, Settings, handler


class FedMDSettings(Settings):
    """Settings of FedMD.

    Args:
        images: public images that are asked about in a round, others in each.
        passes: how often a network sees them while it approaches the consensus.
        digest_rate: the learning rate of that.
    """

    images: int = Field(64, ge=1)
    passes: int = Field(2, ge=1)
    digest_rate: float = Field(1e-3, gt=0)


class FedMD(Method):
    """Every site keeps a network of its own size; only predictions on public images travel.

    - after a round: ``z_k(x_p)`` on the next round's public images is sent; the server's consensus is
      ``z(x_p) = sum_k w_k z_k(x_p)`` with the federation's weighting (the paper: 1 / K);
    - in a round: digest ``mean |z_k(x_p) - z(x_p)|``, then revisit ``CE(f_k(x), y)`` on the private data.

    The paper's transfer phase (training on public labels before the first round) is left to those who have public
    labels of the task; the consensus needs none.
    """

    name = "fedmd"
    settings_type = FedMDSettings
    exchange = "predictions"
    keeps_optimizer = True
    settings: FedMDSettings

    def plan(self, role: Role) -> RolePlan:
        """Return the plan of the one network that the site trains: the small or the large one."""
        swapped = {"network_def": "@large_network_def", "head": "@large_head"} if role == "large" else {}
        return RolePlan(
            trained="own",
            handlers=(
                handler(
                    PublicConsensus,
                    _disabled_="$@public_datalist is None",
                    network="@network",
                    dataset="@consensus#dataset",
                    images=self.settings.images,
                    passes=self.settings.passes,
                    batch_size="@public#batch_size",
                    learning_rate=self.settings.digest_rate,
                ),
            ),
            overlay={**swapped, "consensus": {"dataset": PLAIN_PUBLIC}},
            deployed=("own",),
        )


PLAIN_PUBLIC: Mapping[str, Any] = {
    "_target_": "CacheDataset",
    "data": "$[] if @public#knowledge is None else [{'image': item['image']} for item in @public#knowledge.items]",
    "transform": {
        "_target_": "Compose",
        "transforms": "$[step for step in @public#preprocessing.transforms "
        "if not isinstance(step, monai.transforms.RandomizableTrait)]",
    },
    "progress": False,
}
"""The public images as the bundle prepares them, but without augmentation: all sites have to mean the same pixels."""
