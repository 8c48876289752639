"""redis-py's asyncio client against the port given. Arguments: port, protocol. Any failure raises."""
import asyncio
import sys

import redis.asyncio as redis

port, protocol = int(sys.argv[1]), int(sys.argv[2])


async def main():
    r = redis.Redis(port=port, protocol=protocol, decode_responses=True)
    await r.flushall()
    assert await r.set("k", "v") and await r.get("k") == "v" and await r.get("none") is None
    assert await r.hset("h", mapping={"a": "1"}) == 1 and await r.hgetall("h") == {"a": "1"}
    assert await r.zadd("z", {"m": 1.5}) == 1 and await r.zscore("z", "m") == 1.5
    assert await r.rpush("l", 1, 2, 3) == 3 and await r.lrange("l", 0, -1) == ["1", "2", "3"]
    assert await r.sadd("s", "a") == 1 and await r.smembers("s") == {"a"} and await r.mget("k", "none") == ["v", None]
    assert [list(pair) for pair in await r.zrange("z", 0, -1, withscores=True)] == [["m", 1.5]]
    try:
        await r.lpush("k", 1)
        raise SystemExit("no WRONGTYPE")
    except redis.ResponseError as e:
        assert "WRONGTYPE" in str(e), e

    # Many at once, each on a connection of the pool.
    async def one(i):
        assert await r.set(f"key{i}", i)
        assert await r.get(f"key{i}") == str(i)
        assert await r.incr("sum") > 0

    await asyncio.gather(*(one(i) for i in range(80)))
    assert await r.get("sum") == "80"

    async with r.pipeline(transaction=True) as p:
        assert await p.set("t", 1).incr("t").get("t").execute() == [True, 2, "2"]
    async with r.pipeline() as p:
        await p.watch("t")
        await r.set("t", 9)
        p.multi()
        p.incr("t")
        try:
            await p.execute()
            raise SystemExit("a conflict went unnoticed")
        except redis.WatchError:
            pass

    # Scripts and functions.
    script = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    await r.script_flush()
    assert await script(keys=["n"], args=[8]) == 8 and await script(keys=["n"], args=[1]) == 9
    try:
        await r.evalsha("0" * 40, 1, "n")
        raise SystemExit("no NOSCRIPT")
    except redis.RedisError as e:
        assert type(e).__name__ == "NoScriptError", e
    code = "#!lua name=alib\nredis.register_function('aecho', function(keys, args) return args[1] end)"
    assert await r.function_load(code, replace=True) == "alib" and await r.fcall("aecho", 0, "x") == "x"
    assert await r.function_delete("alib")

    # Streams with groups.
    assert await r.xadd("x", {"f": "v"}, id="1-1") == "1-1" and await r.xgroup_create("x", "grp", id="0")
    assert await r.xreadgroup("grp", "me", {"x": ">"}) and (await r.xpending("x", "grp"))["pending"] == 1
    assert await r.xack("x", "grp", "1-1") == 1 and await r.xrange("x") == [("1-1", {"f": "v"})]
    assert not await r.xread({"x": "$"}, block=20)

    async with r.lock("guard", timeout=5):
        assert await r.exists("guard")
    assert not await r.exists("guard")

    async with r.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("news")
        for _ in range(50):
            await r.publish("news", "hello")
            message = await pubsub.get_message(timeout=0.2)
            if message:
                assert message["data"] == "hello"
                break
        else:
            raise SystemExit("no message")
        await pubsub.psubscribe("w*")
        heard = []
        for _ in range(50):
            await r.publish("weather", "rain")
            message = await pubsub.get_message(timeout=0.2)
            if message and message["channel"] == "weather":
                heard.append((message["type"], message["pattern"], message["data"]))
                break
        assert heard == [("pmessage", "w*", "rain")], heard
        await pubsub.unsubscribe()
        await pubsub.punsubscribe()

    popped = asyncio.create_task(redis.Redis(port=port, protocol=protocol, decode_responses=True).blpop("q", timeout=5))
    await asyncio.sleep(0.05)
    await r.rpush("q", "job")
    assert list(await popped) == ["q", "job"]
    assert len([key async for key in r.scan_iter("key*")]) == 80
    await r.aclose()


asyncio.run(main())
print("ok")
