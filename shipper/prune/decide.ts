/**
 * What of one chain is kept, and why: everything that an instant of the window needs, the snapshots that the rules keep for
 * longer with what they need, and what somebody holds a lease on. Reads only.
 */
import { type Begin, isKept, nothingPruned, type SequenceRange } from '../../core/archive/begin.ts';
import { readFloor } from '../../core/archive/floor.ts';
import { ownerOf } from '../../core/archive/layout.ts';
import type { HeldLease } from '../../core/archive/lease.ts';
import { opensGeneration } from '../../core/archive/merge.ts';
import { firstSequence } from '../../core/archive/segment.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import type { KeepRules } from '../../core/config/types.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { isOnPath } from '../../core/history/plan.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { type CompleteSnapshot, readManifest } from '../../core/snapshot/manifest.ts';
import { type Anchor, type AnchorOptions, anchorsOf, journalAnchors, journalNeededBy, neededBy } from './anchors.ts';
import { chosenByRules } from './keep-rules.ts';
import { prove } from './proof.ts';

/** Why a snapshot stays, or null: it goes. */
export type KeptBecause = 'window' | 'base' | 'newest' | 'damaged' | 'lease' | keyof KeepRules | null;

export interface SnapshotDecision {
  id: string;
  finishedMicros: number;
  because: KeptBecause;
}

export interface ChainDecision {
  source: string;
  /** Everything from this instant on can be restored; 0: no more than before is given up, see `reasons`. */
  windowMicros: number;
  /** As it is, and as it will be. */
  before: Begin;
  after: Begin;
  /** The snapshots that the window begins with, by timeline. */
  bases: readonly { generation: number; snapshot: string }[];
  snapshots: readonly SnapshotDecision[];
  /** Whatever keeps more than the window needs; one sentence each. */
  reasons: readonly string[];
}

export interface DecideOptions {
  store: ObjectStore;
  source: string;
  retentionMs: number;
  keep: KeepRules;
  /** Complete ones of this chain, newest first. */
  snapshots: readonly CompleteSnapshot[];
  isSound: (snapshot: CompleteSnapshot) => Promise<boolean>;
  leases: readonly HeldLease[];
  /** The earliest of the clocks at hand, ms since 1970. */
  nowMs: number;
  signal: AbortSignal;
  logger: Logger;
}

/** Throws QZ3443 when it cannot be proved that what stays can be restored. */
export async function decide(options: DecideOptions): Promise<ChainDecision> {
  return await new Decision(options).make();
}

class Decision {
  readonly #options: DecideOptions;
  readonly #isService: boolean;
  readonly #reasons: string[] = [];

  constructor(options: DecideOptions) {
    this.#options = options;
    this.#isService = ownerOf(options.source).service !== null;
  }

  async make(): Promise<ChainDecision> {
    const { store, source, snapshots } = this.#options;
    const nowMs = Math.floor(this.#options.nowMs);
    const retentionMs = Math.ceil(this.#options.retentionMs);
    const history = await ArchiveHistory.open(store, source, this.#options);
    const before = history.begin ?? nothingPruned;
    const windowMicros = windowOf(history, nowMs, retentionMs);
    const reading = this.#reading(history, windowMicros);
    const anchors = await (this.#isService ? journalAnchors(reading) : anchorsOf(reading));
    const sequence = await this.#cutAt(history, before, anchors);
    const decided = this.#snapshotsWithin(history, anchors, windowMicros);
    const kept = await this.#keptForLonger(reading, decided, sequence, windowMicros);
    const after = { sequence, kept, retentionMs, windowMicros, prunedMs: nowMs };
    const keptOnes = snapshots.filter(({ id }) => decided.get(id) !== null);
    await prove({ ...reading, after: history.keeping(after), anchors, snapshots: keptOnes });
    return {
      source,
      windowMicros,
      before,
      after,
      bases: anchors.flatMap(({ timeline, snapshot }) =>
        snapshot === null ? [] : [{ generation: timeline.generation, snapshot: snapshot.id }],
      ),
      snapshots: snapshots.map(({ id, finishedMicros }) => ({ id, finishedMicros, because: decided.get(id) ?? null })),
      reasons: this.#reasons,
    };
  }

  #reading(history: ArchiveHistory, windowMicros: number): AnchorOptions {
    const { store, snapshots, isSound, signal } = this.#options;
    const settingsOf = async ({ id }: CompleteSnapshot) => (await readManifest(store, id)).settings;
    return { history, snapshots, windowMicros, isSound, settingsOf, signal };
  }

  /**
   * The chain is cut before a binlog file that is compacted already: there it can be read from, and there a writer that comes too
   * late is told by the floor.
   */
  async #cutAt(history: ArchiveHistory, before: Begin, anchors: readonly Anchor[]): Promise<number> {
    const { store, source, leases } = this.#options;
    for (const { timeline, snapshot } of anchors)
      if (snapshot === null)
        this.#reasons.push(
          `timeline ${timeline.generation} has no usable snapshot from before the window: everything before it stays`,
        );
    // Where nothing reaches into the window, nobody can say what is needed.
    if (anchors.length === 0) return before.sequence;
    const mine = leases.filter((lease) => lease.source === source && lease.kind !== 'snapshot');
    const needed = Math.min(...anchors.map((anchor) => anchor.sequence));
    const leased = Math.min(...mine.map((lease) => lease.sequence));
    if (leased < needed) this.#reasons.push(`somebody reads what is older (${mine.length} leases)`);
    const floor = await readFloor(store, source);
    let cut = before.sequence;
    for (const item of history.items) {
      if (item.type === 'gap') continue;
      const { header, compactedFrom } = item.decoded;
      const first = firstSequence(item.decoded);
      if (first > Math.min(needed, leased)) break;
      const begins = compactedFrom !== null && header.kind === 'events' && header.start === 4;
      if (begins && header.sequence <= floor && first > cut) cut = first;
    }
    return cut;
  }

  #snapshotsWithin(
    history: ArchiveHistory,
    anchors: readonly Anchor[],
    windowMicros: number,
  ): Map<string, KeptBecause> {
    const { snapshots, leases, source } = this.#options;
    const bases = new Set(anchors.map(({ snapshot }) => snapshot?.id));
    const isBase = (id: string) => bases.has(id);
    // By what it holds it may lie in the window, whatever the clock said.
    const behind = (one: CompleteSnapshot) =>
      anchors.some(
        ({ timeline, gtids, end, snapshot }) =>
          snapshot === null ||
          (isOnPath(history, { timeline }, one) &&
            gtids?.containsAll(one.gtidsAfter) === false &&
            end?.containsAll(one.gtidsAfter) === true),
      );
    const isLeased = (id: string) =>
      leases.some((lease) => lease.kind !== 'snapshot' && lease.source === source && [id, ''].includes(lease.snapshot));
    const decided = new Map<string, KeptBecause>();
    for (const [index, one] of snapshots.entries()) {
      const isWithin = one.finishedMicros >= windowMicros || anchors.length === 0 || behind(one);
      const because = isWithin
        ? 'window'
        : isBase(one.id)
          ? 'base'
          : index === 0
            ? 'newest'
            : isLeased(one.id)
              ? 'lease'
              : null;
      decided.set(one.id, because);
    }
    return decided;
  }

