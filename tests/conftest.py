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
# A shell in the background has SIGINT ignored, nohup SIGHUP; every process that the tests start would inherit that,
# and signals are what several tests are about. With a handler here, those processes start with the default.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)
