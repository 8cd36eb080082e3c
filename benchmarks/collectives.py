#!/usr/bin/env python3
"""Collectives between ranks of one machine beside those of Open MPI's components tuned, sm and han, 4 KiB to 64 MiB.

    benchmarks/collectives.py                                      all operations and components at 2 and 4 ranks, then the picture
    benchmarks/collectives.py --ranks 2 --component sm --operation all_reduce
    benchmarks/collectives.py --picture                            only draws what the results file holds

A component does the work when its priority is the highest (`mpirun --mca coll_sm_priority 100`); whether it really does is read off the call stack while
it works. A component that has no such operation, or refuses these ranks, is named and not timed. Ours and MPI's run in turn in one process
(`parallel_collectives`), every element of both results is compared, and a ratio is the median of the rounds with their 80 % range. Results go to
benchmarks/results/<cores>/collectives.json, where those of other runs stay, so that pieces may be measured one by one. The picture needs matplotlib.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time

from cpu_vs_peers import OPEN_MPI, ROOT

OPERATIONS = ["all_reduce", "reduce_scatter", "all_gather", "broadcast"]
COMPONENTS = {"tuned": "#e0843a", "sm": "#2e8b57", "han": "#a23b72"}


def build(given):
    """Folder of the benchmark programs: the one given, or build/cpu-benchmarks, built now."""
    folder = pathlib.Path(given) if given else ROOT / "build/cpu-benchmarks"
    if not given:
        subprocess.run(["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DLOCKSTEP_CUDA=OFF",
                        "-DLOCKSTEP_BENCHMARKS=ON"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["cmake", "--build", folder, "--target", "parallel_collectives"], check=True, stdout=subprocess.DEVNULL)
    return folder / "benchmarks/parallel_collectives"


def run(program, ranks, component, options, verbose=()):
    """The program's lines with this component in front, what else was printed, and the command."""
    command = ["mpirun", "-n", str(ranks), "--mca", f"coll_{component}_priority", "100", *verbose, str(program), *options]
    done = subprocess.run(command, env=dict(os.environ, **OPEN_MPI), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    shown = " ".join(command).replace(str(program), "parallel_collectives")
    return lines, done.stdout + done.stderr, shown


def reason(component, log):
    """Why a component does not work for these ranks, in its own words."""
    found = re.search(rf"coll:{component}:comm_query \(0/MPI_COMM_WORLD\): (.*disqualifying myself)", log)
    return f"refuses: {found[1]}" if found else "has no such operation"


def measure(program, ranks, component, operations, arguments, common):
    probe, log, _ = run(program, ranks, component, ["--to", "4096", "--rounds", "3", "--operation", *operations],
                        ["--mca", "coll_base_verbose", "20"])
    results, able = [], []
    for line in probe:
        if not line["component"]:
            sys.exit(f"{line['name']}, {ranks} ranks: no look at the call stack found a component of Open MPI at work; run it again")
        if line["component"].split(":")[0] == component:
            able.append(line["name"])
            continue
        why = f"{component} {reason(component, log)}; {line['component']} works instead"
        print(f"{line['name']}, {ranks} ranks: {why}", flush=True)
        results.append(common | {"name": line["name"], "ranks": ranks, "peer_name": component, "absent": why})
    if able:
        lines, _, command = run(program, ranks, component, ["--rounds", str(arguments.rounds), "--from", str(arguments.smallest), "--to",
                                                            str(arguments.largest), "--operation", *able])
        for line in lines:
            if not (line["right"] and line["peer_right"]):
                sys.exit(f"{line['name']} of {line['bytes']} bytes, {ranks} ranks, {component}: a result is wrong: {line}")
            print(f"{line['name']:15} {ranks} ranks {line['bytes'] >> 10:6} KiB   {component:5} {line['peer']:9.1f} us   Lockstep {line['ours']:9.1f} us   "
                  f"ratio {line['ratio']:5.2f} ({line['ratio_low']:.2f}-{line['ratio_high']:.2f})", flush=True)
            numbers = {key: round(value, 3) if isinstance(value, float) else value for key, value in line.items()}
            results.append(common | numbers | {"peer_name": component, "command": command})
    return results


def keep(path, new):
    """Adds results to a file, in place of older ones of the same operation, ranks, component and size."""
    key = lambda line: (OPERATIONS.index(line["name"]), line["ranks"], list(COMPONENTS).index(line["peer_name"]), line.get("bytes", 0))
    old = json.loads(path.read_text()) if path.exists() else []
    lines = {key(line): line for line in old} | {key(line): line for line in new}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(lines[k]) for k in sorted(lines)) + "\n]\n")


