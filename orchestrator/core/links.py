"""What connects a shard with the workers, handed over by whoever starts it."""

from __future__ import annotations

from dataclasses import dataclass, field
from queue import SimpleQueue

from orchestrator.core.message_store import MessageStore
from orchestrator.core.newest import Newest
from orchestrator.core.served import Event, ShardPort


@dataclass(frozen=True, kw_only=True)
class ShardLinks:
    """A shard's links; those of rank 0 hear of the workers."""

    port: ShardPort
    nodes: tuple[str, ...]
    """The node of each worker when the attempt began."""
    store: MessageStore = field(default_factory=MessageStore)
    """Messages for this shard."""
    events: SimpleQueue[Event | None] = field(default_factory=SimpleQueue)
    """What happens, from any thread; None is the end."""
    newest: Newest = field(default_factory=Newest)
    """Asynchronous training: the weights of workers that begin."""

    @property
    def num_workers(self) -> int:
        """Workers of the job, dead ones included."""
        return len(self.nodes)
