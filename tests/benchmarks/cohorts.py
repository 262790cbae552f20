"""Cohorts of hippocampi: the same bytes as a shell loop, killed at random moments, several hosts, pairs per hour.

    python tests/benchmarks/cohorts.py loop FOLDER --pairs 200      # pdd-register, one after the other; resumable
    python tests/benchmarks/cohorts.py batch FOLDER --pairs 200     # pdd-batch
    python tests/benchmarks/cohorts.py same FOLDER                  # compares the bytes of both
    python tests/benchmarks/cohorts.py killed FOLDER --pairs 200    # kills the scheduler, a worker, and all
    python tests/benchmarks/cohorts.py hosts FOLDER --pairs 24       # one worker killed, one stopped, one small
    python tests/benchmarks/cohorts.py rate FOLDER --pairs 40       # pairs per hour of both, on an idle machine

``--seconds`` ends loop and batch after so long; the same command goes on. Needs the benchmark data (ITK_PDD_DATA).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from itk_pdd.evaluation.datasets import Pair, hippocampus_pairs, write_pairs

OUTPUTS = ("field.nii.gz", "warped.nii.gz")
SCRIPTS = Path(sys.executable).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["loop", "batch", "same", "killed", "hosts", "rate"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    globals()[options.what](options)


def listed(options: argparse.Namespace) -> tuple[Path, list[Pair]]:
    """Write the list of pairs, images alone."""
    pairs = [Pair(pair.fixed, pair.moving) for pair in hippocampus_pairs("train", options.pairs)]
    path = options.folder / "pairs.csv"
    write_pairs(path, pairs)
    return path, pairs


def loop(options: argparse.Namespace) -> int:
    """Register the pairs one after the other, each by a process of its own."""
    _, pairs = listed(options)
    started, made = time.monotonic(), 0
    for pair in pairs:
        out = options.folder / "loop" / pair.name
        if (out / OUTPUTS[0]).exists():
            continue
        if time.monotonic() - started > options.seconds:
            print("time is over: give the command again")
            break
        out.mkdir(parents=True, exist_ok=True)
        command = [
            SCRIPTS / "pdd-register",
            pair.fixed,
            pair.moving,
            "-o",
            out / OUTPUTS[0],
            "--warped",
            out / OUTPUTS[1],
        ]
        subprocess.run(command, check=True)
        made += 1
    print(f"{made} pairs in {time.monotonic() - started:.0f} s by pdd-register")
    return made


def command_of(options: argparse.Namespace, name: str, *more: str) -> list[str]:
    path, _ = listed(options)
    return [
        str(SCRIPTS / "pdd-batch"), str(path), "-o", str(options.folder / name), "--outputs", "field,warped",
        "--no-report", *more,
    ]  # fmt: skip


def batch(options: argparse.Namespace, name: str = "batch") -> None:
    started = time.monotonic()
    process = subprocess.Popen(command_of(options, name, "--workers", str(options.workers)), start_new_session=True)
    try:
        process.wait(options.seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
        print("time is over: give the command again")
    print(f"{len(done(options.folder / name))} pairs done; {time.monotonic() - started:.0f} s by pdd-batch")


def same(options: argparse.Namespace) -> None:
    """Compare the bytes of the results of all ways with those of the loop."""
    for name in ("batch", "killed", "hosts"):
        records = done(options.folder / name)
        other, absent = 0, 0
        for pair in records:
            for file in OUTPUTS:
                reference = options.folder / "loop" / pair / file
                if not reference.exists():
                    absent += 1
                else:
                    other += reference.read_bytes() != (options.folder / name / pair / file).read_bytes()
        print(f"{name}: {len(records)} pairs, {other} files with other bytes, {absent} without a reference")


def done(folder: Path) -> dict[str, int]:
    """Times of the records of the pairs that are done."""
    found = {}
    for path in sorted((folder / "records").glob("*.json")):
        if json.loads(path.read_text())["status"] == "done":
            found[path.stem] = path.stat().st_mtime_ns
    return found


class Dask:
    """A scheduler and workers in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.file, self.log = folder / "scheduler.json", (folder / "dask.log").open("ab")
        self.scheduler: subprocess.Popen | None = None
        self.workers: list[subprocess.Popen] = []

    def program(self, *words: str, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-P", "-m", "dask", *words, "--scheduler-file", str(self.file)]
        return subprocess.Popen(
            command, stdout=self.log, stderr=self.log, start_new_session=True, env={**os.environ, **environment}
        )

    def start(self, count: int, *, memory: str = "4GB") -> None:
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.file.unlink(missing_ok=True)
            self.scheduler = self.program(
                "scheduler", "--port", "0", "--no-dashboard", DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="20s"
            )
            while not self.file.exists():
                time.sleep(0.2)
        while len([w for w in self.workers if w.poll() is None]) < count:
            self.add(memory)

    def add(self, memory: str) -> subprocess.Popen:
        self.workers.append(self.program("worker", "--nthreads", "1", "--memory-limit", memory, "--no-dashboard"))
        return self.workers[-1]

    def kill(self, process: subprocess.Popen) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            if process is not None and process.poll() is None:
                self.kill(process)


def killed(options: argparse.Namespace) -> None:
    """Kill the scheduler, a worker and all at random moments; start again what is gone."""
    chance, dask = random.Random(options.seed), Dask(options.folder)
    folder, started = options.folder / "killed", time.monotonic()
    kills = ["scheduler", "worker", "all"]
    chance.shuffle(kills)
    seen: dict[str, int] = {}
    before = len(done(folder))
    step = max(1, (options.pairs - before) // (len(kills) + 1))
    goals = [before + step * n + chance.randrange(max(1, step // 2)) for n in range(1, len(kills) + 1)]
    process = None
    try:
        while True:
            if process is None or process.poll() is not None:
                if process is not None and not kills and len(done(folder)) == options.pairs:
                    break
                dask.start(options.workers)
                process = subprocess.Popen(
                    command_of(options, "killed", "--scheduler", str(dask.file)),
                    stderr=dask.log, stdout=dask.log, start_new_session=True,
                )  # fmt: skip
            time.sleep(0.5)
            # The workers of a killed scheduler end some seconds after it.
            dask.start(options.workers)
            now = done(folder)
            again = [name for name, when in seen.items() if now.get(name) != when]
            assert not again, f"done twice: {again}"
            seen = now
            if kills and len(now) >= goals[0]:
                time.sleep(chance.random())
                kind = kills.pop(0)
                goals.pop(0)
                print(f"{len(now)} pairs done: the {kind} is killed", flush=True)
                victims = {"scheduler": [dask.scheduler], "worker": dask.workers[-1:]}.get(
                    kind, [process, dask.scheduler, *dask.workers]
                )
                for each in victims:
                    if each is not None and each.poll() is None:
                        dask.kill(each)
                if kind == "worker":
                    dask.start(options.workers)
            if time.monotonic() - started > options.seconds:
                print("time is over")
                break
        states = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
        attempts = sorted(record["attempts"] for record in states)
        print(f"{len(done(folder))} of {options.pairs} pairs done, none of them done twice; attempts {attempts[-5:]}")
    finally:
        if process is not None and process.poll() is None:
            dask.kill(process)
        dask.end()


def hosts(options: argparse.Namespace) -> None:
    """Run four workers, of which one is killed, one is stopped for good, and one has too little memory."""
    dask = Dask(options.folder)
    try:
        dask.start(3)
        dask.add("250MB")
        process = subprocess.Popen(command_of(options, "hosts", "--scheduler", str(dask.file)), start_new_session=True)
        folder, acts = options.folder / "hosts", 0
        while process.poll() is None:
            time.sleep(0.5)
            if acts == 0 and len(done(folder)) >= 3:
                dask.kill(dask.workers[0])
                print("a worker was killed", flush=True)
                acts = 1
            elif acts == 1 and len(done(folder)) >= 6:
                os.killpg(dask.workers[1].pid, signal.SIGSTOP)
                print("a worker was stopped", flush=True)
                acts = 2
        states = [json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))]
        print(f"{len(states)} of {options.pairs} pairs have a record")
        for record in states:
            if record["status"] != "done" or record["attempts"] > 1:
                print(record["name"], record["status"], record.get("attempts"), record.get("reason", ""))
    finally:
        os.killpg(dask.workers[1].pid, signal.SIGCONT)
        dask.end()


def rate(options: argparse.Namespace) -> None:
    """Pairs per hour by both ways, alternating halves; give a fresh folder."""
    times = {"loop": 0.0, "batch": 0.0}
    for _ in range(2):
        for name, way in (("loop", loop), ("batch", batch)):
            started = time.monotonic()
            way(options)
            times[name] += time.monotonic() - started
            for path in (options.folder / name).rglob("field.nii.gz"):
                path.unlink()
    per_hour = {name: 2 * options.pairs * 3600 / seconds for name, seconds in times.items()}
    print(f"{per_hour}; ratio {per_hour['batch'] / per_hour['loop']:.2f}")


if __name__ == "__main__":
    main()
