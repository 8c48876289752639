//! Hashes, lists and sets.

use super::super::kept::{Absent, Cache, NotCached};
use super::super::keys::{EVERY, TIMED, TWO, counted_at};
use super::super::rule::Replies;
use super::super::spec::{Path, Pin, Spec, read, write};

const BLOCKING: Path = Path::Pin(Pin::Blocking);

pub(super) static ROWS: &[Spec] = &[
    read("hget", 3).kept(Cache::Reply, Absent::Is(b"_\r\n")),
    write("hset", -4),
    read("hgetall", 2).kept(Cache::Reply, Absent::Is(b"%0\r\n")),
    read("hmget", -3).kept(Cache::Reply, Absent::Each(b"_\r\n")),
    write("hmset", -4),
    write("hsetnx", 4),
    write("hdel", -3),
    write("hincrby", 4),
    write("hincrbyfloat", 4),
    read("hkeys", 2).kept(Cache::Reply, Absent::Is(b"*0\r\n")),
    read("hvals", 2).kept(Cache::Reply, Absent::Is(b"*0\r\n")),
    read("hlen", 2).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("hexists", 3).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("hstrlen", 3).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("hrandfield", -2)
        .never_kept(NotCached::Chance)
        .replying(Replies::PairsIfThird(b"withvalues")),
    read("hscan", -3).never_kept(NotCached::Iteration),
    // Redis 7.4 and 8, Valkey 9: fields that expire.
    write("hexpire", -6),
    write("hpexpire", -6),
    write("hexpireat", -6),
    write("hpexpireat", -6),
    write("hpersist", -5),
    read("httl", -5).never_kept(NotCached::Time),
    read("hpttl", -5).never_kept(NotCached::Time),
    read("hexpiretime", -5).kept(Cache::Reply, Absent::Each(b":-2\r\n")),
    read("hpexpiretime", -5).kept(Cache::Reply, Absent::Each(b":-2\r\n")),
    write("hgetex", -5),
    write("hsetex", -6),
    write("hgetdel", -5),
    write("lpush", -3),
    write("rpush", -3),
    write("lpushx", -3),
    write("rpushx", -3),
    write("lpop", -2).replying(Replies::NullArrayIfCounted),
    write("rpop", -2).replying(Replies::NullArrayIfCounted),
    read("lrange", 4).kept(Cache::Reply, Absent::Is(b"*0\r\n")),
    read("llen", 2).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("lindex", 3).kept(Cache::Reply, Absent::Is(b"_\r\n")),
    read("lpos", -3).kept(Cache::Reply, Absent::IsOne(&[b"_\r\n", b"*0\r\n"])),
    write("linsert", 5),
    write("lrem", 4),
    write("lset", 4),
    write("ltrim", 4),
    write("lmove", 5).keyed(TWO),
    write("rpoplpush", 3).keyed(TWO),
    write("lmpop", -4).keyed(counted_at(1)).replying(Replies::NullArray),
    write("blpop", -3)
        .keyed(TIMED)
        .by(BLOCKING)
        .replying(Replies::NullArray),
    write("brpop", -3)
        .keyed(TIMED)
        .by(BLOCKING)
        .replying(Replies::NullArray),
    write("blmove", 6).keyed(TWO).by(BLOCKING).replying(Replies::NullArray),
    write("brpoplpush", 4)
        .keyed(TWO)
        .by(BLOCKING)
        .replying(Replies::NullArray),
    write("blmpop", -5)
        .keyed(counted_at(2))
        .by(BLOCKING)
        .replying(Replies::NullArray),
    write("sadd", -3),
    write("srem", -3),
    write("spop", -2),
    write("smove", 4).keyed(TWO),
    read("smembers", 2).kept(Cache::Reply, Absent::Is(b"~0\r\n")),
    read("sismember", 3).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("smismember", -3).kept(Cache::Reply, Absent::Each(b":0\r\n")),
    read("scard", 2).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("srandmember", -2).never_kept(NotCached::Chance),
    read("sscan", -3).never_kept(NotCached::Iteration),
    read("sinter", -2)
        .kept(Cache::Reply, Absent::Is(b"~0\r\n"))
        .keyed(EVERY),
    read("sunion", -2)
        .kept(Cache::Reply, Absent::Is(b"~0\r\n"))
        .keyed(EVERY),
    read("sdiff", -2).kept(Cache::Reply, Absent::Is(b"~0\r\n")).keyed(EVERY),
    read("sintercard", -3)
        .kept(Cache::Reply, Absent::Is(b":0\r\n"))
        .keyed(counted_at(1)),
    write("sinterstore", -3).keyed(EVERY),
    write("sunionstore", -3).keyed(EVERY),
    write("sdiffstore", -3).keyed(EVERY),
];
