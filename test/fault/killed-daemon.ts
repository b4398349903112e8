/**
 * Rows 1 and 2 of the fault matrix on the whole daemon: killed with kill -9 at each named point and 20 times at random, under
 * load, on real servers. In the end every binlog file comes out of both archives byte for byte: nothing lost, nothing twice.
 */
import { hash } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openArchive } from '../../core/archive/open.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { Lab, type LabOptions } from '../lab/lab.ts';
import { makeAgamaSchema, Workload } from '../lab/ledger.ts';
import { connected, executedSet, RunningDaemon, verb } from '../lab/running.ts';

/** What every daemon passes, wherever its log and its archives are. */
const commonPoints = [
  'agent:received#40',
  'agent:accepted#40',
  'shipper:before-put#4',
  'shipper:after-put#4',
  'shipper:after-tip',
  'directory:after-temp#5',
  'directory:after-link#5',
];
const randomKills = 20;

/** `points`: those of this log and these archives, passed before the common ones. */
export function describeKilled(what: string, options: LabOptions, points: readonly string[]): void {
  describe(`a daemon with ${what} that is killed again and again`, () => {
    let lab: Lab;
    let source: MysqlConnection;
    let dir: string;

    beforeAll(async () => {
      dir = await mkdtemp(join(tmpdir(), 'qazyna-kill-'));
      lab = await Lab.start(options);
      source = await connected(lab.mysql.root);
      await makeAgamaSchema(lab.mysql.root);
    }, 120_000);

    afterAll(async () => {
      await source?.close();
      await lab?.stop();
      await rm(dir, { recursive: true, force: true });
    }, 60_000);

    test('keeps the binlog whole', async () => {
      const seed = Number(process.env.QZ_SEED ?? Date.now() % 1_000_000);
      process.stderr.write(`agent-kill: QZ_SEED=${seed}\n`);
      const random = randomOf(seed);
      const workload = await Workload.start({
        endpoint: lab.mysql.app,
        ledgerFile: join(dir, 'ledger'),
        clients: 3,
        commitsPerSecond: 400,
      });
      for (const point of [...points, ...commonPoints]) {
        const daemon = new RunningDaemon(lab, { QZ_CRASH_AT: point });
        const code = await Promise.race([daemon.end(null), sleep(60_000, 'alive' as const, { ref: false })]);
        if (code !== -1) await daemon.end('SIGKILL');
        expect({ point, code }).toEqual({ point, code: -1 });
      }
      for (let round = 0; round < randomKills; round++) {
        const daemon = new RunningDaemon(lab);
        await sleep(300 + random() * 900);
        expect({ round, exitCode: daemon.exitCode, stderr: daemon.exitCode === null ? '' : daemon.stderr }).toEqual({
          round,
          exitCode: null,
          stderr: '',
        });
        await daemon.end('SIGKILL');
        if (round % 4 === 0) await source.query('FLUSH BINARY LOGS');
      }
      await workload.stop();
      await source.query('FLUSH BINARY LOGS');
      const daemon = new RunningDaemon(lab);
      await daemon.untilArchived(source);
      expect(await daemon.end('SIGTERM')).toBe(0);
      await requireWhole();
    }, 240_000);

    async function requireWhole(): Promise<void> {
      const executed = await executedSet(source);
      const closed = (await source.query('SHOW BINARY LOGS')).slice(0, -1).map((row) => String(row.Log_name));
      expect(closed.length).toBeGreaterThan(4);
      const urls = { onsite: `file://${lab.dir}/archives/onsite`, offsite: lab.offsiteUrl };
      for (const [name, url] of Object.entries(urls)) {
        const { store } = await openArchive(url, { create: false });
        const history = await ArchiveHistory.open(store, 'agama', {
          signal: new AbortController().signal,
          logger: silentLogger(),
        });
        expect(history.gaps).toEqual([]);
        const windows = await verb(['plan', '--to', 'latest', '--from', name, '--config', lab.configFile, '--json']);
        expect(windows.code).toBe(0);
        expect(windows.stdout).toContain(executed.toString());
        for (const file of closed) {
          const output = join(dir, `${name}-${file}`);
          const result = await verb([
            'binlog',
            'export',
            file,
            '--output',
            output,
            '--from',
            name,
            '--config',
            lab.configFile,
          ]);
          expect({ file, code: result.code, stderr: result.stderr }).toEqual({ file, code: 0, stderr: '' });
          expect(hash('sha256', await readFile(output))).toBe(
            hash('sha256', await readFile(join(lab.mysql.dataDir, file))),
          );
        }
      }
    }
  });
}

/** Mulberry32: small, and the same on every machine. */
function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
