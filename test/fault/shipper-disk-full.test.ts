/** The archive's disk fills up under the shipper: an alarm, no half object, and everything shipped once there is room. */
import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import { isKind } from '../../core/errors/error.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { runShipper } from '../../shipper/shipper.ts';
import { madeSource } from '../made/archive.ts';
import { MadeLog } from '../made/log.ts';
import { expectAll, makeSample } from '../made/sample.ts';

/** Small and real: only root may mount one. */
function mountSmall(folder: string): boolean {
  return spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=512k', 'tmpfs', folder]).status === 0;
}

describe('shipper: disk full', () => {
  test('waits, says so, and goes on', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'qazyna-full-'));
    const disk = join(folder, 'disk');
    await mkdir(disk);
    const isMounted = mountSmall(disk);
    try {
      if (!isMounted) {
        process.stderr.write('not tested: mounting a small file system needs root\n');
        return;
      }
      await writeFile(join(disk, 'filler'), Buffer.alloc(300_000));
      const sample = makeSample();
      await mkdir(join(disk, 'archive'));
      const store = await openDirectoryStore(join(disk, 'archive'), { create: false });
      const log = new MadeLog(sample.chain.entries);
      const stop = new AbortController();
      const codes = new Set<string>();
      await runShipper({
        log,
        store,
        archiveName: 'onsite',
        sourceName: madeSource,
        segment: { maxBytes: 1, maxAgeMs: 20, idleAgeMs: 20 },
        signal: stop.signal,
        logger: silentLogger(),
        onFailure: (error) => {
          if (isKind(error, 'transient')) codes.add(error.code);
          void rm(join(disk, 'filler'), { force: true });
        },
        onProgress: ({ nextLogNumber }) => {
          if (nextLogNumber === sample.chain.entries.length) stop.abort();
        },
      });
      expect([...codes]).toEqual(['QZ4401']);
      expect(await readdir(join(disk, 'archive', '.tmp'))).toEqual([]);
      await expectAll(store, sample);
    } finally {
      if (isMounted) spawnSync('umount', [disk]);
      await rm(folder, { recursive: true, force: true });
    }
  }, 120_000);
});
