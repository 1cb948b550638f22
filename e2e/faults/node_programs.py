"""What runs inside a node for a fault, as text: a node knows nothing of this package."""

from __future__ import annotations

# Every process whose program or Python script has that name.
SIGNAL = r"""
for path in /proc/[0-9]*; do
  if tr '\0' ' ' < $path/cmdline 2>/dev/null |
      grep -qE '^([^ ]*python[^ ]* )?([^ ]*/)?PROGRAM( |$)'; then
    kill -SIGNAL ${path#/proc/} && echo told
  fi
done
"""

HUNTER_READY = "/run/fault-hunter"
# NAME SECONDS: kill each process of the name as soon as it is there, print how many. One that is
# new still has its parent's name until it runs its own program, so each is looked at for a while.
HUNTER = f"""
import os, sys, time
name, end = sys.argv[1][:15], time.monotonic() + float(sys.argv[2])
known, young, killed = set(os.listdir("/proc")), {{}}, 0
open("{HUNTER_READY}", "w").close()
while time.monotonic() < end:
    there = set(os.listdir("/proc"))
    for pid in there - known:
        young[pid] = time.monotonic() + 1.0
    known = there
    for pid, until in list(young.items()):
        try:
            with open("/proc/" + pid + "/comm") as file:
                found = file.read().strip() == name
            if found:
                os.kill(int(pid), 9)
                killed += 1
        except (OSError, ValueError):
            found = True
        if found or time.monotonic() > until:
            del young[pid]
    time.sleep(0.001)
os.unlink("{HUNTER_READY}")
print(killed)
"""

# LEAVE_KIB SECONDS: take so much memory that LEAVE_KIB is available, and keep it so whatever
# others do. It is the first that the kernel's OOM killer would end.
HOG = """
import mmap, sys, time
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
leave, seconds = int(sys.argv[1]), float(sys.argv[2])
taken_by, end = time.monotonic() + 30.0, None
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
def available():
    with open("/proc/meminfo") as lines:
        return next(int(l.split()[1]) for l in lines if l.startswith("MemAvailable"))
held = []
while end is None or time.monotonic() < end:
    spare = available() - leave
    if end is None and (spare <= 1024 or time.monotonic() > taken_by):
        end = time.monotonic() + seconds
    if spare > 1024:
        kib = min(spare, 16384)
        held.append((mmap.mmap(-1, kib << 10, flags=flags), kib))
    elif held and spare < -held[-1][1]:
        held.pop()[0].close()
    else:
        time.sleep(0.05)
print(sum(kib for _, kib in held) >> 10)
"""
MEMORY = """
grep -E "^(pgscan_kswapd|pgscan_direct|oom_kill) " /proc/vmstat
grep -E "^MemAvailable" /proc/meminfo
"""

FILLER = "/var/lib/twinvault/pools/*/fault-filler"
FILL = """
for pool in /var/lib/twinvault/pools/*; do
  free=$(df --output=avail -B1 $pool | tail -1)
  fallocate -l $free $pool/fault-filler || true
  dd if=/dev/zero of=$pool/fault-filler bs=64k oflag=append conv=notrunc 2>/dev/null || true
done
"""

KERNEL_MARK = "twinvault fault run"
# After that line: what the kernel said of fencing, and of I/O that failed.
KERNEL_TROUBLE = r"""
dmesg | sed -n '/BEGIN$/,$p' | grep -E \
  'helper command: .* fence-peer |I/O error|EXT4-fs (error|warning)|XFS .*(error|shut)' || true
"""
