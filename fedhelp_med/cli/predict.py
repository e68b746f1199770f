"""``fedhelp predict``."""

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fedhelp_med.cli.run import quieten
from fedhelp_med.prediction import load_model, predict_source


def predict_images(model: str, source: Path, out: Path, site: str | None) -> None:
    """Predict the images of a source, and say what was found where."""
    console = Console()
    quieten()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    loaded = load_model(model, site)
    say(f"Model: {loaded.source}; {loaded.task} of {', '.join(loaded.classes)}.")
    with console.status("Predicting") as status:
        outcome = predict_source(
            loaded, source, out, lambda name, total: status.update(f"Predicting {escape(name)}, one of {total}")
        )
    say(f"{len(outcome.predicted)} image(s) predicted: {out / 'predictions.csv'}")
    if loaded.task == "classification":
        counts = Counter(row["predicted"] for row in outcome.predicted)
        say(", ".join(f"{label}: {counts[label]}" for label in loaded.classes))
    if outcome.rejected:
        say(f"{len(outcome.rejected)} entries with a reason in {out / 'rejected.csv'}")
