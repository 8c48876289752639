//! Keys of any type, streams, scripts and transactions.

use super::super::kept::{Absent, Cache, NotCached};
use super::super::keys::{EVERY, Shape, TWO};
use super::super::rule::Replies;
use super::super::spec::{Access, Path, Pin, Route, Spec, plain, read, side, write};

pub(super) static ROWS: &[Spec] = &[
    write("del", -2).keyed(EVERY),
    write("unlink", -2).keyed(EVERY),
    read("exists", -2)
        .keyed(EVERY)
        .kept(Cache::Exists, Absent::Is(b":0\r\n")),
    write("expire", -3),
    write("pexpire", -3),
    write("expireat", -3),
    write("pexpireat", -3),
    write("persist", 2),
    read("ttl", 2).kept(Cache::Ttl, Absent::Is(b":-2\r\n")),
    read("pttl", 2).kept(Cache::Pttl, Absent::Is(b":-2\r\n")),
    read("expiretime", 2).kept(Cache::Reply, Absent::Is(b":-2\r\n")),
    read("pexpiretime", 2).kept(Cache::Reply, Absent::Is(b":-2\r\n")),
    read("type", 2).kept(Cache::Type, Absent::Is(b"+none\r\n")),
    read("touch", -2).never_kept(NotCached::Effect).keyed(EVERY),
    write("rename", 3).keyed(TWO),
    write("renamenx", 3).keyed(TWO),
    write("copy", -3).keyed(TWO),
    write("move", 3),
    read("dump", 2).never_kept(NotCached::Groups),
    write("restore", -4),
    write("restore-asking", -4).by(Path::Side),
    write("migrate", -6).keyed(Shape::Migrate).by(Path::Side),
    // Said to write, with and without STORE.
    write("sort", -2).keyed(Shape::Sort),
    read("sort_ro", -2)
        .keyed(Shape::Sort)
        .kept(Cache::Reply, Absent::Is(b"*0\r\n")),
    read("object", -2).keyed(Shape::Sub).kept(OBJECT, Absent::Is(b"_\r\n")),
    read("scan", -2).never_kept(NotCached::Keyspace).keyed(Shape::All),
    read("keys", 2)
        .never_kept(NotCached::Keyspace)
        .keyed(Shape::All)
        .by(Path::Side),
    read("randomkey", 1).never_kept(NotCached::Chance).keyed(Shape::All),
    read("dbsize", 1).never_kept(NotCached::Keyspace).keyed(Shape::All),
    write("flushall", -1).keyed(Shape::All),
    write("flushdb", -1).keyed(Shape::All),
    write("swapdb", 3).keyed(Shape::All),
    write("xadd", -5),
    write("xdel", -3),
    write("xtrim", -4),
    write("xsetid", -3),
    write("xack", -4),
    write("xclaim", -6),
    write("xautoclaim", -6),
    // Redis 8.2.
    write("xdelex", -5),
    write("xackdel", -6),
    // Redis 8.6.
    write("xcfgset", -2),
    write("xidmprecord", 5).by(Path::Side),
    write("xgroup", -2).keyed(Shape::Sub),
    read("xinfo", -2).keyed(Shape::Sub).kept(XINFO, Absent::Unknown),
    read("xlen", 2).kept(Cache::Reply, Absent::Is(b":0\r\n")),
    read("xrange", -4)
        .kept(Cache::Reply, Absent::Is(b"*0\r\n"))
        .replying(Replies::NullArray),
    read("xrevrange", -4)
        .kept(Cache::Reply, Absent::Is(b"*0\r\n"))
        .replying(Replies::NullArray),
    read("xpending", -3)
        .never_kept(NotCached::Groups)
        .routed(Route::Pending),
    read("xread", -4)
        .keyed(Shape::Streams)
        .kept(Cache::Reply, Absent::Is(b"_\r\n"))
        .routed(Route::Streams)
        .replying(Replies::Streams),
    write("xreadgroup", -7)
        .keyed(Shape::Streams)
        .routed(Route::Streams)
        .replying(Replies::Streams),
    // What a script writes besides the keys it declared is not known here.
    write("eval", -3).keyed(Shape::Script),
    write("evalsha", -3).keyed(Shape::Script),
    read("eval_ro", -3).never_kept(NotCached::Script).keyed(Shape::Script),
    read("evalsha_ro", -3)
        .never_kept(NotCached::Script)
        .keyed(Shape::Script),
    write("fcall", -3).keyed(Shape::Script),
    read("fcall_ro", -3).never_kept(NotCached::Script).keyed(Shape::Script),
    plain("script", -2).routed(Route::Script),
    plain("function", -2)
        .naming(Access::Write, Shape::AllBut(FUNCTION_READS))
        .routed(Route::Function),
    plain("multi", 1).by(Path::Pin(Pin::Multi)),
    // Outside a transaction: the server's error.
    plain("exec", 1).replying(Replies::NullArray),
    plain("discard", 1),
    read("watch", -2)
        .never_kept(NotCached::Effect)
        .keyed(EVERY)
        .by(Path::Pin(Pin::Watch)),
    plain("unwatch", 1),
    plain("wait", 3).by(Path::Pin(Pin::Blocking)),
    plain("waitaof", 4).by(Path::Pin(Pin::Blocking)),
    // Valkey 9.1; its first argument is a cursor.
    side("clusterscan", -2)
        .never_kept(NotCached::Keyspace)
        .naming(Access::Read, Shape::All),
];

const FUNCTION_READS: &[&[u8]] = &[b"list", b"dump", b"stats", b"kill", b"help"];

const OBJECT: Cache = Cache::Sub(&[
    // A write that changes nothing in the value (SETBIT of the same bit, on Valkey SADD of a member that is there) may change
    // its encoding all the same, and is not told.
    ("encoding", Cache::Brief),
    ("freq", Cache::Never(NotCached::Usage)),
    ("idletime", Cache::Never(NotCached::Usage)),
    ("refcount", Cache::Never(NotCached::Memory)),
]);

const XINFO: Cache = Cache::Sub(&[
    ("stream", Cache::Never(NotCached::Groups)),
    ("groups", Cache::Never(NotCached::Groups)),
    ("consumers", Cache::Never(NotCached::Groups)),
]);
