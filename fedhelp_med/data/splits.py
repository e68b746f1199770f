"""Splits that keep every patient in one place."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.seeds import derive_seed
from fedhelp_med.data.datalist import patient_key

Item = Mapping[str, Any]


def split_by_patient(
    items: Sequence[Item], fractions: Mapping[str, float], seed: int, stratify_key: str = "label"
) -> dict[str, list[Item]]:
    """Divide items into splits so that no patient crosses them and the classes are spread evenly.

    A patient belongs to the stratum of most of its items. The patients of a stratum, shuffled by the seed, go one
    by one to the split that lacks most of its share. The result depends on the items and the seed, not on their
    order. An item without ``patient`` is a patient of its own.

    Args:
        items: datalist items.
        fractions: share of the items per split, above 0, together 1.
        seed: of the shuffle.
        stratify_key: the key of an integer class; other values (mask paths) are not stratified.

    Returns:
        The items per split, in a fixed order.

    Raises:
        InputError: fractions that are not shares of 1, or fewer patients than splits.

    Example:
        >>> items = [{"image": f"{i}.png", "label": i % 2} for i in range(10)]
        >>> parts = split_by_patient(items, {"training": 0.8, "validation": 0.2}, seed=0)
        >>> {name: len(part) for name, part in parts.items()}
        {'training': 8, 'validation': 2}
    """
    _check_fractions(fractions)
    patients: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: str(item.get("image"))):
        patient = item.get("patient")
        key = f"image {item.get('image')}" if patient is None else f"patient {patient_key(patient)}"
        patients.setdefault(key, []).append(item)
    if len(patients) < len(fractions):
        raise InputError(
            f"splits: {len(patients)} patient(s) cannot fill {len(fractions)} splits ({', '.join(fractions)}); "
            "give more patients, say whose the images are (`fedhelp data scan --patients`), or ask for fewer splits"
        )

    def place(key: str) -> tuple[str, int, str]:
        return _stratum(patients[key], stratify_key), derive_seed(seed, "split", key), key

    chosen: dict[str, list[str]] = {split: [] for split in fractions}
    taken = dict.fromkeys(fractions, 0)
    seen = 0
    for key in sorted(patients, key=place):
        seen += len(patients[key])
        split = max(fractions, key=lambda name: fractions[name] * seen - taken[name])
        taken[split] += len(patients[key])
        chosen[split].append(key)
    _fill_empty(chosen, patients)
    return {split: [item for key in sorted(keys) for item in patients[key]] for split, keys in chosen.items()}


def _check_fractions(fractions: Mapping[str, float]) -> None:
    total = sum(fractions.values())
    if not fractions or min(fractions.values()) <= 0 or abs(total - 1) > 1e-6:
        raise InputError(
            f"splits: fractions {dict(fractions)} sum to {total:g}; give every split a share above 0, together 1"
        )


def _stratum(items: Sequence[Item], key: str) -> str:
    """The most frequent integer class of a patient's items, the smaller one of equals."""
    counts = Counter(item[key] for item in items if isinstance(item.get(key), int))
    return str(min(counts, key=lambda label: (-counts[label], label))) if counts else ""


def _fill_empty(chosen: Mapping[str, list[str]], patients: Mapping[str, list[Item]]) -> None:
    """Give a split that a small share left empty one patient (the smallest) of the split that has the most."""
    for keys in chosen.values():
        if not keys:
            donor = max(chosen.values(), key=len)
            moved = min(donor, key=lambda key: (len(patients[key]), key))
            donor.remove(moved)
            keys.append(moved)
