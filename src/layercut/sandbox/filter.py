"""The system calls that a program may make: a short allow list, as a seccomp filter that the kernel runs.

A call that is not listed answers "not implemented" (ENOSYS), so that a library falls back on an older one; a listed
call with an argument that is refused answers "not permitted" (EPERM). The list holds what Python, numpy and the
programs of HumanEval and MBPP need. It lacks, among others, sockets other than unnamed pairs, keyrings, namespaces,
mounts, ptrace, bpf, io_uring, perf and userfaultfd. It also lacks all memory that no process is charged for (memfd,
System V shared memory, shared mappings, huge pages), so the memory of the processes is that of the program.

Standard library only: this file runs inside the sandbox, without layercut. seccomp(2), Documentation/userspace-api/
seccomp_filter.rst in the Linux source.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# name:number on x86_64:number on aarch64, which lacks the calls that have a newer form
_ALLOWED = """
# files
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 preadv:295:69 pwritev:296:70 open:2:-
openat:257:56 close:3:57 close_range:436:436 stat:4:- fstat:5:80 lstat:6:- newfstatat:262:79 statx:332:291
statfs:137:43 fstatfs:138:44 lseek:8:62 access:21:- faccessat:269:48 faccessat2:439:439 readlink:89:-
readlinkat:267:78 getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 mkdir:83:- mkdirat:258:34 rmdir:84:-
unlink:87:- unlinkat:263:35 rename:82:- renameat:264:38 renameat2:316:276 link:86:- linkat:265:37 symlink:88:-
symlinkat:266:36 truncate:76:45 ftruncate:77:46 fallocate:285:47 chmod:90:- fchmod:91:52 fchmodat:268:53
umask:95:166 utimensat:280:88 fsync:74:82 fdatasync:75:83 fadvise64:221:223 flock:73:32 fcntl:72:25 dup:32:23
dup2:33:- dup3:292:24 pipe:22:- pipe2:293:59 sendfile:40:71 copy_file_range:326:285 getxattr:191:8
lgetxattr:192:9 fgetxattr:193:10 listxattr:194:11 llistxattr:195:12 flistxattr:196:13
# memory
munmap:11:215 mremap:25:216 mprotect:10:226 madvise:28:233 brk:12:214
# processes and threads
fork:57:- vfork:58:- execve:59:221 exit:60:93 exit_group:231:94 wait4:61:260 waitid:247:95 kill:62:129
tkill:200:130 tgkill:234:131 getpid:39:172 getppid:110:173 gettid:186:178 getpgid:121:155 getpgrp:111:-
setpgid:109:154 getsid:124:156 setsid:112:157 getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177
getresuid:118:148 getresgid:120:150 getgroups:115:158 getpriority:140:141 setpriority:141:140 prlimit64:302:261
getrlimit:97:163 setrlimit:160:164 getrusage:98:165 times:100:153 sysinfo:99:179 uname:63:160 sched_yield:24:124
sched_getaffinity:204:123 sched_setaffinity:203:122 sched_getparam:143:121 sched_getscheduler:145:120
sched_get_priority_max:146:125 sched_get_priority_min:147:126 getcpu:309:168 set_tid_address:218:96
set_robust_list:273:99 rseq:334:293 futex:202:98 arch_prctl:158:- restart_syscall:219:128 getrandom:318:278
# signals
rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137
rt_sigsuspend:130:133 sigaltstack:131:132 pause:34:- alarm:37:- setitimer:38:103 getitimer:36:102
# time
clock_gettime:228:113 clock_getres:229:114 clock_nanosleep:230:115 nanosleep:35:101 gettimeofday:96:169
time:201:-
# waiting
poll:7:- ppoll:271:73 select:23:- pselect6:270:72 epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21
epoll_wait:232:- epoll_pwait:281:22 epoll_pwait2:441:441 eventfd2:290:19
# pairs of connected sockets
sendto:44:206 recvfrom:45:207 shutdown:48:210 getsockname:51:204 getpeername:52:205 getsockopt:55:209
"""
_NAMESPACES = 0x7E020000
_MAP_PRIVATE, _MAP_TYPE, _MAP_HUGETLB = 0x02, 0x0F, 0x40000
_AF_UNIX = 1
_DUMPABLE_AND_NAME = (3, 4, 15, 16)
_TERMINAL_QUESTIONS_AND_FLAGS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
# Allowed values of one argument: its number, the bits that are compared, and their allowed values.
_CHECKED = {
    "mmap:9:222": (3, _MAP_TYPE | _MAP_HUGETLB, (_MAP_PRIVATE,)),
    "clone:56:220": (0, _NAMESPACES, (0,)),
    "socketpair:53:199": (0, 0xFFFFFFFF, (_AF_UNIX,)),
    "prctl:157:167": (0, 0xFFFFFFFF, _DUMPABLE_AND_NAME),
    "ioctl:16:29": (1, 0xFFFFFFFF, _TERMINAL_QUESTIONS_AND_FLAGS),
}
_MACHINES = {"x86_64": (0xC000003E, 1, 317), "aarch64": (0xC00000B7, 2, 277)}
"""AUDIT_ARCH of the machine, its column in the tables above, and the number of seccomp(2)."""

_LOAD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4


def filter_for(machine: str) -> bytes:
    """The filter as the kernel's ``struct sock_filter[]``; OSError if the machine is neither x86_64 nor aarch64."""
    if machine not in _MACHINES:
        raise OSError(f"no filter of system calls is known for {machine}; known: {', '.join(_MACHINES)}")
    mark, column, _ = _MACHINES[machine]
    # A call by the tables of another machine (32 bit) ends the process.
    steps = [(_LOAD, 0, 0, _MACHINE_AT), (_JUMP_IF_EQUAL, 1, 0, mark), (_RETURN, 0, 0, _KILL)]
    steps += [(_LOAD, 0, 0, _NUMBER_AT)]
    listed = [line for line in _ALLOWED.splitlines() if not line.startswith("#")]
    for call in " ".join(listed).split():
        number = call.split(":")[column]
        if number != "-":
            steps += [(_JUMP_IF_EQUAL, 0, 1, int(number)), (_RETURN, 0, 0, _ALLOW)]
    for call, (argument, mask, values) in _CHECKED.items():
        check = [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument), (_AND, 0, 0, mask)]
        for value in values:
            check += [(_JUMP_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
        check += [(_RETURN, 0, 0, _REFUSE | errno.EPERM)]
        steps += [(_JUMP_IF_EQUAL, 0, len(check), int(call.split(":")[column])), *check]
    steps += [(_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def install_filter() -> None:
    """Put this process and all that it starts under the filter, for ever. It has given up new privileges before.

    Raises OSError if the kernel has no such filters, or the machine is neither x86_64 nor aarch64.
    """
    program = ctypes.create_string_buffer(filter_for(platform.machine()))
    size = len(program) // 8  # the buffer has one byte more
    head = struct.pack("H6xP", size, ctypes.addressof(program))
    number = _MACHINES[platform.machine()][2]
    # Without the third argument older kernels slow the program down against Spectre.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _SET_MODE_FILTER, _SPEC_ALLOW, head):
        raise OSError(ctypes.get_errno(), f"the filter of system calls: {os.strerror(ctypes.get_errno())}")
