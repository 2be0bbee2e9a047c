"""The shared queue of a cluster: a pure core that decides, an actor that keeps it, a seat for each driver."""
