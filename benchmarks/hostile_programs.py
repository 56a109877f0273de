"""Run programs that attack the sandbox, and print how many were tried, held and failed in each isolation mode.

    python benchmarks/hostile_programs.py [--verbose]

Three kinds. A *forgery* tries to pass tests that it does not satisfy. A *probe* reports ``ESCAPED`` if it reaches
something outside, and ``TRIED`` if it came to its end, so that a probe with a bug does not count as held. A *glutton*
takes too much of something, and must end by the sandbox's limits and in time. After each mode the host is looked at:
planted files, sockets, keys, shared memory and processes. Everything stays on this machine and small. Exit code 1 if
anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import platform
import random
import socket
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from layercut.sandbox import runner as sandbox
from layercut.sandbox.isolation import Limits
from layercut.sandbox.runner import ProgramResult, SandboxError, run_program

TESTS = "assert all(map(lambda x: double(x) == 2 * x, [4, 'a', [1]]))"
MARK = random.randint(65, 999)
LIMITS = Limits(wall_seconds=20, cpu_seconds=3, memory_mb=256, processes=12, disk_mb=4, output_kb=MARK)
LONGEST = LIMITS.wall_seconds + 20  # the last is for a busy machine
KEY = 0x1A7E2C07
IS_ARM = platform.machine() == "aarch64"

WRONG = "\ndef double(x): return 0\n"
FORGERIES = {
    "exit 0 at once": "raise SystemExit(0)",
    "exit 0 in a call": "def double(x): raise SystemExit(0)",
    "_exit at once": "import os; os._exit(0)",
    "_exit in a call": "import os\ndef double(x): os._exit(0)",
    "atexit": "import atexit, os; atexit.register(os._exit, 0)" + WRONG,
    "exit in a thread": "import threading, os; threading.Timer(0.1, os._exit, (0,)).start()" + WRONG,
    "exit by signal": "import signal, os\nsignal.signal(14, lambda *_: os._exit(0)); signal.setitimer(0, 0.05)" + WRONG,
    "prints a verdict": 'print(\'{"passed": true, "failure": ""}\')' + WRONG,
    "writes a verdict to every descriptor": (
        'import os, json\nfor fd in range(64):\n    try: os.write(fd, b\'{"passed": true, "token": ""}\')\n'
        "    except OSError: pass" + WRONG
    ),
    "writes frames to every descriptor": (
        "import os, struct\ndata = b'{\"value\": 8}'\nfor fd in range(3, 64):\n"
        "    try: os.write(fd, struct.pack('!Q', len(data)) + data)\n    except OSError: pass" + WRONG
    ),
    "equals everything": "class A:\n    __eq__ = lambda *_: True\ndef double(x): return A()",
    "a list that equals everything": "class A(list):\n    __eq__ = lambda *_: True\ndef double(x): return A()",
    "an int that equals everything": "class A(int):\n    __eq__ = lambda *_: True\ndef double(x): return A()",
    "a str that equals everything": "class A(str):\n    __eq__ = lambda *_: True\ndef double(x): return A()",
    "a dict that equals everything": "class A(dict):\n    __eq__ = lambda *_: True\ndef double(x): return A()",
    "a float that equals everything": "class A(float):\n    __eq__ = lambda *_: True\ndef double(x): return A()",
    "true in every question": "class A:\n    __bool__ = lambda _: True\ndef double(x): return A()",
    "not a number": "def double(x): return float('nan')",
    "replaces AssertionError": "import builtins; builtins.AssertionError = type(None)" + WRONG,
    "replaces isinstance": "import builtins; builtins.isinstance = lambda *_: True" + WRONG,
    "replaces len and all": "import builtins; builtins.len = lambda _: 0; builtins.all = lambda _: True" + WRONG,
    "replaces __build_class__": "import builtins; builtins.__build_class__ = None" + WRONG,
    "replaces json": "import json; json.dumps = lambda *_, **__: '{\"value\": 8}'" + WRONG,
    "replaces exec": "import builtins; builtins.exec = lambda *_: None" + WRONG,
    "replaces the excepthook": "import sys; sys.excepthook = lambda *_: None" + WRONG,
    "walks the frames": "import sys\nframe = sys._getframe()\nwhile frame:\n    frame.f_locals.update(passed=True); "
    "frame = frame.f_back" + WRONG,
    "rewrites the main module": "import sys; vars(sys.modules['__main__']).clear()" + WRONG,
    "scans the garbage for tests": (
        "import gc\nfor o in gc.get_objects():\n    try:\n"
        "        if 'tests' in o: o['tests'] = ''\n    except Exception: pass" + WRONG
    ),
    "kills its parent": "import os; os.kill(os.getppid(), 9)" + WRONG,
    "kills process 1": "import os\ntry: os.kill(1, 9)\nexcept OSError: pass" + WRONG,
    "kills everybody": "import os; os.kill(-1, 9)" + WRONG,
    "stops process 1": "import os\ntry: os.kill(1, 19)\nexcept OSError: pass" + WRONG,
    "starves the judge": "import resource, os\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))" + WRONG,
    "closes every descriptor": "import os; os.closerange(0, 64)" + WRONG,
    "answers in place of itself": "import os\nif os.fork(): os._exit(0)" + WRONG,
    "raises in comparison": "class A:\n    def __eq__(self, o): raise SystemExit(0)\ndef double(x): return A()",
    "an endless answer": "def double(x):\n    while True: yield x",
    "a recursive answer": "a = []\na.append(a)\ndef double(x): return a",
    "a huge answer": "def double(x): return 'x' * 200_000_000",
    "deep answer": "def double(x):\n    for _ in range(10**5): x = [x]\n    return x",
    "an error without a class": "def double(x): raise type('', (Exception,), {})()",
    "not Python": "\x00\xff{{{",
    "a lone surrogate": "def double(x): return '\\ud800'",
    "numpy that equals": "import numpy\ndef double(x): return numpy.ones(())",
    "surrogates in an error": "def double(x): raise ValueError('\\ud800\\x1b[2J')",
    "StopIteration": "def double(x): raise StopIteration",
    "a generator that stops": "def double(x): return next(iter(()))",
    "a Decimal with a huge exponent": "import decimal\ndef double(x): return decimal.Decimal('1e999999999')",
    "an error that cannot be shown": "class E(Exception):\n    __str__ = None\ndef double(x): raise E",
    "an error with a huge text": "def double(x): raise ValueError('a ' * 20_000_000)",
    "an error named like a verdict": "class passed(Exception): pass\ndef double(x): raise passed('', True)",
    "exit with a huge code": "def double(x): raise SystemExit(10**400)",
    "exit by an object": "class A:\n    __str__ = lambda _: 1 / 0\ndef double(x): raise SystemExit(A())",
    "closes the judge's connection": "import os, time\nos.closerange(3, 64)\ntime.sleep(60)" + WRONG,
    "signals the judge": "import os\nfor n in range(1, 32):\n    if n not in (9, 19): os.kill(os.getppid(), n)" + WRONG,
    "sends the judge input signals": (
        "import fcntl, os\nfor fd in range(64):\n    try:\n        fcntl.fcntl(fd, 8, os.getppid())\n"
        "        fcntl.fcntl(fd, 4, 0x2000)\n    except OSError: pass" + WRONG
    ),
    "asks for no blocking": "import os\nfor fd in range(64):\n    try: os.set_blocking(fd, False)\n"
    "    except OSError: pass" + WRONG,
    "slows the judge down": "import os\nos.setpriority(0, os.getppid(), 19)" + WRONG,
    "replaces an operator": "import operator; operator.eq = lambda *_: True" + WRONG,
    "a tuple that equals everything": "class A(tuple):\n    __eq__ = lambda *_: True\ndef double(x): return A()",
    "bytes that equal everything": "class A(bytes):\n    __eq__ = lambda *_: True\ndef double(x): return A()",
    "another class than it says": "class A:\n    __class__ = property(lambda _: int)\n    __eq__ = lambda *_: True\n"
    "def double(x): return A()",
    "code in a pickle": "class A:\n    __reduce__ = lambda _: (eval, ('8',))\ndef double(x): return A()",
    "exit where it is forgotten": "import os\nclass A:\n    __del__ = lambda _: os._exit(0)\ndef double(x): return A()",
    "traces the judge": "import sys\ndef trace(frame, *_):\n    frame.f_globals['passed'] = True\n    return trace\n"
    "sys.settrace(trace)" + WRONG,
    "finds every import": "import sys\nclass A:\n    def find_spec(*_): raise SystemExit(0)\n"
    "sys.meta_path.insert(0, A())\nfor name in list(sys.modules): sys.modules.pop(name)" + WRONG,
}
SEND = """
import os, stat, struct
def send(data, said=None):
    for fd in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, struct.pack("!Q", len(data) if said is None else said) + data)
        except OSError: pass