  /** Snapshots beyond the window that stay, with the parts of the chain around them. */
  async #keptForLonger(
    reading: AnchorOptions,
    decided: Map<string, KeptBecause>,
    sequence: number,
    windowMicros: number,
  ): Promise<SequenceRange[]> {
    const { snapshots, keep, isSound } = this.#options;
    const needs = new Map<string, SequenceRange>();
    const old: CompleteSnapshot[] = [];
    for (const one of snapshots) {
      if (one.finishedMicros >= windowMicros) continue;
      const sound = await isSound(one);
      const range = sound ? await (this.#isService ? journalNeededBy(reading, one) : neededBy(reading, one)) : null;
      // What another archive may mend stays for as long as it would be the base.
      if (!sound && decided.get(one.id) === null && this.#isNewerThanBase(one, reading, decided))
        decided.set(one.id, 'damaged');
      if (range === null) continue;
      needs.set(one.id, range);
      old.push(one);
    }
    const chosen = chosenByRules(old, keep);
    for (const [id, [rule]] of chosen) if (rule !== undefined && decided.get(id) === null) decided.set(id, rule);
    const islands = old.flatMap(({ id }) => (decided.get(id) === null ? [] : (needs.get(id) ?? [])));
    const below = islands.filter(({ first }) => first < sequence);
    return below.length === 0 ? [] : joined([...below, ...forksBelow(reading.history, sequence)], sequence);
  }

  #isNewerThanBase(one: CompleteSnapshot, { snapshots }: AnchorOptions, decided: Map<string, KeptBecause>): boolean {
    const base = snapshots.find(({ id }) => decided.get(id) === 'base');
    return base === undefined || one.finishedMicros > base.finishedMicros;
  }
}

/** Where the window begins: by the archive's own end, or by the clock where that is earlier. A clock that is ahead deletes nothing. */
function windowOf(history: ArchiveHistory, nowMs: number, retentionMs: number): number {
  const ends = history.timelines.map(({ lastCommitMicros, completeThroughMicros }) =>
    Math.max(lastCommitMicros, completeThroughMicros),
  );
  return Math.max(0, Math.floor(Math.min(nowMs * 1000, ends.at(-1) ?? 0) - retentionMs * 1000));
}

/** Timelines and promotions say which snapshots serve which timeline, for as long as there are snapshots from before them. */
function forksBelow(history: ArchiveHistory, sequence: number): SequenceRange[] {
  return history.items.flatMap((item) => {
    if (item.type === 'gap' || item.decoded.header.sequence >= sequence || !opensGeneration(item.decoded.header))
      return [];
    return [{ first: firstSequence(item.decoded), last: item.decoded.header.sequence }];
  });
}

/** In order, disjoint, and all below `sequence`. */
function joined(ranges: readonly SequenceRange[], sequence: number): SequenceRange[] {
  const found: SequenceRange[] = [];
  for (const { first, last } of ranges.toSorted((a, b) => a.first - b.first)) {
    const end = Math.min(last, sequence - 1);
    const before = found.at(-1);
    if (before !== undefined && first <= before.last + 1) before.last = Math.max(before.last, end);
    else found.push({ first, last: end });
  }
  return found;
}

/** Whether anything of these numbers is given up by the decision. */
export function isGivenUp({ after }: ChainDecision, { first, last }: SequenceRange): boolean {
  return !isKept(after, first, last);
}
