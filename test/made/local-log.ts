/** A local log in a folder of its own, for tests: made, opened, and held against what must be in it. */
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from '@jest/globals';
import type { Entry } from '../../core/chain/types.ts';
import { fileName } from '../../core/log/local/format.ts';
import { LocalLog, type LocalLogOptions } from '../../core/log/local/log.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { foldAll, plain, readAll, stateText } from '../contract/log.contract.ts';
import { EntryMaker } from './entries.ts';

export const logger = silentLogger();

export async function withFolder<T>(work: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), 'qazyna-local-log-'));
  try {
    return await work(join(dir, 'log'));
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

export async function withLog<T>(
  options: Omit<LocalLogOptions, 'logger'>,
  work: (log: LocalLog) => Promise<T>,
): Promise<T> {
  const log = await LocalLog.open({ ...options, logger });
  try {
    return await work(log);
  } finally {
    await log.close();
  }
}

/** A log of batches of these sizes; its only file's bytes after each batch. */
export async function madeLog(dir: string, batches: readonly number[]): Promise<{ entries: Entry[]; sizes: number[] }> {
  const maker = new EntryMaker();
  const entries: Entry[] = [];
  const sizes: number[] = [];
  await withLog({ dir }, async (log) => {
    for (const size of batches) {
      const batch = Array.from({ length: size }, () => (maker.next === 0 ? maker.claim() : maker.events(60)));
      await log.append(batch);
      entries.push(...batch);
      sizes.push((await stat(join(dir, fileName(0)))).size);
    }
  });
  return { entries, sizes };
}

/** Opens the log, reads it, and goes on with it: what is held must be the first `count` entries, and must hold an append. */
export async function expectFirst(dir: string, entries: readonly Entry[], count: number): Promise<void> {
  await withLog({ dir }, async (log) => {
    expect(await log.bounds()).toEqual({ first: 0, next: count });
    expect((await readAll(log)).map(({ entry }) => plain(entry))).toEqual(entries.slice(0, count).map(plain));
    expect(stateText((await log.checkpoint()).state)).toBe(stateText(foldAll(entries.slice(0, count))));
    if (count < entries.length) expect(await log.append(entries.slice(count))).toEqual({ base: count });
  });
}
