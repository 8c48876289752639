//! Requests of every command that the table keeps, and of every one that it does not. `k` is the key, `j` another.

/// A read, how its key comes to be, and what another client does that changes the reply.
pub struct Sample {
    pub form: &'static str,
    pub create: &'static [&'static str],
    pub change: &'static [&'static str],
    /// Reads whose entries answer this one, which leaves none itself.
    pub first: &'static [&'static str],
    /// Redis 7.0 does not know it.
    pub is_newer: bool,
    /// Where there is no key the server answers with an error, which is not kept.
    pub is_refused_if_absent: bool,
}

const fn of(data: [&'static [&'static str]; 2], form: &'static str) -> Sample {
    Sample {
        form,
        create: data[0],
        change: data[1],
        first: &[],
        is_newer: false,
        is_refused_if_absent: false,
    }
}

impl Sample {
    const fn after(mut self, first: &'static [&'static str]) -> Sample {
        self.first = first;
        self
    }

    const fn newer(mut self) -> Sample {
        self.is_newer = true;
        self
    }

    const fn refused_if_absent(mut self) -> Sample {
        self.is_refused_if_absent = true;
        self
    }
}

type Data = [&'static [&'static str]; 2];

const TEXT: Data = [&["SET k hello"], &["SET k 77"]];
const GONE: Data = [&["SET k hello"], &["DEL k"]];
const RETYPED: Data = [&["SET k hello"], &["DEL k", "RPUSH k a"]];
const DATED: Data = [&["SET k hello"], &["EXPIREAT k 4102444800"]];
const MORTAL: Data = [&["SET k hello EX 1000"], &["PERSIST k"]];
const BIT_SET: Data = [&["SET k hello"], &["SETBIT k 0 1"]];
const HASH: Data = [&["HSET k f1 v1 f2 v2"], &["HSET k f1 longer f3 v3 f4 v4"]];
const FIELD_DATED: Data = [&["HSET k f1 v1"], &["HEXPIREAT k 4102444800 FIELDS 1 f1"]];
const LIST: Data = [&["RPUSH k 1 2 3 2"], &["LPUSH k 2"]];
const SET: Data = [&["SADD k a b c"], &["SADD k d e", "SREM k a"]];
const INTS: Data = [&["SADD k 1 2 3"], &["SADD k 4"]];
const SORTED: Data = [&["ZADD k 1 a 2.5 b 3 c"], &["ZADD k 0.5 d 9 a"]];
const LEXICAL: Data = [&["ZADD k 0 a 0 b"], &["ZADD k 0 aa 0 c"]];
const STREAM: Data = [&["XADD k 1-1 f v", "XADD k 2-1 f w"], &["XADD k 3-1 f x"]];
const TRIMMED: Data = [&["XADD k 1-1 f v", "XADD k 2-1 f w"], &["XDEL k 1-1"]];
const PLACES: Data = [
    &["GEOADD k 13.361389 38.115556 Palermo 15.087269 37.502669 Catania"],
    &["GEOADD k 14 38 Palermo"],
];

const VECTORS: Data = [
    &["VADD k VALUES 3 1 0 0 a", "VADD k VALUES 3 0 1 0 b"],
    &["VADD k VALUES 3 0 0.5 1 c", "VADD k VALUES 3 1 1 0 a"],
];
const VECTOR_TAGGED: Data = [&["VADD k VALUES 3 1 0 0 a"], &["VSETATTR k a {}"]];
const VECTOR_GONE: Data = [&["VADD k VALUES 3 1 0 0 a", "VADD k VALUES 3 0 1 0 b"], &["VREM k a"]];
const VECTORS_GONE: Data = [&["VADD k VALUES 2 1 0 a"], &["VREM k a", "VADD k VALUES 3 1 1 1 b"]];

