"""The native step loop: one call runs a whole program.

Its tables are described in :mod:`lamina.backends.cpu.native`; the numbers of words and kinds are
given by the caller so that this layer knows no backend.  It is stored in each plan's code image
like any kernel, so running a plan needs no compiler.
"""

from __future__ import annotations

from collections.abc import Mapping

from lamina.codegen.llvm.thread_pool import pool_code


def step_loop_module(
    triple_header: str,
    words: Mapping[str, int],
    kinds: Mapping[str, int],
    pool_words: Mapping[str, int],
    names: tuple[str, str],
) -> str:
    """Return LLVM IR of the plain and the timed loop, named ``names``, and of the thread pool.

    ``words`` are positions in a context, ``pool_words`` those in a pool, ``kinds`` the numbers of
    the record kinds; a record has five words.
    """
    run, timed = names
    text = (
        triple_header
        + pool_code(pool_words)
        + _TEAM
        + _loop(run, timed=False)
        + _loop(timed, timed=True)
    )
    text += "declare i64 @llvm.readcyclecounter()\n"
    for name, position in words.items():
        text = text.replace(f"<{name}>", str(position))
    for name, number in kinds.items():
        text = text.replace(f"<kind {name}>", str(number))
    return text


# A member of a team reads its own number and the true size of the team, which may be smaller than
# what was asked for when the caller is itself inside a parallel region.
_TEAM = """
define internal void @lamina_member(ptr %pair) {
  %record = load ptr, ptr %pair
  %second = getelementptr i64, ptr %pair, i64 1
  %context = load ptr, ptr %second
  %number.at = getelementptr i64, ptr %context, i64 <THREAD_NUMBER>
  %number.f = load ptr, ptr %number.at
  %size.at = getelementptr i64, ptr %context, i64 <TEAM_SIZE>
  %size.f = load ptr, ptr %size.at
  %number.32 = call i32 %number.f()
  %size.32 = call i32 %size.f()
  %number = sext i32 %number.32 to i64
  %size = sext i32 %size.32 to i64
  %f.at = getelementptr i64, ptr %record, i64 1
  %f = load ptr, ptr %f.at
  %args.at = getelementptr i64, ptr %record, i64 2
  %args = load ptr, ptr %args.at
  %params.at = getelementptr i64, ptr %record, i64 3
  %params = load ptr, ptr %params.at
  call void %f(ptr %args, ptr %params, i64 %number, i64 %size)
  ret void
}
"""


def _loop(name: str, *, timed: bool) -> str:
    stamp = _STAMP if timed else ""
    last = _LAST_STAMP if timed else ""
    return _LOOP.replace("@NAME", f"@{name}").replace("  STAMP\n", stamp).replace("  LAST\n", last)


_STAMP = """
  %now = call i64 @llvm.readcyclecounter()
  %times.at = getelementptr i64, ptr %context, i64 <TIMES>
  %times = load ptr, ptr %times.at
  %time.at = getelementptr i64, ptr %times, i64 %i
  store i64 %now, ptr %time.at
"""
_LAST_STAMP = """
  %end.now = call i64 @llvm.readcyclecounter()
  %end.times.at = getelementptr i64, ptr %context, i64 <TIMES>
  %end.times = load ptr, ptr %end.times.at
  %end.at = getelementptr i64, ptr %end.times, i64 %count
  store i64 %end.now, ptr %end.at
"""

