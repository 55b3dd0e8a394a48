"""How fast a file is read past the page cache: so many threads, each one block at a time.

    reader.py FILE [BYTES_OF_A_READ [DEPTH [BYTES_IN_ALL]]]

Prints bytes a second. Nothing else is done with the bytes, and nothing here is shared with what is compared with it.
"""

import mmap
import os
import subprocess
import sys
import threading
import time


LARGE = 2 << 20


def rate(path, block=4 << 20, depth=8, most=None):
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    length = min(os.fstat(file).st_size, most or 1 << 62) // block * block
    lock, places = threading.Lock(), iter(range(0, length, block))

    def read():
        # Large pages where the system has some: a disk brings as much as twice more to them.
        memory = mmap.mmap(-1, max(block, LARGE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.write(b"\1" * block)
        target = memoryview(memory)[:block]
        while True:
            with lock:
                at = next(places, None)
            if at is None:
                return
            if os.preadv(file, [target], at) != block:
                raise OSError(f"{path}: a read at {at} came short")

    threads = [threading.Thread(target=read) for _ in range(depth)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    os.close(file)
    return length / took


def rate_beside_compute(path, most=None):
    """The same while all cores compute something that needs no memory: disks of virtual machines slow down then."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        return rate(path, most=most)
    finally:
        for process in busy:
            process.kill()
            process.wait()


if __name__ == "__main__":
    print(f"{rate(sys.argv[1], *map(int, sys.argv[2:])):.0f}")