send({data})
def double(x): return 0
"""
"""Answers for the judge that are not those of its own worker."""
FRAMES = {
    "no object": "b'3'", "a list": "b'[]'", "text": "b'\"error\"'", "null": "b'null'", "nothing": "b''",
    "no value": "b'{}'", "no JSON": "b'{'", "no UTF-8": "b'\\xff'", "deep JSON": "b'[' * 10**6",
    "deep value": "b'{\"value\":' + b'[\"list\",[' * 5000 + b']]' * 5000 + b'}'",
    "a long length": "b'', 2**64 - 1", "a length that never comes": "b'x', 10**6",
    "an unknown tag": "b'{\"value\": [\"eval\", \"1\"]}'", "a tag that is a list": "b'{\"value\": [[]]}'",
    "an empty list": "b'{\"value\": []}'", "a type": "b'{\"value\": [\"type\", \"object\"]}'",
    "an object that is none": "b'{\"value\": [\"object\", \"x\"]}'",
    "a range without steps": "b'{\"value\": [\"range\", \"0\", \"9\", \"0\"]}'",
    "a fraction by zero": "b'{\"value\": [\"Fraction\", \"1\", \"0\"]}'",
    "a long number": "b'{\"value\": ' + b'9' * 3_000_000 + b'}'", "infinity": "b'{\"value\": Infinity}'",
    "equal hashes": "b'{\"value\": [\"set\", [' + b', '.join(b'%d' % (n * (2**61 - 1)) for n in range(60000)) + b']]}'",
    "an error without a name": "b'{\"error\": null}'", "an error that is a list": "b'{\"error\": [1], \"text\": {}}'",
    "an error named by a terminal's code": "b'{\"error\": \"\\\\u001b[2J\\\\ud800\", \"text\": \"\\\\ud800\"}'",
    "an error with a huge text": "b'{\"error\": \"ValueError\", \"text\": \"' + b'a ' * 25_000_000 + b'\"}'",
    "an error with a huge name": "b'{\"error\": \"' + b'a' * 10_000_000 + b'\"}'",
}  # fmt: skip
FORGERIES |= {f"answers with {name}": SEND.format(data=data) for name, data in FRAMES.items()}
FORGERIES |= {
    f"limits the judge's {name}": "import os, resource\n"
    f"resource.prlimit(os.getppid(), resource.RLIMIT_{name}, ({value}, {value}))" + WRONG
    for name, value in {"AS": 1, "DATA": 1, "STACK": 1, "NOFILE": 0, "FSIZE": 0, "NPROC": 0}.items()
}

CALLS = {
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "bpf": (321, 280),
    "perf_event_open": (298, 241), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "mount": (165, 40), "umount2": (166, 39), "fsopen": (430, 430),
    "open_tree": (428, 428), "move_mount": (429, 429), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "clone3": (435, 435), "shmget": (29, 194), "shmat": (30, 196),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "personality": (135, 92),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "vmsplice": (278, 75), "splice": (275, 76),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "kcmp": (312, 272), "seccomp": (317, 277),
    "sethostname": (170, 161), "settimeofday": (164, 170), "mlock": (149, 228), "mbind": (237, 235),
    "inotify_init1": (294, 26), "fanotify_init": (300, 262), "timer_create": (222, 107), "signalfd4": (289, 74),
    "remap_file_pages": (216, 234), "setuid": (105, 146), "setxattr": (188, 5), "mknodat": (259, 33),
    "kexec_load": (246, 104), "init_module": (175, 105), "swapon": (167, 224), "acct": (163, 89),
    "reboot": (169, 142), "mount_setattr": (442, 442), "process_madvise": (440, 440), "quotactl_fd": (443, 443),
}  # fmt: skip
CALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
code = libc.syscall({number}, 0, 0, 0, 0, 0, 0)
if code != -1 or ctypes.get_errno() not in (1, 38): print("ESCAPED", code, ctypes.get_errno())
"""
PRELUDE = "import ctypes, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.mmap.restype = ctypes.c_void_p\n"
MMAP = "if libc.mmap(None, ctypes.c_size_t(2**20), 3, {flags}, {file}, ctypes.c_long(0)) != 2**64 - 1: print('ESCAPED')"
CLONE = "if libc.syscall({number}, {flags} | 17, 0, 0, 0, 0) != -1: print('ESCAPED')"
READ = "try: print('ESCAPED', open({path!r}, 'rb').read(1))\nexcept OSError: pass"
WRITE = "try: open({path!r}, 'wb').close(); print('ESCAPED')\nexcept OSError: pass"
SOCKET = "try: socket.socket({family}, {kind}); print('ESCAPED')\nexcept OSError: pass"
CONNECT = "try: socket.create_connection({address!r}, 1); print('ESCAPED')\nexcept OSError: pass"
RUN = "import subprocess\nif subprocess.run({command!r}, capture_output=True).returncode == 0: print('ESCAPED')"