_LOOP = """
define i64 @NAME(ptr %context) {
entry:
  %pair = alloca [2 x ptr]
  %pair.1 = getelementptr ptr, ptr %pair, i64 1
  store ptr %context, ptr %pair.1
  %count.at = getelementptr i64, ptr %context, i64 <COUNT>
  %count = load i64, ptr %count.at
  %records.at = getelementptr i64, ptr %context, i64 <RECORDS>
  %records = load ptr, ptr %records.at
  %pointers.at = getelementptr i64, ptr %context, i64 <POINTERS>
  %pointers = load ptr, ptr %pointers.at
  %parallel.at = getelementptr i64, ptr %context, i64 <PARALLEL>
  %parallel = load ptr, ptr %parallel.at
  %execute.at = getelementptr i64, ptr %context, i64 <EXECUTE>
  %execute = load ptr, ptr %execute.at
  %handle.at = getelementptr i64, ptr %context, i64 <SET_HANDLE>
  %handle = load ptr, ptr %handle.at
  %set.at = getelementptr i64, ptr %context, i64 <SET_THREADS>
  %set = load ptr, ptr %set.at
  %no.set = icmp eq ptr %set, null
  br i1 %no.set, label %head, label %threads
threads:
  %threads.at = getelementptr i64, ptr %context, i64 <THREADS>
  %threads.64 = load i64, ptr %threads.at
  %threads.32 = trunc i64 %threads.64 to i32
  call void %set(i32 %threads.32)
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ 0, %threads ], [ %i.next, %next ]
  %done = icmp sge i64 %i, %count
  br i1 %done, label %finish, label %body
finish:
  LAST
  ret i64 0
body:
  STAMP
  %index = mul i64 %i, 5
  %record = getelementptr i64, ptr %records, i64 %index
  %kind = load i64, ptr %record
  %a.at = getelementptr i64, ptr %record, i64 1
  %a = load ptr, ptr %a.at
  %b.at = getelementptr i64, ptr %record, i64 2
  %b = load i64, ptr %b.at
  %b.ptr = inttoptr i64 %b to ptr
  %c.at = getelementptr i64, ptr %record, i64 3
  %c = load i64, ptr %c.at
  %c.ptr = inttoptr i64 %c to ptr
  %d.at = getelementptr i64, ptr %record, i64 4
  %d = load i64, ptr %d.at
  switch i64 %kind, label %unknown [
    i64 <kind SERIAL>, label %serial
    i64 <kind TEAM>, label %team
    i64 <kind LIBRARY>, label %library
    i64 <kind POINT>, label %point
    i64 <kind HANDLE>, label %set.handle
    i64 <kind ALONE>, label %lone
  ]
serial:
  call void %a(ptr %b.ptr, ptr %c.ptr, i64 0, i64 1)
  br label %next
team:
  %alone = icmp eq ptr %parallel, null
  br i1 %alone, label %one.by.one, label %together
together:
  store ptr %record, ptr %pair
  %d.32 = trunc i64 %d to i32
  call void %parallel(ptr @lamina_member, ptr %pair, i32 %d.32, i32 0)
  br label %next
one.by.one:
  %pool.at = getelementptr i64, ptr %context, i64 <POOL>
  %pool = load ptr, ptr %pool.at
  %no.pool = icmp eq ptr %pool, null
  br i1 %no.pool, label %first.only, label %pooled
pooled:
  call void @lamina_pool_run(ptr %pool, ptr %record, i64 %d)
  br label %next
first.only:
  call void %a(ptr %b.ptr, ptr %c.ptr, i64 0, i64 1)
  br label %next
library:
  %c.32 = trunc i64 %c to i32
  %d.ptr = inttoptr i64 %d to ptr
  %status = call i32 %execute(ptr %a, ptr %b.ptr, i32 %c.32, ptr %d.ptr)
  %good = icmp eq i32 %status, 0
  br i1 %good, label %next, label %failed
lone:
  call void %set(i32 1)
  %c.32.1 = trunc i64 %c to i32
  %d.ptr.1 = inttoptr i64 %d to ptr
  %status.1 = call i32 %execute(ptr %a, ptr %b.ptr, i32 %c.32.1, ptr %d.ptr.1)
  %all.at = getelementptr i64, ptr %context, i64 <THREADS>
  %all.64 = load i64, ptr %all.at
  %all.32 = trunc i64 %all.64 to i32
  call void %set(i32 %all.32)
  %good.1 = icmp eq i32 %status.1, 0
  br i1 %good.1, label %next, label %failed
point:
  %base.at = getelementptr i64, ptr %pointers, i64 %b
  %base = load i64, ptr %base.at
  %sum = add i64 %base, %c
  store i64 %sum, ptr %a
  br label %next
set.handle:
  %from.at = getelementptr i64, ptr %pointers, i64 %b
  %from = load i64, ptr %from.at
  %to = add i64 %from, %c
  %to.ptr = inttoptr i64 %to to ptr
  %status.2 = call i32 %handle(ptr %a, ptr %to.ptr)
  %good.2 = icmp eq i32 %status.2, 0
  br i1 %good.2, label %next, label %failed
next:
  %i.next = add i64 %i, 1
  br label %head
unknown:
  br label %failed
failed:
  %why = phi i32 [ %status, %library ], [ %status.1, %lone ], [ %status.2, %set.handle ],
    [ 99, %unknown ]
  %why.64 = zext i32 %why to i64
  %which = add i64 %i, 1
  %shifted = shl i64 %which, 32
  %code = or i64 %shifted, %why.64
  ret i64 %code
}
"""
