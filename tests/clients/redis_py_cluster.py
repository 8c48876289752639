"""redis-py's RedisCluster, which takes the proxy for the only node of a cluster. Arguments: port, protocol."""

import sys

import redis
from redis.cluster import RedisCluster

port, protocol = int(sys.argv[1]), int(sys.argv[2])
client = RedisCluster(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True)
plain = redis.Redis(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True)

assert [n.port for n in client.get_nodes()] == [port], client.get_nodes()
client.flushall()
for i in range(200):
    assert client.set(f"k{i}", i)
for i in range(200):
    assert client.get(f"k{i}") == str(i)
    assert plain.get(f"k{i}") == str(i)
assert client.dbsize() == 200
assert sorted(client.scan_iter(count=20)) == sorted(f"k{i}" for i in range(200))
assert client.mget_nonatomic([f"k{i}" for i in range(50)]) == [str(i) for i in range(50)]
assert client.mset_nonatomic({"x": 1, "y": 2})
assert client.delete("x", "y") == 2
assert client.keyslot("foo") == client.cluster_keyslot("foo") == 12182

pipe = client.pipeline()
for i in range(50):
    pipe.set(f"p{i}", i)
    pipe.get(f"p{i}")
assert pipe.execute() == [x for i in range(50) for x in (True, str(i))]

# Not a cluster's client: keys of all slots in one command, and transactions in one slot.
assert plain.mget([f"k{i}" for i in range(50)]) == [str(i) for i in range(50)]
with plain.pipeline() as pipe:
    pipe.incr("{t}a")
    pipe.incr("{t}b")
    assert pipe.execute() == [1, 1]
with plain.lock("lock", timeout=5):
    pass

pubsub = client.pubsub()
pubsub.subscribe("news")
assert pubsub.get_message(timeout=5)["type"] == "subscribe"
client.publish("news", "hello")
assert pubsub.get_message(timeout=5)["data"] == "hello"
pubsub.close()
client.close()
print("ok")