def probes(folder: Path, port: int) -> dict[str, str]:
    """Scripts that reach for what is outside."""
    found = {f"call {name}": CALL.format(number=both[IS_ARM]) for name, both in CALLS.items()}
    zero = "os.open('/dev/zero', 2)"
    flags = {"shared": 0x21, "shared validated": 0x23, "huge pages": 0x40022, "droppable": 0x28}
    found |= {f"mmap {name}": MMAP.format(flags=value, file=-1) for name, value in flags.items()}
    found |= {"mmap /dev/zero": MMAP.format(flags=1, file=zero)}
    spaces = {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000, "all": 0x7E020000}
    number = 220 if IS_ARM else 56
    found |= {f"clone {name}": CLONE.format(number=number, flags=value) for name, value in spaces.items()}
    families = {"IPv4": 2, "IPv6": 10, "unix": 1, "netlink": 16, "packet": 17, "alg": 38, "vsock": 40, "bluetooth": 31}
    found |= {f"socket {name}": SOCKET.format(family=value, kind=1 if value in (1, 2, 10, 40) else 3)
              for name, value in families.items()}  # fmt: skip
    secret = folder / "secret"
    paths = [secret, "/etc/passwd", "/etc/shadow", "/proc/1/environ", "/proc/self/mem", "/proc/sysvipc/shm",
             "/sys/kernel/profiling", "/dev/kmsg", "/dev/mem", "/dev/vda", "/dev/tty", "/root/.bashrc",
             Path.home() / ".ssh/id_rsa", Path(__file__)]  # fmt: skip
    found |= {f"read {path}": READ.format(path=str(path)) for path in paths}
    places = [folder, "/", "/usr", "/dev", "/packages", "/etc", "/proc", "/layercut", "/dev/shm", Path(__file__).parent]
    found |= {f"write in {place}": WRITE.format(path=f"{place}/layercut-escaped") for place in places}
    addresses = [("127.0.0.1", port), ("::1", port), ("localhost", port)]
    found |= {f"connect to {address[0]}": CONNECT.format(address=address) for address in addresses}
    commands = [["/usr/bin/unshare", "-Ur", "true"], ["/bin/mount", "-t", "tmpfs", "x", "/tmp"], ["/bin/su", "-c"],
                ["/usr/bin/nsenter", "-t", "1", "-m", "true"]]  # fmt: skip
    found |= {f"run {command[0]}": RUN.format(command=command) for command in commands if Path(command[0]).exists()}
    found |= {
        "environment": "if 'LAYERCUT_SECRET' in os.environ or libc.getenv(b'LAYERCUT_SECRET'): print('ESCAPED')",
        "home": f"if os.path.exists({str(folder)!r}): print('ESCAPED')",
        "climbs out of the root": "if os.path.exists('../' * 9 + 'root/.bashrc'): print('ESCAPED')",
        "a link to outside": f"os.symlink({str(secret)!r}, 'l')\nif os.path.exists('l'): print('ESCAPED')",
        "many files": "try:\n    for n in range(9999): os.close(os.open(f'f{n}', os.O_CREAT))\n    print('ESCAPED')\n"
        "except OSError: pass",
        "a large disk": "try:\n    with open('f', 'wb') as f: f.write(bytes(2**23)); print('ESCAPED')\n"
        "except OSError: pass",
        "two large files": "try:\n    for n in 'ab':\n        with open(n, 'wb') as f: f.write(bytes(3 * 2**20))\n"
        "    print('ESCAPED')\nexcept OSError: pass",
        "becomes root": "for f in (os.setuid, os.setgid):\n    try: f(0); print('ESCAPED')\n    except OSError: pass",
        "a set-user-id file": "open('s', 'w').close(); os.chmod('s', 0o4777)\n"
        "if os.stat('s').st_uid == 0 and os.getuid() == 0: print('ESCAPED')",
        "raises its limits": "import resource\nfor kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC):\n"
        "    try: resource.setrlimit(kind, (-1, -1)); print('ESCAPED')\n    except (ValueError, OSError): pass",
        "types into the terminal": "import fcntl\nfor fd in range(3):\n"
        "    try: fcntl.ioctl(fd, 0x5412, b'x'); print('ESCAPED')\n"
        "    except OSError: pass",
        "inherited descriptors": "for fd in range(3, 64):\n"
        "    try: path = os.readlink(f'/proc/self/fd/{fd}'); print('ESCAPED')\n"
        "    except OSError: pass",
    }
    return {name: f"{PRELUDE}{source}\nprint('TRIED')" for name, source in found.items()}