const SETS: Data = [&["SADD k a b c", "SADD j b c d"], &["SADD k e f g", "SREM k b c"]];
const OTHER_SET: Data = [&["SADD k a b c", "SADD j b c d"], &["SREM j b c d", "SADD j a z"]];
const FIRST_OTHER_SET: Data = [&["SADD k a b c"], &["SADD j a z"]];
const SORTED_SETS: Data = [&["ZADD k 1 a 2.5 b 3 c", "ZADD j 1 b 2 c 3 d"], &["ZADD k 0.5 c 9 d"]];
const OTHER_SORTED_SET: Data = [&["ZADD k 1 a 2.5 b 3 c", "ZADD j 1 b 2 c 3 d"], &["ZADD j 4.25 a 9 c"]];
const TEXTS: Data = [&["SET k hello", "SET j yellow"], &["SET k fellow"]];
const OTHER_TEXT: Data = [&["SET k hello", "SET j yellow"], &["DEL j"]];
const STREAMS: Data = [&["XADD k 1-1 f v", "XADD j 2-1 f w"], &["XADD j 3-1 f x"]];

pub const KEPT: &[Sample] = &[
    of(SETS, "SINTER k j"),
    of(OTHER_SET, "SINTER k j"),
    of(SETS, "SINTER k"),
    of(SETS, "SUNION k j k"),
    of(OTHER_SET, "SUNION k j"),
    of(OTHER_SET, "SDIFF k j"),
    of(FIRST_OTHER_SET, "SUNION j k"),
    of(FIRST_OTHER_SET, "SDIFF k j"),
    of(SETS, "SINTERCARD 2 k j"),
    of(OTHER_SET, "SINTERCARD 2 k j LIMIT 9"),
    of(SETS, "SINTERCARD 1 k"),
    of(SORTED_SETS, "ZINTER 2 k j"),
    of(OTHER_SORTED_SET, "ZINTER 2 k j WEIGHTS 2 3 WITHSCORES"),
    of(SORTED_SETS, "ZUNION 2 k j WITHSCORES"),
    of(OTHER_SORTED_SET, "ZUNION 2 k j AGGREGATE MAX"),
    of(SORTED_SETS, "ZUNION 1 k WITHSCORES"),
    of(OTHER_SORTED_SET, "ZDIFF 2 k j WITHSCORES"),
    of(SORTED_SETS, "ZINTERCARD 2 j k"),
    of(TEXTS, "LCS k j"),
    of(OTHER_TEXT, "LCS k j IDX WITHMATCHLEN"),
    of(TEXTS, "LCS j k LEN"),
    of(STREAMS, "XREAD STREAMS k j 0 0"),
    of(STREAMS, "XREAD COUNT 1 STREAMS j k 2-1 1-1"),
    of(TEXT, "GET k"),
    of(GONE, "GET k"),
    of(TEXT, "MGET k"),
    of(TEXT, "MGET k j k"),
    of(GONE, "EXISTS k"),
    of(GONE, "EXISTS k j k").after(&["GET k", "HLEN j"]),
    of(RETYPED, "TYPE k"),
    of(GONE, "TYPE k"),
    of(TEXT, "STRLEN k"),
    of(TEXT, "STRLEN k").after(&["GET k"]),
    of(TEXT, "GETRANGE k 1 -1"),
    of(TEXT, "SUBSTR k 0 2"),
    of(TEXT, "SUBSTR k 0 2").after(&["GET k"]),
    of(TEXT, "DIGEST k").newer(),
    of(GONE, "TTL k").after(&["GET k"]),
    of(MORTAL, "TTL k").after(&["GET k"]),
    of(GONE, "PTTL k").after(&["GET k"]),
    of(DATED, "EXPIRETIME k"),
    of(DATED, "PEXPIRETIME k"),
    of(MORTAL, "PEXPIRETIME k"),
    of(TEXT, "OBJECT ENCODING k"),
    of(RETYPED, "object encoding k"),
    of(TEXT, "GETBIT k 7"),
    of(TEXT, "BITCOUNT k"),
    of(TEXT, "BITCOUNT k 0 0"),
    of(TEXT, "BITCOUNT k 0 9 BIT"),
    of(TEXT, "BITPOS k 1"),
    of(BIT_SET, "BITPOS k 0"),
    of(BIT_SET, "BITPOS k 1 0 -1 BIT"),
    of(TEXT, "BITFIELD_RO k GET u8 0"),
    of(TEXT, "BITFIELD_RO k GET u4 0 GET i4 #1"),
    of(HASH, "HGET k f1"),
    of(HASH, "HGET k f3"),
    of(HASH, "HMGET k f1 nope"),
    of(HASH, "HGETALL k"),
    of(HASH, "HKEYS k"),
    of(HASH, "HVALS k"),
    of(HASH, "HLEN k"),
    of(HASH, "HEXISTS k f3"),
    of(HASH, "HSTRLEN k f1"),
    of(FIELD_DATED, "HEXPIRETIME k FIELDS 1 f1").newer(),
    of(FIELD_DATED, "HPEXPIRETIME k FIELDS 2 nope f1").newer(),
    of(LIST, "LRANGE k 0 -1"),
    of(LIST, "LRANGE k 1 2"),
    of(LIST, "LINDEX k 0"),
    of(LIST, "LINDEX k 4"),
    of(LIST, "LLEN k"),
    of(LIST, "LPOS k 2"),
    of(LIST, "LPOS k 2 COUNT 0"),
    of(LIST, "LPOS k 2 RANK 2 COUNT 0"),
    of(LIST, "SORT_RO k"),
    of(LIST, "SORT_RO k DESC ALPHA LIMIT 0 9"),
    of(LIST, "SORT_RO k BY nosort GET # GET nope"),
    of(INTS, "SORT_RO k"),
    of(SET, "SMEMBERS k"),
    of(INTS, "SMEMBERS k"),
    of(SET, "SISMEMBER k a"),
    of(SET, "SMISMEMBER k a d"),
    of(SET, "SCARD k"),
    of(SORTED, "ZRANGE k 0 -1"),
    of(SORTED, "ZRANGE k 0 -1 WITHSCORES"),
    of(SORTED, "ZRANGE k 0 -1 REV WITHSCORES"),
    of(SORTED, "ZRANGE k (0 +inf BYSCORE LIMIT 0 1"),
    of(LEXICAL, "ZRANGE k [a + BYLEX"),
    of(SORTED, "ZRANGEBYSCORE k 1 2 WITHSCORES"),
    of(SORTED, "ZREVRANGE k 0 0"),
    of(SORTED, "ZREVRANGE k 0 -1 WITHSCORES"),
    of(SORTED, "ZREVRANGEBYSCORE k 3 1"),
    of(LEXICAL, "ZRANGEBYLEX k - +"),
    of(LEXICAL, "ZREVRANGEBYLEX k + - LIMIT 0 1"),
    of(LEXICAL, "ZLEXCOUNT k - +"),
    of(SORTED, "ZSCORE k a"),
    of(SORTED, "ZSCORE k d"),
    of(SORTED, "ZMSCORE k a nope"),
    of(SORTED, "ZRANK k a"),
    of(SORTED, "ZRANK k d"),
    of(SORTED, "ZRANK k a WITHSCORE").newer(),
    of(SORTED, "ZREVRANK k a"),
    of(SORTED, "ZREVRANK k d WITHSCORE").newer(),
    of(SORTED, "ZCARD k"),
    of(SORTED, "ZCOUNT k 1 2"),
    of(STREAM, "XRANGE k - +"),
    of(TRIMMED, "XRANGE k - + COUNT 1"),
    of(STREAM, "XREVRANGE k + - COUNT 1"),
    of(TRIMMED, "XREVRANGE k + -"),
    of(STREAM, "XLEN k"),
    of(STREAM, "XREAD STREAMS k 0"),
    of(TRIMMED, "XREAD COUNT 1 STREAMS k 0"),
    of(STREAM, "XREAD STREAMS k 2-1"),
    of(PLACES, "GEOPOS k Palermo nope"),
    of(PLACES, "GEODIST k Palermo Catania km"),
    of(PLACES, "GEOHASH k Palermo nope"),
    of(
        PLACES,
        "GEOSEARCH k FROMLONLAT 15 37 BYRADIUS 300 km ASC WITHCOORD WITHDIST",
    ),
    of(PLACES, "GEORADIUS_RO k 15 37 300 km ASC WITHDIST"),
    of(PLACES, "GEORADIUSBYMEMBER_RO k Palermo 300 km ASC WITHDIST"),
    of(VECTORS, "VCARD k").newer(),
    of(VECTORS_GONE, "VDIM k").newer().refused_if_absent(),
    of(VECTORS, "VEMB k a").newer(),
    of(VECTORS, "VEMB k a RAW").newer(),
    of(VECTOR_TAGGED, "VGETATTR k a").newer(),
    of(VECTOR_TAGGED, "VINFO k").newer(),
    of(VECTOR_GONE, "VISMEMBER k a").newer(),
    of(VECTORS, "VISMEMBER k c").newer(),
    of(VECTORS, "VLINKS k a").newer(),
    of(VECTORS, "VLINKS k a WITHSCORES").newer(),
    of(VECTOR_GONE, "VLINKS k b WITHSCORES").newer(),
    of(VECTORS, "VRANGE k - +").newer(),
    of(VECTOR_GONE, "VRANGE k [a + 1").newer(),
];

