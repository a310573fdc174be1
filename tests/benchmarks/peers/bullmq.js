// BullMQ, driven by `node bullmq.js ACT URL N`: prints one JSON line, but `work` works until it is stopped.
const { Queue, QueueEvents, Worker, FlowProducer } = require('bullmq');
const IORedis = require('ioredis');

const [act, url, count] = [process.argv[2], process.argv[3], +process.argv[4]];
const connection = () => new IORedis(url, { maxRetriesPerRequest: null });
const seconds = (since) => Number(process.hrtime.bigint() - since) / 1e9;
const chain = (n) => (n === 1 ? { name: 'noop', queueName: 'bench', data: {} } : { ...chain(1), children: [chain(n - 1)] });
const say = (what) => { console.log(JSON.stringify(what)); process.exit(0); };
const acts = {
  work: () => new Worker('bench', async () => ({ steps: 0 }), { connection: connection(), concurrency: 50 }),
  submit: (queue) => bulk((size, i) => queue.addBulk(Array.from({ length: size }, (_, k) => ({ name: 'noop', data: { n: i + k } })))),
  flow: () => {
    const flows = new FlowProducer({ connection: connection() });
    return bulk((size) => flows.addBulk(Array.from({ length: size }, () => chain(5))));
  },
  latency: async (queue) => {
    const events = new QueueEvents('bench', { connection: connection() });
    await events.waitUntilReady();
    const ms = [];
    for (let i = 0; i < count; i += 1) {
      const jobId = `job-${i}`;
      const since = process.hrtime.bigint();
      const ended = new Promise((resolve) => events.once(`completed:${jobId}`, resolve));
      await queue.add('noop', { n: i }, { jobId });
      await ended;
      ms.push(seconds(since) * 1e3);
    }
    say({ ms });
  },
};

async function bulk(add) {
  const [since, before] = [process.hrtime.bigint(), process.cpuUsage()];
  for (let i = 0; i < count; i += 1000) await add(Math.min(1000, count - i), i);
  const { user, system } = process.cpuUsage(before);
  say({ perSecond: count / seconds(since), cpuMicroseconds: (user + system) / count });
}

acts[act](act === 'work' ? null : new Queue('bench', { connection: connection() }));
