"""A federation in Flower's simulation: its ServerApp with FedAvg, around the same site's end as NVFlare's.

``test_benchmark_runtimes.py`` runs it in Flower's own environment: ``flower_app.main(FEDERATION.yaml, OUT)``.
"""

import json
import os
from functools import cache
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from fedhelp_med.common.files import write_json
from fedhelp_med.federation.loading import Federation, load_federation
from fedhelp_med.federation.nvflare.plan import RUN_VARIABLE, plan_of
from fedhelp_med.federation.nvflare.script import Participant
from fedhelp_med.federation.nvflare.wire import REQUEST, WEIGHTS, to_arrays, to_tensors
from fedhelp_med.federation.server import Server
from fedhelp_med.federation.state import save_tensors
from fedhelp_med.federation.task import task_constants
from fedhelp_med.federation.workspace import Workspace

FILE = "FLOWER_FEDERATION"
"""Names the federation file for the processes that Ray starts."""

HELD: dict[str, Participant] = {}
"""The sites that this process worked for last; a site may be given to another process with every message."""


@cache
def the_federation() -> Federation:
    """Return the federation, read once in a process."""
    return load_federation(Path(os.environ[FILE]))


def participant(name: str, folder: Path) -> Participant:
    """Return a site's end: the one in this process if nobody else worked for it since, else one from its state."""
    owner = folder / "sites" / name / "flower-process"
    if name not in HELD or owner.read_text() != str(os.getpid()):
        federation = the_federation()
        HELD[name] = Participant(plan_of(federation, task_constants(federation)).for_site(name), name)
    owner.parent.mkdir(parents=True, exist_ok=True)
    owner.write_text(str(os.getpid()))
    return HELD[name]


def answer(message, context) -> Message:
    """Do a step at the site that the message is for."""
    site = sorted(the_federation().file.sites, key=lambda site: site.name)[context.node_config["partition-id"]]
    config = message.content["config"]
    number, step = config["server-round"], config["step"]
    arguments = [number, WEIGHTS]
    if "signals" in config:
        arguments.append({"own": json.loads(config["signals"])})
    committed = number - 1 if step == "train" else number
    request = {"part": "main", "step": step, "committed": committed, "arguments": arguments}
    arrays = to_arrays(message.content["arrays"].to_torch_state_dict())
    told, update = participant(site.name, Path(os.environ[RUN_VARIABLE])).answer({REQUEST: json.dumps(request)}, arrays)
    if "error" in told:
        raise RuntimeError(told["error"])
    content = {"metrics": MetricRecord({"num-examples": max(told["samples"], 1)})}
    if update is not None:
        content["arrays"] = ArrayRecord(to_tensors(update))
    return Message(content=RecordDict(content), reply_to=message)


client = ClientApp()
client.train()(answer)
client.evaluate()(answer)


class Counting(FedAvg):
    """FedAvg that notes how many bytes of arrays a site sends in a round."""

    sent = 0

    def aggregate_train(self, server_round, replies):
        """Aggregate, and look at the size."""
        replies = list(replies)
        self.sent = max(reply.content["arrays"].count_bytes() for reply in replies)
        return super().aggregate_train(server_round, replies)


def server_of(own: Server, workspace: Workspace) -> ServerApp:
    """Round 0's evaluation, the rounds, and the testing: what our runner does with a method without server steps."""
    app = ServerApp()
    file = the_federation().file
    count = len(file.sites)

    @app.main()
    def run(grid, context) -> None:
        strategy = Counting(min_train_nodes=count, min_evaluate_nodes=count, min_available_nodes=count)

        def ask(step: str, number: int, arrays: ArrayRecord, **told: str) -> None:
            posts = strategy.configure_evaluate(number, arrays, ConfigRecord({"step": step, **told}), grid)
            replies = grid.send_and_receive(posts, timeout=3600)
            assert len([reply for reply in replies if reply.has_content()]) == count

        first = ArrayRecord(own.weights)
        ask("evaluate", 0, first)
        result = strategy.start(
            grid,
            first,
            num_rounds=file.rounds,
            train_config=ConfigRecord({"step": "train", "signals": json.dumps(own.signals)}),
            evaluate_config=ConfigRecord({"step": "evaluate"}),
        )
        ask("test", file.rounds, result.arrays, signals=json.dumps(own.signals))
        save_tensors(workspace.root / "model.safetensors", result.arrays.to_torch_state_dict())
        write_json(workspace.root / "flower.json", {"bytes_sent": strategy.sent})

    return app


def main(path: str, out: str) -> None:
    """Run the simulation on two processes."""
    os.environ.update({FILE: path, RUN_VARIABLE: out})
    federation, workspace = the_federation(), Workspace(Path(out))
    workspace.root.mkdir(parents=True)
    # Before Ray's threads import what they need: MONAI's parser goes through sys.modules.
    own = Server(federation, task_constants(federation), workspace, dict)
    own.weights = own.initial_weights()
    federation.method.before_first_round(own)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server_of(own, workspace), client, len(federation.file.sites), backend_config=resources)
