/** Services beside MySQL in a daemon: each with its own log and archives' chains, and none in the way of another. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Alarms } from '../../agent/alarms.ts';
import { judge } from '../../agent/http/judge.ts';
import type { StatusSnapshot } from '../../agent/http/status.ts';
import type { CapturedService, ServiceContext } from '../../agent/journaled/types.ts';
import { StatusTeller } from '../../cli/daemon-status.ts';
import { ServiceRunner } from '../../cli/service-runner.ts';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { serviceChain } from '../../core/archive/layout.ts';
import { type Config, parseConfig } from '../../core/config/config.ts';
import { integrityError, transientError } from '../../core/errors/error.ts';
import { ArchiveHistory, listSources } from '../../core/history/open.ts';
import { readJournal } from '../../core/journal/read.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { silentLogger } from '../../core/logging/logger.ts';

const logger = silentLogger();
const never = new AbortController().signal;
let root: string;
let config: Config;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'qazyna-services-'));
  const yaml = `
source: { name: agama, mysql: {} }
log: { local: { dir: "${root}/log" } }
archives: { onsite: { url: "file://${root}/onsite" } }
snapshots: { engine: logical }
`;
  config = parseConfig('test.yaml', yaml);
});
afterEach(() => rm(root, { recursive: true, force: true }));

/** Journals one line after the other until it is told to stop; then what is in hand, too. */
class Lines implements CapturedService {
  readonly id;
  readonly state = 'running';
  readonly counters = { lines_total: 0 };
  readonly snapshots = { everyMs: 0, running: false };
  readonly seenMicros = null;
  readonly said: string[] = [];
  readonly #before: (run: number) => void;
  #runs = 0;

  constructor(name: string, before: (run: number) => void = () => {}) {
    this.id = { kind: 'influxdb' as const, name };
    this.#before = before;
  }

  async run({ journal, signal }: ServiceContext): Promise<void> {
    this.#runs += 1;
    this.#before(this.#runs);
    while (!signal.aborted) {
      const line = `${this.id.name} ${this.counters.lines_total}`;
      await journal.append([{ kind: 1, meta: {}, body: Buffer.from(line) }]);
      this.said.push(line);
      this.counters.lines_total += 1;
      await sleep(5);
    }
  }
}

/** In the archive as far as it goes, the rest in the log: what no shipper held in hand at the end is shipped at the next start. */
async function kept(name: string): Promise<string[]> {
  const store = await openDirectoryStore(join(root, 'onsite'), { create: false });
  const chain = serviceChain('agama', { kind: 'influxdb', name });
  const history = await ArchiveHistory.open(store, chain, { signal: never, logger });
  const log = await LocalLog.open({ dir: join(root, 'log', `influxdb.${name}`), logger });
  const lines: string[] = [];
  for await (const { frame } of readJournal({ history, log, signal: never })) lines.push(frame.body.toString());
  await log.close();
  return lines;
}

async function withRunners(
  services: readonly Lines[],
  work: (status: () => Promise<StatusSnapshot>) => Promise<void>,
): Promise<void> {
  const stop = new AbortController();
  const alarms = new Alarms(logger);
  const role = { role: 'agent', ships: true, archives: config.archives };
  const shared = { config, role, alarms, logger, environment: {}, signal: stop.signal };
  const runners = services.map((service) => new ServiceRunner({ ...shared, id: service.id, service }));
  const teller = new StatusTeller({ from: 'agent', config, workers: [], alarms, services: runners });
  const running = Promise.all(runners.map((runner) => runner.run()));
  try {
    await work(() => teller.status());
  } finally {
    stop.abort();
    await running;
  }
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error('it did not happen within 20 s');
    await sleep(20);
  }
}

test('each has a log and a history of its own; what was said is kept to the last line, over a restart too', async () => {
  const [one, two] = [new Lines('one'), new Lines('two')];
  await withRunners([one, two], async (status) => {
    await until(async () => (await status()).services.every(({ archives }) => archives[0]?.state === 'following'));
    const { services } = await status();
    expect(services.map(({ kind, name, state }) => [kind, name, state])).toEqual([
      ['influxdb', 'one', 'running'],
      ['influxdb', 'two', 'running'],
    ]);
    expect(services[0]?.log?.lastCommitMicros).toBeGreaterThan(0);
  });
  const again = new Lines('one');
  await withRunners([again], () => until(() => again.said.length > 5));
  expect(await kept('one')).toEqual([...one.said, ...again.said]);
  expect(await kept('two')).toEqual(two.said);
  expect((await readdir(join(root, 'log'))).sort()).toEqual(['influxdb.one', 'influxdb.two']);
  const store = await openDirectoryStore(join(root, 'onsite'), { create: false });
  expect(await listSources(store)).toEqual(['agama=influxdb.one', 'agama=influxdb.two']);
});

test('one that ends by a fault is told of, and the others go on', async () => {
  const bad = new Lines('bad', () => {
    throw integrityError('QZ3999', 'It is broken.', 'It is a test.');
  });
  const buggy = new Lines('buggy', () => {
    throw new TypeError('undefined is not a function');
  });
  const flaky = new Lines('flaky', (run) => {
    if (run === 1) throw transientError('QZ4999', 'It is away.', 'It is a test.');
  });
  const good = new Lines('good');
  await withRunners([bad, buggy, flaky, good], async (status) => {
    await until(async () => (await status()).services.filter(({ state }) => state === 'stopped').length === 2);
    await until(() => flaky.said.length > 3 && good.said.length > 3);
    const told = await status();
    expect(told.services.map(({ state }) => state)).toEqual(['stopped', 'stopped', 'running', 'running']);
    const topics = told.alarms.map(({ topic, code }) => `${topic} ${code}`);
    expect(topics).toContain('influxdb.bad:capture QZ3999');
    expect(topics).toContain('influxdb.buggy:capture bug');
    expect(judge(told).attention.map(({ code }) => code)).toContain('QZ3999');
  });
  expect(await kept('good')).toEqual(good.said);
  expect(await kept('flaky')).toEqual(flaky.said);
});
