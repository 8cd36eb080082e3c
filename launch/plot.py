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
    half = len(values) // 100
    return [sum(values[max(0, i - half) : i + half + 1]) / len(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def dress(axis, y):
    axis.set_ylabel(y)
    axis.grid(True, color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def save(figure, path):
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
    print(path)


def plot_loss(runs, out):
    classifies = any("val/accuracy" in line for _, lines in runs for line in lines)
    figure, panels = plt.subplots(1 + classifies, 1, figsize=(9, 7.5 if classifies else 5), dpi=120, sharex=True, squeeze=False)
    loss_axis, accuracy_axis = panels[0, 0], panels[-1, 0]
    loss_axis.set_title("Loss" + (" and accuracy" if classifies else ""), fontsize=13, loc="left")
    dress(loss_axis, "loss")
    for (name, lines), color in zip(runs, COLORS * len(runs)):
        steps, loss = series(lines, "train/loss")
        if len(loss) >= 100:
            loss_axis.plot(steps, loss, color=color, linewidth=0.6, alpha=0.3)
        loss_axis.plot(steps, smooth(loss), color=color, linewidth=1.6, label=f"{name}: training")
        steps, loss = series(lines, "val/loss")
        if steps:
            loss_axis.plot(steps, loss, color=color, linestyle="--", linewidth=0.8, marker="o", markersize=5, markeredgecolor="black",
                           label=f"{name}: held-out, last {loss[-1]:.4g}")
        steps, accuracy = series(lines, "val/accuracy")
        if steps:
            accuracy_axis.plot(steps, [100 * a for a in accuracy], color=color, linestyle="--", linewidth=0.8, marker="o", markersize=5,
                               markeredgecolor="black", label=f"{name}: held-out, last {100 * accuracy[-1]:.2f} %")
    loss_axis.legend(frameon=False, fontsize=9)
    if classifies:
        dress(accuracy_axis, "accuracy (%)")
        accuracy_axis.legend(frameon=False, fontsize=9, loc="lower right")
    accuracy_axis.set_xlabel("step")
    save(figure, os.path.join(out, "loss.png"))


def plot_throughput(runs, out):
    tokens = any("tokens_per_s" in line for _, lines in runs for line in lines)
    key = "tokens_per_s" if tokens else "samples_per_s"
    figure, axis = plt.subplots(figsize=(9, 5), dpi=120)
    axis.set_title("Throughput", fontsize=13, loc="left")
    axis.set_xlabel("step")
    dress(axis, key.replace("_per_s", " per second"))
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


def read_traces(run):
    """(rank, events) of up to four ranks."""
    folder = os.path.join(run, "trace")
    files = [f for f in os.listdir(folder) if f.startswith("rank") and f.endswith(".json")] if os.path.isdir(folder) else []
    ranks = []
    for file in sorted(files, key=lambda f: int(f[4:-5]))[:4]:
        with open(os.path.join(folder, file), encoding="utf-8") as stream:
            ranks.append((file[:-5].replace("rank", "rank "), [e for e in json.load(stream)["traceEvents"] if e["ph"] == "X"]))
    return ranks


def middle_step(ranks):
    """Of the steps that all ranks have traced, the one of middle duration (the slowest rank counts)."""
    durations = {}
    for _, events in ranks:
        for e in events:
            if e["tid"] == 0:
                durations.setdefault(e["name"], []).append(e["dur"])
    whole = [(max(d), name) for name, d in durations.items() if len(d) == len(ranks)]
    return sorted(whole)[len(whole) // 2][1] if whole else None


def rows_of(buckets):
    """Buckets that travel at the same time lie below each other: a row number for each, and how many rows there are."""
    ends = []
    for e in buckets:
        row = next((i for i, end in enumerate(ends) if end <= e["ts"]), len(ends))
        ends[row:row + 1] = [e["ts"] + e["dur"]]
        e["row"] = row
    return len(ends)


def plot_overlap(run, name):
    """One step of every rank that left a trace: what it computed, and what travelled meanwhile."""
    ranks = read_traces(run)
    chosen = middle_step(ranks)
    if chosen is None:
        print(f"{run}: no timeline (train.trace_steps is 0, or the run was too short)")
        return
    figure, panels = plt.subplots(len(ranks), 1, figsize=(11, 1.3 + 2.2 * len(ranks)), dpi=120, squeeze=False, sharex=True)
    colors = {"data": "#e5c04b", "forward": "#9cc4e4", "backward": "#4a87b9", "optimizer": "#b39ddb"}
    used = {}
    for axis, (rank, events) in zip(panels[:, 0], ranks):
        step = next(e for e in events if e["tid"] == 0 and e["name"] == chosen)
        begin, end = step["ts"], step["ts"] + step["dur"]
        inside = [e for e in events if e["tid"] > 0 and begin - 1 <= e["ts"] <= end]
        compute = [e for e in inside if e["tid"] == 1]
        buckets = sorted((e for e in inside if e["tid"] == 2), key=lambda e: e["ts"])

        def bar(label, y, height, start, stop, color):
            used[label] = axis.barh(y, (stop - start) / 1e3, left=(start - begin) / 1e3, height=height, color=color, edgecolor="white",
                                    linewidth=0.3)

        for e in compute:
            bar(e["name"], 1, 0.7, e["ts"], e["ts"] + e["dur"], colors.get(e["name"], "#bbbbbb"))
        backward_end = max((e["ts"] + e["dur"] for e in compute if e["name"] == "backward"), default=end)
        height = 0.8 / max(1, rows_of(buckets))
        for e in buckets:
            y, stop = 0.4 - (e["row"] + 0.5) * height, e["ts"] + e["dur"]
            cut = min(max(e["ts"], backward_end), stop)
            bar("bucket travels while backward runs", y, 0.9 * height, e["ts"], cut, "#7cb98b")
            bar("bucket travels after backward", y, 0.9 * height, cut, stop, "#d1661d")
        axis.axvline((backward_end - begin) / 1e3, color="#444444", linewidth=0.8, linestyle=":")
        hidden = sum(e["args"]["hidden_ms"] for e in buckets)
        worked = sum(e["args"]["worked_ms"] for e in buckets)
        exposed = sum(e["args"]["exposed_ms"] for e in buckets)
        axis.set_title(f"{rank}: {step['dur'] / 1e3:.1f} ms; communication in {len(buckets)} buckets, {hidden:.2f} ms hidden, "
                       f"{worked:.2f} ms worked, {exposed:.2f} ms exposed", fontsize=10, loc="left")
        axis.set_yticks([0, 1], ["buckets", "compute"])
        axis.set_ylim(-0.55, 1.5)
        axis.tick_params(left=False)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    panels[-1, 0].set_xlim(left=0)
    panels[-1, 0].set_xlabel("milliseconds since the rank began the step; the dotted line is the end of backward")
    figure.legend(used.values(), used.keys(), ncol=len(used), frameon=False, fontsize=8.5, loc="lower center")
    figure.suptitle(f"{name}, {chosen}", fontsize=13, x=0.01, ha="left")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
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
