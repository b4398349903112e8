/**
 * Commits that wait for our acknowledgement (fault rows 1, 45): they return once they are accepted and not before, whatever
 * happens to the connection or to the agent meanwhile, and nobody takes a waiting commit for one that was lost.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { setSemiSync } from '../../agent/semi-sync/settings.ts';
import { CaptureLab, Recording } from './capture-lab.ts';

const durable = { 'sync-binlog': 1, 'innodb-flush-log-at-trx-commit': 1 };
const commits = 4;
let lab: CaptureLab;
let recording: Recording;
let rows = 0;

beforeAll(async () => {
  lab = await CaptureLab.start(durable);
  await lab.sql('CREATE DATABASE c', 'CREATE TABLE c.t (id INT PRIMARY KEY)');
  const admin = await CaptureLab.connect(lab);
  await setSemiSync(admin, { persist: false });
  await admin.close();
  recording = new Recording(lab, { semiSync: true });
  await recording.caughtUp(lab);
}, 120_000);

afterAll(async () => {
  await recording?.stop();
  await lab?.[Symbol.asyncDispose]();
}, 120_000);

class Waiting {
  told = 0;
  readonly #all: Promise<unknown>;

  /** So many clients, each with a commit. */
  constructor() {
    const commit = async (id: number) => {
      const client = await CaptureLab.connect(lab);
      await client.query('INSERT INTO c.t VALUES (?)', [id], 60_000);
      this.told += 1;
      await client.close();
    };
    this.#all = Promise.all(Array.from({ length: commits }, () => commit(++rows)));
    this.#all.catch(() => undefined);
  }

  async return(): Promise<void> {
    await this.#all;
  }
}

/** They stand in the binlog and were captured, and the server waits for their acknowledgement. */
async function untilTheyWait(): Promise<void> {
  await recording.until('all of them wait', async () => {
    const captured = recording.state?.gtids.subtract(await lab.gtidExecuted()).count;
    const [row] = await lab.sql('SELECT @@GLOBAL.gtid_owned AS owned');
    return captured === commits && String(row?.owned).match(/#/g)?.length === commits;
  });
}

async function killDump(): Promise<void> {
  const [thread] = await lab.sql("SELECT id FROM performance_schema.processlist WHERE command LIKE 'Binlog Dump%'");
  await lab.sql(`KILL ${thread?.id}`);
}

test('they wait for as long as the log takes, without a false alarm, and return then', async () => {
  recording.hold();
  const waiting = new Waiting();
  await untilTheyWait();
  // Clock, position and executed GTIDs are looked at each second.
  await sleep(3500);
  expect(waiting.told).toBe(0);
  expect(recording.troubles).toEqual([]);
  recording.accept();
  await waiting.return();
}, 120_000);

test('a lost connection acknowledges nothing: it is made anew once all before it is accepted', async () => {
  recording.hold();
  const waiting = new Waiting();
  await untilTheyWait();
  const { connected } = recording;
  await killDump();
  await recording.until('the loss is noticed', () => recording.troubles.length > 0);
  await sleep(2500);
  // To register from behind them would acknowledge them.
  expect([waiting.told, recording.connected]).toEqual([0, connected]);
  recording.accept();
  await waiting.return();
  expect(recording.connected).toBeGreaterThan(connected);
  expect(new Set(recording.troubles)).toEqual(new Set(['QZ4121']));
}, 120_000);

test('an agent that died between accepting and acknowledging: the next one takes them for what they are', async () => {
  recording.hold();
  const waiting = new Waiting();
  await untilTheyWait();
  await recording.stop();
  expect(waiting.told).toBe(0);
  recording = new Recording(lab, { semiSync: true }, recording);
  await waiting.return();
  await recording.caughtUp(lab);
  expect(recording.troubles).toEqual([]);
}, 120_000);
