//! Sorted sets and what is built on them: geographic indexes.

use super::super::kept::{Absent, Cache, NotCached};
use super::super::keys::{Shape, TIMED, TWO, counted_at};
use super::super::rule::Replies;
use super::super::spec::{Path, Pin, Spec, read, write};

const BLOCKING: Path = Path::Pin(Pin::Blocking);
const COUNTED: Shape = counted_at(1);

pub(super) static ROWS: &[Spec] = &[
    write("zadd", -4),
    write("zrem", -3),
    write("zincrby", 4),
    read("zscore", 3).kept(Cache::Reply, Absent::Is(b"_\r\n")),
    read("zmscore", -3).kept(Cache::Reply, Absent::Each(b"_\r\n")),
    read("zrank", 3)
        .kept(Cache::Reply, Absent::Is(b"_\r\n"))
        .replying(Replies::NullArrayIfScored),
    read("zrevrank", 3)
        .kept(Cache::Reply, Absent::Is(b"_\r\n"))
        .replying(Replies::NullArrayIfScored),
    read("zcard", 2).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("zcount", 4).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("zlexcount", 4).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("zrange", -4)
        .kept(Cache::Reply, Absent::Is(b"*0\r\n"))
        .replying(Replies::PairsInRange),
    read("zrangebyscore", -4)
        .kept(Cache::Reply, Absent::Is(b"*0\r\n"))
        .replying(Replies::PairsInRange),
    read("zrevrange", -4)
        .kept(Cache::Reply, Absent::Is(b"*0\r\n"))
        .replying(Replies::PairsInRange),
    read("zrevrangebyscore", -4)
        .kept(Cache::Reply, Absent::Is(b"*0\r\n"))
        .replying(Replies::PairsInRange),
    read("zrangebylex", -4).kept(Cache::Reply, Absent::Is(b"*0\r\n")),
    read("zrevrangebylex", -4).kept(Cache::Reply, Absent::Is(b"*0\r\n")),
    write("zrangestore", -5).keyed(TWO),
    write("zremrangebyrank", 4),
    write("zremrangebyscore", 4),
    write("zremrangebylex", 4),
    write("zpopmin", -2).replying(Replies::PairsIfCounted),
    write("zpopmax", -2).replying(Replies::PairsIfCounted),
    write("zmpop", -4).keyed(COUNTED).replying(Replies::NullArray),
    write("bzpopmin", -3)
        .keyed(TIMED)
        .by(BLOCKING)
        .replying(Replies::NullArray),
    write("bzpopmax", -3)
        .keyed(TIMED)
        .by(BLOCKING)
        .replying(Replies::NullArray),
    write("bzmpop", -5)
        .keyed(counted_at(2))
        .by(BLOCKING)
        .replying(Replies::NullArray),
    read("zrandmember", -2)
        .never_kept(NotCached::Chance)
        .replying(Replies::PairsIfThird(b"withscores")),
    read("zscan", -3).never_kept(NotCached::Iteration),
    read("zdiff", -3)
        .kept(Cache::Reply, Absent::Is(b"*0\r\n"))
        .keyed(COUNTED)
        .replying(Replies::PairsOfMany),
    read("zinter", -3)
        .kept(Cache::Reply, Absent::Is(b"*0\r\n"))
        .keyed(COUNTED)
        .replying(Replies::PairsOfMany),
    read("zunion", -3)
        .kept(Cache::Reply, Absent::Is(b"*0\r\n"))
        .keyed(COUNTED)
        .replying(Replies::PairsOfMany),
    read("zintercard", -3)
        .kept(Cache::Reply, Absent::Is(b":0\r\n"))
        .keyed(COUNTED),
    write("zdiffstore", -4).keyed(Shape::Stored),
    write("zinterstore", -4).keyed(Shape::Stored),
    write("zunionstore", -4).keyed(Shape::Stored),
    write("geoadd", -5),
    read("geopos", -2)
        .kept(Cache::Reply, Absent::Each(b"_\r\n"))
        .replying(Replies::NullElements),
    read("geodist", -4).kept(Cache::Reply, Absent::Is(b"_\r\n")),
    read("geohash", -2).kept(Cache::Reply, Absent::Each(b"_\r\n")),
    read("geosearch", -7).kept(Cache::Reply, Absent::Is(b"*0\r\n")),
    write("geosearchstore", -8).keyed(TWO),
    write("georadius", -6).keyed(Shape::Radius { options: 6 }),
    write("georadiusbymember", -5).keyed(Shape::Radius { options: 5 }),
    read("georadius_ro", -6).kept(Cache::Reply, Absent::Is(b"*0\r\n")),
    read("georadiusbymember_ro", -5).kept(Cache::Reply, Absent::Is(b"*0\r\n")),
];
