"""What must not stand in a page: paths, which name files, folders, people and machines."""

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(path)"
LONGEST = 300

# A quoted text with a separator or a file's ending in it, or such a word; words between two of them go as well.
_QUOTED = r"'[^'\n]*[\\/][^'\n]*'|\"[^\"\n]*[\\/][^\"\n]*\""
_ENDING = r"\.(?:nii|dcm|dicom|png|jpe?g|tiff?|json|csv|ya?ml|npz|npy|mha|nrrd|gz|sqlite)\b\S*"
_WORD = rf"[^\s'\"]*(?:[\\/][^\s'\"]*|{_ENDING})"
_PATHS = re.compile(rf"(?:{_QUOTED}|{_WORD})(?:[^\n]*(?:{_QUOTED}|{_WORD}))?", re.IGNORECASE)


def without_paths(text: str) -> str:
    """Return the first line of a message with ``(path)`` for everything from its first path to its last."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    hidden = _PATHS.sub(HIDDEN, line)
    return hidden if len(hidden) <= LONGEST else f"{hidden[:LONGEST]}..."


def public_configuration(content: Mapping[str, Any], shipped: bool) -> dict[str, Any]:
    """Return a federation file's content without its paths.

    Args:
        content: the resolved file.
        shipped: whether ``bundle`` is the name of a shipped bundle, which may stand.
    """
    hidden: dict[str, Any] = _hide(dict(content))
    if shipped and "bundle" in content:
        hidden["bundle"] = content["bundle"]
    for section, key in (("public", "data"), ("foundation", "ledger"), ("tracking", "mlflow")):
        if isinstance(hidden.get(section), dict) and hidden[section].get(key):
            hidden[section][key] = HIDDEN
    for site in hidden.get("sites", []):
        if "data" in site:
            site["data"] = HIDDEN
    if not shipped and "bundle" in hidden:
        hidden["bundle"] = HIDDEN
    return hidden


def _hide(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hide(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_hide(entry) for entry in value]
    return without_paths(value) if isinstance(value, str) else value
