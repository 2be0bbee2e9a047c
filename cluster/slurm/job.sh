#!/usr/bin/env bash
# One job on nodes of a Slurm cluster: starts Ray on all of them, hands the job to it, and ends with the job's exit code.
#
#   sbatch --nodes=4 cluster/slurm/job.sh job.yaml --set resources.workers=4
#
# What follows the spec goes to `orchestrator submit`. The storage (ORCHESTRATOR_STORAGE, or --storage) must be a folder
# that all nodes share, and `ray` and `orchestrator` must be on the PATH of the nodes. Before the time is up the job is
# asked to stop with a checkpoint; the same sbatch with --resume continues it.
#SBATCH --job-name=orchestrator
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --output=orchestrator-%j.log
set -euo pipefail

if [ "$#" -lt 1 ]; then
    echo "usage: sbatch job.sh SPEC [options of orchestrator submit]" >&2
    exit 2
fi
spec=$1
shift
storage=${ORCHESTRATOR_STORAGE:-$PWD/runs}
arguments=("$@")
for ((i = 0; i < ${#arguments[@]}; i++)); do
    case ${arguments[i]} in
        --storage) storage=${arguments[i + 1]} ;;
        --storage=*) storage=${arguments[i]#--storage=} ;;
    esac
done
export ORCHESTRATOR_STORAGE=$storage

# Ports that other jobs on the same node would not take at the same time: 6379, 8265, 52365 and 10001 are everybody's.
offset=$((SLURM_JOB_ID % 1000))
port=$((20000 + offset))
dashboard_port=$((21000 + offset))
agent_port=$((22000 + offset))
client_port=$((23000 + offset))

# A token of this job's own: other users of the cluster can reach the ports. In the environment, not in a command line.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=${nodes[0]}
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head_node" hostname --ip-address | tr ' ' '\n' | grep -v : | head -n 1)
address=http://$head_ip:$dashboard_port

resources=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}")
if [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then
    resources+=(--num-gpus="$SLURM_GPUS_ON_NODE")
fi

steps=()
following=
# shellcheck disable=SC2329  # called by a trap
end_ray() {
    # A step ends with its srun, and all that it has started with it.
    for step in "${steps[@]}"; do
        kill -TERM "$step" 2>/dev/null || true
    done
    wait "${steps[@]}" 2>/dev/null || true
}
trap end_ray EXIT

# shellcheck disable=SC2329  # called by a trap
stop_job() {
    if [ -z "$following" ]; then
        echo "the time was up before Ray was" >&2
        exit 3
    fi
    # The newest job that was handed to this cluster, which may be about to be.
    local name=
    while [ -z "$name" ] && kill -0 "$following" 2>/dev/null; do
        sleep 1
        name=$(orchestrator list --storage "$storage" --json |
            python3 -c 'import json, sys
jobs = [job for job in json.load(sys.stdin) if (job.get("backend") or {}).get("address") == sys.argv[1]]
print(jobs[0]["name"] if jobs else "")' "$address") || name=
    done
    if [ -n "$name" ]; then
        orchestrator stop "$name" --storage "$storage" --timeout 240 &
    fi
}
trap stop_job USR1 TERM

start_ray() {
    local node=$1
    shift
    # A step has one CPU unless it asks for more: it does not look at what the job has.
    srun --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --nodelist="$node" --overlap \
        ray start --block --disable-usage-stats --dashboard-agent-listen-port="$agent_port" "${resources[@]}" "$@" &
    steps+=("$!")
}

start_ray "$head_node" --head --node-ip-address="$head_ip" --port="$port" \
    --include-dashboard=true --dashboard-host="$head_ip" --dashboard-port="$dashboard_port" \
    --ray-client-server-port="$client_port"

# The one question that Ray answers without the token.
is_up() {
    python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' \
        "$address/api/gcs_healthz" 2>/dev/null
}
until is_up; do
    if [ "$SECONDS" -gt "${RAY_START_TIMEOUT_S:-300}" ] || ! kill -0 "${steps[0]}" 2>/dev/null; then
        echo "ray did not start on $head_node; its words are above." >&2
        exit 5
    fi
    sleep 1
done
for node in "${nodes[@]:1}"; do
    start_ray "$node" --address="$head_ip:$port"
done

orchestrator submit "$spec" --address "$address" --follow "$@" &
following=$!

# A signal ends `wait` early, so it waits until the command itself has ended.
code=0
while kill -0 "$following" 2>/dev/null; do
    wait "$following" && code=0 || code=$?
done
exit "$code"
