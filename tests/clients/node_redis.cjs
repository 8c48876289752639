// node-redis against the port given. Arguments: port, directory of node_modules. Any failure throws.
const assert = require("assert");
const port = Number(process.argv[2]);
const { createClient } = require(process.argv[3] + "/redis");

async function run(options) {
  const r = createClient({ socket: { port, host: "127.0.0.1" }, ...options });
  r.on("error", (error) => { console.error(error); process.exit(1); });
  await r.connect();
  await r.flushAll();
  assert.equal(await r.set("k", "v"), "OK");
  assert.equal(await r.get("k"), "v");
  assert.equal(await r.get("k"), "v");
  assert.equal(await r.get("none"), null);
  assert.equal(await r.hSet("h", { a: "1", b: "2" }), 2);
  assert.deepEqual({ ...(await r.hGetAll("h")) }, { a: "1", b: "2" });
  await r.rPush("l", ["1", "2", "3"]);
  assert.deepEqual(await r.lRange("l", 0, -1), ["1", "2", "3"]);
  await r.sAdd("s", ["x", "y"]);
  assert.deepEqual([...(await r.sMembers("s"))].sort(), ["x", "y"]);
  await r.zAdd("z", [{ score: 1.5, value: "m" }, { score: 2, value: "n" }]);
  assert.deepEqual(await r.zRangeWithScores("z", 0, -1), [{ value: "m", score: 1.5 }, { value: "n", score: 2 }]);
  assert.deepEqual(await r.mGet(["k", "none"]), ["v", null]);

  const many = await Promise.all(Array.from({ length: 300 }, () => r.incr("n")));
  assert.deepEqual(many, Array.from({ length: 300 }, (_, i) => i + 1));

  assert.deepEqual(await r.multi().set("t", "1").incr("t").get("t").hGetAll("h").exec().then((a) => a.slice(0, 3)), ["OK", 2, "2"]);
  const other = await r.duplicate().connect();
  await r.watch("t");
  await other.set("t", "9");
  await assert.rejects(r.multi().incr("t").exec(), /watched/i);

  assert.equal(await r.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", { keys: ["n"], arguments: ["5"] }), 305);

  const sha = await r.scriptLoad("return ARGV[1]");
  assert.equal(await r.evalSha(sha, { keys: ["n"], arguments: ["x"] }), "x");
  await assert.rejects(r.evalSha("0".repeat(40), { keys: ["n"], arguments: [] }), /NOSCRIPT/);
  const library = "#!lua name=nodelib\nredis.register_function('nodeadd', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)";
  assert.equal(await r.functionLoad(library, { REPLACE: true }), "nodelib");
  assert.equal(await r.fCall("nodeadd", { keys: ["n"], arguments: ["5"] }), 310);
  assert.equal(await r.get("n"), "310");
  assert.equal(await r.functionDelete("nodelib"), "OK");

  const sharded = await r.duplicate().connect();
  await new Promise((resolve, reject) =>
    sharded.sSubscribe("shard", (text) => (text === "here" ? resolve() : reject(text)))
      .then(() => r.sPublish("shard", "here"))
      .then((count) => assert.equal(count, 1))
      .catch(reject));
  await sharded.sUnsubscribe("shard");
  assert.equal(await sharded.get("k"), "v");

  const sub = await r.duplicate().connect();
  const heard = [];
  const done = new Promise((resolve) => {
    const add = (text) => heard.push(text) === 2 && resolve();
    sub.subscribe("news", (text) => add(`news:${text}`))
      .then(() => sub.pSubscribe("w*", (text, channel) => add(`${channel}:${text}`)))
      .then(() => r.publish("news", "hello"))
      .then(() => r.publish("weather", "rain"));
  });
  await done;
  assert.deepEqual(heard, ["news:hello", "weather:rain"]);
  if (options.RESP !== 2) assert.equal(await sub.get("k"), "v");
  await sub.unsubscribe();
  await sub.pUnsubscribe();
  assert.equal(await sub.get("k"), "v");

  const popped = other.blPop("q", 5);
  await r.rPush("q", "job");
  assert.deepEqual({ ...(await popped) }, { key: "q", element: "job" });
  assert.equal(await other.blPop("q", 0.1), null);

  assert.equal(await r.xAdd("x", "1-1", { f: "v" }), "1-1");
  assert.equal((await r.xRange("x", "-", "+")).length, 1);
  assert.ok(await r.xRead({ key: "x", id: "0" }));
  assert.equal(await r.xRead({ key: "x", id: "$" }, { BLOCK: 20 }), null);
  assert.equal(await r.xGroupCreate("x", "grp", "0"), "OK");
  assert.ok(await r.xReadGroup("grp", "me", { key: "x", id: ">" }, { COUNT: 1 }));
  assert.equal((await r.xPending("x", "grp")).pending, 1);
  assert.equal((await r.xClaim("x", "grp", "other", 0, "1-1"))[0].id, "1-1");
  assert.equal(await r.xAck("x", "grp", "1-1"), 1);

  // The client's own cache: the server's messages reach it through the proxy.
  if (options.RESP !== 2) {
    const cached = await createClient({ socket: { port, host: "127.0.0.1" }, RESP: 3, clientSideCache: { ttl: 0, maxEntries: 100, evictPolicy: "LRU" } }).connect();
    await r.set("cached", "1");
    assert.equal(await cached.get("cached"), "1");
    assert.equal(await cached.get("cached"), "1");
    await r.set("cached", "2");
    const end = Date.now() + 5000;
    while ((await cached.get("cached")) !== "2") {
      assert.ok(Date.now() < end, "the client's cache stays stale");
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    await cached.close();
  }

  await Promise.all(Array.from({ length: 100 }, (_, i) => r.set(`p${i}`, String(i))));
  const keys = new Set();
  for await (const batch of r.scanIterator({ MATCH: "p*", COUNT: 30 })) [batch].flat().forEach((key) => keys.add(key));
  assert.equal(keys.size, 100);

  await assert.rejects(r.lPush("k", "1"), /WRONGTYPE/);
  await r.watch("t");
  await r.reset();
  assert.equal(await r.get("k"), "v");
  const third = await createClient({ socket: { port, host: "127.0.0.1" }, database: 3, name: "third", ...options }).connect();
  assert.equal(await third.get("k"), null);
  assert.equal(await third.clientGetName(), "third");
  for (const client of [r, other, sub, sharded, third]) await client.close();
}

const limit = setTimeout(() => { console.error("timed out"); process.exit(1); }, 30000);
run({})
  .then(() => run({ RESP: 2 }))
  .then(() => { clearTimeout(limit); console.log("ok"); })
  .catch((error) => { console.error(error); process.exit(1); });
