/**
 * What was found sound before, so that a later verification reads what is new since. Kept beside the process that verifies,
 * not in the archive: whoever may write there must not be able to say what need not be read. Losing it costs one full reading.
 */
import { hash } from 'node:crypto';
import { constants } from 'node:fs';
import { access, lchown, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { parseObject } from '../archive/open.ts';
import { errorCode } from '../archive/store-error.ts';

const markFormat = 1;
/** Enough of a pack's id to know it again. */
const packPrefixBytes = 8;

export interface ChainMark {
  /** The last segment that was there, and its header's SHA-256 in hex. */
  sequence: number;
  sha256: string;
  /** Made with the chain: by it one tells it from another one in its place. */
  archiveChainId: string;
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

/**
 * A folder for each archive: `mark.json`, and for each snapshot that was read the packs that it needs. What root makes in it is
 * given to the folder's owner, so that the daemon can go on from it.
 */
export class MarkFolder implements Marks {
  readonly #dir: string;

  private constructor(dir: string) {
    this.#dir = dir;
  }

  /** Below a folder that is there. Rejects with what the system says where this account may not write. */
  static async open(above: string, archiveName: string): Promise<MarkFolder> {
    const parent = join(above, 'verified');
    for (const path of [parent, join(parent, archiveName)]) {
      await mkdir(path, { mode: 0o750 }).catch((error: unknown) => {
        if (errorCode(error) !== 'EEXIST') throw error;
      });
      const owner = await ownerToBe(above);
      if (owner !== null) await lchown(path, owner.uid, owner.gid);
    }
    const dir = join(parent, archiveName);
    await access(dir, constants.R_OK | constants.W_OK);
    return new MarkFolder(dir);
  }

  async read(): Promise<ArchiveMark | null> {
    const text = await readFile(join(this.#dir, 'mark.json'), 'utf8').catch(unreadable);
    const found = text === null ? null : parseObject(text);
    if (found === null || found.format !== markFormat) return null;
    const { identity, chains, suspects } = found as Partial<ArchiveMark>;
    if (typeof identity !== 'string' || typeof chains !== 'object' || !Array.isArray(suspects)) return null;
    return { identity, chains, suspects };
  }

  async write(mark: ArchiveMark): Promise<void> {
    await this.#replace('mark.json', Buffer.from(`${JSON.stringify({ format: markFormat, ...mark })}\n`));
  }

  async snapshots(): Promise<string[]> {
    const names = await readdir(this.#dir);
    return names.flatMap((name) => /^(.*)\.packs$/.exec(name)?.[1] ?? []);
  }

  async packsOf(snapshotId: string): Promise<string[] | null> {
    const bytes = await readFile(join(this.#dir, `${snapshotId}.packs`)).catch(unreadable);
    if (bytes === null || bytes.length < sumBytes) return null;
    const prefixes = bytes.subarray(0, -sumBytes);
    if (!hash('sha256', prefixes, 'buffer').equals(bytes.subarray(-sumBytes))) return null;
    return Array.from({ length: prefixes.length / packPrefixBytes }, (_, index) =>
      prefixes.toString('hex', index * packPrefixBytes, (index + 1) * packPrefixBytes),
    );
  }

  async writePacks(snapshotId: string, packIds: Iterable<string>): Promise<void> {
    const prefixes = Buffer.concat([...packIds].map((id) => Buffer.from(prefixOf(id), 'hex')));
    await this.#replace(`${snapshotId}.packs`, Buffer.concat([prefixes, hash('sha256', prefixes, 'buffer')]));
  }

  async forget(snapshotId: string): Promise<void> {
    await rm(join(this.#dir, `${snapshotId}.packs`), { force: true });
  }

  /** Whole or not at all; a lost one only costs a reading, so nothing waits for the disk. */
  async #replace(name: string, bytes: Buffer): Promise<void> {
    const path = join(this.#dir, name);
    await rm(`${path}.new`, { force: true });
    const owner = await ownerToBe(this.#dir);
    // Never through a link that somebody has put there.
    const handle = await open(`${path}.new`, 'wx', 0o640);
    try {
      await handle.writeFile(bytes);
      if (owner !== null) await handle.chown(owner.uid, owner.gid);
    } finally {
      await handle.close();
    }
    await rename(`${path}.new`, path);
  }
}

/** Whose a new file below the folder should be; null where that is ourselves, or cannot be changed. */
async function ownerToBe(folder: string): Promise<{ uid: number; gid: number } | null> {
  return process.geteuid?.() === 0 ? await stat(folder) : null;
}

const sumBytes = 32;

export function prefixOf(packId: string): string {
  return packId.slice(0, 2 * packPrefixBytes);
}

function unreadable(error: unknown): null {
  if (['ENOENT', 'EACCES'].includes(errorCode(error))) return null;
  throw error;
}
