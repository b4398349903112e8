/**
 * The snapshots of an archive: manifests, the packs that they name, and every chunk of those packs. A pack is read once for all
 * snapshots that share it; of snapshots that were read before, only that their packs are there is looked at.
 */
import { createHash, hash } from 'node:crypto';
import { openObject } from '../archive/object.ts';
import type { ObjectStore } from '../archive/store.ts';
import { decodeChunk, hashChunk } from '../chunks/chunk.ts';
import { listPacks, openChunkKey } from '../chunks/open.ts';
import { decodePack, packKey } from '../chunks/pack.ts';
import { isKind } from '../errors/error.ts';
import { type CompleteMark, decodeComplete, decodeManifest, snapshotIdPattern } from '../snapshot/codec.ts';
import { type CompleteSnapshot, completeKey, manifestKey } from '../snapshot/manifest.ts';
import type { SnapshotManifest } from '../snapshot/types.ts';
import { probe } from './derived-check.ts';
import { clauseOf, missing, type Suspect, suspect } from './finding.ts';
import { type Marks, prefixOf } from './mark.ts';
import type { Reading } from './reading.ts';

export interface SnapshotCheckOptions {
  store: ObjectStore;
  /** Whose snapshots: of these chains. */
  chains: readonly string[];
  known: Marks;
  /** Retention deletes no snapshot that is younger than this (µs); 0 where it never deleted anything. */
  windowMicros: number;
  /** Read everything, packs that no snapshot names included. */
  full: boolean;
  /** Objects to be looked at again whatever is known. */
  again: ReadonlySet<string>;
  reading: Reading;
  onPlanned: (bytes: number) => void;
}

export interface CheckedSnapshot extends CompleteSnapshot {
  /** It can be used as far as is known here. */
  isSound: boolean;
}

export interface SnapshotsChecked {
  suspects: Suspect[];
  snapshots: CheckedSnapshot[];
}

export async function checkSnapshots(options: SnapshotCheckOptions): Promise<SnapshotsChecked> {
  return await new SnapshotCheck(options).run();
}

class SnapshotCheck {
  readonly #options: SnapshotCheckOptions;
  readonly #suspects: Suspect[] = [];
  readonly #snapshots: CheckedSnapshot[] = [];
  /** By pack id: who needs one that is missing or damaged. */
  readonly #bad = new Map<string, { suspect: Suspect; snapshots: Set<string> }>();
  /** Read in this run, or (by their prefixes) found sound before. */
  readonly #read = new Set<string>();
  readonly #before = new Set<string>();
  #packs: ReadonlyMap<string, number> = new Map();
  #prefixes: ReadonlySet<string> = new Set();
  #chunkKey = Buffer.alloc(0);

  constructor(options: SnapshotCheckOptions) {
    this.#options = options;
  }

  async run(): Promise<SnapshotsChecked> {
    const { store, reading, full } = this.#options;
    const ids = await this.#list();
    this.#chunkKey = Buffer.from(await openChunkKey(store, { create: false }));
    this.#packs = await listPacks(store, reading.signal);
    this.#prefixes = new Set([...this.#packs.keys()].map(prefixOf));
    await this.#recall(ids);
    for (const [id, hasMark] of ids) {
      reading.signal.throwIfAborted();
      await this.#checkOne(id, hasMark);
    }
    if (full) await this.#readPacks([...this.#packs.keys()], null);
    for (const { suspect: one, snapshots } of this.#bad.values()) {
      const there = one.isMissing ? await this.#still(snapshots) : [...snapshots];
      // Nobody misses what retention has deleted together with the snapshots that needed it.
      if (!one.isMissing || there.length > 0) this.#suspects.push({ ...one, snapshots: there.sort() });
    }
    const broken = new Set(this.#suspects.flatMap(({ snapshots }) => snapshots));
    return {
      suspects: this.#suspects,
      snapshots: this.#snapshots.map((one) => ({ ...one, isSound: one.isSound && !broken.has(one.id) })),
    };
  }

  async #still(ids: ReadonlySet<string>): Promise<string[]> {
    const there: string[] = [];
    for (const id of ids) if ((await this.#options.store.head(completeKey(id))) !== null) there.push(id);
    return there;
  }

  /** Ids, oldest first, and whether each has its mark. */
  async #list(): Promise<Map<string, boolean>> {
    const { store, reading } = this.#options;
    const ids = new Map<string, boolean>();
    for await (const { key } of store.list('snapshots/', { signal: reading.signal })) {
      const [, id = '', name = ''] = key.split('/');
      if (snapshotIdPattern.test(id)) ids.set(id, ids.get(id) === true || name === 'COMPLETE');
    }
    return ids;
  }

  /** What was found sound before, of the snapshots that are still there. */
  async #recall(ids: ReadonlyMap<string, boolean>): Promise<void> {
    const { known, full, again } = this.#options;
    for (const id of await known.snapshots()) {
      if (ids.get(id) !== true && this.#isKept(id)) this.#suspects.push(lostMark(id));
      else if (!ids.has(id)) await known.forget(id);
      else if (!full) for (const prefix of (await known.packsOf(id)) ?? []) this.#before.add(prefix);
    }
    for (const key of again) this.#before.delete(prefixOf(key.slice(key.lastIndexOf('/') + 1)));
  }

  #isKept(id: string): boolean {
    return timeOfId(id) * 1000 > this.#options.windowMicros;
  }

