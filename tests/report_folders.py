"""Run folders and comparisons as they lie on disk, made up: any number of sites and rounds in a moment."""

import json
from pathlib import Path

import numpy as np
import yaml

CLASSES = ("normal", "lesion")
TISSUES = ("grey_matter", "white_matter")


def make_run(
    folder: Path,
    small: int,
    large: int,
    rounds: int,
    *,
    masks: bool = False,
    reference: bool = True,
    name: str = "made up",
    studies: int = 40,
) -> Path:
    """Write a finished run; its data lie elsewhere, and one site failed in round 1."""
    random = np.random.default_rng(0)
    sites = [(f"small-{i:02d}", "small") for i in range(small)] + [(f"large-{i:02d}", "large") for i in range(large)]
    metrics = ("dice_grey_matter", "dice_mean", "dice_white_matter") if masks else ("accuracy", "auc")
    lines = ["round,site,role,model,split,metric,value"]
    for number in range(rounds + 1):
        for site, role in sites:
            for model in _models(role, number, reference):
                for metric in metrics:
                    value = 0.6 + 0.3 * number / rounds + random.normal(0, 0.02)
                    lines.append(f"{number},{site},{role},{model},validation,{metric},{value:.6f}")
    for site, role in sites:
        for model in (*_models(role, 1, reference), "deployed"):
            for metric in metrics:
                value = (0.65 if model == "local" else 0.85) + random.normal(0, 0.03)
                lines.append(f"{rounds},{site},{role},{model},testing,{metric},{value:.6f}")
        _studies(folder / "sites" / site / "studies" / "deployed.csv", random, masks, studies)
        _json(folder / "sites" / site / "flops.json", {"1": 10**9})
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    _json(folder / "testing.json", {"metrics": []})
    content = {
        "name": name,
        "seed": 7,
        "rounds": rounds,
        "method": "fedhelp",
        "preset": "recommended",
        "bundle": "fedhelp_segmentation" if masks else "fedhelp_classification",
        "public": {"data": "/private/public/secret.json"},
        "foundation": {"ledger": "/private/secret.sqlite"},
        "sites": [{"name": site, "role": role, "data": f"/private/{site}/secret.json"} for site, role in sites],
    }
    (folder / "federation.yaml").write_text(yaml.safe_dump(content))
    events = "\n".join(json.dumps({"time": "2026-01-01T10:00:00+0000", **event}) for event in _events(sites, rounds))
    (folder / "events.jsonl").write_text(events + "\n")
    return folder


def _models(role: str, number: int, reference: bool) -> tuple[str, ...]:
    if not number:
        return ("global",)
    own = ("surrogate", "global") if role == "small" else ("proxy", "large", "global")
    return (*own, "local") if reference else own


def _events(sites, rounds: int):
    yield {"event": "warm_start", "round": 0, "steps": 600, "model": "F 1"}
    yield {"event": "gate", "round": 0, "score": 0.5891, "threshold": 0.45, "open": True, "counts": {}}
    if len(sites) > 1:
        error = "RuntimeError: cannot read '/private/John Smith/ct.nii.gz'".replace("cannot read ", "")
        yield {
            "event": "site_failed",
            "round": 1,
            "site": sites[1][0],
            "step": "train",
            "error": error,
            "traceback": "x",
        }
    for number in range(1, rounds + 1):
        told = {}
        for site, role in sites:
            terms = {"forward": (number - 1) / 100, "ranking": 0.0} if role == "large" else {}
            told[site] = {"seconds": 1.5, "bytes_sent": 1_000_000, "loss": 0.5, "loss_terms": terms}
        yield {"event": "round", "round": number, "seconds": 3.0, "sites": told}
    for site, role in sites:
        rule = "surrogate + global" if role == "small" else "large + global"
        other = {"score": 0.83, "difference": 0.03, "standard_error": 0.01}
        yield {
            "event": "deployment",
            "round": rounds,
            "site": site,
            "networks": rule.split(" + ") if role == "small" else ["local"],
            "default": role == "small",
            "evidence": {rule: {"score": 0.8}, "local": other},
        }
    yield {"event": "finished", "round": rounds, "software": {"Python": "3.11.2", "torch": "2.13.0"}}


def _studies(path: Path, random: np.random.Generator, masks: bool, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if masks:
        lines = ["study," + ",".join(f"dice_{name}" for name in TISSUES)]
        lines += [f"{i},{random.uniform(0.4, 1):.6g},{random.uniform(0.2, 1):.6g}" for i in range(count)]
    else:
        lines = ["study,label," + ",".join(f"p({name})" for name in CLASSES)]
        for index in range(count):
            probability = float(np.clip(0.3 + 0.4 * (index % 2) + random.normal(0, 0.2), 0.01, 0.99))
            lines.append(f"{index},{index % 2},{1 - probability:.6g},{probability:.6g}")
    path.write_text("\n".join(lines) + "\n")


def _json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def make_comparison(folder: Path, methods=("local", "fedavg", "fedhelp"), seeds=(0, 1), split: str = "testing") -> Path:
    """Write a finished comparison of two small sites and a large one."""
    for method in methods:
        for seed in seeds:
            make_run(folder / "cells" / method / f"seed-{seed}", small=2, large=1, rounds=2, reference=False)
    roles = {"small-00": "small", "small-01": "small", "large-00": "large"}
    level = dict(zip(methods, (0.6, 0.7, 0.8, 0.85), strict=False))
    values = [[[level[method] + seed / 50, 0.5, 0.9] for seed in seeds] for method in methods]
    gains = [
        {"method": method, "site": site, "role": role, "local": 0.6, "deployed": level[method]}
        | {"gain": level[method] - 0.6, "low": level[method] - 0.7, "high": level[method] - 0.5}
        for method in methods
        for site, role in roles.items()
    ]
    titles = ("Small sites", "Large sites", "Disparity", "Gain of each site", "Cost", "All networks")
    content = {"columns": ["method", "detect-\nable"], "rows": [["fedhelp", "0.1"]], "notes": ["n"], "text": [0]}
    sheets = [{"title": title, **content} for title in titles]
    suffix = "" if split == "testing" else f"-{split}"
    content = {"name": "made up", "key": "auc", "split": split, "methods": methods, "reference": methods[-1]}
    content |= {"seeds": seeds, "roles": roles, "values": values, "gains": gains, "sheets": sheets}
    _json(folder / f"comparison{suffix}.json", content)
    (folder / "comparison.csv").write_text("method,seed,site,role,model,metric,value\n")
    return folder
