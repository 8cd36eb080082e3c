"""Pictures of training runs: loss.png, throughput.png and overlap.png. Run by `lockstep plot RUN…`.

usage: plot.py OUT RUN [RUN …]
"""

import json
import os
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    print("lockstep: plot needs matplotlib for python3: apt install python3-matplotlib", file=sys.stderr)
    sys.exit(64)

COLORS = ["#1f6fb2", "#d1661d", "#2e8b57", "#a23b72", "#6b5bb5", "#7a7a7a", "#b8860b", "#20808d"]


def read_metrics(run):
    path = os.path.join(run, "metrics.jsonl")
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line for line in file if line.strip()]
    except OSError as error:
        print(f"lockstep: {run} is not a run folder: {error.strerror}: {path}", file=sys.stderr)
        sys.exit(65)
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            pass  # a line cut off by a crash
    return found


def series(lines, key):
    points = [(l["step"], l[key]) for l in lines if key in l and isinstance(l[key], (int, float))]
    return [p[0] for p in points], [p[1] for p in points]


def smooth(values):
    """Mean over a window of 2 % of the points, so that the trend is seen behind the noise."""
    half = max(1, len(values) // 100)
    return [sum(values[max(0, i - half) : i + half + 1]) / len(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def axes(title, x, y):
    figure, axis = plt.subplots(figsize=(9, 5), dpi=120)
    axis.set_title(title, fontsize=13, loc="left")
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(True, color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure, axis


def save(figure, path):
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
    print(path)


def plot_loss(runs, out):
    figure, axis = axes("Loss", "step", "loss")
    right = None
    for (name, lines), color in zip(runs, COLORS * len(runs)):
        steps, loss = series(lines, "train/loss")
        axis.plot(steps, loss, color=color, linewidth=0.6, alpha=0.3)
        axis.plot(steps, smooth(loss), color=color, linewidth=1.6, label=f"{name}: training")
        steps, loss = series(lines, "val/loss")
        if steps:
            axis.plot(steps, loss, color=color, linestyle="none", marker="o", markersize=5, markeredgecolor="black",
                      label=f"{name}: held-out, last {loss[-1]:.4g}")
        steps, accuracy = series(lines, "val/accuracy")
        if steps:
            if right is None:
                right = axis.twinx()
                right.set_ylabel("held-out accuracy (%)")
                right.spines["top"].set_visible(False)
            right.plot(steps, [100 * a for a in accuracy], color=color, linestyle="--", marker="s", markersize=4, linewidth=1)
            axis.plot([], [], color=color, linestyle="--", marker="s", markersize=4, linewidth=1,
                      label=f"{name}: accuracy, last {100 * accuracy[-1]:.2f} %")
    bottom, top = axis.get_ylim()
    if bottom > 0 and top / bottom > 20:
        axis.set_yscale("log")
    axis.legend(frameon=False, fontsize=9, loc="upper center" if right else "upper right")
    save(figure, os.path.join(out, "loss.png"))


def plot_throughput(runs, out):
    tokens = any("tokens_per_s" in line for _, lines in runs for line in lines)
    key = "tokens_per_s" if tokens else "samples_per_s"
    figure, axis = axes("Throughput", "step", key.replace("_per_s", " per second"))
    for (name, lines), color in zip(runs, COLORS * len(runs)):
        steps, speed = series(lines, key)
        if len(speed) > 1:
            steps, speed = steps[1:], speed[1:]  # the first step makes plans and touches memory
        if not speed:
            continue
        middle = sorted(speed)[len(speed) // 2]
        mfu = sorted(series(lines, "mfu")[1] or [0])
        axis.plot(steps, speed, color=color, linewidth=1.4,
                  label=f"{name}: median {middle:,.0f}, {100 * mfu[len(mfu) // 2]:.0f} % of peak")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    save(figure, os.path.join(out, "throughput.png"))


def plot_overlap(run, name):
    """One step of every rank that left a trace: what it computed, and what travelled meanwhile."""
    folder = os.path.join(run, "trace")
    files = sorted((f for f in os.listdir(folder) if f.startswith("rank")), key=lambda f: int(f[4:-5])) if os.path.isdir(folder) else []
    ranks = []
    for file in files[:4]:
        with open(os.path.join(folder, file), encoding="utf-8") as stream:
            ranks.append((file[:-5], [e for e in json.load(stream)["traceEvents"] if e["ph"] == "X"]))
    if not ranks:
        print(f"{run}: no timeline (train.trace_steps is 0, or the run was too short)")
        return
    figure, rows = plt.subplots(len(ranks), 1, figsize=(11, 1.1 + 2.1 * len(ranks)), dpi=120, squeeze=False, sharex=True)
    colors = {"forward": "#9cc4e4", "backward": "#4a87b9", "optimizer": "#c7b7e2"}
    used = {}
    longest = 0
    for axis, (rank, events) in zip(rows[:, 0], ranks):
        steps = [e for e in events if e["tid"] == 0]
        step = sorted(steps, key=lambda e: e["dur"])[len(steps) // 2]  # the middle one
        begin, end = step["ts"], step["ts"] + step["dur"]
        longest = max(longest, step["dur"] / 1e3)
        inside = [e for e in events if e["tid"] > 0 and e["ts"] >= begin - 1 and e["ts"] + e["dur"] <= end + 1000]
        compute = [e for e in inside if e["tid"] == 1]
        for e in compute:
            used[e["name"]] = axis.barh(1, e["dur"] / 1e3, left=(e["ts"] - begin) / 1e3, height=0.7,
                                        color=colors.get(e["name"], "#bbbbbb"), edgecolor="white", linewidth=0.5)
        buckets = sorted((e for e in inside if e["tid"] == 2), key=lambda e: e["ts"])
        backward_end = max((e["ts"] + e["dur"] for e in compute if e["name"] == "backward"), default=end)
        lanes = []  # buckets that travel at the same time lie below each other
        for e in buckets:
            lane = next((i for i, free in enumerate(lanes) if free <= e["ts"]), len(lanes))
            lanes[lane:lane + 1] = [e["ts"] + e["dur"]]
            e["lane"] = lane
        height = 0.7 / max(1, len(lanes))
        for e in buckets:
            y = 0.35 - (e["lane"] + 0.5) * height
            before = max(0.0, min(e["ts"] + e["dur"], backward_end) - e["ts"])
            used["communication while backward runs"] = axis.barh(
                y, before / 1e3, left=(e["ts"] - begin) / 1e3, height=0.9 * height, color="#7cb98b")
            used["communication after backward"] = axis.barh(
                y, (e["dur"] - before) / 1e3, left=(e["ts"] + before - begin) / 1e3, height=0.9 * height, color="#d1661d")
        axis.axvline((backward_end - begin) / 1e3, color="#444444", linewidth=0.8, linestyle=":")
        hidden = sum(e["args"]["hidden_ms"] for e in buckets)
        exposed = sum(e["args"]["exposed_ms"] for e in buckets)
        axis.set_yticks([0, 1], ["buckets", "compute"])
        axis.set_ylim(-0.5, 1.6)
        axis.set_title(f"{rank}, {step['name']}: {len(buckets)} buckets, {hidden:.2f} ms hidden, {exposed:.2f} ms exposed of {step['dur'] / 1e3:.1f} ms",
                       fontsize=10, loc="left")
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    rows[-1, 0].set_xlabel("milliseconds since the step began")
    rows[-1, 0].set_xlim(0, longest * 1.01)
    figure.legend(used.values(), used.keys(), ncol=len(used), frameon=False, fontsize=8.5, loc="lower center")
    figure.suptitle(f"{name}: gradients travel while backward runs", fontsize=13, x=0.01, ha="left")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    path = os.path.join(run, "overlap.png")
    figure.savefig(path)
    plt.close(figure)
    print(path)


def main(out, folders):
    folders = [folder.rstrip("/") for folder in folders]
    runs = [(os.path.basename(folder), read_metrics(folder)) for folder in folders]
    runs = [(name, lines) for name, lines in runs if any("train/loss" in line for line in lines)]
    if not runs:
        print("lockstep: there is no training line in the metrics of: " + ", ".join(folders), file=sys.stderr)
        sys.exit(65)
    os.makedirs(out, exist_ok=True)
    plot_loss(runs, out)
    plot_throughput(runs, out)
    for folder in folders:
        plot_overlap(folder, os.path.basename(folder))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
