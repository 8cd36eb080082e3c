#!/usr/bin/env python3
"""Lockstep and PyTorch train the same models on the same CPU cores, in turn: throughput, peak memory and the floor of each case.

    benchmarks/cpu_vs_peers.py                          all cases on 1 rank x 2 threads and 2 ranks x 1 thread
    benchmarks/cpu_vs_peers.py --case gpt-small --ranks 2

All programs stay alive; one at a time runs a turn of some steps (Lockstep, PyTorch eager, PyTorch compiled; every second round in reverse order).
Before anything is timed, all train the same steps from the same weights on the same batches, and their losses must agree to 1e-4. Time is
the median step of a turn; ratios are of turns of one round; the interval of their median is the distribution-free one of at least 95 %
(from 6 rounds). The floor of a step is its products (or convolutions) at the best rate that any product reaches here plus the optimizer's memory
traffic at the best bandwidth of copying and scaling, both measured in the same run; it leaves out all that could be fused.

PyTorch comes from PyPI into build/peers (or from --python). With --llmc FOLDER (a checkout of github.com/karpathy/llm.c) its CPU program takes
part in gpt2-124m. Results go to benchmarks/results/<cores>/cpu_vs_peers.json, where those of other cases stay.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks/peers"))
from turns import Turns, write  # noqa: E402

GPT = {"model": "gpt", "optimizer": "adamw", "rate": 3e-4, "decay": 0.1, "clip": 1.0}
IMAGES = {"classes": 10, "rows": 64, "batches": 4, "decay": 0.01, "clip": 0.0}
CASES = {
    "gpt-small": GPT | {"layers": 4, "width": 256, "heads": 4, "vocabulary": 256, "positions": 256, "input": [256], "rows": 8, "batches": 8,
                        "steps": 3, "check": 6},
    "gpt2-124m": GPT | {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50257, "positions": 1024, "input": [64], "rows": 4,
                        "batches": 4, "steps": 1, "check": 3},
    "fashion-convnet": IMAGES | {"model": "convnet", "optimizer": "adamw", "rate": 3e-4, "input": [28, 28, 1], "steps": 10, "check": 6},
    "resnet18": IMAGES | {"model": "resnet18", "optimizer": "sgd", "rate": 0.01, "input": [32, 32, 3], "steps": 1, "check": 3},
}
OPEN_MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}


def python_with_torch(given):
    """An interpreter that has PyTorch: the one given, or that of build/peers, made now where it is missing."""
    if given:
        return given
    folder = ROOT / "build/peers"
    python = folder / "bin/python"
    if subprocess.run([python, "-c", "import torch, numpy"], capture_output=True).returncode != 0 if python.exists() else True:
        print(f"installing PyTorch from PyPI into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "torch", "numpy"], check=True)
    return str(python)


def build(given):
    """Folder of the benchmark programs: the one given, or build/cpu-benchmarks, built now."""
    folder = pathlib.Path(given) if given else ROOT / "build/cpu-benchmarks"
    if not given:
        subprocess.run(["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DLOCKSTEP_CUDA=OFF",
                        "-DLOCKSTEP_BENCHMARKS=ON"], check=True, stdout=subprocess.DEVNULL)
    if not given:
        subprocess.run(["cmake", "--build", folder, "--target", "lockstep", "launch_training", "core_kernels"], check=True, stdout=subprocess.DEVNULL)
    return folder / "benchmarks"


def write_batches(folder, case, ranks):
    """Fixed pseudo-random rows: tokens with the frequencies of natural text (Zipf), images of noise around their class's mean."""
    import numpy as np

    random = np.random.default_rng(1)
    rows = case["batches"] * ranks * case["rows"]
    if case["model"] == "gpt":
        frequency = 1 / np.arange(1, case["vocabulary"] + 1)
        stream = random.choice(case["vocabulary"], (rows, case["input"][0] + 1), p=frequency / frequency.sum()).astype(np.int32)
        inputs, targets = stream[:, :-1], stream[:, 1:]
    else:
        targets = random.integers(0, case["classes"], rows, dtype=np.int32)
        means = random.normal(0, 0.5, (case["classes"], *case["input"]))
        inputs = (means[targets] + random.normal(0, 1, (rows, *case["input"]))).astype(np.float32)
    np.ascontiguousarray(inputs).tofile(folder / "inputs.bin")
    np.ascontiguousarray(targets).tofile(folder / "targets.bin")


