// ioredis's Cluster, which takes the proxy for the only node of a cluster. Arguments: port, directory of the modules.
const [port, modules] = process.argv.slice(2);
const Redis = require(`${modules}/ioredis`);
const assert = require("assert");

async function main() {
  const client = new Redis.Cluster([{ host: "127.0.0.1", port: Number(port) }]);
  await new Promise((done, fail) => {
    client.once("ready", done);
    client.once("error", fail);
  });
  assert.deepStrictEqual(client.nodes("master").map((n) => n.options.port), [Number(port)]);
  for (let i = 0; i < 100; i++) await client.set(`k${i}`, i);
  for (let i = 0; i < 100; i++) assert.strictEqual(await client.get(`k${i}`), String(i));
  const values = await Promise.all([...Array(100).keys()].map((i) => client.get(`k${i}`)));
  assert.deepStrictEqual(values, [...Array(100).keys()].map(String));
  const transaction = await client.multi().set("{t}a", 1).incr("{t}a").exec();
  assert.deepStrictEqual(transaction, [[null, "OK"], [null, 2]]);
  const pipeline = client.pipeline();
  for (let i = 0; i < 20; i++) pipeline.get(`{t}${i}`);
  assert.strictEqual((await pipeline.exec()).length, 20);
  const heard = new Promise((done) => client.on("message", (channel, message) => done([channel, message])));
  await client.subscribe("news");
  const other = new Redis(Number(port));
  await other.publish("news", "hello");
  assert.deepStrictEqual(await heard, ["news", "hello"]);
  other.disconnect();
  client.disconnect();
  console.log("ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
