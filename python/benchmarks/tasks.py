"""Tasks per second through Redis and a prefork worker of two children, in turns: plain json, stock auth, ours with signed
bodies, ours sealed (signed and encrypted). `python benchmarks/tasks.py [TASKS]`; 2,000 tasks unless told otherwise.

First the tasks are published, then a worker that is up and idle until then works them off. Needs `redis-server`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis
from serializers import identity

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.servers import redis_server  # noqa: E402

import taskseal  # noqa: E402

HERE = Path(__file__).parent
MODES = ("json", "auth", "ours", "sealed")
TURNS = 3

PUBLISH = """
import sys, time
from bench_app import app, {task}
with app.producer_or_acquire() as producer:
    {task}.apply_async((0, 0), producer=producer, queue="warm-up")
    start = time.perf_counter()
    for number in range({count}):
        {task}.apply_async((number, 1), producer=producer)
    print(time.perf_counter() - start)
"""


def run(mode, task, count, home, address):
    environment = {**os.environ, "BENCH_MODE": mode, "BENCH_HOME": home, "BENCH_REDIS": address, "PYTHONPATH": str(HERE)}
    host, port = address.split(":")
    with redis.Redis(host, int(port)) as client:
        client.flushall()
        published = subprocess.run(
            [sys.executable, "-c", PUBLISH.format(task=task, count=count)], env=environment, capture_output=True, text=True
        )
        if published.returncode:
            sys.exit(published.stderr)
        client.rename("celery", "waiting")
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "bench_app", "worker", "-P", "prefork", "-c", "2", "-l", "warning",
             "--without-gossip", "--without-mingle", "--without-heartbeat"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            time.sleep(6)
            start = time.perf_counter()
            client.rename("waiting", "celery")
            while client.llen("celery") or client.hlen("unacked"):
                time.sleep(0.01)
            drained = time.perf_counter() - start
        finally:
            worker.terminate()
            worker.wait()
    return count / float(published.stdout), count / drained


def main():
    count = int(sys.argv[1]) if sys.argv[1:] else 2000
    rows = {}
    with tempfile.TemporaryDirectory() as home, redis_server(home) as address:
        key, certificate = identity()
        (Path(home) / "trusted").mkdir()
        (Path(home) / "key.pem").write_text(key)
        (Path(home) / "trusted" / "certificate.pem").write_text(certificate)
        (Path(home) / "fernet.key").write_bytes(taskseal.Fernet.generate_key())
        # In turns, so that a disturbance does not hit one of them alone.
        for _ in range(TURNS):
            for task in ("add_silently", "add"):
                for mode in MODES:
                    rows.setdefault((task, mode), []).append(run(mode, task, count, home, address))
    print(f"| {count} tasks, median of {TURNS} | publish/s | worker/s, result ignored | worker/s, result stored |")
    print("|---|---:|---:|---:|")
    for mode in MODES:
        silent, stored = rows["add_silently", mode], rows["add", mode]
        numbers = [
            statistics.median(publish for publish, _ in silent),
            statistics.median(drain for _, drain in silent),
            statistics.median(drain for _, drain in stored),
        ]
        print(f"| {mode} | " + " | ".join(f"{number:,.0f}" for number in numbers) + " |")
    for at, name in ((0, "publish"), (1, "worker")):
        ratio = statistics.median(r[at] for r in rows["add", "sealed"]) / statistics.median(
            r[at] for r in rows["add", "auth"]
        )
        print(f"{name}, results stored: sealed is {ratio:.2f} times stock auth (aim: at least 1)")


if __name__ == "__main__":
    main()
