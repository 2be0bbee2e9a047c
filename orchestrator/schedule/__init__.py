"""The job's driver inside the cluster. The only package that imports Ray."""
