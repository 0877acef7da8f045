"""What images cost: their size, the time from `run` to the first answer, and memory. `make bench-image` builds and compares them.

    python -m benchmarks.image ENGINE IMAGE [IMAGE ...]

ENGINE is docker or podman. Each container runs without a network, so the client runs inside it. Memory is the proportional set size (PSS)
of all its processes: pages that several share count once.
"""

import json
import statistics
import subprocess
import sys
import time
from typing import Any

RUNS = 3
CLIENT = """
import concurrent.futures, glob, json, os, time, urllib.request

def answer(length):
    body = json.dumps({"start_word": "The lighthouse", "length": length}).encode()
    request = urllib.request.Request("http://127.0.0.1:3000/generate_with_llm", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request).read()

def memory():
    total = 0
    for path in glob.glob("/proc/[0-9]*/smaps_rollup"):
        if str(os.getpid()) not in path.split("/"):
            try:
                total += sum(int(line.split()[1]) for line in open(path) if line.startswith("Pss:"))
            except OSError:  # the process has ended
                pass
    return total / 1000

while True:
    try:
        answer(20)
        break
    except OSError:
        time.sleep(0.05)
figures = {"answered": time.time()}
time.sleep(3)
figures["idle"] = memory()
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(answer, [64] * 16))
figures["loaded"] = memory()
print(json.dumps(figures))
"""


def measure(engine: str, image: str) -> dict[str, float]:
    """Run `image` once. Returns the seconds to the first answer, and its memory in MB, idle and after 16 texts, four at once."""
    began = time.time()
    run = [engine, "run", "--detach", "--network", "none", image]
    container = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    try:
        client = [engine, "exec", "--interactive", container, "python", "-"]
        done = subprocess.run(client, input=CLIENT, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    finally:
        subprocess.run([engine, "rm", "--force", "--volumes", container], check=True, stdout=subprocess.DEVNULL)
    figures: dict[str, float] = json.loads(done.stdout)
    return {"seconds": figures["answered"] - began, "idle": figures["idle"], "loaded": figures["loaded"]}


def size(engine: str, image: str) -> float:
    """Return the size of an image in MB."""
    inspected = subprocess.run([engine, "image", "inspect", image], check=True, stdout=subprocess.PIPE, text=True)
    description: list[dict[str, Any]] = json.loads(inspected.stdout)
    return float(description[0]["Size"]) / 1e6


def main(engine: str, images: list[str]) -> None:
    """Print a table of the images, with the median of `RUNS` runs."""
    print("| image | size | first answer after `run` | memory idle | after 16 texts |\n|---|---|---|---|---|")
    for image in images:
        runs = [measure(engine, image) for _ in range(RUNS)]
        seconds, idle, loaded = (statistics.median(run[key] for run in runs) for key in ("seconds", "idle", "loaded"))
        print(f"| {image} | {size(engine, image):,.0f} MB | {seconds:.1f} s | {idle:,.0f} MB | {loaded:,.0f} MB |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
