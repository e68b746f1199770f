"""The federation file: what may stand in it. ``loading`` reads and checks one."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedhelp_med.methods import Role

Weighting = Literal["samples", "uniform", "role-balanced"]
BatchNorm = Literal["average", "keep-local"]
Upload = Literal["weights", "differences"]


class Section(BaseModel):
    """A mapping of the file: unknown keys are refused, text is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Runtime(Section):
    """How the run uses the machine.

    Args:
        threads: torch threads of each site; part of the numbers.
        workers: processes that share the sites; not part of the numbers.
        site_timeout: seconds after which a site's training step is given up, checked between iterations.
    """

    threads: int = Field(1, ge=1)
    workers: int = Field(1, ge=1)
    site_timeout: float | None = Field(None, gt=0)


class Aggregation(Section):
    """How updates become the new global model.

    Args:
        weighting: ``samples`` (n_i / n), ``uniform``, or ``role-balanced`` (each role half, inside it by samples).
        minimum_sites: the quorum; with fewer updates the run stops.
        batch_norm: what happens to batch-normalisation layers of a user's own network.
        upload: full ``weights`` or ``differences`` to the downloaded ones.
    """

    weighting: Weighting = "samples"
    minimum_sites: int = Field(1, ge=1)
    batch_norm: BatchNorm = "average"
    upload: Upload = "weights"


class RoleNetwork(Section):
    """Another network than the bundle's: MONAI config, and the name of the module that gives the logits."""

    network: dict[str, Any]
    head: str = Field(min_length=1)


class Roles(Section):
    """Networks by role. ``small`` is the exchanged network, at every site."""

    small: RoleNetwork | None = None
    large: RoleNetwork | None = None


class Public(Section):
    """The public set: a datalist whose ``training`` items may have no labels."""

    data: str = Field(min_length=1)


class Foundation(Section):
    """The foundation model's answers.

    Args:
        ledger: that holds them.
        model: whose, where it holds several models'.
        calibrate: divide logits by the temperature that suits the public labels.
        follow_quality: multiply the weight of guidance by how good the model is on the public labels (0 to 1).
    """

    ledger: str = Field(min_length=1)
    model: str | None = None
    calibrate: bool = False
    follow_quality: bool = False


class Tracking(Section):
    """Where training can be watched; not part of the numbers.

    Args:
        tensorboard: write TensorBoard events into each site's folder.
        mlflow: URI of an MLflow tracking server, or of its database.
    """

    tensorboard: bool = False
    mlflow: str | None = Field(None, min_length=1)


class Site(Section):
    """A site: its name, its role and its datalist."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    role: Role
    data: str = Field(min_length=1)


class FederationFile(Section):
    """The file as it is written. Paths count from the file's own folder.

    Args:
        settings: of the method, over its preset's.
        overrides: constants of the bundle (``batch_size``, ``image_size``, ...), MONAI config by id.
        reference: a method that is trained beside for comparison; its rows in ``metrics.csv`` are called ``local``.
    """

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0)
    rounds: int = Field(ge=1)
    local_epochs: int = Field(1, ge=1)
    method: str = "fedhelp"
    preset: Literal["paper", "recommended"] = "recommended"
    settings: dict[str, Any] = Field(default_factory=dict)
    bundle: str = "fedhelp_classification"
    overrides: dict[str, Any] = Field(default_factory=dict)
    runtime: Runtime = Field(default_factory=Runtime)
    aggregation: Aggregation = Field(default_factory=Aggregation)
    roles: Roles = Field(default_factory=Roles)
    public: Public | None = None
    foundation: Foundation | None = None
    reference: Literal["local"] | None = None
    tracking: Tracking = Field(default_factory=Tracking)
    sites: list[Site] = Field(min_length=1)

    def resolved(self, base: Path) -> "FederationFile":
        """Return a copy whose paths are absolute, counted from ``base``."""

        def absolute(path: str) -> str:
            return str((base / Path(path).expanduser()).resolve())

        changes: dict[str, Any] = {
            "sites": [site.model_copy(update={"data": absolute(site.data)}) for site in self.sites]
        }
        if self.public:
            changes["public"] = self.public.model_copy(update={"data": absolute(self.public.data)})
        if self.foundation:
            changes["foundation"] = self.foundation.model_copy(update={"ledger": absolute(self.foundation.ledger)})
        if (base / self.bundle).is_dir():
            changes["bundle"] = absolute(self.bundle)
        return self.model_copy(update=changes)
