"""What all of the peers measure alike: time and bytes from the disk of each step; results go to files."""

import json
import time

import numpy


def from_disk():
    """Bytes that the disk has brought for this process, page faults included."""
    with open("/proc/self/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))


def steps(count, step):
    """Calls `step` so many times; seconds and bytes of each, and what the last one gave."""
    seconds, read, last = [], [], None
    for _ in range(count):
        before, began = from_disk(), time.monotonic()
        last = step()
        seconds.append(time.monotonic() - began)
        read.append(from_disk() - before)
    return {"seconds": seconds, "read": read}, last


def write(path, told, outputs):
    """Numbers to PATH.json, outputs to PATH.npz."""
    with open(path + ".json", "w") as file:
        json.dump(told, file)
    numpy.savez(path + ".npz", **outputs)
