#!/usr/bin/env python3
"""How fast are rows read, beside pread, h5py and PyTorch's DataLoader? And how long does a file with very many chunks take to open?

Writes files of 150,528-byte rows (224 x 224 x 3 bytes, or as many bytes of f32) with h5py and runs `io_reading` and its peers in turn, round
after round. Everything is warm: the files fit the page cache. Prints a JSON list of results. Usage:
    benchmarks/io/reading.py --program BUILD/benchmarks/io_reading [--folder FOLDER] [--rounds 7] [--only NAME ...]
Needs numpy, h5py and torch in the Python that runs it; without torch the DataLoader row is left out.
"""

import argparse
import datetime
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS, ROW, BATCH = 2048, 150528, 64


def write_files(folder):
    """The files, once. Returns the offset of the contiguous one's values."""
    r = np.random.default_rng(1)
    y, x = np.mgrid[0:224, 0:224]
    photos = np.empty((256, 224, 224, 3), "u1")  # smooth, with noise: deflate takes about a third off
    for i in range(len(photos)):
        base = 128 + 60 * np.sin(x * r.uniform(0.01, 0.05) + i) + 40 * np.cos(y * r.uniform(0.01, 0.05))
        photos[i] = np.clip(base[..., None] + r.integers(-6, 7, (224, 224, 3)), 0, 255)
    floats = r.standard_normal((256, ROW // 4), dtype="f4")
    files = {
        "contiguous": ("x", floats, {}),
        "chunks": ("x", floats, dict(chunks=(1, ROW // 4))),
        "checked": ("x", floats, dict(chunks=(1, ROW // 4), fletcher32=True)),
        "photos": ("images", photos, {}),
        "sixteen": ("images", photos, dict(chunks=(16, 224, 224, 3))),
        "deflate": ("images", photos, dict(chunks=(4, 224, 224, 3), compression="gzip", compression_opts=1, shuffle=True, fletcher32=True)),
    }
    for name, (dataset, block, options) in files.items():
        path = folder / f"{name}.h5"
        if path.exists():
            continue
        rows = ROWS // 4 if name == "deflate" else ROWS
        with h5py.File(path.with_suffix(".part"), "w") as f:
            d = f.create_dataset(dataset, (rows, *block.shape[1:]), block.dtype, **options)
            for i in range(0, rows, len(block)):
                d[i:i + len(block)] = block
        path.with_suffix(".part").rename(path)
    path = folder / "many.h5"
    if not path.exists():
        with h5py.File(path.with_suffix(".part"), "w") as f:
            f.create_dataset("x", data=r.standard_normal((262144, 64), dtype="f4"), chunks=(1, 64))
            f["y"] = r.integers(0, 10, 262144)
        path.with_suffix(".part").rename(path)
    with h5py.File(folder / "contiguous.h5") as f:
        return f["x"].id.get_offset()


def ours(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{program} {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def h5py_rate(path, seconds):
    """Shuffled batches as one would write them: d[sorted indices], then float and scaled."""
    with h5py.File(path) as f:
        d = f["images"]
        order = np.random.default_rng(5).permutation(len(d))
        out = np.empty((BATCH, *d.shape[1:]), "f4")
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            rows = np.sort(order[done % (len(d) - BATCH):][:BATCH])
            np.multiply(d[rows], np.float32(1 / 255), out=out)
            done += BATCH
        return done / (time.perf_counter() - begin)


def loader_rate(path, seconds, workers=2):
    import torch

    class Photos(torch.utils.data.Dataset):
        def __init__(self):
            with h5py.File(path) as f:
                self.rows = len(f["images"])
            self.data = None

        def __len__(self):
            return self.rows

        def __getitem__(self, i):
            if self.data is None:  # each worker opens the file for itself
                self.data = h5py.File(path)["images"]
            return torch.from_numpy(self.data[i]).float().mul_(1 / 255)

    loader = torch.utils.data.DataLoader(Photos(), batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=True)
    batches = iter(loader)
    next(batches)  # the workers have started
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        try:
            done += len(next(batches))
        except StopIteration:
            batches = iter(loader)
    rate = done / (time.perf_counter() - begin)
    del batches, loader
    return rate


def interval(ratios):
    """95 % interval of the median, by resampling."""
    r = random.Random(1)
    medians = sorted(statistics.median(r.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[50], medians[1949]


def result(name, unit, mine, peer, peer_name, command, limit=None):
    ratios = [a / b for a, b in zip(mine, peer)]
    low, high = interval(ratios)
    best = statistics.median(mine)
    return {"name": name, "unit": unit, "ours": round(best, 3), "peer": round(statistics.median(peer), 3), "peer_name": peer_name,
            "ratio": round(statistics.median(ratios), 3), "ratio_low": round(low, 3), "ratio_high": round(high, 3), "rounds": len(ratios),
            "limit": limit, "share_of_limit": None if limit is None else round(best / limit, 3), "command": command,
            "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip(),
            "date": datetime.date.today().isoformat(), "versions": f"HDF5 {h5py.version.hdf5_version} (h5py {h5py.__version__}), numpy {np.__version__}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "build/cpu/benchmarks/io_reading"))
    parser.add_argument("--folder", help="where the files are kept between calls (1.4 GB)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2, help="of one round of h5py or DataLoader")
    parser.add_argument("--only", nargs="*", default=["pread", "h5py", "loader", "cores", "consume", "open"])
    a = parser.parse_args()
    command = f"benchmarks/io/reading.py --rounds {a.rounds}"
    temporary = None if a.folder else tempfile.TemporaryDirectory()
    folder = pathlib.Path(a.folder or temporary.name)
    folder.mkdir(parents=True, exist_ok=True)
    offset = write_files(folder)
    results = []

    if "pread" in a.only:
        for name, what in (("contiguous", "contiguous"), ("chunks", "one row a chunk"), ("checked", "one row a chunk, Fletcher32")):
            for order in ("sequential", "shuffled"):
                r = ours(a.program, "compare", folder / f"{name}.h5", folder / "contiguous.h5", offset, order, a.rounds)
                results.append(result(f"{order} rows of 150 kB, {what}", "GB/s", r["ours"], r["peer"], "a loop of pread", command))
    if "h5py" in a.only or "loader" in a.only:
        peers = [("h5py", h5py_rate, "h5py, d[sorted indices]", "h5py")]
        try:
            import torch
            peers.append(("loader", loader_rate, f"torch {torch.__version__} DataLoader over h5py, 2 workers", "loader"))
        except ImportError:
            pass
        for key, rate, peer_name, _ in peers:
            if key not in a.only:
                continue
            mine, windowed, peer = [], [], []
            for _ in range(a.rounds):
                mine.append(ours(a.program, "batches", folder / "sixteen.h5", "shuffled", a.seconds)["rows_per_s"])
                peer.append(rate(folder / "sixteen.h5", a.seconds))
                windowed.append(ours(a.program, "batches", folder / "sixteen.h5", "window", a.seconds)["rows_per_s"])
            results.append(result("shuffled batches of 64 photos to f32, 16 photos a chunk", "rows/s", mine, peer, peer_name, command))
            results.append(result("the same, chunks shuffled and rows mixed in windows of 16 chunks", "rows/s", windowed, peer, peer_name, command))
    if "cores" in a.only:
        r = ours(a.program, "cores", folder / "deflate.h5", a.rounds)
        results.append(result("deflate, shuffle, Fletcher32: photos to f32 on two cores", "rows/s", r["ours"], r["peer"], "one core", command))
    if "consume" in a.only:
        for name, what in (("contiguous", "contiguous f32"), ("checked", "f32, one row a chunk, Fletcher32"), ("sixteen", "bytes to f32, 16 rows a chunk")):
            # Ten seconds: the first batches, whose memory is touched for the first time, count as in any run.
            runs = [ours(a.program, "consume", folder / f"{name}.h5", 1.2, 10) for _ in range(a.rounds)]
            shares = sorted(r["exposed_share"] for r in runs)
            results.append({"name": f"exposed data time at 1.2 GB/s of stored rows, {what}", "unit": "share of the step",
                            "ours": round(statistics.median(shares), 5), "ours_low": round(shares[0], 5), "ours_high": round(shares[-1], 5),
                            "rate_GB/s": round(statistics.median(r["GB/s"] for r in runs), 3), "rounds": len(runs), "limit": 0.005,
                            "command": command})
    if "open" in a.only:
        shutil.rmtree(folder / "many.h5.notes", ignore_errors=True)
        times = [ours(a.program, "open", folder / "many.h5")["ms"] for _ in range(a.rounds)]
        results.append({"name": "opening a file with 262,144 chunks", "unit": "ms", "ours": round(statistics.median(times[1:]), 1),
                        "first": round(times[0], 1), "rounds": len(times), "limit": 50, "command": command})
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