/// Reads that go upstream each time, on the data of [`NEVER_KEPT_DATA`]; the last field is the name in `INFO commandstats`.
pub const NEVER_KEPT: &[(&str, &str)] = &[
    ("KEYS *", "keys"),
    ("SCAN 0", "scan"),
    ("DBSIZE", "dbsize"),
    ("HSCAN h 0", "hscan"),
    ("SSCAN set 0", "sscan"),
    ("ZSCAN z 0", "zscan"),
    ("RANDOMKEY", "randomkey"),
    ("SRANDMEMBER set", "srandmember"),
    ("HRANDFIELD h", "hrandfield"),
    ("ZRANDMEMBER z", "zrandmember"),
    ("LOLWUT", "lolwut"),
    ("OBJECT IDLETIME set", "object|idletime"),
    ("OBJECT FREQ set", "object|freq"),
    ("OBJECT REFCOUNT set", "object|refcount"),
    ("MEMORY USAGE set", "memory|usage"),
    ("XINFO STREAM x", "xinfo|stream"),
    ("XINFO GROUPS x", "xinfo|groups"),
    ("XINFO CONSUMERS x grp", "xinfo|consumers"),
    ("XPENDING x grp", "xpending"),
    ("XPENDING x grp - + 9", "xpending"),
    ("DUMP set", "dump"),
    ("EVAL_RO return{KEYS[1]} 1 set", "eval_ro"),
    (
        "EVALSHA_RO 0123456789012345678901234567890123456789 1 set",
        "evalsha_ro",
    ),
    ("FCALL_RO nofunction 1 set", "fcall_ro"),
    ("TOUCH set", "touch"),
    ("PFCOUNT hll", "pfcount"),
    ("WATCH set", "watch"),
    // What is kept in another form, or is no read of data at all.
    ("EXISTS set l", "exists"),
    ("SORT_RO l BY w_*", "sort_ro"),
    ("SORT_RO l GET #  GET o_*", "sort_ro"),
    ("SORT l", "sort"),
    ("TTL l", "ttl"),
    ("OBJECT HELP", "object|help"),
    ("TIME", "time"),
    ("LASTSAVE", "lastsave"),
];

/// The same, where Redis 7.0 does not know the command; of each server those that it knows.
pub const NEVER_KEPT_NEWER: &[(&str, &str)] = &[
    ("HTTL h FIELDS 1 f", "httl"),
    ("HPTTL h FIELDS 1 f", "hpttl"),
    ("CLUSTERSCAN 0", "clusterscan"),
    ("VSIM v ELE a", "VSIM"),
    ("VRANDMEMBER v", "VRANDMEMBER"),
];

pub const NEVER_KEPT_DATA: &[&str] = &[
    "SET s hello",
    "SADD set a b",
    "HSET h f v",
    "ZADD z 1 m",
    "XADD x 1-1 f v",
    "XGROUP CREATE x grp 0",
    "RPUSH l 1 2",
    "PFADD hll a b",
];