HOLD = "data = bytearray(b'x') * (120 * 2**20); time.sleep(60)"
GLUTTONS = {
    "memory of one": "data = []\nwhile True: data.append(bytearray(b'x') * 2**23)",
    "memory of many": f"import os, time\nfor _ in range(4):\n    if os.fork() == 0: break\n{HOLD}",
    "memory of a second thread's children": (
        "import os, threading, time\ndef f():\n    for _ in range(4):\n"
        f"        if os.fork() == 0: {HOLD}\n    time.sleep(60)\nt = threading.Thread(target=f); t.start(); t.join()"
    ),
    "memory of orphans": (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        if os.fork() == 0:\n"
        f"            {HOLD}\n        os._exit(0)\ntime.sleep(60)"
    ),
    "memory of children that change hands": (
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        data = bytearray(b'x') * (120 * 2**20)\n"
        "        while True:\n            if os.fork(): os._exit(0)\ntime.sleep(60)"
    ),
    "memory by a regular expression": "import re; re.match('(a*)*b', 'a' * 10**4)",
    "a huge integer": "x = 10 ** 10 ** 10",
    "a huge list": "x = [0] * 10**12",
    "a huge range": "x = list(range(10**10))",
    "recursion": "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "deep source": "x = " + "(" * 5000 + ")" * 5000,
    "long source": "x = [" + "1," * 10**6 + "]\nwhile True: pass",
    "output": "while True: print('x' * 1000)",
    "output of many": "import os\nfor _ in range(4): os.fork()\nwhile True: print('x' * 1000)",
    "output on standard error": "import sys\nwhile True: sys.stderr.write('x' * 1000)",
    "sleep": "import time; time.sleep(1000)",
    "naps": "import time\nwhile True: time.sleep(0.01)",
    "waits for input": "import os\nr, w = os.pipe()\nos.read(r, 1)",
    "waits for a lock": "import threading\nl = threading.Lock(); l.acquire(); l.acquire()",
    "waits in select": "import select; select.select([], [], [])",
    "waits for a child": "import subprocess; subprocess.run(['/bin/sleep', '1000'])",
    "vfork": f"import ctypes\nlibc = ctypes.PyDLL(None)\n"
    f"if libc.syscall({220 if IS_ARM else 56}, 0x4011, 0, 0, 0, 0) == 0:\n"
    "    while True: libc.pause()",
    "stops itself": "import os; os.kill(os.getpid(), 19)",
    "loop": "while True: pass",
    "loop that ignores signals": "import signal\nfor s in range(1, 30):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\nwhile True: pass",
    "loop in C": "sum(range(10**13))",
    "loops in threads": "import threading\ndef f():\n    while True: pass\n"
    "for _ in range(8): threading.Thread(target=f).start()",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "fork bomb that sleeps": "import os, time\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(1000)\n"
    "except OSError: time.sleep(1000)",
    "thread bomb": "import threading, time\ntry:\n"
    "    while True: threading.Thread(target=time.sleep, args=(1000,)).start()\n"
    "except RuntimeError: time.sleep(1000)",
    "exec for ever": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'while True: pass'])",
    "a session of its own": "import os, time\nif os.fork() == 0:\n    os.setsid()\n"
    "    if os.fork() == 0: time.sleep(1000)\n"
    "time.sleep(1000)",
    "disk": "f = open('f', 'wb')\nwhile True: f.write(b'x' * 2**20); f.flush()",
    "folders": "import os\nwhile True: os.mkdir('d'); os.chdir('d')",
    "links": "import itertools, os\nfor n in itertools.count(): os.symlink('x' * 4000, f'l{n}')",
    "descriptors": "import os\nfds = []\nwhile True: fds.append(os.pipe())",
    "sparse file": "f = open('f', 'wb'); f.truncate(2**50)",
    "memory of packed data": "import zlib\ndata = zlib.compress(bytes(10**8))\n"
    "kept = [zlib.decompress(data) for _ in range(99)]",
    "children that nobody awaits": "import os\nwhile True:\n    try:\n        if os.fork() == 0: os._exit(0)\n"
    "    except OSError: pass",
    "a loop that outlives its warning": "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\n"
    "while True: pass",
    "a pipe between children": "import os\nr, w = os.pipe()\nif os.fork():\n    while True: os.write(w, b'x' * 999)\n"
    "while True: os.read(r, 999)",
}
NAMES = {
    "a carriage return": b"a\rb", "a file separator": b"a\x1cb", "a group separator": b"a\x1d", "a record": b"\x1e",
    "a new line": b"a\nb", "a line of memory": b"\nVmRSS:\t1 kB", "a line of numbers": b"\rNSpid:\t1",
    "a bracket": b"a)b",
    "brackets and a state": b") R 1 1", "no UTF-8": b"\xff\xfe", "a next line": "\x85".encode(), "a colon": b":::",
    "a paragraph": "\u2029a".encode(), "a vertical tab": b"\x0b\x0c", "spaces": b"   ", "nothing": b"",
    "a backslash": b"\\n", "a terminal's code": b"\x1b[2J",
}  # fmt: skip
RENAMED = "import ctypes, os, threading, time\nrename = lambda: ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0)\n"
ALONE, CHURN = (
    "rename()\ntime.sleep(10**6)",
    "if os.fork(): time.sleep(10**6)\nwhile True:\n    try:\n        if os.fork(): os._exit(0)\n"
    "    except OSError: pass\n    rename()\n",
)
IN_A_THREAD = "t = threading.Thread(target=lambda: (rename(), time.sleep(10**6))); t.start(); t.join()"
GLUTTONS |= {f"is named {name}": RENAMED.format(name=value) + ALONE for name, value in NAMES.items()}
GLUTTONS |= {
    f"memory of many named {name}": RENAMED.format(name=NAMES[name])
    + f"rename()\nfor _ in range(4):\n    if os.fork() == 0: break\n{HOLD}"
    for name in ("a carriage return", "a file separator", "a line of memory", "brackets and a state")
}
GLUTTONS |= {
    "a thread with a name": RENAMED.format(name=b"a\rb") + IN_A_THREAD,
    "a thread named like a state": RENAMED.format(name=b") Z 1 1") + IN_A_THREAD,
    "children that change hands and names": RENAMED.format(name=b"\r\x1c)") + CHURN,
    "a file with such a name": "import os\nos.symlink('/bin/sleep', 'a\\rb')\nos.execv('a\\rb', ['a\\rb', '1000'])",
    "arguments with such names": "import os\nos.execv('/bin/sleep', ['\\r\\x1c\\n', '1000'])",
    "threads that change hands": "import threading\ndef f():\n    try: threading.Thread(target=f).start()\n"
    "    except RuntimeError: f()\nwhile True: f()",
    "output without a line's end": "import os\nwhile True: os.write(1, b'\\r\\x1c\\xff\\x00' * 999)",
    "output of a byte at a time": "import os, time\nwhile True: os.write(1, b'x'); time.sleep(0.05)",
    "output in large pieces": "import fcntl, os\nfcntl.fcntl(1, 1031, 2**20)\nwhile True: os.write(1, b'x' * 9**6)",
}


