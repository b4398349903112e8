import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Captured, CaptureLab, Recording } from './capture-lab.ts';
import { Wire } from './wire.ts';

let lab: CaptureLab;
beforeAll(async () => {
  lab = await CaptureLab.start({ 'max-allowed-packet': '64M' });
  await lab.sql('CREATE DATABASE c', 'CREATE TABLE c.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(200))');
}, 120_000);
afterAll(async () => {
  await lab[Symbol.asyncDispose]();
});

const insert = (count: number, size = 50) =>
  `INSERT INTO c.t (v) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count}) SELECT REPEAT('x', ${size}) FROM n`;

async function expectBytesEqual(recording: Captured): Promise<void> {
  const own = await lab.ownFiles();
  const captured = recording.files();
  expect([...captured.keys()]).toEqual([...own.keys()]);
  expect(captured).toEqual(own);
}

describe('capture of a live server', () => {
  test('is byte-identical over rotations, compressed and tagged transactions, and files with and without checksums', async () => {
    const recording = new Recording(lab);
    await lab.sql(insert(500), 'FLUSH BINARY LOGS', insert(20));
    await lab.sql('SET SESSION binlog_transaction_compression = ON', insert(900, 180), 'UPDATE c.t SET v = REVERSE(v)');
    await lab.sql('SET SESSION binlog_transaction_compression = OFF');
    await lab.sql("SET gtid_next = 'AUTOMATIC:mytag'", insert(3), "SET gtid_next = 'AUTOMATIC'", insert(1));
    await lab.sql('SET GLOBAL binlog_checksum = NONE', insert(5), "SET GLOBAL binlog_checksum = 'CRC32'", insert(5));
    await lab.sql('XA START "a"', 'INSERT INTO c.t (v) VALUES ("xa")', 'XA END "a"', 'XA PREPARE "a"', 'XA COMMIT "a"');
    await recording.caughtUp(lab);
    await recording.stop();
    await expectBytesEqual(recording);
    expect(recording.state?.gtids.equals(await lab.gtidExecuted())).toBe(true);
    expect(recording.state?.gtids.toString()).toContain(':mytag:1');
    expect(new Set(recording.entries.map((entry) => entry.file)).size).toBeGreaterThanOrEqual(4);
    for (const entry of recording.entries) {
      expect(entry.fileHeadSha256.equals(Buffer.alloc(32))).toBe(false);
      expect(entry.boundary).toBe(entry.end);
    }
  }, 120_000);

  test('commit times bracket each entry, and heartbeats follow the clock of the source', async () => {
    const recording = new Recording(lab, { heartbeatMs: 100 });
    await recording.caughtUp(lab);
    const before = Date.now() * 1000;
    await lab.sql(insert(10));
    const after = Date.now() * 1000;
    await recording.caughtUp(lab);
    const last = recording.entries.findLast((entry) => entry.kind === 'events');
    expect(last?.firstCommitMicros).toBeGreaterThanOrEqual(before - 1000);
    expect(last?.lastCommitMicros).toBeLessThanOrEqual(after + 1000);
    await recording.until('a heartbeat beyond', () => (recording.state?.completeThroughMicros ?? 0) > after);
    // Idle time passes: the stream stays, heartbeats go on.
    const heartbeats = () => recording.entries.filter((entry) => entry.kind === 'heartbeat').length;
    const seen = heartbeats();
    await recording.until('idle heartbeats', () => heartbeats() > seen + 5);
    expect(recording.troubles).toEqual([]);
    await recording.stop();
  }, 120_000);

  test('goes on after its connections are killed', async () => {
    const recording = new Recording(lab);
    await recording.caughtUp(lab);
    for (let round = 0; round < 3; round++) {
      const threads = await lab.sql("SELECT id FROM performance_schema.processlist WHERE command LIKE 'Binlog Dump%'");
      expect(threads).toHaveLength(1);
      const connected = recording.connected;
      await lab.sql(insert(300), `KILL ${threads[0]?.id}`, insert(300));
      await recording.until('the new connection', () => recording.connected > connected);
      await recording.caughtUp(lab);
    }
    expect(recording.troubles.length).toBeGreaterThanOrEqual(3);
    await recording.stop();
    await expectBytesEqual(recording);
  }, 120_000);

  test('a connection that goes silent, or passes damaged bytes on, is noticed', async () => {
    await using wire = await Wire.to(lab.endpoint.port);
    const endpoint = { ...lab.endpoint, port: wire.port };
    const recording = new Recording(lab, { endpoint, heartbeatMs: 100 });
    await recording.caughtUp(lab);
    wire.mode = 'silent';
    await lab.sql(insert(10));
    await recording.until('the loss of the stream', () => recording.troubles.includes('QZ4122'));
    wire.mode = 'plain';
    await recording.caughtUp(lab);
    wire.mode = 'flip';
    await lab.sql(insert(200));
    expect(await recording.failed()).toMatchObject({ kind: 'integrity', code: 'QZ3221' });
    // Nothing of the damaged event was handed over: the next start goes on as if nothing had been.
    wire.mode = 'plain';
    const next = new Recording(lab, {}, recording);
    await next.caughtUp(lab);
    await next.stop();
    await expectBytesEqual(next);
  }, 120_000);

  test('resumes inside a 20 MB event, whose checksum is checked over all of it', async () => {
    await lab.sql('CREATE TABLE c.big (id INT PRIMARY KEY, b LONGBLOB)');
    const first = new Recording(lab, { maxAheadBytes: 2 * 1024 * 1024 });
    await first.caughtUp(lab);
    const start = first.state?.range?.end ?? 0;
    await lab.sql("INSERT INTO c.big VALUES (1, REPEAT('abcdefghij', 2000000))");
    await first.until('the first part of the event', () => (first.state?.range?.end ?? 0) > start + 5_000_000);
    await first.stop();
    const inside = first.entries.findIndex((entry) => entry.boundary < entry.end && entry.end > start + 3_000_000);
    expect(inside).toBeGreaterThan(0);
    // As if the process had ended just after that entry.
    const before = first.upTo(inside + 1);
    expect(before.resume?.range.transactionStart).toBeLessThan(before.resume?.range.boundary ?? 0);
    expect(before.resume?.range.boundary).toBeLessThan(before.resume?.range.end ?? 0);
    // What the log holds of the event must be what the source sends again.
    const { resume } = before;
    const damaged = new Recording(lab, { resume: resume && { ...resume, prefixCrc: 1 } }, before);
    expect(await damaged.failed()).toMatchObject({ code: 'QZ3242' });
    const second = new Recording(lab, {}, before);
    await second.caughtUp(lab);
    await second.stop();
    await expectBytesEqual(second);
  }, 120_000);

  test('survives a restart in mid-stream and kill -9 of the server', async () => {
    const recording = new Recording(lab);
    for (const how of ['stop', 'kill'] as const) {
      await lab.sql(insert(2000), insert(1));
      await lab.down(how);
      await lab.up();
      await lab.sql(insert(700), 'FLUSH BINARY LOGS', insert(7));
      await recording.caughtUp(lab);
    }
    await recording.stop();
    await expectBytesEqual(recording);
    expect(recording.state?.gtids.equals(await lab.gtidExecuted())).toBe(true);
  }, 120_000);

  test('back-pressure: a slow consumer is waited for, and nothing is lost', async () => {
    await lab.sql(insert(50_000, 180));
    const recording = new Recording(lab, { maxAheadBytes: 256 * 1024, maxEntryBytes: 64 * 1024 });
    await recording.caughtUp(lab);
    await recording.stop();
    await expectBytesEqual(recording);
    expect(Math.max(...recording.entries.map((entry) => entry.body.length))).toBe(64 * 1024);
  }, 120_000);
});
