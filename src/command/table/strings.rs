//! Strings, bitmaps and HyperLogLogs.

use super::super::kept::{Absent, Cache, NotCached};
use super::super::keys::{EVERY, PAIRS, Shape, TWO, range};
use super::super::spec::{Spec, read, write};

pub(super) static ROWS: &[Spec] = &[
    read("get", 2).kept(Cache::Get, Absent::Is(b"_\r\n")),
    write("set", -3),
    read("mget", -2).keyed(EVERY).kept(Cache::Mget, Absent::Each(b"_\r\n")),
    write("mset", -3).keyed(PAIRS),
    write("setex", 4),
    write("psetex", 4),
    write("setnx", 3),
    write("getset", 3),
    write("getdel", 2),
    write("getex", -2),
    write("incr", 2),
    write("decr", 2),
    write("incrby", 3),
    write("decrby", 3),
    write("incrbyfloat", 3),
    write("append", 3),
    write("setrange", 4),
    write("msetnx", -3).keyed(PAIRS),
    read("strlen", 2).kept(Cache::Strlen, Absent::Is(b":0\r\n")),
    read("getrange", 4).kept(Cache::Getrange, Absent::Is(b"$0\r\n\r\n")),
    read("substr", 4).kept(Cache::Getrange, Absent::Is(b"$0\r\n\r\n")),
    read("lcs", -3).kept(Cache::Reply, Absent::Is(b"$0\r\n\r\n")).keyed(TWO),
    // Valkey 9, Redis 8.4.
    write("msetex", -4).keyed(Shape::Counted { at: 1, step: 2 }),
    write("delifeq", 3),
    write("delex", -2),
    read("digest", 2).kept(Cache::Reply, Absent::Is(b"_\r\n")),
    write("setbit", 4),
    read("getbit", 3).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("bitcount", -2).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("bitpos", -3).kept(Cache::Reply, Absent::Position),
    write("bitop", -4).keyed(range(2, -1, 1)),
    write("bitfield", -2),
    read("bitfield_ro", -2).kept(Cache::Reply, Absent::Each(b":0\r\n")),
    write("pfadd", -2),
    // Said to be read-only, but it writes its estimate into the value.
    write("pfcount", -2).never_kept(NotCached::Effect).keyed(EVERY),
    write("pfmerge", -2).keyed(EVERY),
];