def write_llmc_checkpoint(folder, case):
    """Lockstep's initial weights in llm.c's order, the vocabulary padded to a multiple of 128."""
    import numpy as np

    values, at, tensors = np.fromfile(folder / "weights.bin", np.float32), 0, {}
    for entry in json.loads((folder / "weights.json").read_text()):
        size = int(np.prod(entry["shape"]))
        tensors[entry["name"]] = values[at:at + size].reshape(entry["shape"])
        at += size
    padded = (case["vocabulary"] + 127) // 128 * 128
    header = np.zeros(256, np.int32)
    header[:8] = [20240326, 3, case["positions"], case["vocabulary"], case["layers"], case["heads"], case["width"], padded]
    with open(folder / "llmc.bin", "wb") as file:
        header.tofile(file)
        table = np.zeros((padded, case["width"]), np.float32)
        table[:case["vocabulary"]] = tensors["wte.weight"]
        table.tofile(file)
        tensors["wpe.weight"].tofile(file)
        for part in ("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias",
                     "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"):
            for layer in range(case["layers"]):
                tensors[f"h.{layer}.{part}"].tofile(file)
        tensors["ln_f.weight"].tofile(file)
        tensors["ln_f.bias"].tofile(file)


class Contest:
    """One case at one number of ranks: starts the programs, checks their losses, times their turns."""

    def __init__(self, name, ranks, threads, folder, arguments, python, programs):
        self.case, self.ranks, self.threads, self.folder = CASES[name] | {}, ranks, threads, folder
        if arguments.rows:
            self.case["rows"] = arguments.rows
        self.case["update"] = arguments.update
        self.names, self.processes = ["lockstep"], []
        write(folder / "case.json", self.case)
        write_batches(folder, self.case, ranks)
        self.turns = Turns(folder, self.check_alive)
        launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
        self.turns.join("lockstep", ranks)
        self.start(launcher + [programs / "launch_training", folder], OPEN_MPI | ({"OMP_NUM_THREADS": str(threads)} if ranks == 1 else {}))
        self.turns.wait(folder / "weights.json")
        inductor = {"TORCHINDUCTOR_CACHE_DIR": str(ROOT / "build/peers-compiled"), "OMP_NUM_THREADS": str(threads)}
        for mode in arguments.torch.split(","):
            if not mode:
                continue
            self.names.append(mode)
            self.turns.join(mode, ranks)
            for rank in range(ranks):
                self.start([python, ROOT / "benchmarks/peers/training_torch.py", folder, mode, str(rank), str(ranks), str(threads)], inductor)
        if arguments.llmc and name == "gpt2-124m" and ranks == 1:
            write_llmc_checkpoint(folder, self.case)
            subprocess.run(["gcc", "-O3", "-Ofast", "-march=native", "-fopenmp", "-Wno-unused-result", f"-I{arguments.llmc}", "-o", folder / "llmc",
                            ROOT / "benchmarks/peers/training_llmc.c", "-lm"], check=True)
            self.names.append("llm.c")
            self.turns.join("llm.c", 1)
            self.start([folder / "llmc", folder, self.case["rows"], self.case["input"][0], self.case["rate"]],
                       {"OMP_NUM_THREADS": str(threads)})

    def start(self, command, environment):
        command = [str(word) for word in command]
        log = open(self.folder / f"log.{len(self.processes)}", "w+")
        self.processes.append((subprocess.Popen(command, env=dict(os.environ, **environment), stdout=log, stderr=log, stdin=subprocess.DEVNULL),
                               command, log))

    def check_alive(self):
        for process, command, log in self.processes:
            if process.poll() is not None:
                log.seek(0)
                sys.exit(f"{' '.join(command)}\nended with {process.returncode}:\n{log.read()[-3000:]}")

    def check_losses(self, steps):
        """Trains `steps` steps everywhere; the largest relative difference of a loss from Lockstep's."""
        self.first = {name: self.turns.give(name, steps) for name in self.names}
        ours, worst = self.first["lockstep"]["losses"], {}
        for name in self.names[1:]:
            theirs = self.first[name]["losses"]
            pairs = list(zip(ours, theirs))[:1 if name == "llm.c" else steps]  # llm.c neither clips nor excludes biases from decay
            worst[name] = max(abs(a - b) / abs(a) for a, b in pairs)
            if not worst[name] <= 1e-4:
                sys.exit(f"{name}: losses differ from Lockstep's by {worst[name]:.1e}:\n{ours}\n{theirs}")
        return worst

    def rounds(self, count):
        """{name: [median seconds of a step, by round]}, and each program's last answer."""
        seconds, last = {name: [] for name in self.names}, {}
        for i in range(count):
            for name in self.names if i % 2 == 0 else reversed(self.names):
                last[name] = self.turns.give(name, self.case["steps"])
                seconds[name].append(statistics.median(last[name]["seconds"]))
        return seconds, last

    def end(self):
        self.turns.end()
        for process, _, _ in self.processes:
            process.wait(timeout=60)

    def stop(self):
        for process, _, _ in self.processes:
            if process.poll() is None:
                process.terminate()


