#!/usr/bin/env python3
"""Is communication hidden behind backward, and does the log say so truly?

Trains the same configuration three ways in turn, round after round: overlapped, blocking (all buckets leave after backward) and with
communication stubbed. From the medians of step times:
    cost          = overlapped / stubbed                              what communication adds to a step
    hidden share  = (blocking - overlapped) / (blocking - stubbed)    by step times
    logged share  = hidden / (hidden + worked + exposed)              by the table at the end of the run's log
The last two are to agree. Usage:
    benchmarks/overlap.py [--program build/cpu/lockstep] [--ranks 2] [--rounds 7] [--steps 40] CONFIG.toml [--set key=value ...]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WAYS = {
    "overlapped": [],
    "blocking": ["--set", "train.overlap=false"],
    "stubbed": ["--set", "train.communicate=false"],
}


def run(arguments, way, folder):
    """Step times (ms) of one run without its first steps, and its mean hidden, worked and exposed communication (ms)."""
    name = f"{way}-{time.monotonic_ns()}"
    command = ["mpirun", "-n", str(arguments.ranks), arguments.program, "train", arguments.config,
               "--set", f"run.folder={folder}", "--set", f"run.name={name}", "--set", f"train.steps={arguments.steps}",
               "--set", "log.every=1", "--set", "log.evaluate_every=0", "--set", "checkpoint.every=0"]
    for setting in arguments.set:
        command += ["--set", setting]
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       OMPI_MCA_rmaps_base_oversubscribe="1")
    done = subprocess.run(command + WAYS[way], env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command + WAYS[way])}\nended with {done.returncode}:\n{done.stderr[-2000:]}")
    lines = [json.loads(line) for line in open(pathlib.Path(folder) / name / "metrics.jsonl")]
    steps = [line for line in lines if "step_ms" in line][5:]
    table = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["all"]]
    return [line["step_ms"] for line in steps], [float(word) for word in table[0][3:6]] if table else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--program", default=str(ROOT / "build/cpu/lockstep"))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()

    medians = {way: [] for way in WAYS}
    logged = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for way in WAYS:
                times, parts = run(arguments, way, folder)
                medians[way].append(statistics.median(times))
                if way == "overlapped":
                    logged.append(parts)

    def paired(a, b):
        ratios = sorted(x / y for x, y in zip(medians[a], medians[b]))
        return statistics.median(ratios), ratios[0], ratios[-1]

    hidden, worked, exposed = (statistics.median(parts[i] for parts in logged) for i in range(3))
    best = {way: statistics.median(times) for way, times in medians.items()}
    cost, cost_low, cost_high = paired("overlapped", "stubbed")
    spent = best["blocking"] - best["stubbed"]
    result = {
        "name": "overlap", "unit": "ms a step", "ranks": arguments.ranks, "rounds": arguments.rounds,
        **{way: round(value, 3) for way, value in best.items()},
        "cost": round(cost, 4), "cost_low": round(cost_low, 4), "cost_high": round(cost_high, 4),
        "hidden_share_by_steps": round((best["blocking"] - best["overlapped"]) / spent, 3) if spent > 0 else None,
        "hidden_share_by_log": round(hidden / (hidden + worked + exposed), 3) if hidden + worked + exposed > 0 else None,
        "hidden_ms": hidden, "worked_ms": worked, "exposed_ms": exposed,
        "command": " ".join(sys.argv),
        "commit": subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": subprocess.run([arguments.program, "--version"], capture_output=True, text=True).stdout.strip(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
