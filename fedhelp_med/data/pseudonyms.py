"""Anonymous DICOM instances: the Basic Application Level Confidentiality Profile (DICOM PS3.15, table E.1-1).

UIDs and patient IDs become keyed hashes: whoever has the key gets the same pseudonyms again, so that what is pulled
later still belongs together; without the key nobody can confirm a guess. The table of elements is dicom-anonymizer's
(2026c). What is drawn into the pixels is not looked at.
"""

import base64
import hmac
import secrets
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.datalist import patient_key

TABLE = "dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c"
KEY_BYTES = 32
METHOD = "FedHelp: PS3.15 2026c Basic Profile, UIDs and IDs by keyed hash"

CURVES_AND_OVERLAYS = (0x5000, 0x6000)
"""Repeating groups: of these nothing is kept, which is more than the profile asks for."""

DUMMIES: dict[str, Any] = {
    "DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y", "DS": "0", "IS": "0", "UR": "anonymous",
    **dict.fromkeys(("FD", "FL"), 0.0), **dict.fromkeys(("SL", "SS", "UL", "US", "SV", "UV"), 0),
    **dict.fromkeys(("OB", "OW", "UN"), b"\0\0"),
}  # fmt: skip
"""Values by VR where the profile wants one (action D); text becomes ``ANONYMOUS``."""


def read_key(path: Path) -> bytes:
    """Read the secret key of the pseudonyms; a path that does not exist gets a new one, readable by its owner alone.

    Raises:
        InputError: the file holds fewer than 32 bytes, or cannot be read or written.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: the key cannot be read or made ({error.strerror}); name another --key-file"
        ) from None
    if len(key) < KEY_BYTES:
        raise InputError(f"{path}: {len(key)} bytes are no key; name a file of {KEY_BYTES} secret bytes or more")
    return key


class Pseudonyms:
    """Makes instances anonymous, always in the same way under the same key.

    Args:
        key: at least 32 secret bytes.

    Raises:
        InputError: the extra ``pacs`` is not installed.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._actions = _actions()

    def uid(self, original: str) -> str:
        """Return the pseudonym of a UID: a UUID-derived one (root 2.25, PS3.5 B.2)."""
        return f"2.25.{int.from_bytes(self._hash('uid', original)[:16], 'big')}"

    def patient(self, original: str) -> str:
        """Return the pseudonym of a patient ID: 16 letters and digits, one for all spellings (``patient_key``)."""
        return base64.b32encode(self._hash("patient", patient_key(original))[:10]).decode()

    def apply(self, dataset: Dataset) -> None:
        """Make an instance anonymous, in place."""
        patient = self.patient(str(dataset.get("PatientID", "") or dataset.get("PatientName", "")))
        self._clean(dataset)
        dataset.PatientID = dataset.PatientName = patient
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = METHOD
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
        code.CodeMeaning = "Basic Application Confidentiality Profile"
        dataset.DeidentificationMethodCodeSequence = Sequence([code])
        meta = dataset.file_meta
        for element in list(meta):
            if element.keyword not in ("TransferSyntaxUID", "MediaStorageSOPClassUID"):
                del meta[element.tag]  # titles of machines, private information
        meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)

    def _hash(self, kind: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{kind}:{text}".encode(), "sha256")

    def _clean(self, dataset: Dataset) -> None:
        for tag in list(dataset.keys()):
            action = self._actions.get((tag.group, tag.element))
            if tag.is_private or action == "X" or tag.group & 0xFF00 in CURVES_AND_OVERLAYS:
                del dataset[tag]
                continue
            element = dataset[tag]
            if action == "U" or (action == "D" and element.VR == "UI"):
                self._rename(element)
            elif action in ("Z", "D"):
                _blank(element, action)
            elif element.VR == "SQ":
                for item in element.value:
                    self._clean(item)

    def _rename(self, element: DataElement) -> None:
        if isinstance(element.value, MultiValue | list):
            element.value = [self.uid(str(value)) for value in element.value]
        elif element.value:
            element.value = self.uid(str(element.value))


def _blank(element: DataElement, action: str) -> None:
    """Empty an element (Z), or give it a value that says nothing (D)."""
    if element.VR == "SQ":
        element.value = Sequence()
    elif action == "Z":
        element.value = None
    else:
        element.value = DUMMIES.get(element.VR, "ANONYMOUS")


@lru_cache(maxsize=1)
def _actions() -> dict[tuple[int, int], str]:
    """Return the profile's action by tag.

    Where the profile leaves a choice by the type of the element: X/Z and X/Z/D are emptied and X/D removed, but dates
    and times, which some kinds of image must have, get a dummy (D). X/Z/U* keeps the sequence; the UIDs in it have
    actions of their own.
    """
    try:
        table = import_module(TABLE)
    except ImportError:
        raise InputError(
            "--anonymise needs dicom-anonymizer, which is not installed; install the extra `pacs`: "
            "pip install 'fedhelp-med[pacs]'"
        ) from None
    lists = {
        "X": ("X_TAGS", "X_D_TAGS"), "Z": ("Z_TAGS", "X_Z_TAGS", "X_Z_D_TAGS", "Z_D_TAGS"), "D": ("D_TAGS",),
        "U": ("U_TAGS",),
    }  # fmt: skip
    either = {tag for name in ("X_D_TAGS", "X_Z_D_TAGS", "Z_D_TAGS") for tag in getattr(table, name)}
    exact: dict[tuple[int, int], str] = {}
    for action, names in lists.items():
        for tag in (tag for name in names for tag in getattr(table, name)):
            if len(tag) == 2:  # four numbers: a repeating group
                dated = tag in either and dictionary_VR(tag) in ("DA", "DT", "TM")
                exact[tag] = "D" if dated else action
    return exact
