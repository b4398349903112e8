/** What fails ahead of its reader is told to the reader, and does not end the process. */
import { spawn } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { segmentKey } from '../../core/archive/layout.ts';
import { archive, madeSource, openHistory, withStore } from '../made/archive.ts';
import { makeSample } from '../made/sample.ts';

/** A process of its own, because a test runner swallows what would end a daemon. */
async function run(program: string, ...values: string[]): Promise<{ said: string; code: number | null }> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, ...values], {
    cwd: join(import.meta.dirname, '../..'),
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NODE_OPTIONS: '' },
  });
  let said = '';
  child.stdout.on('data', (chunk) => (said += String(chunk)));
  child.stderr.on('data', (chunk) => (said += String(chunk)));
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
  return { said, code };
}

describe('reading ahead', () => {
  test('a segment that vanishes while a slow reader is busy', () =>
    withStore(async (store, folder) => {
      await archive(store, makeSample().chain.folded, 1500);
      const segments = (await openHistory(store)).timelines[0]?.files[0]?.segments ?? [];
      const program = `
        const { openDirectoryStore } = await import('./core/archive/directory.ts');
        const { ArchiveHistory } = await import('./core/history/open.ts');
        const { findFile, readFileBytes } = await import('./core/history/bytes.ts');
        const { silentLogger } = await import('./core/logging/logger.ts');
        const { rm } = await import('node:fs/promises');
        const signal = new AbortController().signal;
        const [folder, victim] = process.argv.slice(1);
        const store = await openDirectoryStore(folder, { create: false });
        const history = await ArchiveHistory.open(store, '${madeSource}', { signal, logger: silentLogger() });
        await rm(victim);
        try {
          for await (const bytes of readFileBytes(history, findFile(history, 1, 'binlog.000001'), 4, signal)) {
            await new Promise((resolve) => setTimeout(resolve, 50));
          }
        } catch (error) {
          console.log(error.code);
        }
      `;
      const victim = join(folder, segmentKey(madeSource, segments[2]?.header.sequence ?? 0));
      expect(await run(program, folder, victim)).toEqual({ said: 'QZ3405\n', code: 0 });
      await rm(folder, { recursive: true });
    }));

  test('a log that fails while a slow put is on its way', () =>
    withStore(async (_store, folder) => {
      const program = `
        const { segmentDrafts } = await import('./shipper/draft.ts');
        async function* entries() {
          const state = { chainId: 'aa'.repeat(16), next: 1, gtids: { clone() { return this; } } };
          const entry = { kind: 'heartbeat', gtidsBefore: null, note: '', body: Buffer.alloc(0) };
          yield { number: 0, entry, before: null, after: state };
          await new Promise((resolve) => setTimeout(resolve, 20));
          throw Object.assign(new Error('the log is gone'), { code: 'GONE' });
        }
        const limits = { maxBytes: 1, maxAgeMs: 1, idleAgeMs: 1 };
        try {
          for await (const draft of segmentDrafts(entries(), limits)) await new Promise((resolve) => setTimeout(resolve, 100));
        } catch (error) {
          console.log(error.code);
        }
      `;
      expect(await run(program, folder)).toEqual({ said: 'GONE\n', code: 0 });
    }));
});
