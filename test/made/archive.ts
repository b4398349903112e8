/** A made archive: entries merged into segments and put, without a log. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDirectoryStore } from '../../core/archive/directory.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { type FoldedEntry, segmentDrafts } from '../../shipper/draft.ts';
import { SegmentWriter } from '../../shipper/segment-writer.ts';

export const madeSource = 'made';
export const never = new AbortController().signal;

export async function withStore(work: (store: ObjectStore, folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'qazyna-archive-'));
  try {
    await work(await openDirectoryStore(folder, { create: false }), folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

export async function archive(store: ObjectStore, folded: readonly FoldedEntry[], maxBytes: number): Promise<void> {
  const writer = new SegmentWriter({ store, sourceName: madeSource, tipEveryMs: 60_000 });
  await writer.resume(never);
  const rest = folded.slice(writer.state?.next ?? 0);
  const limits = { maxBytes, maxAgeMs: 60_000, idleAgeMs: 60_000 };
  for await (const draft of segmentDrafts(yieldAll(rest), limits)) {
    const outcome = await writer.place(draft);
    if (outcome === 'lost') throw new Error('somebody else writes into this archive');
    await writer.note();
  }
  await writer.note({ force: true });
}

/** Every object of one archive in another one. */
export async function copyArchive(from: ObjectStore, to: ObjectStore): Promise<void> {
  for await (const { key } of from.list('')) {
    const bytes = await from.get(key);
    if (bytes !== null) await to.putIfAbsent(key, [bytes]);
  }
}

export async function keysBelow(store: ObjectStore, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix)) keys.push(key);
  return keys;
}

async function* yieldAll<T>(items: readonly T[]): AsyncIterable<T> {
  yield* items;
}

export async function openHistory(store: ObjectStore): Promise<ArchiveHistory> {
  return await ArchiveHistory.open(store, madeSource, { signal: never, logger: silentLogger() });
}

export async function allBytes(source: AsyncIterable<Buffer | null>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of source) if (part !== null) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}