class Tried(NamedTuple):
    """One program, how it ended and whether that is as promised."""

    kind: str
    name: str
    held: bool
    result: ProgramResult | str


def attack(kind: str, name: str, source: str) -> Tried:
    """Run one program."""
    try:
        result = run_program(source, tests=TESTS if kind == "forgery" else "", limits=LIMITS, mode="bubblewrap")
    except SandboxError as error:
        return Tried(kind, name, False, str(error))
    held = not result.passed
    if name.startswith("memory of"):  # rather than by the clock, with the memory in its hands
        held = result.failure == "memory"
    if kind == "probe":
        held = "TRIED" in result.output and "ESCAPED" not in result.output
    return Tried(kind, name, held and result.seconds < LONGEST, result)


def left_behind() -> list[str]:
    """Processes of these programs, and shared memory under the key."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f'"output_kb": {MARK}'.encode() in (folder / "cmdline").read_bytes():
                found.append(f"process {folder.name}")
    with contextlib.suppress(OSError):
        found += [line for line in Path("/proc/sysvipc/shm").read_text().splitlines() if line.split()[0] == str(KEY)]
    return found


def plant_key() -> None:
    """Put a key into a session keyring of this process, where there are keyrings."""
    libc = ctypes.CDLL(None)
    keyctl, add_key = (219, 217) if IS_ARM else (250, 248)
    if libc.syscall(keyctl, 1, None) != -1:
        libc.syscall(add_key, b"user", b"layercut", b"secret", 6, -3)


def main() -> int:
    """Attack the sandbox."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verbose", action="store_true", help="print a line for each program")
    options = parser.parse_args()
    os.environ["LAYERCUT_SECRET"] = "secret"
    plant_key()
    if reason := sandbox._why_not("bubblewrap"):
        print(f"bubblewrap does not work here ({reason})")
        return 1
    with tempfile.TemporaryDirectory(dir=Path.home()) as name, socket.create_server(("127.0.0.1", 0)) as server:
        folder, callers = Path(name), []
        (folder / "secret").write_text("secret")
        threading.Thread(target=lambda: callers.append(server.accept()), daemon=True).start()
        programs = {"forgery": FORGERIES, "probe": probes(folder, server.getsockname()[1]), "glutton": GLUTTONS}
        jobs = [(kind, *it) for kind, sources in programs.items() for it in sources.items()]
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda job: attack(*job), jobs))
        host = left_behind() + [f"file {path}" for path in folder.iterdir() if path.name != "secret"]
        host += ["a connection"] * len(callers)
    for one in results:
        if options.verbose or not one.held:
            is_text = isinstance(one.result, str)
            ended = one.result if is_text else one.result._replace(output=one.result.output[:200])
            print(f"{'held' if one.held else 'FAILED'}: {one.kind} {one.name!r}: {ended}")
    for kind, sources in programs.items():
        held = sum(one.held for one in results if one.kind == kind)
        print(f"{kind}: tried {len(sources)}, held {held}, failed {len(sources) - held}")
    print(f"left on the host: {', '.join(host) or 'nothing'}")
    tried = len(results)
    failed = sum(not one.held for one in results) + len(host)
    print(f"tried {tried}, held {tried - failed}, failed {failed}")
    return 1 if failed or not tried else 0


if __name__ == "__main__":
    sys.exit(main())
