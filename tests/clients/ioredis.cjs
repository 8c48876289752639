// ioredis against the port given. Arguments: port, directory of node_modules. Any failure throws.
const assert = require("assert");
const port = Number(process.argv[2]);
const Redis = require(process.argv[3] + "/ioredis");

async function run(options) {
  const r = new Redis({ port, host: "127.0.0.1", ...options });
  await r.flushall();
  assert.equal(await r.set("k", "v"), "OK");
  assert.equal(await r.get("k"), "v");
  assert.equal(await r.get("k"), "v");
  assert.equal(await r.get("none"), null);
  await r.hset("h", { a: "1", b: "2" });
  assert.deepEqual({ ...(await r.hgetall("h")) }, { a: "1", b: "2" });
  await r.rpush("l", 1, 2, 3);
  assert.deepEqual(await r.lrange("l", 0, -1), ["1", "2", "3"]);
  await r.sadd("s", "x");
  assert.equal((await r.smembers("s")).length, 1);
  await r.zadd("z", 1.5, "m");
  assert.equal(Number(await r.zscore("z", "m")), 1.5);
  assert.deepEqual(await r.mget("k", "none"), ["v", null]);

  // Queued in one tick: pipelined.
  const many = await Promise.all(Array.from({ length: 300 }, (_, i) => r.incr("n")));
  assert.deepEqual(many, Array.from({ length: 300 }, (_, i) => i + 1));
  const pipeline = r.pipeline();
  for (let i = 0; i < 200; i++) pipeline.set(`p${i}`, i).get(`p${i}`);
  const replies = await pipeline.exec();
  replies.forEach(([error, value], i) => assert.equal(error ?? value, i % 2 ? String((i - 1) / 2) : "OK"));

  assert.deepEqual(await r.multi().set("t", 1).incr("t").get("t").exec(), [[null, "OK"], [null, 2], [null, "2"]]);
  const other = r.duplicate();
  await r.watch("t");
  await other.set("t", 9);
  assert.equal(await r.multi().incr("t").exec(), null);

  r.defineCommand("add", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  assert.equal(await r.add("n", 5), 305);
  assert.equal(await r.add("n", 5), 310);
  assert.equal(await r.get("n"), "310");

  await assert.rejects(r.evalsha("0".repeat(40), 1, "n"), /NOSCRIPT/);
  const library = "#!lua name=iolib\nredis.register_function('ioadd', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)";
  assert.equal(await r.function("LOAD", "REPLACE", library), "iolib");
  assert.equal(await r.fcall("ioadd", 1, "n", 5), 315);
  assert.equal(await r.get("n"), "315");
  assert.equal(await r.function("DELETE", "iolib"), "OK");

  const sharded = r.duplicate();
  const shard = new Promise((resolve) => sharded.on("smessage", (channel, text) => resolve(`${channel}:${text}`)));
  await sharded.ssubscribe("shard");
  assert.equal(await r.spublish("shard", "here"), 1);
  assert.equal(await shard, "shard:here");
  await sharded.sunsubscribe("shard");
  assert.equal(await sharded.get("k"), "v");

  const sub = r.duplicate();
  await sub.subscribe("news");
  await sub.psubscribe("w*");
  const heard = new Promise((resolve) => {
    const all = [];
    const add = (text) => all.push(text) === 2 && resolve(all);
    sub.on("message", (channel, text) => add(`${channel}:${text}`));
    sub.on("pmessage", (pattern, channel, text) => add(`${pattern}:${channel}:${text}`));
  });
  assert.equal(await r.publish("news", "hello"), 1);
  assert.equal(await r.publish("weather", "rain"), 1);
  assert.deepEqual(await heard, ["news:hello", "w*:weather:rain"]);
  await sub.unsubscribe("news");
  await sub.punsubscribe("w*");
  assert.equal(await sub.get("k"), "v");

  const popped = other.blpop("q", 5);
  await r.rpush("q", "job");
  assert.deepEqual(await popped, ["q", "job"]);
  assert.equal(await r.blpop("q", 0.1), null);

  await r.xadd("x", "1-1", "f", "v");
  assert.equal((await r.xrange("x", "-", "+"))[0][0], "1-1");
  assert.ok(await r.xread("STREAMS", "x", "0"));
  assert.equal(await r.xread("BLOCK", 20, "STREAMS", "x", "$"), null);
  assert.equal(await r.xgroup("CREATE", "x", "grp", "0"), "OK");
  assert.ok(await r.xreadgroup("GROUP", "grp", "me", "COUNT", 1, "STREAMS", "x", ">"));
  assert.equal(Number((await r.xpending("x", "grp"))[0]), 1);
  assert.equal((await r.xclaim("x", "grp", "other", 0, "1-1"))[0][0], "1-1");
  assert.equal(await r.xack("x", "grp", "1-1"), 1);
  assert.equal(await r.xreadgroup("GROUP", "grp", "me", "BLOCK", 20, "STREAMS", "x", ">"), null);

  const keys = [];
  for await (const batch of r.scanStream({ match: "p*", count: 50 })) keys.push(...batch);
  assert.equal(new Set(keys).size, 200);

  const monitor = await r.monitor();
  const seen = new Promise((resolve) => monitor.on("monitor", (_, args) => args.includes("watched-key") && resolve()));
  await r.set("watched-key", 1);
  await seen;
  monitor.disconnect();

  await assert.rejects(r.lpush("k", 1), /WRONGTYPE/);
  for (const client of [r, other, sub, sharded]) assert.equal(await client.quit(), "OK");

  const third = new Redis({ port, host: "127.0.0.1", db: 3, connectionName: "third", ...options });
  assert.equal(await third.get("k"), null);
  assert.equal(await third.client("GETNAME"), "third");
  await third.quit();
}

const limit = setTimeout(() => { console.error("timed out"); process.exit(1); }, 30000);
run({})
  .then(() => run({ protocol: 2 }))
  .then(() => { clearTimeout(limit); console.log("ok"); })
  .catch((error) => { console.error(error); process.exit(1); });
