/**
 * An archive that is months old, made at once: random binlog files, snapshots and timelines up to now, compacted by the real
 * code. It knows by itself what each instant must give.
 */
import { type SnapshotFiles, takeServiceSnapshot } from '../../agent/journaled/snapshot.ts';
import { closeSides, completeSides, openSides } from '../../agent/snapshot/sides.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { ChunkPipeline, readerOfParts } from '../../core/chunks/chunk-pipeline.ts';
import { openChunkKey } from '../../core/chunks/open.ts';
import type { JournalPosition } from '../../core/journal/source.ts';
import type { ChainLog } from '../../core/log/types.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { readSnapshotFile } from '../../core/snapshot/file-bytes.ts';
import { readManifest } from '../../core/snapshot/manifest.ts';
import type { SnapshotManifest } from '../../core/snapshot/types.ts';
import { compact } from '../../shipper/compaction.ts';
import { runShipper } from '../../shipper/shipper.ts';
import { allBytes, archive, madeSource, never } from './archive.ts';
import { makeBinlog } from './binlog.ts';
import { MadeChain, madeUuid } from './chain.ts';

const hourMicros = 3_600_000_000;
const secondUuid = '22222222-2222-3333-4444-555555555555';

export interface AgingShape {
  seed: number;
  /** From the first commit to now. */
  days: number;
  files: number;
  perFile: number;
  snapshots: number;
  /** After which file another timeline begins; -1: none does. */
  forkAfter: number;
}

export interface MadeSnapshot {
  id: string;
  generation: number;
  gtids: GtidSet;
  finishedMicros: number;
  content: Buffer;
}

export class AgingArchive {
  readonly store: ObjectStore;
  readonly chain = new MadeChain();
  readonly snapshots: MadeSnapshot[] = [];
  /** Commits in their order: when, and everything that is complete with them. */
  readonly commits: { micros: number; generation: number; gtids: GtidSet }[] = [];
  readonly endMicros: number;
  readonly #shape: AgingShape;
  readonly #packs = new Map<string, string[]>();
  #random: number;

  private constructor(store: ObjectStore, shape: AgingShape, endMicros: number) {
    this.store = store;
    this.#shape = shape;
    this.#random = shape.seed >>> 0;
    this.endMicros = endMicros;
  }

  static async make(store: ObjectStore, shape: AgingShape): Promise<AgingArchive> {
    const made = new AgingArchive(store, shape, Date.now() * 1000);
    const beginMicros = made.endMicros - shape.days * 24 * hourMicros;
    made.#write(beginMicros);
    await archive(store, made.chain.folded, 4000);
    await made.compact();
    for (let count = 0; count < shape.snapshots; count += 1) await made.#takeAt(count);
    return made;
  }

  /** 0 ≤ number < below; the same for the same seed. */
  drawn(below: number): number {
    this.#random = (Math.imul(this.#random, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((this.#random / 2 ** 32) * below);
  }

  /** Names of the packs that these snapshots point at. */
  packsOf(ids: readonly string[]): ReadonlySet<string> {
    return new Set(ids.flatMap((id) => this.#packs.get(id) ?? []));
  }

  async compact(): Promise<void> {
    const limits = { spanMicros: 12 * hourMicros, restMicros: hourMicros, maxBytes: 6000 };
    await compact({ store: this.store, sourceName: madeSource, ...limits, signal: never, logger: silentLogger() });
  }

  /** Of the newest timeline: what an instant must give. */
  stateAt(micros: number): GtidSet {
    const own = this.commits.filter((one) => one.micros <= micros && !this.#isLeftBehind(one));
    return own.at(-1)?.gtids ?? new GtidSet();
  }

  /** Commits that a fork left behind. */
  #isLeftBehind({ generation, gtids }: AgingArchive['commits'][number]): boolean {
    return generation === 1 && this.#fork !== null && !this.#fork.containsAll(gtids);
  }

  #fork: GtidSet | null = null;

  #write(beginMicros: number): void {
    const { files, perFile, forkAfter } = this.#shape;
    const total = files * perFile;
    const step = (this.endMicros - beginMicros) / (total + 1);
    let gtids = new GtidSet();
    let [generation, uuid, number] = [1, madeUuid, 1];
    this.chain.claim();
    for (let index = 0; index < files; index += 1) {
      const name = `binlog.${String(index + 1).padStart(6, '0')}`;
      const transactions = Array.from({ length: perFile }, (_, at) => {
        const micros = Math.round(beginMicros + step * (index * perFile + at + 1) + this.drawn(step / 2));
        return { number: number + at, micros, bytes: 60 + this.drawn(300) };
      });
      const isLast = index === files - 1 || index === forkAfter;
      const next = `binlog.${String(index + 2).padStart(6, '0')}`;
      const ending = isLast ? 'none' : 'rotate';
      const bytes = makeBinlog({ name, uuid, gtidsBefore: gtids, transactions, ending, next });
      const cuts = Array.from({ length: Math.ceil(bytes.length / 900) }, (_, at) => 4 + (at + 1) * 900);
      this.chain.file(name, bytes, cuts);
      for (const one of transactions) {
        gtids = gtids.clone();
        gtids.add(uuid, one.number);
        this.commits.push({ micros: one.micros, generation, gtids });
      }
      number += perFile;
      this.chain.heartbeat((transactions.at(-1)?.micros ?? 0) + 1000);
      if (index !== forkAfter) continue;
      // The next source never had the last commits of the one before.
      const fork = this.commits.at(-1 - this.drawn(Math.min(4, perFile - 1)))?.gtids ?? gtids;
      this.#fork = fork;
      gtids = fork.clone();
      [generation, uuid, number] = [2, secondUuid, 1];
      this.chain.timeline(fork, uuid, 'the test forks');
      this.chain.claim('cc'.repeat(16));
    }
    this.chain.heartbeat(this.endMicros);
  }

  /** Evenly, and a little by chance. */
  async #takeAt(count: number): Promise<void> {
    const span = this.commits.length / this.#shape.snapshots;
    const at = Math.min(this.commits.length - 1, Math.floor(count * span + this.drawn(span)));
    const commit = this.commits[at];
    if (commit === undefined || this.#isLeftBehind(commit)) return;
    await this.take(commit);
  }

  async take({ micros, generation, gtids }: AgingArchive['commits'][number]): Promise<MadeSnapshot> {
    const id = snapshotIdAt(micros, this.drawn(2 ** 32));
    // A part that all share, one that neighbours share, and one of its own.
    const parts = [
      pattern('all', 300_000),
      pattern(`of ${Math.floor(this.snapshots.length / 3)}`, 300_000),
      pattern(id, 70_000),
    ];
    const content = Buffer.concat(parts);
    // Of two that hold the same, one was finished later.
    const earlier = this.snapshots.filter((one) => one.gtids.equals(gtids)).length;
    const finishedMicros = micros + 1000 * (1 + earlier);
    const snapshot = { id, generation, gtids, finishedMicros, content };
    await putMade(this.store, snapshot);
    const [file] = (await readManifest(this.store, id)).files;
    this.#packs.set(id, [...new Set([...(file?.chunks ?? [])].map(({ pack }) => pack))]);
    this.snapshots.push(snapshot);
    return snapshot;
  }
}

function snapshotIdAt(micros: number, random: number): string {
  const instant = new Date(micros / 1000).toISOString().replace(/[-:]/g, '').slice(0, 15);
  return `${instant}Z-${(random >>> 0).toString(16).padStart(8, '0')}`;
}

/** Bytes that nothing else has. */
function pattern(name: string, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = [...name].reduce((sum, letter) => (Math.imul(sum, 31) + letter.charCodeAt(0)) >>> 0, 7);
  for (let at = 0; at < length; at += 4) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes.writeUInt32LE(state, at);
  }
  return bytes;
}

