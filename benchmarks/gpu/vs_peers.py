#!/usr/bin/env python3
"""Lockstep and PyTorch train the same models on the same GPU, in turn: throughput, peak memory, share of the GPU's rate.

    benchmarks/gpu/vs_peers.py --programs build/cuda-benchmarks/benchmarks --case gpt2-124m
    ./benchmark                                  in a bundle: all of them

All programs stay alive; one at a time runs a turn of some steps, every second round in reverse order. All start from the same weights and see
the same random batches; the losses of the first steps must agree as well as 16-bit arithmetic can (0.5 %). Time is a turn's wall time by its
steps, losses read at its end; ratios are of turns of one round, with the distribution-free 95 % interval of their median. PyTorch takes part
compiled, once with each of its attentions; mfu is the model's own operations (see flops_per_row) by 989 TFLOP/s, the datasheet's dense
bf16; the limit of the model's products is measured by a product of random numbers in the same run. Prints a JSON list; --results FOLDER keeps it.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "peers")]
import cpu_vs_peers as common  # noqa: E402
from turns import Turns, write  # noqa: E402

GPT = {"model": "gpt", "optimizer": "adamw", "rate": 3e-4, "decay": 0.1, "clip": 1.0, "vocabulary": 50304, "positions": 1024, "input": [1024],
       "batches": 4, "peers": ["flash", "cudnn"]}
CASES = {
    "gpt2-124m": GPT | {"layers": 12, "width": 768, "heads": 12, "rows": 64},
    "gpt2-350m": GPT | {"layers": 24, "width": 1024, "heads": 16, "rows": 32},
    "gpt2-774m": GPT | {"layers": 36, "width": 1280, "heads": 20, "rows": 32},
    "gpt2-1558m": GPT | {"layers": 48, "width": 1600, "heads": 25, "rows": 16},
    "resnet50": {"model": "resnet50", "optimizer": "sgd", "rate": 0.1, "decay": 5e-5, "clip": 0.0, "classes": 1000, "input": [224, 224, 3],
                 "rows": 256, "batches": 2, "peers": ["convolution"]},
}
PEAK = 989e12  # NVIDIA H200 datasheet, dense bf16


def product_rate(python):
    """Operations a second of a bf16 product of random numbers, by PyTorch."""
    text = """
import torch
a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
for _ in range(5): a @ b
torch.cuda.synchronize()
e = [torch.cuda.Event(enable_timing=True) for _ in range(21)]
e[0].record()
for i in range(20):
    a @ b
    e[i + 1].record()
