//! Connections, messages and the server itself.

use super::super::kept::{Absent, Cache, NotCached};
use super::super::keys::{Shape, range};
use super::super::spec::{Access, Local, Path, Pin, Route, Spec, local, plain, side};

const SUBSCRIBE: Path = Path::Pin(Pin::Subscribe);
const NO_REPLICATION: Path =
    Path::Refused("ERR nearcache does not serve replication; point replicas at the upstream itself");

pub(super) static ROWS: &[Spec] = &[
    local("ping", -1, Local::Ping),
    local("echo", 2, Local::Echo),
    local("select", 2, Local::Select),
    local("hello", -1, Local::Hello),
    local("auth", -2, Local::Auth),
    local("reset", 1, Local::Reset),
    local("quit", -1, Local::Quit),
    local("info", -1, Local::Info),
    local("nearcache", -2, Local::Nearcache),
    plain("client", -2).routed(Route::Client),
    plain("publish", 3),
    plain("spublish", 3),
    plain("subscribe", -2).by(SUBSCRIBE),
    plain("psubscribe", -2).by(SUBSCRIBE),
    plain("ssubscribe", -2).by(SUBSCRIBE),
    plain("unsubscribe", -1).by(SUBSCRIBE),
    plain("punsubscribe", -1).by(SUBSCRIBE),
    plain("sunsubscribe", -1).by(SUBSCRIBE),
    plain("monitor", 1).by(Path::Pin(Pin::Monitor)),
    plain("pubsub", -2),
    plain("time", 1),
    plain("lastsave", 1),
    plain("command", -1),
    side("config", -2),
    side("acl", -2),
    side("slowlog", -2),
    side("commandlog", -2),
    side("hotkeys", -2),
    side("latency", -2),
    side("memory", -2)
        .kept(MEMORY, Absent::Unknown)
        .naming(Access::Read, Shape::Memory),
    side("module", -2).naming(Access::Write, Shape::AllBut(&[b"list", b"help"])),
    side("cluster", -2).naming(Access::Write, Shape::AllBut(CLUSTER_READS)),
    side("trimslots", -5).naming(Access::Write, Shape::All),
    side("debug", -2).naming(Access::Write, Shape::All),
    side("readonly", 1),
    side("readwrite", 1),
    side("asking", 1),
    side("save", 1),
    side("bgsave", -1),
    side("bgrewriteaof", 1),
    side("shutdown", -1),
    side("role", 1),
    // The data set may be replaced by another.
    side("replicaof", 3).naming(Access::Write, Shape::All),
    side("slaveof", 3).naming(Access::Write, Shape::All),
    side("failover", -1).naming(Access::Write, Shape::All),
    side("lolwut", -1).never_kept(NotCached::Chance),
    side("pfselftest", 1),
    side("pfdebug", 3).naming(Access::Write, range(2, 2, 1)),
    plain("sync", 1).by(NO_REPLICATION),
    plain("psync", -3).by(NO_REPLICATION),
    plain("replconf", -1).by(NO_REPLICATION),
];

/// The rest gives slots or nodes away, or drops keys.
const CLUSTER_READS: &[&[u8]] = &[
    b"slots",
    b"shards",
    b"nodes",
    b"info",
    b"myid",
    b"myshardid",
    b"links",
    b"replicas",
    b"slaves",
    b"keyslot",
    b"countkeysinslot",
    b"getkeysinslot",
    b"count-failure-reports",
    b"slot-stats",
    b"getslotmigrations",
    b"saveconfig",
    b"help",
];

const MEMORY: Cache = Cache::Sub(&[("usage", Cache::Never(NotCached::Memory))]);
