"""Large-batch training on Ray: a YAML job spec in, an MLflow run out."""

__version__ = "0.1.0"
