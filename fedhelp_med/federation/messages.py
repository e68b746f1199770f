"""Validation errors as a person reads them: key, value, remedy."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def readable(error: ValidationError, model: type[BaseModel], content: Any, prefix: str = "") -> str:
    """Return one line per problem: ``key: value ...; remedy``."""
    return "\n".join(_line(problem, model, content, prefix) for problem in error.errors())


def _line(problem: Any, model: type[BaseModel], content: Any, prefix: str) -> str:
    location: tuple[str | int, ...] = problem["loc"]
    key = prefix + _dotted(location, content)
    value = problem["input"]
    kind: str = problem["type"]
    context: Mapping[str, Any] = problem.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
        return f"{key}: {value!r}: unknown key; {hint} (or remove it)"
    if kind == "missing":
        return f"{key}: is missing; add it"
    if kind == "literal_error":
        return f"{key}: {value!r} is unknown; choose {context['expected']}"
    if kind in ("int_type", "float_type", "int_from_float", "int_parsing"):
        number = "a whole number" if "int" in kind else "a number"
        return f"{key}: {value!r} is not {number}; write {number} without quotes"
    if kind in ("greater_than_equal", "greater_than"):
        bound = f"at least {context['ge']}" if "ge" in context else f"more than {context['gt']}"
        return f"{key}: {value!r} is too small; it has to be {bound}"
    if kind == "string_pattern_mismatch":
        return f"{key}: {value!r} is not a usable name; use up to 64 letters, digits, '.', '_' and '-'"
    if kind in ("too_short", "string_too_short"):
        return f"{key}: {value!r} is empty; give at least one entry"
    if kind in ("model_type", "model_attributes_type", "dict_type", "list_type", "string_type"):
        wanted = {"list_type": "a list", "string_type": "text"}.get(kind, "a mapping of keys to values")
        return f"{key}: {value!r} is not {wanted}; write {wanted} here"
    return f"{key}: {value!r}: {problem['msg']}; correct it"


def _dotted(location: Sequence[str | int], content: Any) -> str:
    """``sites[1](hospital-b).role``: list entries carry their name, where they have one."""
    text = ""
    for part in location:
        if isinstance(part, int):
            entry = content[part] if isinstance(content, list) and part < len(content) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            text += f"[{part}]" + (f" ({name})" if isinstance(name, str) else "")
            content = entry
        else:
            text += f".{part}" if text else part
            content = content.get(part) if isinstance(content, dict) else None
    return text or "file"


def _known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = (annotation, *get_args(annotation))
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)
