"""How knowledge flowed in a run: warm start, gate, loss terms, and what the foundation model itself is worth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.report.gather import RunFacts


def knowledge_lines(facts: RunFacts) -> list[str]:
    """Return what is known about the flow, a sentence each."""
    lines = [*_foundation(facts), *_start(facts), *_gate(facts), *_end(facts)]
    terms = facts.loss_terms()
    if terms:
        values = {term: [value for curve in sites.values() for _, value in curve] for term, sites in terms.items()}
        idle = [term for term, found in values.items() if not any(found)]
        lines.append(f"Terms that the method added to the sites' losses: {', '.join(sorted(terms))}.")
        if idle:
            lines.append(f"Without effect in this run (always 0): {', '.join(sorted(idle))}.")
    elif facts.rounds:
        lines.append("The method added no term to any site's loss: knowledge travelled in the exchanged weights alone.")
    return lines


def _foundation(facts: RunFacts) -> list[str]:
    section = facts.content.get("foundation")
    if not section:
        return ["No foundation model took part."]
    lines = []
    event = facts.last("warm_start")
    if event and event.get("model"):
        lines.append(f"Foundation model: {event['model']}.")
    lines.append("It was asked about the public images once, before the run. No private image was sent to it.")
    lines += _quality(facts)
    return lines


def _quality(facts: RunFacts) -> list[str]:
    """Judge the foundation model on the public labels, where they and the ledger are on this machine."""
    from fedhelp_med.foundation.coverage import cover

    section, public = facts.content["foundation"], facts.content.get("public") or {}
    files = [Path(str(public.get("data"))), Path(str(section.get("ledger")))]
    if not all(file.is_file() for file in files):
        return ["Its own quality cannot be told here: the public set or the ledger is elsewhere."]
    try:
        found = cover(files[0], files[1], section.get("model"))
    except FedHelpError:
        return ["Its own quality cannot be told here: the public set or the ledger cannot be read."]
    if found.quality is None:
        return [f"It answered {found.answered} public images. Their truth is not known, so neither is its quality."]
    quality: Any = found.quality
    told = {"accuracy": quality.accuracy, "balanced accuracy": quality.balanced_accuracy, "AUC": quality.auc}
    told |= {"Dice": quality.dice}
    numbers = ", ".join(f"{name} {value:.3f}" for name, value in told.items() if value is not None)
    return [f"Its own quality on {quality.images} labelled public images: {numbers}."]


def _start(facts: RunFacts) -> list[str]:
    event = facts.last("warm_start")
    if event is None:
        return []
    if not event.get("steps"):
        return [f"No warm start: {event.get('reason', 'the method has none')}."]
    return [f"Warm start: the first global network learned from it, or from public labels, for {event['steps']} steps."]


def _gate(facts: RunFacts) -> list[str]:
    event = facts.last("gate")
    if event is None:
        return []
    if "score" not in event:
        return [f"The gate is shut: {event.get('reason', 'no reason is recorded')}. Nothing was guided."]
    counts: Mapping[str, Any] = event.get("counts", {})
    images = f" over the counts of {len(counts)} sites" if counts else ""
    compared = f"its score on the sites' own images, which it never saw, is {event['score']:.2f}{images}"
    if event["open"]:
        return [f"The gate is open: {compared}, above the threshold of {event['threshold']:.2f}."]
    return [f"The gate is shut: {compared}, not above the threshold of {event['threshold']:.2f}. Nothing was guided."]


def _end(facts: RunFacts) -> list[str]:
    event = facts.last("distillation_ended")
    if event is None:
        return []
    return [f"From round {event['round']} on the server distilled no more: {event['reason']}."]
