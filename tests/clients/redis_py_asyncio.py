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

    popped = asyncio.create_task(redis.Redis(port=port, protocol=protocol, decode_responses=True).blpop("q", timeout=5))
    await asyncio.sleep(0.05)
    await r.rpush("q", "job")
    assert list(await popped) == ["q", "job"]
    assert len([key async for key in r.scan_iter("key*")]) == 80
    await r.aclose()


asyncio.run(main())
print("ok")
