"""Plays srun, scontrol, hostname, ray and orchestrator, by the name that it is called by, and keeps a record of it."""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

NUM_NODES = 3
FOLDER = Path(os.environ["STANDIN_FOLDER"])


def record(**fields: object) -> None:
    with (FOLDER / "record.jsonl").open("a") as stream:
        stream.write(json.dumps(fields) + "\n")


def srun(arguments: list[str]) -> int:
    options = [argument for argument in arguments if argument.startswith("--")]
    while arguments and arguments[0].startswith("--"):
        arguments = arguments[1:]
    (node,) = [option.partition("=")[2] for option in options if option.startswith("--nodelist=")]
    os.environ["STANDIN_NODE"] = node
    record(what="srun", program=arguments[0], options=options)
    os.execvp(arguments[0], arguments)


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/gcs_healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def ray(arguments: list[str]) -> int:
    variables = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    node = os.environ["STANDIN_NODE"]
    record(what="ray", node=node, arguments=arguments, **variables)
    if os.environ.get("STANDIN_RAY") == "fails":
        return 1
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    if "--head" in arguments and os.environ.get("STANDIN_RAY") != "silent":
        (port,) = [int(a.partition("=")[2]) for a in arguments if a.startswith("--dashboard-port=")]
        threading.Thread(target=HTTPServer(("127.0.0.1", port), Healthy).serve_forever, daemon=True).start()
    while not ended.wait(0.05):
        pass
    record(what="ray ended", node=node)
    return 0


def orchestrator(arguments: list[str]) -> int:
    record(what="orchestrator", arguments=arguments, storage=os.environ.get("ORCHESTRATOR_STORAGE"))
    if arguments[0] == "list":
        address = (FOLDER / "address").read_text()
        others = {"name": "other", "backend": {"kind": "ray_jobs", "address": "http://elsewhere:8265"}}
        ours = {"name": "digits", "backend": {"kind": "ray_jobs", "address": address}}
        print(json.dumps([others, {"name": "local", "backend": None}, ours]))
    if arguments[0] == "stop":
        (FOLDER / "stopped").touch()
    if arguments[0] == "submit":
        (FOLDER / "address").write_text(arguments[arguments.index("--address") + 1])
        # As a real job does, it waits until all nodes are there.
        while (FOLDER / "record.jsonl").read_text().count('"what": "ray"') < NUM_NODES:
            time.sleep(0.05)
        while os.environ.get("STANDIN_SUBMIT") == "waits" and not (FOLDER / "stopped").exists():
            time.sleep(0.05)
        return 3
    return 0


def main() -> int:
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    if name == "scontrol":
        print("one\ntwo\nthree")
        return 0
    if name == "hostname":
        print("fe80::1 127.0.0.1 10.0.0.1")
        return 0
    return {"srun": srun, "ray": ray, "orchestrator": orchestrator}[name](arguments)


sys.exit(main())
