"""What one answer of a runtime costs, each measured in a process of its own, in turn."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from fedhelp_med.common.errors import FedHelpError

REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """What one answer costs in a process of its own, on one core.

    Args:
        milliseconds: the median time of one image or window.
        megabytes: the peak memory of the process, libraries included.
    """

    milliseconds: float
    megabytes: float


def measure(commands: Mapping[str, tuple[str, ...]]) -> dict[str, Cost]:
    """Run each command of ``fedhelp_med.export.measure`` several times, in turn: a noisy machine slows all alike.

    Raises:
        FedHelpError: a command fails.
    """
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(REPEATS):
        for name, command in commands.items():
            found[name].append(_measured(command))
    return {
        name: Cost(
            round(median(cost.milliseconds for cost in costs), 3), round(median(cost.megabytes for cost in costs), 1)
        )
        for name, costs in found.items()
    }


def _measured(command: tuple[str, ...]) -> Cost:
    done = subprocess.run(
        [sys.executable, "-m", "fedhelp_med.export.measure", *command],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise FedHelpError(f"the measurement of {command[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))
