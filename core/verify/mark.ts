/**
 * What was found sound before, so that a later verification reads what is new since. Kept beside the process that verifies,
 * not in the archive: whoever may write there must not be able to say what need not be read. Losing it costs one full reading.
 */
import { hash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseObject } from '../archive/open.ts';
import { errorCode } from '../archive/store-error.ts';
import { replaceFile } from '../bytes/durable-file.ts';

const markFormat = 1;
/** Enough of a pack's id to know it again. */
export const packPrefixBytes = 8;

export interface ChainMark {
  /** The last segment that was there, and its header's SHA-256 in hex. */
  sequence: number;
  sha256: string;
  /** Compacted objects that were read: `<first>-<last>`. */
  compacted: string[];
}

export interface ArchiveMark {
  /** SHA-256 of archive.json, hex. */
  identity: string;
  chains: Record<string, ChainMark>;
  /** Objects that were not sound: they are looked at again each time. */
  suspects: string[];
}

export function emptyMark(): ArchiveMark {
  return { identity: '', chains: {}, suspects: [] };
}

export interface Marks {
  /** Null where nothing was kept, or what was kept cannot be read: then everything is new. */
  read(): Promise<ArchiveMark | null>;
  write(mark: ArchiveMark): Promise<void>;
  /** Ids of the snapshots whose packs are known. */
  snapshots(): Promise<string[]>;
  /** Of a snapshot that was read the packs that are sound: prefixes of their ids, hex; null when it is not known. */
  packsOf(snapshotId: string): Promise<string[] | null>;
  writePacks(snapshotId: string, packIds: Iterable<string>): Promise<void>;
  forget(snapshotId: string): Promise<void>;
}

/** For the time of one verification. */
export class MemoryMarks implements Marks {
  #mark: ArchiveMark | null = null;
  readonly #packs = new Map<string, string[]>();

  async read(): Promise<ArchiveMark | null> {
    return this.#mark;
  }

  async write(mark: ArchiveMark): Promise<void> {
    this.#mark = mark;
  }

  async snapshots(): Promise<string[]> {
    return [...this.#packs.keys()];
  }

  async packsOf(snapshotId: string): Promise<string[] | null> {
    return this.#packs.get(snapshotId) ?? null;
  }

  async writePacks(snapshotId: string, packIds: Iterable<string>): Promise<void> {
    this.#packs.set(snapshotId, [...packIds].map(prefixOf));
  }

  async forget(snapshotId: string): Promise<void> {
    this.#packs.delete(snapshotId);
  }
}

/** A folder for each archive: `mark.json`, and for each snapshot that was read the packs that it needs. */
export class MarkFolder implements Marks {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  async read(): Promise<ArchiveMark | null> {
    const text = await readFile(join(this.#dir, 'mark.json'), 'utf8').catch(absent);
    const found = text === null ? null : parseObject(text);
    if (found === null || found.format !== markFormat) return null;
    const { identity, chains, suspects } = found as Partial<ArchiveMark>;
    if (typeof identity !== 'string' || typeof chains !== 'object' || !Array.isArray(suspects)) return null;
    return { identity, chains, suspects };
  }

  async write(mark: ArchiveMark): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o750 });
    await replaceFile(join(this.#dir, 'mark.json'), `${JSON.stringify({ format: markFormat, ...mark })}\n`);
  }

  async snapshots(): Promise<string[]> {
    const names = await readdir(this.#dir).catch((error: unknown) => absent(error) ?? []);
    return names.flatMap((name) => /^(.*)\.packs$/.exec(name)?.[1] ?? []);
  }

  async packsOf(snapshotId: string): Promise<string[] | null> {
    const bytes = await readFile(this.#fileOf(snapshotId)).catch(absent);
    if (bytes === null || bytes.length < sumBytes) return null;
    const prefixes = bytes.subarray(0, -sumBytes);
    if (!hash('sha256', prefixes, 'buffer').equals(bytes.subarray(-sumBytes))) return null;
    return Array.from({ length: prefixes.length / packPrefixBytes }, (_, index) =>
      prefixes.toString('hex', index * packPrefixBytes, (index + 1) * packPrefixBytes),
    );
  }

  async writePacks(snapshotId: string, packIds: Iterable<string>): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o750 });
    const prefixes = Buffer.concat([...packIds].map((id) => Buffer.from(prefixOf(id), 'hex')));
    await writeFile(this.#fileOf(snapshotId), Buffer.concat([prefixes, hash('sha256', prefixes, 'buffer')]));
  }

  async forget(snapshotId: string): Promise<void> {
    await rm(this.#fileOf(snapshotId), { force: true });
  }

  #fileOf(snapshotId: string): string {
    return join(this.#dir, `${snapshotId}.packs`);
  }
}

const sumBytes = 32;

export function prefixOf(packId: string): string {
  return packId.slice(0, 2 * packPrefixBytes);
}

function absent(error: unknown): null {
  if (errorCode(error) === 'ENOENT') return null;
  throw error;
}
