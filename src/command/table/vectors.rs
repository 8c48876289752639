//! Vector sets (Redis 8).

use super::super::kept::{Absent, Cache, NotCached};
use super::super::rule::Replies;
use super::super::spec::{Path, Spec, read, write};

pub(super) static ROWS: &[Spec] = &[
    write("vadd", -5),
    write("vrem", 3),
    write("vsetattr", 4),
    // In a thread of the server's own, while other clients may already be told of a newer state; what comes behind it on its
    // connection waits.
    read("vsim", -4).never_kept(NotCached::Beside).by(Path::Side),
    read("vrandmember", -2).never_kept(NotCached::Chance),
    read("vcard", 2).kept(Cache::Tracked, Absent::Is(b":0\r\n")),
    read("vdim", 2).kept(Cache::Tracked, Absent::Unknown),
    read("vemb", -3).kept(Cache::Tracked, Absent::Is(b"_\r\n")),
    read("vgetattr", 3).kept(Cache::Tracked, Absent::Is(b"_\r\n")),
    read("vinfo", 2)
        .kept(Cache::Tracked, Absent::Is(b"_\r\n"))
        .replying(Replies::NullArray),
    read("vismember", 3).kept(Cache::Tracked, Absent::Is(b"#f\r\n")),
    read("vlinks", -3).kept(Cache::Tracked, Absent::Is(b"_\r\n")),
    read("vrange", -4).kept(Cache::Tracked, Absent::Is(b"*0\r\n")),
];
