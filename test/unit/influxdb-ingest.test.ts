/** The endpoint that takes writes: 204 only once the log has the bytes, 503 for what may come again, and bounded throughout. */
import { request } from 'node:http';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Ingest } from '../../agent/influxdb/ingest.ts';
import { type InfluxdbFrame, openFrame } from '../../core/influxdb/frames.ts';
import { readJournal } from '../../core/journal/read.ts';
import { JournalWriter } from '../../core/journal/writer.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { never } from '../made/archive.ts';
import { StuckLog } from '../made/log.ts';

const logger = silentLogger();
let log: StuckLog;
let ingest: Ingest;

beforeEach(async () => {
  log = new StuckLog();
  const options = { chainName: 'agama=influxdb.a', base: null, first: 0, continued: null, signal: never, logger };
  const journal = await JournalWriter.open(log, { ...options, waitingMaxBytes: 2 * 1024 * 1024 });
  ingest = await Ingest.start({ listen: { host: '127.0.0.1', port: 0 }, journal, version: () => '1.8.10', logger });
});

afterEach(async () => {
  log.free();
  await ingest.close();
});

async function send(path: string, body: string | Buffer = '', headers: Record<string, string> = {}) {
  const response = await fetch(`http://127.0.0.1:${ingest.port}${path}`, { method: 'POST', body, headers });
  return { status: response.status, text: await response.text(), headers: response.headers };
}

async function written(): Promise<Extract<InfluxdbFrame, { kind: 'write' }>[]> {
  const found: Extract<InfluxdbFrame, { kind: 'write' }>[] = [];
  for await (const { frame } of readJournal({ history: null, log, signal: never })) {
    const opened = openFrame(frame, 'here');
    if (opened.kind === 'write') found.push(opened);
  }
  return found;
}

test('writes by both paths, packed or not, stand in the journal as they came', async () => {
  expect((await send('/write?db=telegraf&rp=two%20weeks&precision=s', 'cpu v=1 5')).status).toBe(204);
  expect((await send('/api/v2/write?bucket=telegraf/autogen&org=x&precision=ms', 'cpu v=2 6')).status).toBe(204);
  const packed = { 'content-encoding': 'gzip' };
  expect((await send('/forwarded/write?db=t&consistency=', gzipSync('cpu v="\xfe" 7'), packed)).status).toBe(204);
  expect((await send('/write?db=t', '')).status).toBe(204);
  expect((await written()).map(({ meta, body }) => [meta, body.toString()])).toEqual([
    [{ db: 'telegraf', rp: 'two weeks', precision: 's' }, 'cpu v=1 5'],
    [{ db: 'telegraf', rp: 'autogen', precision: 'ms' }, 'cpu v=2 6'],
    [{ db: 't', rp: '', precision: 'ns' }, 'cpu v="\xfe" 7'],
  ]);
});

test('what clients ask besides is answered as InfluxDB would', async () => {
  const database = await send('/query', new URLSearchParams({ q: 'CREATE DATABASE "telegraf"' }).toString());
  expect([database.status, JSON.parse(database.text)]).toEqual([200, { results: [{ statement_id: 0 }] }]);
  const ping = await fetch(`http://127.0.0.1:${ingest.port}/ping`);
  expect([ping.status, ping.headers.get('x-influxdb-version')]).toEqual([204, '1.8.10']);
  const health = await fetch(`http://127.0.0.1:${ingest.port}/health`);
  expect([health.status, await health.json()]).toEqual([200, expect.objectContaining({ status: 'pass' })]);
  expect((await send('/write', 'cpu v=1')).status).toBe(400);
  expect((await send('/elsewhere')).status).toBe(404);
});

test('nothing is answered with 204 before the log has it; while it does not take it, 503', async () => {
  log.stuck = true;
  const sent = send('/write?db=t', 'cpu v=1 1');
  const early = await Promise.race([
    sent.then(() => 'answered'),
    new Promise((resolve) => setTimeout(resolve, 300, 'waits')),
  ]);
  expect(early).toBe('waits');
  log.free();
  expect((await sent).status).toBe(204);
  log.stuck = true;
  const late = await send('/write?db=t', 'cpu v=2 2');
  expect([late.status, late.headers.get('retry-after')]).toEqual([503, '1']);
  expect(ingest.counters.refused_total).toBe(1);
}, 20_000);

test('with too much waiting for the log, more is refused at once', async () => {
  log.stuck = true;
  const line = `cpu s="${'x'.repeat(1000)}" 1\n`;
  const first = send('/write?db=t', line.repeat(3000));
  while (log.waiting === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  await new Promise((resolve) => setTimeout(resolve, 200));
  const startedMs = performance.now();
  expect((await send('/write?db=t', 'cpu v=2 2')).status).toBe(503);
  expect(performance.now() - startedMs).toBeLessThan(2000);
  log.free();
  await first;
}, 20_000);

test('a body of any length passes in pieces of whole lines', async () => {
  const lines = Array.from(
    { length: 40_000 },
    (_, index) => `cpu,n=${index} s="${'y'.repeat(90)}\n,${index}" ${index}`,
  );
  expect((await send('/write?db=t', gzipSync(lines.join('\n')), { 'content-encoding': 'gzip' })).status).toBe(204);
  const frames = await written();
  expect(frames.length).toBeGreaterThan(2);
  expect(Math.max(...frames.map(({ body }) => body.length))).toBeLessThan(2 * 1024 * 1024);
  const whole = frames.map(({ body }) => body.toString()).join('');
  expect(whole).toBe(lines.join('\n'));
  for (const { body } of frames.slice(0, -1)) expect(body.toString()).toMatch(/" \d+\n$/);
  expect((await send('/write?db=t', `cpu s="${'z'.repeat(9 * 1024 * 1024)}" 1`)).status).toBe(413);
}, 20_000);

test('a body that breaks off is not acknowledged, and leaves nothing in hand', async () => {
  await new Promise<void>((resolve) => {
    const cut = request({
      port: ingest.port,
      path: '/write?db=t',
      method: 'POST',
      headers: { 'content-length': 1000 },
    });
    cut.once('error', () => resolve());
    cut.write('cpu v=1 1\n', () => cut.destroy());
  });
  expect((await send('/write?db=t', 'cpu v=2 2')).status).toBe(204);
  expect((await written()).map(({ body }) => body.toString())).toContain('cpu v=2 2');
  expect((await send('/write?db=t', Buffer.from('no gzip'), { 'content-encoding': 'gzip' })).status).toBe(503);
});

test('it knows when all that was forwarded before has come', async () => {
  const before = performance.now();
  expect(ingest.deliveredSince(before, 10)).toBe(true);
  log.stuck = true;
  const sent = send('/forwarded/write?db=t', 'cpu v=1 1');
  while (log.waiting === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  const since = performance.now();
  expect(ingest.deliveredSince(since, 10)).toBe(false);
  log.free();
  await sent;
  expect(ingest.deliveredSince(since, 10)).toBe(false);
  await new Promise((resolve) => setTimeout(resolve, 400));
  expect(ingest.deliveredSince(since, 10)).toBe(true);
  // Never idle, but more than can have been held back.
  const busy = performance.now() + 3_600_000;
  expect(ingest.deliveredSince(busy, 3)).toBe(false);
  for (let write = 0; write < 4; write += 1) await send('/forwarded/write?db=t', 'cpu v=1 1');
  expect(ingest.deliveredSince(busy, 3)).toBe(true);
});
