/** Fault row 16 where a restore writes: its disk fills up, it says so, and it goes on where it was once there is room. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { QazynaError } from '../../core/errors/error.ts';
import { restore } from '../../restore-tool/restore/restore.ts';
import type { RestoreReport } from '../../restore-tool/restore/types.ts';
import { connectRestored, type RestoreLab, startRestoreLab } from '../integration/restore-lab.ts';
import { executedGtids, Servers } from '../integration/stream-servers.ts';

const servers = new Servers();
/** A server waits this long at most for room before the test makes some, as an operator would. */
const patienceMs = 15_000;
let lab: RestoreLab;
let wanted = '';

beforeAll(async () => {
  lab = await startRestoreLab(servers);
  const { connection } = lab.source;
  await connection.query('CREATE DATABASE d');
  await connection.query('CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGTEXT)');
  await lab.snapshot('clone');
  for (let row = 0; row < 300; row++) await connection.query('INSERT INTO d.t (v) VALUES (REPEAT(UUID(), 3000))');
  wanted = await executedGtids(lab.source);
  await lab.archive();
}, 120_000);

afterAll(() => servers.close(), 60_000);

describe('a restore whose disk fills up', () => {
  test.each(['fetched', 'replaying'])(
    'while it is %s',
    async (step) => {
      const disk = await servers.folder();
      if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2g', 'none', disk]).status !== 0) {
        process.stderr.write('not tested: mounting a small file system needs root\n');
        return;
      }
      servers.onClose(async () => void spawnSync('umount', ['-l', disk]));
      const [into, filler] = [join(disk, 'into'), join(disk, 'filler')];
      let full: Promise<void> | null = null;
      const fill = () => {
        full ??= fillUp(disk, filler);
        return full;
      };
      const attempt = restore(
        lab.request(into, 'latest', {
          onStep: async (place) => {
            if (place === step) await fill();
          },
          onProgress: ({ step: place, done }) => {
            if (place === step && done > 0) void fill();
          },
        }),
      ).catch((error: unknown) => error);
      const early = await Promise.race([attempt, sleep(patienceMs, null)]);
      expect({ filled: existsSync(filler), early }).toMatchObject({ filled: true });
      await full;
      await rm(filler);
      const outcome = early ?? (await attempt);
      if (outcome instanceof QazynaError) {
        expect({ kind: outcome.kind, code: outcome.code, message: outcome.message }).toEqual({
          kind: 'transient',
          // Told by us, by a server that does not start, or by one that replays.
          code: expect.stringMatching(step === 'fetched' ? /^QZ4(681|811)$/ : /^QZ4(681|607)$/),
          message: expect.stringMatching(/full|room/i),
        });
        await expectRestored(await restore(lab.request(into, 'latest')));
      } else {
        await expectRestored(outcome as RestoreReport);
      }
    },
    180_000,
  );
});

async function fillUp(disk: string, filler: string): Promise<void> {
  const { bavail, bsize } = await statfs(disk);
  spawnSync('fallocate', ['-l', String(bavail * bsize), filler]);
}

async function expectRestored(report: RestoreReport): Promise<void> {
  servers.onClose(async () => process.kill(report.pid ?? 0, 'SIGKILL'));
  expect(report.gtids).toBe(wanted);
  const connection = await connectRestored(report.socket);
  expect(await connection.query('SELECT COUNT(*) AS n FROM d.t')).toEqual([{ n: 300 }]);
  await connection.close();
}