def median_interval(values):
    """The median and the order statistics around it that hold the true one with at least 95 %; the extremes below 6 values."""
    values, n, low = sorted(values), len(values), 0
    below = 0.0
    for k in range(n // 2):
        below += math.comb(n, k) / 2**n
        if below > 0.025:
            break
        low = k
    return statistics.median(values), values[low], values[n - 1 - low]


def flops_of_step(case, answer, ranks):
    """Of the products of a step; in a GPT's, the position table takes no part, and half of attention is masked."""
    if case["model"] != "gpt":
        return answer["flops"]
    length, width = case["input"][0], case["width"]
    per_token = 6 * (answer["parameters"] - case["positions"] * width) + 6 * case["layers"] * width * length
    return per_token * length * case["rows"] * ranks


def result_lines(name, ranks, threads, rows, contest, seconds, last, peaks, common):
    unit = "tokens/s" if contest.case["model"] == "gpt" else "images/s"
    per_step = rows * ranks * (contest.case["input"][0] if unit == "tokens/s" else 1)
    ours = statistics.median(seconds["lockstep"])
    answer = last["lockstep"]
    # The optimizer reads the gradient twice (norm, update) and moves weights and moments; sgd has one moment. Every further rank has
    # a gradient to read and weights to write.
    moved = 4 * answer["parameters"] * ((8 if contest.case["optimizer"] == "adamw" else 6) + 2 * (ranks - 1))
    rate = peaks["gemm_gflops" if contest.case["model"] == "gpt" else "convolution_gflops"]
    floor = flops_of_step(contest.case, answer, ranks) / (rate * 1e9) + moved / (peaks["memory_gb_s"] * 1e9)
    for peer in contest.names[1:]:
        ratio, low, high = median_interval([b / a for a, b in zip(seconds["lockstep"], seconds[peer])])
        yield common | {
            "command": f"benchmarks/cpu_vs_peers.py --case {name} --ranks {ranks}" + (" --llmc FOLDER" if peer == "llm.c" else ""),
            "name": f"{name} {ranks}x{threads}", "unit": unit, "rows_per_rank": rows,
            "ours": round(per_step / ours, 1), "peer": round(per_step / statistics.median(seconds[peer]), 1),
            "peer_name": peer if peer == "llm.c" else f"PyTorch {peer}", "ratio": round(ratio, 3), "ratio_low": round(low, 3), "ratio_high": round(high, 3),
            "rounds": len(seconds[peer]), "step_ms": round(1e3 * ours, 2), "peer_step_ms": round(1e3 * statistics.median(seconds[peer]), 2),
            "limit": round(per_step / floor, 1), "share_of_limit": round(floor / ours, 3), "floor_ms": round(1e3 * floor, 2),
            "gflops": rate, "memory_gb_s": peaks["memory_gb_s"],
            "peak_mib": round(answer["peak_bytes"] / 2**20), "peer_peak_mib": round(last[peer]["peak_bytes"] / 2**20),
            "start_mib": round(answer["bytes_before"] / 2**20), "peer_start_mib": round(last[peer]["bytes_before"] / 2**20),
        }


def keep(path, new):
    """Adds results to a file, in place of older ones of the same name and peer."""
    old = json.loads(path.read_text()) if path.exists() else []
    replaced = {(line["name"], line["rows_per_rank"], line["peer_name"]) for line in new}
    lines = [line for line in old if (line["name"], line["rows_per_rank"], line["peer_name"]) not in replaced] + new
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(line) for line in sorted(lines, key=lambda l: l["name"])) + "\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--ranks", type=int, choices=[1, 2], action="append", help="1: x 2 threads, 2: x 1 thread")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, help="rows of the batch on each rank, instead of the case's own")
    parser.add_argument("--update", choices=["auto", "whole", "sharded"], default="auto", help="of two ranks of Lockstep")
    parser.add_argument("--torch", default="eager,compiled", help="which of PyTorch's ways take part")
    parser.add_argument("--check", action="store_true", help="only compare losses (and fill the cache of compiled code); no timing")
    parser.add_argument("--python", help="an interpreter that has PyTorch and numpy")
    parser.add_argument("--build", help="a build folder made with -DLOCKSTEP_BENCHMARKS=ON")
    parser.add_argument("--llmc", help="a checkout of llm.c")
    parser.add_argument("--results", default=str(ROOT / "benchmarks/results/cpu-2-cores"))
    arguments = parser.parse_args()
    python = python_with_torch(arguments.python)
    if os.path.realpath(sys.executable) != os.path.realpath(python) or sys.prefix != str(pathlib.Path(python).parent.parent):
        os.execv(python, [python, __file__, *sys.argv[1:], *([] if arguments.python else ["--python", python])])  # has numpy
    programs = build(arguments.build)
    versions = subprocess.run([programs.parent / "lockstep", "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    torch = subprocess.run([python, "-c", "import torch; print('PyTorch', torch.__version__)"], capture_output=True, text=True).stdout.strip()
    common = {"date": time.strftime("%Y-%m-%d"), "versions": f"{versions}; {torch}",
              "commit": subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()}

    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted"))  # so that the programs are stopped too
    for name in arguments.case or CASES:
        for ranks in arguments.ranks or [1, 2]:
            threads = 2 // ranks
            folder = pathlib.Path(tempfile.mkdtemp())
            contest = None
            try:
                contest = Contest(name, ranks, threads, folder, arguments, python, programs)
                differences = contest.check_losses(contest.case["check"])
                agreement = ", ".join(f"{peer} {worst:.1e}" for peer, worst in differences.items())
                print(f"{name} {ranks} x {threads}: losses agree (largest relative difference: {agreement})", flush=True)
                if arguments.check:
                    contest.end()
                    continue
                peaks = json.loads(subprocess.run([programs / "core_kernels", "--peaks"], env=dict(os.environ, OMP_NUM_THREADS="2"),
                                                  capture_output=True, text=True, check=True).stdout)
                seconds, last = contest.rounds(arguments.rounds)
                contest.end()
                lines = list(result_lines(name, ranks, threads, contest.case["rows"], contest, seconds, last, peaks, common))
                for line in lines:
                    print(f"  {line['peer_name']:17} {line['peer_step_ms']:9.2f} ms   Lockstep {line['step_ms']:9.2f} ms   ratio {line['ratio']:.2f} "
                          f"({line['ratio_low']:.2f}-{line['ratio_high']:.2f})   floor {line['floor_ms']:.1f} ms   peak MiB "
                          f"{line['peak_mib']} : {line['peer_peak_mib']}", flush=True)
                keep(pathlib.Path(arguments.results) / "cpu_vs_peers.json", lines)
            finally:
                if contest:
                    contest.stop()
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