/** A snapshot of a service that stands there in its journal. Resolves with its id. */
export async function putJournalSnapshot(
  store: ObjectStore,
  chainName: string,
  { micros, began }: { micros: number; began: JournalPosition },
): Promise<string> {
  const request = {
    stores: [{ name: 'made', store }],
    sourceName: chainName,
    kind: 'influxdb' as const,
    serverVersion: '1.8.10',
    began,
    startedMicros: micros,
    copy: (files: SnapshotFiles) => files.write('part', once(pattern(String(micros), 1000))),
    nowMicros: () => micros,
    signal: never,
    logger: silentLogger(),
  };
  return (await takeServiceSnapshot(request)).id;
}

/** All of a journal's log into an archive. */
export async function shipJournal(log: ChainLog, store: ObjectStore, chainName: string, until: number): Promise<void> {
  const done = new AbortController();
  await runShipper({
    log,
    store,
    archiveName: 'made',
    sourceName: chainName,
    segment: { maxBytes: 200, maxAgeMs: 5, idleAgeMs: 5 },
    signal: done.signal,
    logger: silentLogger(),
    onProgress: ({ nextLogNumber }) => nextLogNumber >= until && done.abort(),
  });
}

/** Through the real pipeline: chunks that are there already are pointed at. */
export async function putMade(store: ObjectStore, made: MadeSnapshot, source = madeSource): Promise<void> {
  const request = {
    stores: [{ name: 'made', store }],
    sourceName: source,
    engine: 'clone' as const,
    signal: never,
    logger: silentLogger(),
  };
  const { sides, failed } = await openSides(request);
  try {
    const pipeline = new ChunkPipeline(sides, never);
    const file = await pipeline.writeFile(readerOfParts(once(made.content)), () => undefined);
    await pipeline.finish();
    const manifestOf = ({ writer }: (typeof sides)[number]): SnapshotManifest => ({
      id: made.id,
      source,
      engine: 'clone',
      generation: made.generation,
      sourceUuid: madeUuid,
      gtidsBefore: made.gtids,
      gtidsAfter: made.gtids,
      startedMicros: made.finishedMicros - 500,
      finishedMicros: made.finishedMicros,
      serverVersion: '9.7.0',
      settings: {},
      columns: {},
      directories: [],
      files: [
        { path: 'ibdata1', sizeBytes: file.sizeBytes, mode: 0o640, chunks: writer.list(file.firstRow, file.lastRow) },
      ],
    });
    await completeSides(sides, failed, pipeline, manifestOf, never);
    if (failed.size > 0) throw failed.values().next().value;
  } finally {
    await closeSides(sides);
  }
}

async function* once(bytes: Buffer): AsyncIterable<Buffer> {
  yield bytes;
}

/** The content of a snapshot, each chunk read and checked. */
export async function contentOf(store: ObjectStore, id: string): Promise<Buffer> {
  const manifest = await readManifest(store, id);
  const chunkKey = await openChunkKey(store, { create: false });
  const [file] = manifest.files;
  if (file === undefined) throw new Error('a made snapshot has one file');
  return await allBytes(readSnapshotFile(store, chunkKey, file));
}
