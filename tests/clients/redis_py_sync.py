"""redis-py against the port given, as an application uses it. Arguments: port, protocol, port of the server itself. Any
failure raises."""
import sys
import threading
import time

import redis

port, protocol, direct = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
r = redis.Redis(port=port, protocol=protocol, decode_responses=True)
r.flushall()
assert r.ping()

# Strings, expiry, counters.
assert r.set("k", "v") and r.get("k") == "v" and r.get("k") == "v"
assert r.get("missing") is None and r.exists("k", "missing") == 1
assert r.set("k", "w", nx=True) is None and r.set("k", "w", get=True) == "v"
assert r.incr("n") == 1 and r.incrby("n", 41) == 42 and r.incrbyfloat("f", 1.5) == 1.5
assert r.set("short", "x", px=60) and 0 < r.pttl("short") <= 60
deadline = time.time() + 5
while r.get("short") is not None:
    assert time.time() < deadline
assert r.mset({"a": "1", "b": "2"}) and r.mget("a", "nope", "b") == ["1", None, "2"]
assert r.append("a", "!") == 2 and r.strlen("a") == 2 and r.getrange("a", 0, 0) == "1"
assert r.type("a") == "string" and r.delete("a", "b", "nope") == 2
binary = redis.Redis(port=port, protocol=protocol)
blob = bytes(range(256)) * 300
assert binary.set("blob", blob) and binary.get("blob") == blob and binary.get("blob") == blob

# Collections.
assert r.hset("h", mapping={"x": "1", "y": "2"}) == 2 and r.hgetall("h") == {"x": "1", "y": "2"} == r.hgetall("h")
assert r.hget("h", "x") == "1" and r.hmget("h", "x", "z") == ["1", None] and r.hincrby("h", "x", 9) == 10
assert r.hgetall("h") == {"x": "10", "y": "2"} and r.hgetall("none") == {}
assert r.rpush("l", 1, 2, 3) == 3 and r.lrange("l", 0, -1) == ["1", "2", "3"] and r.lpop("l", 2) == ["1", "2"]
assert r.lrange("l", 0, -1) == ["3"] and r.lpop("none", 2) is None and r.lpop("none") is None
assert r.sadd("s", "a", "b") == 2 and r.smembers("s") == {"a", "b"} and r.sismember("s", "a")
assert r.zadd("z", {"a": 1, "b": 2.5}) == 2
scored = [list(pair) for pair in r.zrange("z", 0, -1, withscores=True)]
assert scored == [["a", 1.0], ["b", 2.5]], scored
assert r.zscore("z", "b") == 2.5 and r.zscore("z", "none") is None and r.zrank("z", "b") == 1
assert r.geoadd("g", (13.361389, 38.115556, "Palermo")) == 1 and len(r.geopos("g", "Palermo", "nope")) == 2

# Pipelines: a transaction by default, and plain.
with r.pipeline() as p:
    assert p.set("p", 1).incr("p").get("p").hgetall("h").zrange("z", 0, 0).execute()[:3] == [True, 2, "2"]
with r.pipeline(transaction=False) as p:
    for i in range(500):
        p.set(f"p{i}", i)
        p.get(f"p{i}")
    assert p.execute()[1::2] == [str(i) for i in range(500)]
with r.pipeline() as p:
    p.watch("p")
    before = int(p.get("p"))
    r.set("p", 100)
    p.multi()
    p.set("p", before + 1)
    try:
        p.execute()
        raise SystemExit("a conflict went unnoticed")
    except redis.WatchError:
        pass
assert r.get("p") == "100"
assert r.transaction(lambda p: p.multi() or p.incr("p"), "p") == [101]

# Scripts and the lock, which starts with NOSCRIPT.
script = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
assert script(keys=["n"], args=[8]) == 50 and script(keys=["n"], args=[1]) == 51 and r.get("n") == "51"
r.script_flush()
with r.lock("guard", timeout=5):
    assert r.exists("guard") and not r.lock("guard", timeout=5).acquire(blocking=False)
assert not r.exists("guard")

try:
    r.evalsha("0" * 40, 1, "n")
    raise SystemExit("no NOSCRIPT")
except redis.exceptions.NoScriptError:
    pass
assert r.script_load("return {KEYS[1], ARGV[1], 1.9, false}") == r.script_load("return {KEYS[1], ARGV[1], 1.9, false}")
assert r.eval("return {KEYS[1], ARGV[1], 1.9, false}", 1, "n", "x") == ["n", "x", 1, None]
assert r.script_exists("0" * 40) == [False]

# Functions.
library = """#!lua name=applib
redis.register_function('add', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)
redis.register_function{function_name='peek', callback=function(keys) return redis.call('GET', keys[1]) end, flags={'no-writes'}}
"""
assert r.function_load(library, replace=True) == "applib"
assert r.fcall("add", 1, "n", 9) == 60 and r.get("n") == "60" and r.fcall_ro("peek", 1, "n") == "60"
assert r.fcall("add", 1, "n", -9) == 51 and r.get("n") == "51"
assert len(r.function_list(library="applib")) == 1
try:
    r.fcall("nope", 0)
    raise SystemExit("no error")
