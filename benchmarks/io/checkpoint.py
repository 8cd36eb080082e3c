#!/usr/bin/env python3
"""What does a checkpoint cost the step when a thread writes it?

Trains the same configuration with checkpoints every few steps and without, in turn, round after round. The cost of one checkpoint is the
difference of the two runs' time, divided by the number of checkpoints; it holds the copy, the agreement, and what the writing thread takes
from the cores that compute. Usage:
    benchmarks/io/checkpoint.py [--program build/cpu/lockstep] [--ranks 2] [--rounds 5] [--steps 120] [--every 10] CONFIG.toml
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def run(arguments, every, folder):
    """Seconds of all steps but the first one, the median step (ms), and what the log says of each copy (ms)."""
    name = f"every{every}-{time.monotonic_ns()}"
    command = ["mpirun", "-n", str(arguments.ranks), arguments.program, "train", arguments.config, "--set", f"run.folder={folder}",
               "--set", f"run.name={name}", "--set", f"train.steps={arguments.steps}", "--set", "log.every=1",
               "--set", "log.evaluate_every=0", "--set", "data.validation=none", "--set", f"checkpoint.every={every}"]
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       OMPI_MCA_rmaps_base_oversubscribe="1")
    done = subprocess.run(command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-2000:]}")
    lines = [json.loads(line) for line in open(pathlib.Path(folder) / name / "metrics.jsonl")]
    copies = [float(x) for x in re.findall(r"saved .*: ([0-9.]+) ms of the step", (pathlib.Path(folder) / name / "log.rank0").read_text())]
    steps = [line["step_ms"] for line in lines if "step_ms" in line]
    return lines[-1]["seconds"] - steps[0] / 1e3, statistics.median(steps), copies[:-1]  # the last one is waited for


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--program", default=str(ROOT / "build/cpu/lockstep"))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=10)
    arguments = parser.parse_args()
    checkpoints = (arguments.steps - 1) // arguments.every
    costs, steps, copies = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            seconds_with, _, copied = run(arguments, arguments.every, folder)
            seconds_without, step, _ = run(arguments, 0, folder)
            costs.append(1e3 * (seconds_with - seconds_without) / checkpoints)
            steps.append(step)
            copies += copied
    step = statistics.median(steps)
    ratios = sorted(cost / one for cost, one in zip(costs, steps))
    print(json.dumps({
        "name": "asynchronous checkpoint, share of a step", "unit": "ms", "ours": round(statistics.median(costs), 3), "peer": round(step, 3),
        "peer_name": "one step", "ratio": round(statistics.median(ratios), 4), "ratio_low": round(ratios[0], 4),
        "ratio_high": round(ratios[-1], 4), "rounds": arguments.rounds, "copy_ms": round(statistics.median(copies), 3),
        "command": " ".join(sys.argv),
        "commit": subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }))


if __name__ == "__main__":
    main()
