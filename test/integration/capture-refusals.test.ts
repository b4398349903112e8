import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { replicaIdentity } from '../../agent/capture/capture.ts';
import { openDump } from '../../core/mysql/dump.ts';
import { CaptureLab, chainId, Recording } from './capture-lab.ts';

const fails = (code: string, hint: string) =>
  expect.objectContaining({ code, hint: expect.stringContaining(hint) as unknown as string });

describe('capture refuses a source that cannot be captured', () => {
  let lab: CaptureLab;
  beforeAll(async () => {
    lab = await CaptureLab.start();
  }, 120_000);
  afterAll(async () => {
    await lab[Symbol.asyncDispose]();
  });

  test('wrong password, missing grants by name, an unreachable host only as a passing fault', async () => {
    const wrong = new Recording(lab, { endpoint: { ...lab.endpoint, password: 'secret-of-test' } });
    const refused = await wrong.failed();
    expect(refused).toEqual(fails('QZ2110', 'password_file'));
    expect(JSON.stringify(refused) + String((refused as Error).message)).not.toContain('secret-of-test');
    await lab.sql("CREATE USER weak IDENTIFIED BY 'p'");
    const endpoint = { ...lab.endpoint, user: 'weak', password: 'p' };
    expect(await new Recording(lab, { endpoint }).failed()).toEqual(fails('QZ2116', 'GRANT REPLICATION CLIENT'));
    await lab.sql('GRANT REPLICATION CLIENT ON *.* TO weak');
    expect(await new Recording(lab, { endpoint }).failed()).toEqual(fails('QZ2116', 'GRANT REPLICATION SLAVE'));
    await lab.sql('GRANT REPLICATION SLAVE ON *.* TO weak');
    const enough = new Recording(lab, { endpoint });
    await enough.caughtUp(lab);
    await enough.stop();
    const nobody = new Recording(lab, { endpoint: { ...lab.endpoint, port: 1 } });
    await nobody.until('tries', () => nobody.troubles.length >= 2);
    expect(new Set(nobody.troubles)).toEqual(new Set(['QZ4110']));
    await nobody.stop();
  }, 120_000);

  test('a second agent of the same chain', async () => {
    const identity = replicaIdentity(chainId);
    const [file] = (await lab.ownFiles()).keys();
    const stop = new AbortController();
    const other = await openDump(
      {
        endpoint: lab.endpoint,
        file: file ?? '',
        position: 4,
        mode: 'follow',
        replica: { ...identity, host: 'qazyna@elsewhere:1' },
      },
      { slice() {} },
      stop.signal,
    );
    expect(await new Recording(lab).failed()).toEqual(fails('QZ2127', 'one agent for each source'));
    other.close();
    await lab.withoutReplicas();
    const later = new Recording(lab);
    await later.caughtUp(lab);
    await later.stop();
  }, 120_000);

  test('binlog_format not ROW, gtid_mode not ON', async () => {
    await lab.sql("SET GLOBAL binlog_format = 'MIXED'");
    expect(await new Recording(lab).failed()).toEqual(fails('QZ2123', 'binlog_format'));
    await lab.sql("SET GLOBAL binlog_format = 'ROW'");
    await lab.sql('SET GLOBAL gtid_mode = ON_PERMISSIVE');
    expect(await new Recording(lab).failed()).toEqual(fails('QZ2124', 'doctor --fix'));
    await lab.sql('SET GLOBAL gtid_mode = ON');
  }, 120_000);

  test('a running capture meets a transaction without GTID', async () => {
    const recording = new Recording(lab);
    await recording.caughtUp(lab);
    await lab.sql('SET GLOBAL gtid_mode = ON_PERMISSIVE', "SET gtid_next = 'ANONYMOUS'", 'CREATE DATABASE anonymous');
    expect(await recording.failed()).toEqual(
      expect.objectContaining({ kind: expect.stringMatching(/integrity|configuration/) }),
    );
    await lab.sql("SET gtid_next = 'AUTOMATIC'", 'SET GLOBAL gtid_mode = ON', 'CREATE DATABASE later');
    // `oldest` now begins behind it.
    const [oldest] = (await lab.ownFiles()).keys();
    const fresh = new Recording(lab);
    await fresh.until('the transaction after', () => fresh.state !== null && !fresh.state.gtids.isEmpty);
    expect(fresh.entries.find((entry) => entry.kind === 'events')?.file).not.toBe(oldest);
    await fresh.stop();
  }, 120_000);

  test('the binlog is off', async () => {
    await lab.down('stop');
    await lab.up({ 'skip-log-bin': true });
    expect(await new Recording(lab).failed()).toEqual(fails('QZ2122', 'my.cnf'));
  }, 120_000);
});

