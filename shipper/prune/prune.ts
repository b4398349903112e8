/**
 * Retention in one archive. What is given up is said first (`begin`, `condemned`), and deleted a day later, after another look at
 * who needs it; each step is durable before the next, so that it can be killed anywhere and run again, and two at once do no harm.
 */

import { beingPruned, findBegin, writeBegin } from '../../core/archive/begin.ts';
import {
  type CondemnedFound,
  type CondemnedObject,
  condemnedMax,
  graceMs,
  readCondemned,
  writeCondemned,
} from '../../core/archive/condemned.ts';
import { compactedPrefix, rangeOfCompactedKey } from '../../core/archive/layout.ts';
import { type HeldLease, leaseMarginMs, readLeases } from '../../core/archive/lease.ts';
import type { Leftovers, SweptVersions } from '../../core/archive/leftovers.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { packKey } from '../../core/chunks/pack.ts';
import type { KeepRules } from '../../core/config/types.ts';
import { crashPoint } from '../../core/errors/crash-points.ts';
import { isKind, type QazynaError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import {
  type CompleteSnapshot,
  completeKey,
  type ListedSnapshot,
  listSnapshots,
  manifestKey,
  newSnapshotId,
} from '../../core/snapshot/manifest.ts';
import { recordKinds, recordsPrefix } from '../../core/verify/record.ts';
import { type ChainDecision, decide, isGivenUp } from './decide.ts';
import { PackReferences } from './packs.ts';

const dayMs = 86_400_000;
/** A pack's name is not used again for so long after it was deleted. */
const rememberMs = 7 * dayMs;
/** An object that was put over is told of for so long. */
const tellForMs = 7 * dayMs;
const packPrefix = 'packs/';
const snapshotPrefix = 'snapshots/';
/** `20261123T101500Z`: how ids of snapshots and of records begin. */
const idSecondsLength = 16;

export interface PruneOptions {
  store: ObjectStore;
  /** What the store keeps beside its objects; null where it keeps nothing. */
  leftovers?: Leftovers | null;
  /** Chains that are pruned: a source's and those of the services beside it. */
  sources: readonly string[];
  retentionMs: number;
  keep: KeepRules;
  dryRun?: boolean;
  /** Between giving up and deleting; and how old what nobody points at has to be. Default a day. */
  graceMs?: number;
  marginMs?: number;
  /** This host's clock, ms since 1970. */
  nowMs?: () => number;
  signal: AbortSignal;
  logger: Logger;
}

export interface PruneReport {
  chains: readonly ChainDecision[];
  /** Given up by this run: objects of chains, snapshots, packs. */
  condemned: { chain: number; snapshots: number; packs: number };
  deleted: { objects: number; bytes: number };
  /** Given up, and still there. */
  waiting: number;
  /** Why something that was due was not deleted; one clause each. */
  spared: readonly string[];
  /** What was not decided because of damage or a passing fault. */
  refusals: readonly QazynaError[];
  uploads: number;
  versions: SweptVersions | null;
}

/** Throws QZ4440 or QZ4441 when somebody else is at it, and whatever reading the archive meets. */
export async function prune(options: PruneOptions): Promise<PruneReport> {
  return await new Pruner(options).run();
}

interface Seen {
  leases: readonly HeldLease[];
  snapshots: readonly ListedSnapshot[];
  /** Ids of packs that complete snapshots point at; null: not known, so that none may go. */
  referenced: ReadonlySet<string> | null;
}

class Pruner {
  readonly #options: PruneOptions;
  readonly #store: ObjectStore;
  readonly #graceMs: number;
  readonly #refusals: QazynaError[] = [];
  readonly #spared = new Set<string>();
  readonly #deleted = { objects: 0, bytes: 0 };
  /** The store's own clock at the beginning; null where it does not tell. */
  #storeMs: number | null = null;

  constructor(options: PruneOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#graceMs = options.graceMs ?? graceMs;
  }

  async run(): Promise<PruneReport> {
    const { dryRun = false } = this.#options;
    let list = await readCondemned(this.#store);
    if (!dryRun) {
      const begun = await writeCondemned(this.#store, list, list);
      this.#storeMs = begun.storeMs;
      list = begun.written;
    }
    const packs = await PackReferences.read(this.#store, this.#options.signal);
    const seen = await this.#look(packs);
    const chains = await this.#decideAll(seen, packs);
    if (!dryRun) await this.#giveUp(chains);
    const fresh = await this.#due(chains, seen, packs, list);
    const condemned = {
      chain: fresh.filter((key) => rangeOfCompactedKey(key) !== null).length,
      snapshots: fresh.filter((key) => key.startsWith(snapshotPrefix)).length,
      packs: fresh.filter((key) => key.startsWith(packPrefix)).length,
    };
    const outcome = { chains, condemned, refusals: this.#refusals };
    if (dryRun) {
      const waiting = list.entries.filter(({ deletedMs }) => deletedMs === null).length;
      return { ...outcome, deleted: this.#deleted, waiting, spared: [], uploads: 0, versions: null };
    }
    const condemnedNow = await this.#condemn(list, fresh);
    const left = await this.#delete(condemnedNow, chains, packs);
    for (const chain of chains) await this.#sweepRecords(chain);
    const swept = await this.#sweepLeftovers();
    return { ...outcome, deleted: this.#deleted, waiting: left, spared: [...this.#spared], ...swept };
  }

  get #clock(): number {
    return this.#storeMs ?? this.#now;
  }

  get #now(): number {
    return (this.#options.nowMs ?? Date.now)();
  }

  /** Leases first: whoever has given his back by then has left a complete snapshot, which is then seen. */
  async #look(packs: PackReferences): Promise<Seen> {
    const { signal, marginMs = leaseMarginMs } = this.#options;
    const clocks = { storeMs: this.#storeMs, nowMs: this.#now, marginMs };
    const { held } = await readLeases(this.#store, clocks, signal);
    const snapshots = await listSnapshots(this.#store, { signal });
    signal.throwIfAborted();
    return { leases: held, snapshots, referenced: await this.#references(packs, snapshots) };
  }

  async #references(packs: PackReferences, snapshots: readonly ListedSnapshot[]) {
    try {
      // One whose mark is damaged points at packs that nobody knows.
      for (const one of snapshots)
        if (!one.complete && (await this.#store.head(completeKey(one.id))) !== null) {
          this.#spared.add(`packs: the mark of snapshot ${one.id} is damaged`);
          return null;
        }
      return await packs.of(
        snapshots.filter((one) => one.complete),
        this.#options.signal,
      );
    } catch (error) {
      this.#refuse(error);
      return null;
    }
  }

  #refuse(error: unknown): void {
    if (!isKind(error, 'integrity')) throw error;
    if (!this.#refusals.some(({ message }) => message === error.message)) this.#refusals.push(error);
  }

  async #decideAll({ leases, snapshots }: Seen, packs: PackReferences): Promise<ChainDecision[]> {
    const { sources, retentionMs, keep, signal, logger } = this.#options;
    const chains: ChainDecision[] = [];
    const nowMs = Math.min(this.#now, this.#clock);
    for (const source of sources) {
      const own = snapshots.filter((one): one is CompleteSnapshot => one.complete && one.source === source);
      const isSound = (one: CompleteSnapshot) => packs.isSound(one);
      const options = { store: this.#store, source, retentionMs, keep, snapshots: own, isSound, leases, nowMs };
      try {
        chains.push(await decide({ ...options, signal, logger }));
      } catch (error) {
        this.#refuse(error);
      }
    }
    return chains;
  }

  /** Said before anything goes: from here on nobody begins to read what is given up. */
  async #giveUp(chains: readonly ChainDecision[]): Promise<void> {
    for (const { source, before, after } of chains) {
      const found = await findBegin(this.#store, source);
      const isSame = (found?.sequence ?? 0) === before.sequence && (found?.prunedMs ?? 0) === before.prunedMs;
      // Decided by what is not so any more.
      if (!isSame) throw beingPruned(this.#store, source);
      await writeBegin(this.#store, source, found, after);
      crashPoint('prune:begin');
    }
  }

  /** Keys that are given up and not condemned yet. */
  async #due(chains: readonly ChainDecision[], seen: Seen, packs: PackReferences, list: CondemnedFound) {
    const { signal } = this.#options;
    const keys: string[] = [];
    for (const chain of chains) {
      for await (const { key } of this.#store.list(compactedPrefix(chain.source), { signal })) {
        const range = rangeOfCompactedKey(key);
        if (range !== null && isGivenUp(chain, range)) keys.push(key);
      }
      for (const { id, because } of chain.snapshots) if (because === null) keys.push(`${snapshotPrefix}${id}`);
    }
    for (const { complete, id } of seen.snapshots) {
      const info = complete ? null : await this.#store.head(manifestKey(id));
      if (info !== null && this.#isOld(info.modifiedMs) && (await this.#store.head(completeKey(id))) === null)
        keys.push(`${snapshotPrefix}${id}`);
    }
    for (const [id, { modifiedMs }] of packs.present)
      if (seen.referenced?.has(id) === false && this.#isOld(modifiedMs)) keys.push(packKey(id));
    signal.throwIfAborted();
    const known = new Set(list.entries.flatMap(({ key, deletedMs }) => (deletedMs === null ? [key] : [])));
    return keys.filter((key) => !known.has(key));
  }

  /** What was put only just now may belong to a snapshot that is being taken. */
  #isOld(modifiedMs: number | undefined): boolean {
    return modifiedMs !== undefined && this.#clock - modifiedMs >= this.#graceMs;
  }

  async #condemn(list: CondemnedFound, fresh: readonly string[]): Promise<CondemnedFound> {
    if (fresh.length === 0) return list;
    const room = condemnedMax - list.entries.length;
    const version = list.version + 1;
    const added = fresh.slice(0, Math.max(0, room)).map((key) => {
      return { key, version, sinceMs: this.#clock, deletedMs: null };
    });
    const { written } = await writeCondemned(this.#store, list, { version, entries: [...list.entries, ...added] });
    crashPoint('prune:condemned');
    return written;
  }

  /** What was given up long enough ago and nobody needs. Resolves with how many objects still wait. */
  async #delete(list: CondemnedFound, chains: readonly ChainDecision[], packs: PackReferences): Promise<number> {
    const seen = await this.#look(packs);
    const entries: CondemnedObject[] = [];
    for (const entry of list.entries.toSorted((a, b) => (a.key < b.key ? -1 : 1))) {
      this.#options.signal.throwIfAborted();
      const kept = await this.#settle(entry, chains, seen, packs);
      if (kept !== null) entries.push(kept);
    }
    await writeCondemned(this.#store, list, { version: list.version + 1, entries });
    crashPoint('prune:deleted-all');
    return entries.filter(({ deletedMs }) => deletedMs === null).length;
  }

  /** The entry as it stands afterwards; null when it is to be forgotten. */
  async #settle(entry: CondemnedObject, chains: readonly ChainDecision[], seen: Seen, packs: PackReferences) {
    const { key, sinceMs, deletedMs } = entry;
    if (deletedMs !== null) return this.#clock - deletedMs > rememberMs ? null : entry;
    const verdict = key.startsWith(packPrefix)
      ? this.#judgePack(entry, seen)
      : key.startsWith(snapshotPrefix)
        ? this.#judgeSnapshot(key.slice(snapshotPrefix.length), chains, seen)
        : this.#judgeChain(key, chains, seen);
    if (verdict === 'pardoned') return null;
    if (verdict === 'not ours' || this.#clock - sinceMs < this.#graceMs) return entry;
    if (verdict !== 'due') {
      this.#spared.add(verdict);
      return entry;
    }
    if (key.startsWith(snapshotPrefix)) {
      const id = key.slice(snapshotPrefix.length);
      // Without its mark it is no snapshot any more, whatever is left of it.
      await this.#remove(completeKey(id), 0);
      await this.#remove(manifestKey(id), 0);
      return null;
    }
    const isPack = key.startsWith(packPrefix);
    await this.#remove(key, packs.present.get(key.slice(key.lastIndexOf('/') + 1))?.sizeBytes ?? 0);
    return isPack ? { ...entry, deletedMs: this.#clock } : null;
  }

  #judgePack({ key, version }: CondemnedObject, { leases, referenced }: Seen): string {
    if (referenced === null) return 'packs: what snapshots point at is not known';
    if (referenced.has(key.slice(key.lastIndexOf('/') + 1))) return 'pardoned';
    // Whoever began before it was condemned may point at it.
    const isTaken = leases.some((lease) => lease.kind === 'snapshot' && lease.condemned < version);
    return isTaken ? 'packs: a snapshot is being taken' : 'due';
  }

  #judgeSnapshot(id: string, chains: readonly ChainDecision[], { leases, snapshots }: Seen): string {
    const found = snapshots.find((one) => one.id === id);
    if (found === undefined) return 'due';
    if (!found.complete)
      return leases.some(({ kind }) => kind === 'snapshot') ? 'unfinished snapshots: one is being taken' : 'due';
    const chain = chains.find(({ source }) => source === found.source);
    const decided = chain?.snapshots.find((one) => one.id === id);
    if (chain === undefined) return 'not ours';
    if (decided === undefined || decided.because !== null) return 'pardoned';
    const isLeased = ({ kind, source, snapshot }: HeldLease) =>
      kind !== 'snapshot' && source === found.source && (snapshot === '' || snapshot === id);
    return leases.some(isLeased) ? `snapshot ${id}: somebody is reading it` : 'due';
  }

  #judgeChain(key: string, chains: readonly ChainDecision[], { leases }: Seen): string {
    const range = rangeOfCompactedKey(key);
    const chain = chains.find(({ source }) => key.startsWith(compactedPrefix(source)));
    if (range === null) return 'pardoned';
    if (chain === undefined) return 'not ours';
    if (!isGivenUp(chain, range)) return 'pardoned';
    const isLeased = ({ kind, source, sequence }: HeldLease) =>
      kind !== 'snapshot' && source === chain.source && range.last >= sequence;
    return leases.some(isLeased) ? `the history of ${chain.source}: somebody is reading it` : 'due';
  }

  async #remove(key: string, bytes: number): Promise<void> {
    await this.#store.remove(key);
    this.#deleted.objects += 1;
    this.#deleted.bytes += bytes;
    crashPoint('prune:deleted');
  }

  /** Records of checks from before the window are of no use to anybody; the newest of each kind stays. */
  async #sweepRecords({ source, windowMicros }: ChainDecision): Promise<void> {
    const { signal } = this.#options;
    for (const kind of recordKinds) {
      const keys: string[] = [];
      for await (const { key } of this.#store.list(recordsPrefix(source, kind), { signal })) keys.push(key);
      signal.throwIfAborted();
      const end = `${recordsPrefix(source, kind)}${newSnapshotId(windowMicros / 1000).slice(0, idSecondsLength)}`;
      for (const key of keys.slice(0, -1)) if (key < end) await this.#remove(key, 0);
    }
  }

  /** Leases that are over, uploads that never ended, versions of what is gone. */
  async #sweepLeftovers(): Promise<Pick<PruneReport, 'uploads' | 'versions'>> {
    const { signal, marginMs = leaseMarginMs, leftovers = null, retentionMs } = this.#options;
    const { over } = await readLeases(this.#store, { storeMs: this.#storeMs, nowMs: this.#now, marginMs }, signal);
    for (const key of over) await this.#store.remove(key);
    if (leftovers === null) return { uploads: 0, versions: null };
    const uploads = await leftovers.abortUploads(this.#clock - this.#graceMs, signal);
    const rules = {
      replacedBeforeMs: this.#clock - this.#graceMs,
      deletedBeforeMs: this.#clock - retentionMs,
      tellSinceMs: this.#clock - tellForMs,
    };
    return { uploads, versions: await leftovers.sweepVersions(rules, signal) };
  }
}
