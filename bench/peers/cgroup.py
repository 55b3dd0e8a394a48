"""A memory limit that the kernel enforces: version 1 or 2 of control groups, page cache counted."""

import os
import subprocess
import time

OLD, NEW = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"


class NoLimit(Exception):
    """Why there is none, and what to do."""


def folder():
    """Where a group can be made, and whether it is of version 2."""
    if os.path.exists(OLD + "/memory.limit_in_bytes"):
        return OLD, False
    if "memory" in read(NEW + "/cgroup.controllers").split():
        return NEW, True
    raise NoLimit("no memory controller is mounted under /sys/fs/cgroup: the kernel must have control groups")


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


class Limit:
    """A group; `with` removes it."""

    def __init__(self, most):
        parent, self.new = folder()
        self.path = os.path.join(parent, f"berth-peers-{os.getpid()}")
        try:
            os.mkdir(self.path)
            if self.new:
                if "memory" not in read(parent + "/cgroup.subtree_control").split():
                    self._write(parent + "/cgroup.subtree_control", "+memory")
                self._write(self.path + "/memory.max", most)
                self._write(self.path + "/memory.swap.max", 0, needed=False)
            else:
                self._write(self.path + "/memory.limit_in_bytes", most)
                self._write(self.path + "/memory.memsw.limit_in_bytes", most, needed=False)
        except OSError as error:
            self.close()
            raise NoLimit(f"{error}: a limit needs root, or a folder of control groups that is yours") from None

    def _write(self, path, value, needed=True):
        try:
            with open(path, "w") as file:
                file.write(str(value))
        except OSError:
            if needed:
                raise

    def join(self):
        """Puts the calling process into it; for `preexec_fn`."""
        with open(self.path + "/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))

    def peak(self):
        text = read(self.path + ("/memory.peak" if self.new else "/memory.max_usage_in_bytes"))
        return int(text) if text else None

    def kills(self):
        """How many processes the kernel has ended for it."""
        text = read(self.path + ("/memory.events" if self.new else "/memory.oom_control"))
        words = dict(line.split() for line in text.splitlines())
        return int(words.get("oom_kill", 0))

    def close(self):
        for _ in range(50):
            try:
                os.rmdir(self.path)
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def forget(*paths):
    """Drops the page cache's copies of files: what is cached from before would be on nobody's account."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


class Run:
    """What a command did: under a limit, or free where `most` is None."""

    def __init__(self, words, most=None, seconds=600):
        limit = Limit(most) if most else None
        self.killed, self.peak, self.late = False, None, False
        began = time.monotonic()
        try:
            child = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit and limit.join
            )
            try:
                self.out, self.err = child.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                self.out, self.err = child.communicate()
                self.late = True
            except BaseException:
                child.kill()
                child.wait()
                raise
            self.code, self.took = child.returncode, time.monotonic() - began
            if limit:
                self.killed, self.peak = limit.kills() > 0, limit.peak()
        finally:
            if limit:
                limit.close()
