/** A real server's binlog, captured, logged, shipped to two archives: exported files and cuts are what the server itself says. */
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import type { Entry } from '../../core/chain/types.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { planCut } from '../../core/history/plan.ts';
import { LocalLog } from '../../core/log/local/log.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { findMysqlProgram } from '../../core/mysql/program.ts';
import { exportBinlog } from '../../restore-tool/export.ts';
import { runShipper } from '../../shipper/shipper.ts';
import { never } from '../made/archive.ts';
import { CaptureLab, chainId, Recording } from './capture-lab.ts';
import { printedTransactions } from './mysqlbinlog.ts';

describe('a real server’s binlog through log and archives', () => {
  let lab: CaptureLab;
  let folder = '';
  const stores: ObjectStore[] = [];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qazyna-export-'));
    lab = await CaptureLab.start({ 'max-binlog-size': '4M' });
    const recording = new Recording(lab, { maxEntryBytes: 64 * 1024 });
    await lab.sql('CREATE DATABASE d', 'CREATE TABLE d.t (id INT PRIMARY KEY, v LONGBLOB)');
    for (let id = 0; id < 240; id += 1) {
      await lab.sql(`INSERT INTO d.t VALUES (${id}, REPEAT('${id % 10}', ${1000 + ((id * 7919) % 60_000)}))`);
      if (id % 80 === 79) await lab.sql('FLUSH BINARY LOGS');
    }
    await lab.sql("INSERT INTO d.t VALUES (1000, REPEAT('x', 9000000))");
    await recording.caughtUp(lab);
    await lab.down('kill');
    await lab.up();
    await lab.sql('INSERT INTO d.t VALUES (1001, 1)', 'FLUSH BINARY LOGS', 'INSERT INTO d.t VALUES (1002, 1)');
    await recording.caughtUp(lab);
    await recording.stop();
    const entries = numbered(recording);
    for (const name of ['onsite', 'offsite']) {
      const store = await openDirectoryStore(join(folder, name), { create: true });
      await shipAll(entries, store, join(folder, `log-${name}`), name === 'onsite' ? 8 << 20 : 100_000);
      stores.push(store);
    }
  }, 120_000);

  afterAll(async () => {
    await lab?.[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  test('every file comes out of both archives with the SHA-256 of the server’s own', async () => {
    const own = await lab.ownFiles();
    expect(own.size).toBeGreaterThan(4);
    for (const [index, store] of stores.entries()) {
      const history = await ArchiveHistory.open(store, 'made', { signal: never, logger: silentLogger() });
      expect(history.gaps).toEqual([]);
      for (const [file, sha256] of own) {
        const output = join(folder, `${index}-${file}`);
        const result = await exportBinlog({ history, generation: 1, file, output, signal: never });
        expect({ file, sha256: result.sha256 }).toEqual({ file, sha256 });
        expect(spawnSync('sha256sum', [output]).stdout.toString().slice(0, 64)).toBe(result.sha256);
      }
    }
  }, 120_000);

  test('the cut for the stamp of each of 200 transactions is where mysqlbinlog has it', async () => {
    const all: { file: string; end: number; micros: number; gtid: string }[] = [];
    const mysqlbinlog = await findMysqlProgram('mysqlbinlog');
    for (const file of (await lab.ownFiles()).keys()) {
      for (const one of await printedTransactions(mysqlbinlog.path, join(lab.dataDir, file))) {
        all.push({ file, end: one.end, micros: one.immediateCommitMicros, gtid: one.gtid });
      }
    }
    expect(all.length).toBeGreaterThan(240);
    const [store] = stores;
    if (store === undefined) throw new Error('no archive');
    const history = await ArchiveHistory.open(store, 'made', { signal: never, logger: silentLogger() });
    for (const one of all.slice(-200)) {
      for (const micros of [one.micros, one.micros - 1]) {
        const out = all.findIndex((other) => other.micros > micros);
        const last = all[(out < 0 ? all.length : out) - 1];
        const { cut } = await planCut(history, { type: 'time', micros }, { signal: never });
        const { file, end, micros: stamp, gtid } = last ?? { file: '', end: 0, micros: 0, gtid: '' };
        expect([cut.file, cut.position, cut.lastCommitMicros, cut.lastGtid]).toEqual([file, end, stamp, gtid]);
        expect(cut.gtids.count).toBe(out < 0 ? all.length : out);
      }
    }
  }, 120_000);
});

function numbered(recording: Recording): Entry[] {
  const rest = { chainId, generation: 1, writer: 'ff'.repeat(16) };
  const [first] = recording.entries;
  if (first === undefined) throw new Error('nothing was captured');
  const nothing = { file: '', start: 0, end: 0, boundary: 0, transactionStart: 0, fileHeadSha256: Buffer.alloc(32) };
  const claim = {
    ...first,
    ...nothing,
    kind: 'claim' as const,
    body: Buffer.alloc(0),
    gtidsBefore: null,
    firstCommitMicros: 0,
    lastCommitMicros: 0,
  };
  return [claim, ...recording.entries].map((entry, number) => ({ ...entry, ...rest, number }));
}

async function shipAll(entries: Entry[], store: ObjectStore, logDir: string, maxBytes: number): Promise<void> {
  const log = await LocalLog.open({ dir: logDir, logger: silentLogger() });
  await log.append(entries);
  const stop = new AbortController();
  await runShipper({
    log,
    store,
    archiveName: 'test',
    sourceName: 'made',
    segment: { maxBytes, maxAgeMs: 100, idleAgeMs: 100 },
    signal: stop.signal,
    logger: silentLogger(),
    onProgress: ({ nextLogNumber }) => {
      if (nextLogNumber === entries.length) stop.abort();
    },
  });
  await log.close();
}
