"""Our runner, NVFlare's simulator and Flower's simulation on the same work: wall time, and what a site sends."""

import json
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from archives import own_network
from conftest import write_federation, write_site
from safetensors.torch import load_file

from fedhelp_med.federation.workspace import Workspace

pytestmark = pytest.mark.benchmark

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
FLOWER = CACHE / "fedhelp-med/flower-1.41.0/bin/python"
FEDHELP = [sys.executable, "-c", "from fedhelp_med.cli.main import main; main()", "run"]


def tiny(folder: Path) -> Path:
    """Write a federation that is mostly start-up."""
    return write_federation(folder, rounds=3)


def demo_sized(folder: Path) -> Path:
    """Write a federation with as many sites and studies as the demo, its networks, four rounds and no public set."""
    sites = []
    for index in range(6):
        role, training = ("small", 24) if index < 4 else ("large", 300)
        name = f"{'clinic' if role == 'small' else 'hospital'}-{'abcdab'[index]}"
        write_site(folder / name, training=training, validation=60, testing=100, seed=index)
        sites.append({"name": name, "role": role, "data": f"{name}/datalist.json"})
    content = {"name": "demo-sized", "rounds": 4, "preset": "paper", "sites": sites}
    path = folder / "federation.yaml"
    path.write_text(yaml.safe_dump(content | {"overrides": {"image_size": [64, 64]}}))
    return path


def run(*command: str, **environment: str) -> float:
    """Run a command, and return its wall time."""
    begin = time.time()
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return time.time() - begin


def largest_difference(one: Path, other: Path) -> float:
    """Return how far two files' weights are apart."""
    first, second = load_file(one), load_file(other)
    return max(float((first[key].double() - second[key].double()).abs().max()) for key in first)


@pytest.mark.parametrize("federation", [tiny, demo_sized])
def test_runtimes_side_by_side(federation, tmp_path):
    if not find_spec("nvflare") or not FLOWER.is_file():
        message = "NVFlare or Flower is not installed: make services-nvflare services-flower"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    path = str(federation(tmp_path))
    rounds = yaml.safe_load(Path(path).read_text())["rounds"]
    here, there, flower = (tmp_path / name for name in ("here", "nvflare", "flower"))
    single = run(*FEDHELP, path, "--out", str(tmp_path / "single"), "--workers", "1")
    double = run(*FEDHELP, path, "--out", str(here), "--workers", "2")
    with own_network():
        begin = time.time()
        whole = run(*FEDHELP, path, "--out", str(there), "--runtime", "nvflare-sim")
        simulator = (there / "testing.json").stat().st_mtime - begin
        app = "import sys; from flower_app import main; main(*sys.argv[1:])"
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(tmp_path)}
        third = run(str(FLOWER), "-c", app, path, str(flower), PYTHONPATH=str(Path(__file__).parent), **quiet)
    model = Workspace(here).model(rounds)
    assert largest_difference(model, Workspace(there).model(rounds)) == 0
    apart = largest_difference(model, flower / "model.safetensors")  # it averages in float32, in the order of arrival
    last = [event for event in Workspace(here).events() if event["event"] == "round"][-1]["sites"]
    (log, *_) = there.rglob("hospital-a/**/log.txt")
    nvflare = re.findall(r"_Transaction .*\(([\d,]+) bytes\)", log.read_text())[-1].replace(",", "")
    own = min(single, double)
    print(
        f"\n  {federation.__name__}, {len(last)} sites x {rounds} rounds: our runner {own:.1f} s ({single:.1f} s "
        f"with one worker, {double:.1f} s with two)\n"
        f"  NVFlare's simulator {simulator:.1f} s to the testing results ({simulator / own:.2f} times; target 3), "
        f"{whole:.1f} s with cross-site evaluation and its end\n"
        f"  Flower's simulation {third:.1f} s ({third / own:.2f} times), weights at most {apart:.1e} apart\n"
        f"  bytes that a site sends a round: ours {last['hospital-a']['bytes_sent']}, NVFlare {nvflare}, "
        f"Flower {json.loads((flower / 'flower.json').read_text())['bytes_sent']}",
        flush=True,
    )
