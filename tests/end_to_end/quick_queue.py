"""Starts a cluster's queue as a job of the cluster, before anybody else does: one that lets jobs grow soon."""

import ray

from orchestrator.schedule.queue.actor import HEAD_RESOURCE, NAME, NAMESPACE, QueueActor

ray.init(address="auto")
queue = (
    ray.remote(QueueActor)
    .options(
        name=NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        resources={HEAD_RESOURCE: 0.001},
    )
    .remote(grace_s=1.0, growth_pause_s=3.0)
)
ray.get(queue.leave.remote("nobody", "never"))