  async #checkOne(id: string, hasMark: boolean): Promise<void> {
    const { store, chains, known, full, again } = this.#options;
    const mark = hasMark ? await this.#readMark(id) : 'damaged';
    // It was deleted while we looked.
    if (mark === 'missing') return;
    const complete = mark === 'damaged' ? null : mark;
    if (complete !== null && !chains.includes(complete.summary.source)) return;
    const key = manifestKey(id);
    // Who needs a pack that is bad is told by the manifests alone.
    const isSuspected = again.has(key) || [...again].some((object) => object.startsWith('packs/'));
    const packs = full || isSuspected || complete === null ? null : await known.packsOf(id);
    if (packs?.every((prefix) => this.#prefixes.has(prefix) && this.#before.has(prefix))) {
      if ((await store.head(key)) !== null) return this.#note(complete, true);
    }
    let manifest: SnapshotManifest | null = null;
    const check = async (bytes: Buffer) => {
      const read = readManifestBytes(bytes, key, id, complete);
      manifest = read.manifest;
      return read.problem;
    };
    const one = await probe(store, key, check, { part: 'snapshot', chain: '' });
    // Begun and not finished, or deleted while we looked: of no use to anybody, and no harm.
    if (one?.isMissing && (complete === null || (await store.head(completeKey(id))) === null)) return;
    if (one !== null && hasMark)
      this.#suspects.push({ ...one, snapshots: [id], chain: complete?.summary.source ?? '' });
    else if (one !== null && full) this.#suspects.push(one);
    this.#note(complete, one === null);
    const sound = manifest as SnapshotManifest | null;
    if (sound !== null && hasMark && chains.includes(sound.source)) await this.#checkPacks(id, sound);
  }

  #note(complete: CompleteMark | null, isSound: boolean): void {
    if (complete === null) return;
    this.#snapshots.push({ ...complete.summary, complete: true, manifestBytes: complete.manifestBytes, isSound });
  }

  /** Where it is damaged it is among the suspects. */
  async #readMark(id: string): Promise<CompleteMark | 'damaged' | 'missing'> {
    const { store } = this.#options;
    const key = completeKey(id);
    let mark: CompleteMark | null = null;
    const check = async (bytes: Buffer) => {
      const read = readMarkBytes(bytes, key, id);
      mark = read.mark;
      return read.problem;
    };
    const one = await probe(store, key, check, { part: 'snapshot', chain: '' });
    if (one?.isMissing) return 'missing';
    if (one !== null) this.#suspects.push({ ...one, snapshots: [id] });
    return mark ?? 'damaged';
  }

  async #checkPacks(id: string, manifest: SnapshotManifest): Promise<void> {
    const { known } = this.#options;
    const ids = packsOf(manifest);
    const absent = [...ids].filter((pack) => !this.#packs.has(pack));
    for (const pack of absent) await this.#lookUp(pack);
    await this.#readPacks(
      [...ids].filter((pack) => this.#packs.has(pack)),
      manifest,
    );
    for (const pack of ids) this.#bad.get(pack)?.snapshots.add(id);
    await known.writePacks(
      id,
      [...ids].filter((pack) => !this.#bad.has(pack)),
    );
  }

  /** A listing may be stale. */
  async #lookUp(pack: string): Promise<void> {
    if (this.#read.has(pack)) return;
    this.#read.add(pack);
    await this.#readPack(pack, null);
  }

  /** Those that were not read yet. With the manifest that names them, its own rows are held against theirs. */
  async #readPacks(packs: readonly string[], manifest: SnapshotManifest | null): Promise<void> {
    const { reading, onPlanned, full } = this.#options;
    const wanted = packs.filter((pack) => !this.#read.has(pack) && (full || !this.#before.has(prefixOf(pack))));
    for (const pack of wanted) this.#read.add(pack);
    const sizeOf = (pack: string) => this.#packs.get(pack) ?? 0;
    onPlanned(wanted.reduce((sum, pack) => sum + sizeOf(pack), 0));
    const rows = manifest === null || wanted.length === 0 ? null : rowsByPack(manifest, new Set(wanted));
    await reading.each(wanted, sizeOf, (pack) => this.#readPack(pack, rows?.get(pack) ?? null));
  }

  async #readPack(pack: string, rows: readonly WantedRow[] | null): Promise<void> {
    const { store } = this.#options;
    const key = packKey(pack);
    try {
      const bytes = await store.get(key);
      const problem = bytes === null ? missing : await packProblem(bytes, pack, this.#chunkKey, rows);
      if (problem !== null) this.#blame(pack, problem, bytes === null);
    } catch (error) {
      if (!isKind(error, 'integrity')) throw error;
      this.#blame(pack, clauseOf(error), false);
    }
  }

  #blame(pack: string, problem: string, isMissing: boolean): void {
    const chunkKey = this.#chunkKey;
    const check = (bytes: Buffer) => packProblem(bytes, pack, chunkKey, null);
    const one = suspect('pack', packKey(pack), problem, check, { isMissing });
    if (!this.#bad.has(pack)) this.#bad.set(pack, { suspect: one, snapshots: new Set() });
  }
}

/** A snapshot that was whole before, and that retention has not deleted. */
function lostMark(id: string): Suspect {
  const key = completeKey(id);
  const check = async (bytes: Buffer) => readMarkBytes(bytes, key, id).problem;
  const problem = `${missing}, and the last verification had found the snapshot whole`;
  return suspect('snapshot', key, problem, check, { isMissing: true, snapshots: [id] });
}

/** ms since 1970: `20261123T101500Z-…` begins with when it was taken. */
function timeOfId(id: string): number {
  return Date.parse(id.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z.*$/, '$1-$2-$3T$4:$5:$6Z'));
}