except redis.ResponseError as e:
    assert "Function not found" in str(e), e
assert r.function_delete("applib")

# Publish and subscribe.
pubsub = r.pubsub(ignore_subscribe_messages=True)
pubsub.subscribe("news")
pubsub.psubscribe("w*")
deadline = time.time() + 10
got = []
while len(got) < 2:
    assert time.time() < deadline
    if not got:
        r.publish("news", "hello")
    else:
        r.publish("weather", "rain")
    message = pubsub.get_message(timeout=0.2)
    if message and (not got or message["channel"] != got[-1][0]):
        got.append((message["channel"], message["data"]))
assert got == [("news", "hello"), ("weather", "rain")], got
pubsub.unsubscribe()
pubsub.punsubscribe()
pubsub.close()
shards = r.pubsub()
shards.execute_command("SSUBSCRIBE", "shard")
shards.subscribed_event.set()
assert shards.parse_response()[0] == "ssubscribe"
assert [list(pair) for pair in r.pubsub_shardnumsub("shard")] == [["shard", 1]], r.pubsub_shardnumsub("shard")
assert r.spublish("shard", "here") == 1
reply = shards.parse_response()
assert list(reply) == ["smessage", "shard", "here"], reply
shards.close()

# A blocking pop served by another client.
threading.Timer(0.1, lambda: redis.Redis(port=port, protocol=protocol).rpush("queue", "job")).start()
assert list(r.blpop("queue", timeout=5)) == ["queue", "job"]
assert r.blpop("queue", timeout=0.1) is None

# Streams.
assert r.xadd("x", {"f": "v"}, id="1-1") == "1-1" and r.xlen("x") == 1
assert r.xrange("x") == [("1-1", {"f": "v"})]
read = r.xread({"x": "0"})
assert list(read)[0] in ("x", ["x", [("1-1", {"f": "v"})]]), read
r.xgroup_create("x", "grp", id="0")
assert r.xreadgroup("grp", "me", {"x": ">"}) and r.xack("x", "grp", "1-1") == 1
assert not r.xread({"x": "$"}, block=50)
assert r.xadd("x", {"f": "w"}, id="2-1") == "2-1" and r.xreadgroup("grp", "me", {"x": ">"}, count=1)
assert r.xpending("x", "grp")["pending"] == 1 and r.xpending_range("x", "grp", "-", "+", 10)[0]["message_id"] == "2-1"
assert r.xclaim("x", "grp", "other", 0, ["2-1"]) == [("2-1", {"f": "w"})]
assert r.xautoclaim("x", "grp", "third", 0)[1] == [("2-1", {"f": "w"})]
assert r.xinfo_groups("x")[0]["name"] == "grp" and r.xinfo_stream("x")["length"] == 2 and r.xack("x", "grp", "2-1") == 1
assert r.xtrim("x", maxlen=1, approximate=False) == 1 and r.xgroup_destroy("x", "grp")
threading.Timer(0.1, lambda: redis.Redis(port=port, protocol=protocol).xadd("x", {"f": "late"}, id="3-1")).start()
assert r.xread({"x": "$"}, block=5000)

# Iteration.
assert sorted(r.scan_iter("p*", count=50)) == sorted(["p"] + [f"p{i}" for i in range(500)])
assert dict(r.hscan_iter("h")) == {"x": "10", "y": "2"}
assert r.dbsize() > 500 and r.info("server")["redis_version"] and r.info()["connected_clients"] >= 1

# Databases.
other = redis.Redis(port=port, protocol=protocol, db=3, client_name="third", decode_responses=True)
assert other.get("p") is None and other.set("p", "three") and r.get("p") == "101" and other.client_getname() == "third"

# Errors keep the connection.
try:
    r.lpush("k", 1)
    raise SystemExit("no WRONGTYPE")
except redis.ResponseError as e:
    assert "WRONGTYPE" in str(e), e
assert r.get("k") == "w"


# The client's own cache: only for servers that it knows, so it has to be refused in the same words as by the server itself.
def cached(port):
    try:
        from redis.cache import CacheConfig

        c = redis.Redis(port=port, protocol=3, cache_config=CacheConfig(), decode_responses=True)
        c.set("cached", "1")
        assert c.get("cached") == "1" and c.get("cached") == "1"
        redis.Redis(port=port).set("cached", "2")
        deadline = time.time() + 5
        while c.get("cached") != "2":
            assert time.time() < deadline
        return "works"
    except redis.RedisError as e:
        return f"{type(e).__name__}: {e}"


if protocol == 3:
    assert cached(port) == cached(direct), (cached(port), cached(direct))
print("ok")