def picture(lines, path):
    """Times and ratios over sizes, a row for each number of ranks, a column for each operation."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts = sorted({line["ranks"] for line in lines})
    figure, axes = plt.subplots(2 * len(counts), len(OPERATIONS), figsize=(14, 5.6 * len(counts)), sharex=True, squeeze=False,
                                height_ratios=[3, 2] * len(counts))
    for row, ranks in enumerate(counts):
        for column, operation in enumerate(OPERATIONS):
            above, below = axes[2 * row][column], axes[2 * row + 1][column]
            ours = {}
            for component, colour in COMPONENTS.items():
                points = [line for line in lines if (line["name"], line["ranks"], line["peer_name"]) == (operation, ranks, component) and "bytes" in line]
                if not points:
                    continue
                sizes = [line["bytes"] for line in points]
                for line in points:
                    ours.setdefault(line["bytes"], line["ours"])  # as timed beside the first component
                above.plot(sizes, [line["peer"] for line in points], "o-", markersize=3, color=colour, label=f"Open MPI {component}")
                below.plot(sizes, [line["ratio"] for line in points], "o-", markersize=3, color=colour)
                below.fill_between(sizes, [line["ratio_low"] for line in points], [line["ratio_high"] for line in points], color=colour, alpha=0.15)
            sizes = sorted(ours)
            above.plot(sizes, [ours[size] for size in sizes], "o-", markersize=3, color="#1b6ca8", linewidth=2, label="Lockstep")
            above.set(xscale="log", yscale="log", title=f"{operation}, {ranks} ranks")
            below.axhline(1, color="black", linewidth=0.8)
            below.set(xscale="log", yscale="log", ylim=(0.3, 40), yticks=[0.5, 1, 2, 5, 10, 20], yticklabels=["0.5", "1", "2", "5", "10", "20"],
                      xticks=[4 << 10, 64 << 10, 1 << 20, 16 << 20], xticklabels=["4 KiB", "64 KiB", "1 MiB", "16 MiB"])
            below.minorticks_off()
            for axis in (above, below):
                axis.grid(alpha=0.25)
                for side in ("top", "right"):
                    axis.spines[side].set_visible(False)
            if column == 0:
                above.set_ylabel("time, us")
                below.set_ylabel("times as fast\nas Open MPI")
                above.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, action="append", help="2 and 4 when not given")
    parser.add_argument("--component", choices=COMPONENTS, action="append")
    parser.add_argument("--operation", choices=OPERATIONS, action="append")
    parser.add_argument("--smallest", type=int, default=4 << 10, help="bytes of each rank's buffer; sizes go up in steps of 4")
    parser.add_argument("--largest", type=int, default=64 << 20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--picture", action="store_true", help="measure nothing")
    parser.add_argument("--build", help="a build folder made with -DLOCKSTEP_BENCHMARKS=ON")
    parser.add_argument("--results", default=str(ROOT / "benchmarks/results/cpu-2-cores"))
    arguments = parser.parse_args()
    path = pathlib.Path(arguments.results) / "collectives.json"
    if not arguments.picture:
        program = build(arguments.build)
        mpi = subprocess.run(["mpirun", "--version"], capture_output=True, text=True).stdout.split("\n")[0].replace("mpirun (", "").replace(")", "")
        compiler = subprocess.run(["c++", "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
        common = {"date": time.strftime("%Y-%m-%d"), "versions": f"c++ {compiler}, {mpi}",
                  "commit": subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()}
        for ranks in arguments.ranks or [2, 4]:
            for component in arguments.component or COMPONENTS:
                keep(path, measure(program, ranks, component, arguments.operation or OPERATIONS, arguments, common))
    try:
        picture(json.loads(path.read_text()), path.with_suffix(".png"))
    except ImportError:
        print("no picture: it needs matplotlib for this python3 (apt install python3-matplotlib, then /usr/bin/python3)", file=sys.stderr)


if __name__ == "__main__":
    main()