describe('capture refuses a source that lost or replaced history', () => {
  let lab: CaptureLab;
  beforeAll(async () => {
    lab = await CaptureLab.start();
    await lab.sql('CREATE DATABASE c', 'CREATE TABLE c.t (id INT AUTO_INCREMENT PRIMARY KEY)');
  }, 120_000);
  afterAll(async () => {
    await lab[Symbol.asyncDispose]();
  });
  const insert = 'INSERT INTO c.t VALUES ()';

  test('a rolled back source: its file is shorter, or it reuses GTIDs', async () => {
    const recording = new Recording(lab);
    await lab.sql(insert, insert);
    await recording.caughtUp(lab);
    await recording.stop();
    await lab.down('stop');
    const copy = await mkdtemp(join(tmpdir(), 'qazyna-rollback-'));
    await cp(lab.dataDir, copy, { recursive: true });
    await lab.up();
    const ahead = new Recording(lab, {}, recording);
    await lab.sql(insert, insert, insert);
    await ahead.caughtUp(lab);
    await ahead.stop();
    await lab.down('stop');
    await rm(lab.dataDir, { recursive: true });
    await cp(copy, lab.dataDir, { recursive: true });
    await rm(copy, { recursive: true });
    await lab.up();
    expect(await new Recording(lab, {}, ahead).failed()).toEqual(
      expect.objectContaining({ kind: 'integrity', hint: expect.stringContaining('timeline new') }),
    );
    await lab.sql(insert, insert, insert, insert, insert);
    expect(await new Recording(lab, {}, ahead).failed()).toEqual(
      expect.objectContaining({ kind: 'integrity', hint: expect.stringContaining('timeline new') }),
    );
  }, 120_000);

  test('binlog purged before it was read', async () => {
    const recording = new Recording(lab);
    await recording.caughtUp(lab);
    await recording.stop();
    await lab.sql('FLUSH BINARY LOGS', insert, 'FLUSH BINARY LOGS', insert);
    const newest = [...(await lab.ownFiles()).keys()].at(-1);
    await lab.sql(`PURGE BINARY LOGS TO '${newest}'`);
    expect(await new Recording(lab, {}, recording).failed()).toEqual(fails('QZ3210', 'timeline new'));
  }, 120_000);

  test('RESET BINARY LOGS AND GTIDS, while connected and before connecting', async () => {
    const recording = new Recording(lab);
    await lab.sql(insert);
    await recording.caughtUp(lab);
    await lab.sql('RESET BINARY LOGS AND GTIDS', insert);
    expect(await recording.failed()).toEqual(
      expect.objectContaining({ kind: 'integrity', hint: expect.stringContaining('timeline new') }),
    );
    const before = recording.upTo(recording.entries.length);
    expect(await new Recording(lab, {}, before).failed()).toEqual(
      expect.objectContaining({ kind: 'integrity', hint: expect.stringContaining('timeline new') }),
    );
  }, 120_000);

  test('another server UUID', async () => {
    const recording = new Recording(lab);
    await recording.caughtUp(lab);
    await recording.stop();
    await lab.down('stop');
    await rm(join(lab.dataDir, 'auto.cnf'));
    await lab.up();
    expect(await new Recording(lab, {}, recording).failed()).toEqual(fails('QZ3250', 'timeline new'));
  }, 120_000);
});
