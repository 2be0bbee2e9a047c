"""One script per question; results lie beside them as <theme>_<hardware>_<date>.md."""
