"""From a spec to a submitted job: plans, the run directory, backends."""
