#!/usr/bin/env python3
"""The picture and the tables of benchmarks/results/<cores>/{cpu_vs_peers,kernels}.json: show_training.py [FOLDER]. Needs matplotlib."""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLOURS = {"Lockstep": "#1b6ca8", "PyTorch compiled": "#e0843a", "PyTorch eager": "#f2c49b", "llm.c": "#8c8c8c"}


def read(path):
    return json.loads(path.read_text()) if path.exists() else []


def picture(lines, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted({line["name"] for line in lines}, key=lambda name: (name.split()[1], name))
    figure, axis = plt.subplots(figsize=(9, 1 + 0.75 * len(names)))
    ticks, labels, y = [], [], 0.0
    for name in names:
        rows = [line for line in lines if line["name"] == name]
        bars = [("Lockstep", rows[0]["ours"], None)] + [(row["peer_name"], row["peer"], row) for row in rows]
        unit = rows[0]["ours"]
        first = y
        for label, rate, row in bars:
            axis.barh(y, rate / unit, height=0.8, color=COLOURS[label])
            text = f"{rate:,.0f} {rows[0]['unit']}"
            if row:
                text += f"   Lockstep x {row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"
            ours = label == "Lockstep"  # within its bar, beside which the floor may stand
            axis.text(rate / unit + (-0.01 if ours else 0.01), y, text, va="center", ha="right" if ours else "left",
                      color="white" if ours else "black", fontsize=8)
            y += 0.85
        axis.plot([rows[0]["limit"] / unit] * 2, [first - 0.4, first + 0.4], color="black", linewidth=1.5)
        ticks.append((first + y - 0.85) / 2)
        labels.append(name)
        y += 0.5
    axis.set_yticks(ticks, labels)
    axis.invert_yaxis()
    axis.set_xlim(0, max(1.7, 1.05 * max(line["limit"] / line["ours"] for line in lines)))
    axis.set_xlabel("training throughput, Lockstep = 1; black: the floor of products and optimizer memory")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    present = [label for label in COLOURS if label == "Lockstep" or any(line["peer_name"] == label for line in lines)]
    axis.legend([plt.Rectangle((0, 0), 1, 1, color=COLOURS[label]) for label in present], present, fontsize=8, ncol=len(present),
                loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "benchmarks/results/cpu-2-cores"
    lines = read(folder / "cpu_vs_peers.json")
    own = [line for line in lines if not line.get("extra")]
    if own:
        picture(own, folder / "cpu_vs_peers.png")
        print("| case, ranks x threads | peer | peer ms a step | Lockstep ms a step | ratio (95 %) | share of the floor | peak MiB, ours : peer |\n"
              "|---|---|---|---|---|---|---|")
        for line in own:
            memory = f"{line['peak_mib']} : {line['peer_peak_mib']}" if line["peer_peak_mib"] else ""
            print(f"| {line['name']} | {line['peer_name']} | {line['peer_step_ms']:.1f} | {line['step_ms']:.1f} | {line['ratio']:.2f} "
                  f"({line['ratio_low']:.2f}-{line['ratio_high']:.2f}) | {100 * line['share_of_limit']:.0f} % | {memory} |")
    kernels = read(folder / "kernels.json")
    if kernels:
        print("\n| kernel | shape | ms | rate | share of the ceiling |\n|---|---|---|---|---|")
        for row in kernels:
            print(f"| {row['name']} | {row['shape']} | {row['ms']:.2f} | {row['ours']:.1f} {row['unit']} | {100 * row['share_of_limit']:.0f} % |")


if __name__ == "__main__":
    main()
