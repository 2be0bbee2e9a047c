"""MLflow and the local spill. The only package that imports mlflow; no torch."""