/** Where a manifest says that a chunk is. */
export interface WantedRow {
  hash: Buffer;
  offset: number;
  storedBytes: number;
  plainBytes: number;
}

export function packsOf(manifest: SnapshotManifest): Set<string> {
  const ids = new Set<string>();
  for (const { chunks } of manifest.files) for (const { pack } of chunks) if (pack !== '') ids.add(pack);
  return ids;
}

export function rowsByPack(manifest: SnapshotManifest, packs: ReadonlySet<string>): Map<string, WantedRow[]> {
  const rows = new Map<string, WantedRow[]>();
  for (const { chunks } of manifest.files) {
    for (const { pack, hash: known, offset, storedBytes, plainBytes } of chunks) {
      if (!packs.has(pack)) continue;
      const list = rows.get(pack) ?? [];
      list.push({ hash: known, offset, storedBytes, plainBytes });
      rows.set(pack, list);
    }
  }
  return rows;
}

/** The pack's own id, its table, each chunk's hash; and of `wanted`, that the chunks are where a manifest says. */
async function packProblem(
  bytes: Buffer,
  id: string,
  chunkKey: Buffer,
  wanted: readonly WantedRow[] | null,
): Promise<string | null> {
  const key = packKey(id);
  try {
    const body = openObject(bytes, 'pack', key);
    if (createHash('sha256').update(body).digest('hex') !== id)
      return 'is damaged: it does not have the SHA-256 of its name';
    const rows = new Map(decodePack(body, key).map((row) => [row.offset, row]));
    for (const row of rows.values()) {
      const plain = await decodeChunk(body.subarray(row.offset, row.offset + row.storedBytes), row.plainBytes);
      if (plain === null || !hashChunk(chunkKey, plain).equals(row.hash))
        return `is damaged: its chunk at byte ${row.offset} does not have its hash`;
    }
    for (const { hash: known, offset, storedBytes } of wanted ?? []) {
      const row = rows.get(offset);
      if (!row?.hash.equals(known) || row.storedBytes !== storedBytes)
        return `does not hold at byte ${offset} what a manifest looks for there`;
    }
    return null;
  } catch (error) {
    if (isKind(error, 'integrity')) return clauseOf(error);
    throw error;
  }
}

export function readManifestBytes(
  bytes: Buffer,
  key: string,
  id: string,
  mark: CompleteMark | null,
): { manifest: SnapshotManifest | null; problem: string | null } {
  try {
    const content = openObject(bytes, 'snapshotManifest', key);
    const manifest = decodeManifest(content, key);
    if (manifest.id !== id) return { manifest: null, problem: `is damaged: it is the manifest of ${manifest.id}` };
    const fits = mark === null || hash('sha256', content, 'buffer').equals(mark.manifestSha256);
    return fits ? { manifest, problem: null } : { manifest: null, problem: 'is not the one that its COMPLETE names' };
  } catch (error) {
    if (isKind(error, 'integrity')) return { manifest: null, problem: clauseOf(error) };
    throw error;
  }
}

export function readMarkBytes(
  bytes: Buffer,
  key: string,
  id: string,
): { mark: CompleteMark | null; problem: string | null } {
  try {
    const mark = decodeComplete(openObject(bytes, 'snapshotManifest', key), key);
    if (mark.summary.id === id) return { mark, problem: null };
    return { mark: null, problem: `is damaged: it is the mark of ${mark.summary.id}` };
  } catch (error) {
    if (isKind(error, 'integrity')) return { mark: null, problem: clauseOf(error) };
    throw error;
  }
}