torch.cuda.synchronize()
times = sorted(e[i].elapsed_time(e[i + 1]) for i in range(20))
print(2 * 8192**3 / (times[10] * 1e-3))
"""
    return float(subprocess.run([python, "-c", text], capture_output=True, text=True, check=True).stdout)


def clocks():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True) if shutil.which("nvidia-smi") else None
    return answer.stdout.strip().split("\n")[0] if answer and answer.returncode == 0 else "unknown"


class Contest:
    def __init__(self, case, folder, python, programs, ranks, with_peers):
        self.case, self.folder, self.processes = case | {"precision": "bf16"}, folder, []
        write(folder / "case.json", self.case)
        common.write_batches(folder, self.case, ranks)
        self.turns = Turns(folder, self.check_alive)
        self.names = ["lockstep"] + (case["peers"] if with_peers else [])
        self.turns.join("lockstep", ranks)
        self.start((["mpirun", "-n", str(ranks)] if ranks > 1 else []) + [programs / "launch_training", folder])
        self.turns.wait(folder / "weights.json")
        for peer in self.names[1:]:
            self.turns.join(peer, 1)
            self.start([python, HERE.parent / "peers/gpu_training_torch.py", folder, peer])

    def start(self, command):
        log = open(self.folder / f"log.{len(self.processes)}", "w+")
        command = [str(word) for word in command]
        self.processes.append((subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL), command, log))

    def check_alive(self):
        for process, command, log in self.processes:
            if process.poll() is not None:
                log.seek(0)
                sys.exit(f"{' '.join(command)}\nended with {process.returncode}:\n{log.read()[-3000:]}")

    def stop(self):
        for process, _, _ in self.processes:
            if process.poll() is None:
                process.terminate()
        for process, _, _ in self.processes:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def run(name, arguments, python, ranks):
    case, folder = CASES[name], pathlib.Path(tempfile.mkdtemp())
    case = case | {"device": arguments.device, "steps": arguments.steps}
    if arguments.rows:
        case["rows"] = arguments.rows
    contest = None
    try:
        contest = Contest(case, folder, python, pathlib.Path(arguments.programs), ranks, ranks == 1 and not arguments.alone)
        first = {who: contest.turns.give(who, arguments.curve) for who in contest.names}
        ours, worst = first["lockstep"]["losses"], {}
        for peer in contest.names[1:]:
            theirs = first[peer]["losses"]
            worst[peer] = max(abs(a - b) / abs(a) for a, b in zip(ours, theirs))
            if not worst[peer] <= 5e-3:
                sys.exit(f"{name}: losses of {peer} differ from Lockstep's by {worst[peer]:.1e}:\n{ours}\n{theirs}")
        if arguments.results and arguments.curve > 10:
            path = pathlib.Path(arguments.results) / f"{name}-losses.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({who: answer["losses"] for who, answer in first.items()}) + "\n")
        seconds, last = {who: [] for who in contest.names}, {}
        for i in range(arguments.rounds):
            for who in contest.names if i % 2 == 0 else reversed(contest.names):
                last[who] = contest.turns.give(who, case["steps"])
                seconds[who].append(statistics.median(last[who]["seconds"]))
        during = clocks()
        contest.turns.end()
    finally:
        if contest:
            contest.stop()
        shutil.rmtree(folder, ignore_errors=True)
    rate = product_rate(python) if not arguments.alone else None
    unit = "tokens/s" if case["model"] == "gpt" else "images/s"
    per_step = case["rows"] * ranks * (case["input"][0] if unit == "tokens/s" else 1)
    ours, answer = statistics.median(seconds["lockstep"]), last["lockstep"]
    line = {"name": name if ranks == 1 else f"{name} on {ranks} ranks of one GPU", "unit": unit, "rows_per_rank": case["rows"],
            "ours": round(per_step / ours), "step_ms": round(1e3 * ours, 2), "spread_ms": [round(1e3 * s, 2) for s in
                                                                                        (min(seconds["lockstep"]), max(seconds["lockstep"]))],
            "mfu": round(answer["flops"] / ours / PEAK, 4), "mfu_formula": "flops_per_row x rows / step / 989 TFLOP/s",
            "peak_mib": round(answer["peak_bytes"] / 2**20), "losses": [round(x, 4) for x in first["lockstep"]["losses"][:10]],
            "rounds": arguments.rounds, "clocks": during}
    if rate:
        line |= {"limit": round(per_step / (answer["flops"] / rate)), "share_of_limit": round(answer["flops"] / rate / ours, 4),
                 "limit_is": f"a product of random bf16 numbers: {rate / 1e12:.0f} TFLOP/s"}
    if not contest.names[1:]:
        return [line]
    lines = []
    for peer in contest.names[1:]:
        ratio, low, high = common.median_interval([b / a for a, b in zip(seconds["lockstep"], seconds[peer])])
        theirs = statistics.median(seconds[peer])
        lines.append(line | {"peer_name": f"PyTorch compiled, {peer}", "peer": round(per_step / theirs), "peer_step_ms": round(1e3 * theirs, 2),
                             "ratio": round(ratio, 3), "ratio_low": round(low, 3), "ratio_high": round(high, 3),
                             "peer_peak_mib": round(last[peer]["peak_bytes"] / 2**20), "losses_differ": float(f"{worst[peer]:.1e}")})
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--programs", default=str(HERE.parent / "bin"), help="the folder of launch_training")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has PyTorch and numpy")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--curve", type=int, default=10, help="first steps, whose losses are compared and, from 11, kept")
    parser.add_argument("--ranks", type=int, default=1, help="of Lockstep alone, on the GPUs there are")
    parser.add_argument("--rows", type=int, help="rows of the batch on each rank, instead of the case's own")
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try this program out, with --alone, --rows and --steps")
    parser.add_argument("--results", help="a folder that keeps the lines in CASE.json")
    arguments = parser.parse_args()
    program = pathlib.Path(os.environ.get("LOCKSTEP_PROGRAM", pathlib.Path(arguments.programs).parent / "lockstep"))
    versions = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip().replace("\n", "; ")
    torch = subprocess.run([arguments.python, "-c", "import torch; print('PyTorch', torch.__version__, 'cuDNN', torch.backends.cudnn.version())"],
                           capture_output=True, text=True).stdout.strip()
    for name in arguments.case or ["gpt2-124m", "resnet50"]:
        lines = [line | {"command": "benchmarks/gpu/vs_peers.py " + " ".join(sys.argv[1:]), "date": time.strftime("%Y-%m-%d"),
                         "versions": f"{versions}; {torch}"} for line in run(name, arguments, arguments.python, arguments.ranks)]
        text = "[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]"
        print(text, flush=True)
        if arguments.results:
            folder = pathlib.Path(arguments.results)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}{'' if arguments.ranks == 1 else f'-{arguments.ranks}-ranks'}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
