"""What all tests share."""

import os
import signal
import sys
from pathlib import Path

# Several test processes share few cores; one thread each is faster and repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))
# A shell that starts the tests in the background has SIGINT ignored, every process that they start would inherit it,
# and Ctrl-C is what several tests are about.
signal.signal(signal.SIGINT, signal.default_int_handler)
