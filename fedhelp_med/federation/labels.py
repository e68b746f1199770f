"""Whether the sites' labels are of the kind that the bundle learns from, before anything is written."""

from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from fedhelp_med.common.errors import InputError
from fedhelp_med.federation.loading import Federation
from fedhelp_med.transforms import ImageError, LoadStudy, check_mask, check_place, image_layout


def check_labels(federation: Federation) -> None:
    """Refuse masks for a classification bundle, class indices for a segmentation bundle, and unsuitable masks.

    What the bundle learns from is the format of its output in ``metadata.json``; a bundle without one may learn from
    either. Of every site the first training mask is read.

    Raises:
        InputError: naming the site and what to change.
    """
    kinds = {name: datalist.is_segmentation for name, datalist in federation.datalists.items()}
    if len(set(kinds.values())) > 1:
        masks, indices = (", ".join(name for name in kinds if kinds[name] is kind) for kind in (True, False))
        raise InputError(
            f"sites.data: the labels of {masks} are masks, those of {indices} are class indices or missing; "
            "give all sites one kind"
        )
    expected = _output_format(federation.bundle)
    if expected is not None and federation.is_segmentation != (expected == "segmentation"):
        need, have = ("class indices", "masks") if federation.is_segmentation else ("masks", "class indices or missing")
        raise InputError(
            f"bundle: {federation.bundle.name} learns from {need}, but the sites' labels are {have}; "
            "name another bundle or change the datalists"
        )
    if not federation.is_segmentation:
        return
    for name, datalist in federation.datalists.items():
        if datalist.classes is None:
            raise InputError(
                f"sites ({name}).data: the datalist does not name the classes of its masks; "
                'declare them: "labels": {"0": "background", "1": "lesion"}'
            )
        item = datalist.splits["training"][0]
        _check_mask(name, Path(item["image"]), Path(item["label"]), len(datalist.classes))


def _output_format(bundle: Path) -> str | None:
    metadata = bundle / "configs" / "metadata.json"
    if not metadata.is_file():
        return None
    content: dict[str, Any] = ConfigParser.load_config_file(str(metadata))
    outputs: dict[str, dict[str, Any]] = content.get("network_data_format", {}).get("outputs", {})
    return next((str(output["format"]) for output in outputs.values() if "format" in output), None)


def _check_mask(site: str, image: Path, mask: Path, classes: int) -> None:
    try:
        loaded = LoadStudy(mask=True)(mask)
    except Exception as error:  # readers raise whatever their libraries raise
        raise InputError(f"sites ({site}).data: the mask {mask} cannot be read ({error}); replace it") from error
    try:
        layout = image_layout(image)
        check_mask(f"the mask {mask}", np.asarray(loaded), layout.shape, classes, channels=layout.channels)
        check_place(f"the mask {mask}", layout.space, layout.affine, image_layout(mask, mask=True).affine)
    except ImageError as error:
        raise InputError(f"sites ({site}).data: {error}") from None
