"""`orchestrator cluster up`, `down` and `status`: nodes on this machine, or machines that Ray's launcher reaches."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.figures import counted, figure
from orchestrator.cli.options import Json
from orchestrator.cli.output import aligned, emit, emit_fields, emit_json, paint, tell
from orchestrator.core.errors import OUT_OF_REACH, SUCCESS, OrchestratorError, OutOfReachError, UsageError

if TYPE_CHECKING:
    from orchestrator.launch.cluster_records import ClusterRecords
    from orchestrator.launch.dashboard import ClusterNode
    from orchestrator.launch.local_nodes import LocalClusterRecord
    from orchestrator.launch.ray_launcher import Definition

LOCAL = "local"
STATE_COLORS = {"alive": "green", "dead": "red"}

Target = Annotated[
    str,
    typer.Argument(
        metavar="[local|FILE]",
        help="local: nodes on this machine. A file for Ray's launcher: machines that are reached by SSH, or a cloud.",
    ),
]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="Of a local cluster; several may be up.")]
Nodes = Annotated[
    int | None, typer.Option("--nodes", min=0, metavar="N", help="Of a local one: besides the head. [default: 2]")
]
CpusPerNode = Annotated[
    int | None,
    typer.Option("--cpus-per-node", min=1, metavar="N", help="Of a local one: that each offers. [default: 1]"),
]
HeadCpus = Annotated[
    int | None,
    typer.Option("--head-cpus", min=0, metavar="N", help="Of a local one: that the head offers. [default: 0]"),
]

app = typer.Typer(help="Start, end and look at a Ray cluster.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def up(
    target: Target = LOCAL,
    nodes: Nodes = None,
    cpus_per_node: CpusPerNode = None,
    head_cpus: HeadCpus = None,
    name: Name = LOCAL,
) -> None:
    """Start a cluster and print what a shell needs to use it.

    `eval "$(orchestrator cluster up)"` starts nodes on this machine and makes them the cluster of the shell. They go on
    until `orchestrator cluster down`. With a file, `ray up` starts Ray on the machines that it names.
    """
    from orchestrator.launch import ray_launcher

    given = {"--nodes": nodes, "--cpus-per-node": cpus_per_node, "--head-cpus": head_cpus}
    if target == LOCAL:
        emit(_export(_up_here(name, nodes, cpus_per_node, head_cpus).environment))
        return
    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option}: is of the kind local; {target} says itself which nodes there are.")
    definition = _definition(target)
    ray_launcher.up(definition)
    address = ray_launcher.dashboard_address(definition)
    emit(_export({"RAY_API_SERVER_ADDRESS": address, "RAY_AUTH_MODE": "token"}))
    tell("The token is in ~/.ray/auth_token. Port 8265 of the head must be reachable from here, or submit on the head.")
    tell(f"The head starts the others now; `orchestrator cluster status {target}` says which have joined.")


@app.command()
def down(target: Target = LOCAL, name: Name = LOCAL) -> None:
    """End a cluster: exactly the processes that `up` has started, or Ray on all machines that a file names.

    Jobs that run on it are lost with it; `orchestrator recover` continues them on another one.
    """
    from orchestrator.launch import ray_launcher

    if target == LOCAL:
        _down_here(name)
    else:
        definition = _definition(target)
        ray_launcher.down(definition)
        if definition.addresses:
            tell(f"Ray has ended on {counted(len(definition.addresses), 'machine')}.")


@app.command()
def status(target: Target = LOCAL, name: Name = LOCAL, as_json: Json = False) -> int:
    """Print nodes, resources and addresses of a cluster.

    Exit code 5 if it does not answer, or not all of its nodes are there.
    """
    from orchestrator.launch import ray_launcher
    from orchestrator.launch.dashboard import nodes_of, token_of

    if target == LOCAL:
        return _status_here(name, as_json=as_json)
    definition = _definition(target)
    address = ray_launcher.dashboard_address(definition)
    nodes = nodes_of(address, token_of({"RAY_AUTH_MODE": "token", **os.environ}, Path.home()))
    num_missing = max(0, definition.num_nodes - sum(node.is_alive for node in nodes))
    if as_json:
        described = {"kind": "launcher", "address": address, "num_missing": num_missing}
        emit_json({**described, "nodes": list(map(asdict, nodes))})
    else:
        missing = f"{counted(num_missing, 'node')} of {definition.num_nodes}" if num_missing else None
        emit_fields({"cluster": target, "address": address, "offers": _offer(nodes), "missing": missing})
        emit("\n" + "\n".join(_node_table(nodes)))
    return OUT_OF_REACH if num_missing else SUCCESS


def _up_here(name: str, nodes: int | None, cpus_per_node: int | None, head_cpus: int | None) -> LocalClusterRecord:
    from orchestrator.launch.local_nodes import LocalCluster, end_nodes

    records = _records(name)
    with records.exclusive(name):
        if (before := records.read(name)) is not None:
            if any(node.is_alive for node in before.nodes):
                mend = f"`orchestrator cluster down --name {name}` ends it"
                raise UsageError(f"--name: the cluster {name} is up at {before.address}; {mend}.")
            end_nodes(before.nodes)
            shutil.rmtree(before.folder, ignore_errors=True)
        cluster = LocalCluster(
            num_nodes=2 if nodes is None else nodes,
            cpus_per_node=1 if cpus_per_node is None else cpus_per_node,
            head_cpus=0 if head_cpus is None else head_cpus,
            # After each node, so that a command that is killed leaves nothing that `down` could not find.
            keep_record=lambda record: records.write(name, record),
        )
        tell("starting the head and its nodes, one after another")
        try:
            cluster.start()
        except BaseException:
            cluster.stop()  # again, where an impatient Ctrl-C has interrupted it; the record goes last
            records.remove(name)
            raise
        cluster.leave_running()
    return cluster.record


def _down_here(name: str) -> None:
    from orchestrator.launch.local_nodes import end_nodes

    records = _records(name)
    with records.exclusive(name):
        record = records.read(name)
        if record is None:
            tell(f"{_unknown(name, records)} There is nothing to end.")
            return
        hosts = {node.host for node in record.nodes}
        if hosts - {socket.gethostname()}:
            raise UsageError(f"--name: {name} was started on {', '.join(sorted(hosts))}; end it there.")
        if left := end_nodes(record.nodes):
            pids = ", ".join(str(process.pid) for process in left)
            raise OrchestratorError(
                f"{name}: processes that outlive SIGKILL: {pids}; they wait for a disk or a device."
            )
        shutil.rmtree(record.folder, ignore_errors=True)
        records.remove(name)
    tell(f"{name}: {counted(len(record.nodes), 'node')} ended.")


def _status_here(name: str, *, as_json: bool) -> int:
    from orchestrator.launch.dashboard import nodes_of

    records = _records(name)
    record = records.read(name)
    if record is None:
        raise OutOfReachError(f"{_unknown(name, records)} `orchestrator cluster up --name {name}` starts one.")
    try:
        nodes, error = nodes_of(record.address, record.token), None
    except OutOfReachError as caught:
        nodes, error = [], str(caught)
    is_up = error is None and all(node.is_alive for node in record.nodes)
    if as_json:
        processes = [{**asdict(node), "is_alive": node.is_alive} for node in record.nodes]
        described = {"kind": LOCAL, "name": name, "address": record.address, "gcs_address": record.gcs_address}
        shown = {"is_up": is_up, "error": error, "environment": record.environment}
        emit_json({**described, **shown, "processes": processes, "nodes": list(map(asdict, nodes))})
    else:
        fields = {"cluster": name, "address": record.address, "GCS": record.gcs_address, "offers": _offer(nodes)}
        emit_fields({**fields, "error": error, "use it": _export(record.environment)})
        rows = [(node.role, str(node.pid), _state(node.is_alive), str(node.cpus), node.log) for node in record.nodes]
        emit("\n" + "\n".join(aligned([("ROLE", "PID", "PROCESS", "CPUS", "LOG"), *rows])))
    return SUCCESS if is_up else OUT_OF_REACH


def _records(name: str) -> ClusterRecords:
    from orchestrator.launch.cluster_records import ClusterRecords

    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UsageError(
            f"--name: {name!r} is not of the right form; lower-case letters, digits and hyphens are legal."
        )
    return ClusterRecords(os.environ)


def _definition(target: str) -> Definition:
    from orchestrator.launch.ray_launcher import read_definition

    if not Path(target).is_file():
        raise UsageError(f"{target}: no such file; give local, or a file as cluster/on_premises/cluster.yaml is one.")
    return read_definition(Path(target))


def _unknown(name: str, records: ClusterRecords) -> str:
    others = f" ({', '.join(records.names())})" if records.names() else ""
    return f"No cluster {name} is on record in {records.folder}{others}."


def _offer(nodes: Sequence[ClusterNode]) -> str | None:
    alive = [node for node in nodes if node.is_alive]
    cpus, gpus = (sum(amounts) for amounts in ([node.cpus for node in alive], [node.gpus for node in alive]))
    return f"{counted(len(alive), 'node')}, {figure(cpus)} CPUs, {figure(gpus)} GPUs" if nodes else None


def _node_table(nodes: Sequence[ClusterNode]) -> list[str]:
    rows = []
    for node in nodes:
        role = "head" if node.is_head else "worker"
        offer = (figure(node.cpus), figure(node.gpus))
        rows.append((node.node_id[:8], role, node.address, _state(node.is_alive), *offer))
    return aligned([("NODE", "ROLE", "ADDRESS", "STATE", "CPUS", "GPUS"), *rows])


def _state(is_alive: bool) -> str:
    word = "alive" if is_alive else "dead"
    return paint(word, STATE_COLORS[word])


def _export(environment: Mapping[str, Any]) -> str:
    return " ".join(["export", *(f"{name}={shlex.quote(value)}" for name, value in environment.items())])
