"""Native code of a pool of threads, for processes without an OpenMP runtime.

``lamina_pool_member(pool, index)`` is what each thread of the pool runs until the pool is closed;
the step loop calls ``lamina_pool_run``.  A pool is memory of 64-bit words, zero at first, named by
the caller.  A job is a record of the step loop; each has a number, the pool's generation.  Waiting
threads look for a new job for some microseconds, then sleep in the kernel (a futex on the
generation).  If another context is using the pool, a job runs on the calling thread alone.
"""

from __future__ import annotations

from collections.abc import Mapping

_CODE = """
declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare void @llvm.x86.sse2.pause()

define void @lamina_pool_member(ptr %pool, i64 %index) {
entry:
  %generation = getelementptr i64, ptr %pool, i64 <pool GENERATION>
  %pending = getelementptr i64, ptr %pool, i64 <pool PENDING>
  %sleeping = getelementptr i64, ptr %pool, i64 <pool SLEEPING>
  %record.at = getelementptr i64, ptr %pool, i64 <pool RECORD>
  %size.at = getelementptr i64, ptr %pool, i64 <pool SIZE>
  %closed.at = getelementptr i64, ptr %pool, i64 <pool CLOSED>
  br label %wait
wait:
  %seen = phi i64 [ 0, %entry ], [ %now, %served ]
  br label %look
look:
  %spin = phi i64 [ 0, %wait ], [ %spin.next, %again ], [ 0, %sleep ]
  %now = load atomic i64, ptr %generation seq_cst, align 8
  %new = icmp ne i64 %now, %seen
  br i1 %new, label %work, label %again
again:
  call void @llvm.x86.sse2.pause()
  %spin.next = add i64 %spin, 1
  %patient = icmp ult i64 %spin.next, <spins>
  br i1 %patient, label %look, label %sleep
sleep:
  %before = atomicrmw add ptr %sleeping, i64 1 seq_cst
  %seen.32 = trunc i64 %seen to i32
  %slept = call i64 (i64, ...) @syscall(i64 <futex>, ptr %generation, i32 <futex wait>,
    i32 %seen.32, ptr null)
  %after = atomicrmw sub ptr %sleeping, i64 1 seq_cst
  br label %look
work:
  %closed = load i64, ptr %closed.at
  %is.closed = icmp ne i64 %closed, 0
  br i1 %is.closed, label %end, label %job
job:
  %size = load i64, ptr %size.at
  %mine = icmp ult i64 %index, %size
  br i1 %mine, label %share, label %served
share:
  %record = load ptr, ptr %record.at
  call void @lamina_pool_share(ptr %record, i64 %index, i64 %size)
  br label %served
served:
  %left = atomicrmw sub ptr %pending, i64 1 release
  br label %wait
end:
  ret void
}

define internal void @lamina_pool_share(ptr %record, i64 %index, i64 %size) {
  %f.at = getelementptr i64, ptr %record, i64 1
  %f = load ptr, ptr %f.at
  %args.at = getelementptr i64, ptr %record, i64 2
  %args = load ptr, ptr %args.at
  %params.at = getelementptr i64, ptr %record, i64 3
  %params = load ptr, ptr %params.at
  call void %f(ptr %args, ptr %params, i64 %index, i64 %size)
  ret void
}

define internal void @lamina_pool_run(ptr %pool, ptr %record, i64 %wanted) {
entry:
  %generation = getelementptr i64, ptr %pool, i64 <pool GENERATION>
  %pending = getelementptr i64, ptr %pool, i64 <pool PENDING>
  %sleeping = getelementptr i64, ptr %pool, i64 <pool SLEEPING>
  %lock = getelementptr i64, ptr %pool, i64 <pool LOCK>
  %taken = cmpxchg ptr %lock, i64 0, i64 1 acq_rel monotonic
  %is.mine = extractvalue { i64, i1 } %taken, 1
  br i1 %is.mine, label %start, label %alone
alone:
  call void @lamina_pool_share(ptr %record, i64 0, i64 1)
  ret void
start:
  %members.at = getelementptr i64, ptr %pool, i64 <pool MEMBERS>
  %members = load i64, ptr %members.at
  %all = add i64 %members, 1
  %fewer = icmp ult i64 %wanted, %all
  %size = select i1 %fewer, i64 %wanted, i64 %all
  %record.at = getelementptr i64, ptr %pool, i64 <pool RECORD>
  store ptr %record, ptr %record.at
  %size.at = getelementptr i64, ptr %pool, i64 <pool SIZE>
  store i64 %size, ptr %size.at
  store atomic i64 %members, ptr %pending monotonic, align 8
  %old = atomicrmw add ptr %generation, i64 1 seq_cst
  %asleep = load atomic i64, ptr %sleeping seq_cst, align 8
  %none = icmp eq i64 %asleep, 0
  br i1 %none, label %own, label %wake
wake:
  %woken = call i64 (i64, ...) @syscall(i64 <futex>, ptr %generation, i32 <futex wake>,
    i32 2147483647)
  br label %own
own:
  call void @lamina_pool_share(ptr %record, i64 0, i64 %size)
  br label %join
join:
  %spin = phi i64 [ 0, %own ], [ %spin.next, %again ], [ 0, %rest ]
  %left = load atomic i64, ptr %pending acquire, align 8
  %done = icmp eq i64 %left, 0
  br i1 %done, label %release, label %again
again:
  call void @llvm.x86.sse2.pause()
  %spin.next = add i64 %spin, 1
  %patient = icmp ult i64 %spin.next, <spins>
  br i1 %patient, label %join, label %rest
rest:
  %yielded = call i32 @sched_yield()
  br label %join
release:
  store atomic i64 0, ptr %lock release, align 8
  ret void
}
"""

_NUMBERS = {
    "<spins>": 4096,
    "<futex>": 202,  # the system call on x86-64
    "<futex wait>": 128,  # FUTEX_WAIT, private to the process
    "<futex wake>": 129,  # FUTEX_WAKE, private to the process
}


def pool_code(words: Mapping[str, int]) -> str:
    """Return LLVM IR of the pool; ``words`` are the positions of its words."""
    text = _CODE
    for name, position in words.items():
        text = text.replace(f"<pool {name}>", str(position))
    for name, number in _NUMBERS.items():
        text = text.replace(name, str(number))
    return text
