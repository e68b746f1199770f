"""A demo's federation with a stand-in foundation model that was trained for longer: what a better model is worth.

``python tests/experiments/better_model.py DEMO STEPS``: DEMO is a folder of ``fedhelp demo``. It trains another
stand-in on the same images, asks it about the same public set, and writes ``DEMO/data/federation-STEPS.yaml`` for
``fedhelp compare``.
"""

import argparse
import json
from pathlib import Path

import yaml

from fedhelp_med.cli.run import quieten
from fedhelp_med.common.files import write_text
from fedhelp_med.foundation import acquire, load_local_model, train_stand_in


def main() -> None:
    """Train it and write the federation file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("steps", type=int)
    given = parser.parse_args()
    quieten()
    data = given.demo / "data"
    first = data / "foundation" / "foundation.json"
    made = json.loads(first.read_text(encoding="utf-8"))["provenance"]
    longer = train_stand_in(
        data / "foundation" / "datalist.json",
        data / f"foundation-{given.steps}",
        seed=made["seed"],
        steps=given.steps,
        batch_size=made["batch_size"],
        threads=1,
        input=load_local_model(first).input,
    )
    ledger = data / f"knowledge-{given.steps}.sqlite"
    acquire(data / "public" / "datalist.json", load_local_model(longer), ledger)
    content = yaml.safe_load((data / "federation.yaml").read_text(encoding="utf-8"))
    path = data / f"federation-{given.steps}.yaml"
    write_text(path, yaml.safe_dump(content | {"foundation": {"ledger": ledger.name}}, sort_keys=False))
    found = json.loads(longer.read_text(encoding="utf-8"))["provenance"]["validation"]
    print(path, " ".join(f"{name} {value:.3f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
