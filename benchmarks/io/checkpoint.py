#!/usr/bin/env python3
"""What does a checkpoint cost the step when a thread writes it?

Trains with a checkpoint every few steps. metrics.jsonl tells when each step ended. The first half of the steps after a checkpoint was begun
holds all of it: the check that ranks agree, the copy, the agreement in each step, and what the writing thread takes from the cores that
compute (the log says when a checkpoint was on disk; one that took longer is an error). The second half holds none. The cost is the time
of the first half less that of the second, of each checkpoint by itself, so that a machine which drifts matters little; as a share of one step. The
same half of a run without checkpoints, taken in turn, shows what the method finds where there is nothing. Usage:
    benchmarks/io/checkpoint.py [--program build/cpu/lockstep]… [--ranks 2] [--rounds 5] [--steps 240] [--every 20] CONFIG.toml
Several programs take turns, and each has a line; the runs without checkpoints are the first one's.
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


def run(arguments, program, every, folder):
    """Costs in steps, one a checkpoint (or where there would be one); the mean quiet step (ms); what the log says of each copy (ms)."""
    name = f"every{every}-{time.monotonic_ns()}"
    command = ["mpirun", "-n", str(arguments.ranks), program, "train", arguments.config, "--set", f"run.folder={folder}",
               "--set", f"run.name={name}", "--set", f"train.steps={arguments.steps}", "--set", "log.every=1",
               "--set", "log.evaluate_every=0", "--set", "data.validation=none", "--set", f"checkpoint.every={every}"]
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       OMPI_MCA_rmaps_base_oversubscribe="1")
    done = subprocess.run(command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-2000:]}")
    lines = [json.loads(line) for line in open(pathlib.Path(folder) / name / "metrics.jsonl")]
    ended = {line["step"]: line["seconds"] for line in lines if "step_ms" in line}
    saved = [(float(a), float(b)) for a, b in re.findall(r"saved .*: ([0-9.]+) ms of the step, on disk after ([0-9.]+) ms",
                                                         (pathlib.Path(folder) / name / "log.rank0").read_text())][:-1]
    half = arguments.every // 2
    costs, quiet, late = [], [], 0
    for at in range(arguments.every, arguments.steps - arguments.every + 1, arguments.every):
        first, second = ended[at + half] - ended[at], ended[at + 2 * half] - ended[at + half]
        costs.append((first - second) / (second / half))
        quiet.append(1e3 * second / half)
        if every and saved[at // every - 1][1] > 1e3 * first:
            late += 1
    if late:
        sys.exit(f"{late} checkpoints were not on disk after {half} steps: --every is too small")
    return costs, statistics.mean(quiet), [copied for copied, _ in saved]


def interval(values):
    """Mean and its 95 % interval, by the normal distribution."""
    mean, spread = statistics.mean(values), 1.96 * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - spread, mean + spread


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--program", action="append")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--every", type=int, default=20)
    arguments = parser.parse_args()
    programs = arguments.program or [str(ROOT / "build/cpu/lockstep")]
    costs, steps, copies = ({p: [] for p in programs} for _ in range(3))
    nothing = []
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        for _ in range(arguments.rounds):
            for program in programs:
                found, step, copied = run(arguments, program, arguments.every, folder)
                costs[program] += found
                steps[program].append(step)
                copies[program] += copied
            nothing += run(arguments, programs[0], 0, folder)[0]
    none, none_low, none_high = interval(nothing)
    for program in programs:
        step = statistics.mean(steps[program])
        ratio, low, high = interval(costs[program])
        print(json.dumps({
            "name": "asynchronous checkpoint, share of a step", "program": program, "unit": "ms", "ours": round(step * ratio, 3),
            "peer": round(step, 3), "peer_name": "one step", "ratio": round(ratio, 4), "ratio_low": round(low, 4),
            "ratio_high": round(high, 4), "median": round(statistics.median(costs[program]), 4), "checkpoints": len(costs[program]),
            "without_checkpoints": [round(none, 4), round(none_low, 4), round(none_high, 4)],
            "copy_ms": round(statistics.median(copies[program]), 3), "command": " ".join(sys.argv),
            "commit": subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
            "date": time.strftime("%Y-%m-%d"),
        }))


if __name__ == "__main__":
    main()
