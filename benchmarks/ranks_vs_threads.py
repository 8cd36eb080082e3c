#!/usr/bin/env python3
"""Two ranks of one thread beside one rank of two threads, at the same global batch: what does it cost to be two?

    benchmarks/ranks_vs_threads.py                          all cases, update chosen by measurement
    benchmarks/ranks_vs_threads.py --case gpt2-124m --update whole --update sharded

The cases of cpu_vs_peers.py, whose batch is the global one here. All programs stay alive, one at a time runs a turn; a ratio is
the throughput of two ranks over that of one rank in the same round, its interval that of cpu_vs_peers.py. Needs numpy.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import tempfile
import time

from cpu_vs_peers import CASES, ROOT, Contest, build, keep, median_interval


def contest(name, ranks, update, folder, programs):
    """One side: the case's batch shared out to `ranks` ranks."""
    case = CASES[name]
    options = argparse.Namespace(rows=case["rows"] // ranks, torch="", llmc=None, update=update)
    folder.mkdir()
    return Contest(name, ranks, 2 // ranks, folder, options, None, programs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--update", choices=["auto", "whole", "sharded"], action="append")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--build", help="a build folder made with -DLOCKSTEP_BENCHMARKS=ON")
    parser.add_argument("--results", default=str(ROOT / "benchmarks/results/cpu-2-cores"))
    arguments = parser.parse_args()
    programs = build(arguments.build)
    for name in arguments.case or CASES:
        folder = pathlib.Path(tempfile.mkdtemp())
        sides = {}
        try:
            sides["one"] = contest(name, 1, "whole", folder / "one", programs)
            for update in arguments.update or ["auto"]:
                sides[update] = contest(name, 2, update, folder / update, programs)
            for side in sides.values():
                side.check_losses(2)
            seconds, peak, how = {side: [] for side in sides}, {}, {}
            for i in range(arguments.rounds):
                for side in sides if i % 2 == 0 else reversed(sides):
                    answer = sides[side].turns.give("lockstep", sides[side].case["steps"])
                    seconds[side].append(statistics.median(answer["seconds"]))
                    peak[side], how[side] = answer["peak_bytes"], answer["update"]
            lines = []
            for side in list(sides)[1:]:
                ratio, low, high = median_interval([a / b for a, b in zip(seconds["one"], seconds[side])])
                lines.append({
                    "command": f"benchmarks/ranks_vs_threads.py --case {name} --update {side}", "date": time.strftime("%Y-%m-%d"),
                    "name": name, "rows_per_rank": CASES[name]["rows"] // 2, "peer_name": f"1 rank x 2 threads, beside update {side}",
                    "unit": "ms a step", "ours": round(1e3 * statistics.median(seconds[side]), 2),
                    "peer": round(1e3 * statistics.median(seconds["one"]), 2), "ratio": round(ratio, 3), "ratio_low": round(low, 3),
                    "ratio_high": round(high, 3), "rounds": arguments.rounds, "update": how[side],
                    "peak_mib": round(peak[side] / 2**20), "peer_peak_mib": round(peak["one"] / 2**20)})
                print(json.dumps(lines[-1]), flush=True)
            for side in sides.values():
                side.end()
            keep(pathlib.Path(arguments.results) / "ranks_vs_threads.json", lines)
        finally:
            for side in sides.values():
                side.stop()
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
