/**
 * Verification of one archive: every chain of a source, its snapshots, and all that is derived from them; what is bad is named
 * with the instants that it hides and with what could put it right, and is put right where that is asked for.
 */
import { hash } from 'node:crypto';
import { archiveKey, condemnedKey, ownerOf } from '../archive/layout.ts';
import { firstSequence } from '../archive/segment.ts';
import type { ObjectStore } from '../archive/store.ts';
import { isKind, QazynaError } from '../errors/error.ts';
import { ArchiveHistory, listSources } from '../history/open.ts';
import type { RestoreWindow } from '../history/types.ts';
import { windowsOf } from '../history/windows.ts';
import type { Logger } from '../logging/logger.ts';
import { type ChainChecked, checkChain } from './chain-check.ts';
import { costByDay, type MeanDay, meanDay } from './cost.ts';
import { checkDerived, checkKeyRecords, checkWritten, probe } from './derived-check.ts';
import { clauseOf, type Finding, type Suspect, suspect } from './finding.ts';
import { type ArchiveMark, emptyMark, type Marks, MemoryMarks } from './mark.ts';
import { Reading } from './reading.ts';
import { decodeRecord, kindOfRecord, recordsPrefix } from './record.ts';
import { type NamedStore, Remedies } from './remedy.ts';
import { type CheckedSnapshot, checkSnapshots } from './snapshot-check.ts';

export interface VerifyOptions {
  archive: NamedStore;
  source: string;
  /** What may heal it. */
  others: readonly NamedStore[];
  /** Read everything, whatever was read before. */
  full: boolean;
  repair: boolean;
  /** Null: nothing is known from before, so everything is read, and nothing is kept. */
  marks: Marks | null;
  bytesPerSecondMax?: number | null | undefined;
  /** Told when more is to be read than was known so far, and of what was read. */
  onPlanned?: (bytes: number) => void;
  onRead?: (bytes: number) => void;
  signal: AbortSignal;
  logger: Logger;
}

export interface Verdict extends Finding {
  /** What would put it right, best first: archives by their names. */
  healableBy: string[];
  /** What did; '' where nothing did. */
  healedBy: string;
  /** Why others would not. */
  not: string[];
}

export interface Verified {
  startedMicros: number;
  finishedMicros: number;
  /** Everything was read. */
  full: boolean;
  /** Read, and their bytes. */
  objects: number;
  bytes: number;
  findings: Verdict[];
  /** In the whole archive; and what the mean of its last whole days was, null while there is none. */
  stored: { objects: number; bytes: number; aDay: MeanDay | null };
}

export async function verifyArchive(options: VerifyOptions): Promise<Verified> {
  return await new Verification(options).run();
}

interface Inspected {
  suspects: Suspect[];
  chains: Map<string, ChainChecked>;
  snapshots: CheckedSnapshot[];
  mark: ArchiveMark;
}

class Verification {
  readonly #options: VerifyOptions;
  readonly #store: ObjectStore;
  readonly #reading: Reading;
  readonly #marks: Marks;

  constructor(options: VerifyOptions) {
    const { signal, bytesPerSecondMax, onRead } = options;
    this.#options = options;
    this.#marks = options.marks ?? new MemoryMarks();
    this.#store = options.archive.store;
    this.#reading = new Reading({ signal, bytesPerSecondMax, onRead });
  }

  async run(): Promise<Verified> {
    const { full, repair } = this.#options;
    const startedMicros = Date.now() * 1000;
    const before = await this.#recall();
    const isFull = full || before === null;
    const first = await this.#inspect(before ?? emptyMark(), isFull);
    const { verdicts, last } = repair
      ? await this.#repairAll(first)
      : { verdicts: await this.#judgeAll(first), last: first };
    const remaining = new Set(last.suspects.map(({ object }) => object));
    const findings = verdicts.map((one) => (remaining.has(one.object) ? { ...one, healedBy: '' } : one));
    await this.#marks.write({ ...last.mark, suspects: [...remaining] });
    return {
      startedMicros,
      finishedMicros: Date.now() * 1000,
      full: isFull,
      objects: this.#reading.objects,
      bytes: this.#reading.bytes,
      findings,
      stored: await this.#measure(last),
    };
  }

  /** What was noted of this archive; null where nothing was, or of another one that stood here before. */
  async #recall(): Promise<ArchiveMark | null> {
    const mark = await this.#marks.read();
    if (mark === null || mark.identity === hash('sha256', (await this.#store.get(archiveKey)) ?? '')) return mark;
    // Its archive.json is another one: that is damage only where its chains are the same ones still.
    for (const [chain, { archiveChainId }] of Object.entries(mark.chains)) {
      const history = await this.#openHistory(chain);
      const isSame = history?.items.some(
        (item) => item.type === 'segment' && item.decoded.header.archiveChainId === archiveChainId,
      );
      if (isSame) return mark;
    }
    for (const id of await this.#marks.snapshots()) await this.#marks.forget(id);
    return null;
  }

  async #openHistory(chain: string): Promise<ArchiveHistory | null> {
    return await ArchiveHistory.find(this.#store, chain, this.#options);
  }

  async #inspect(before: ArchiveMark, full: boolean): Promise<Inspected> {
    const { logger, onPlanned = () => undefined } = this.#options;
    const reading = this.#reading;
    const store = this.#store;
    const again = new Set(before.suspects);
    const names = await this.#chains(before);
    const chains = new Map<string, ChainChecked>();
    const identity = await this.#identity(before);
    const suspects: Suspect[] = [
      ...identity.suspects,
      ...(await checkKeyRecords(store, reading)),
      ...(await checkWritten(store, condemnedKey, '')),
    ];
    for (const chain of names) {
      const mark = before.chains[chain] ?? null;
      const checked = await checkChain({ store, chain, mark, full, again, reading, onPlanned, logger });
      chains.set(chain, checked);
      suspects.push(...checked.suspects);
      if (checked.history === null) continue;
      const derived = { store, chain, history: checked.history, reading };
      suspects.push(...(await checkDerived(derived, full ? 0 : (mark?.sequence ?? 0))));
    }
    const windowMicros = Math.max(0, ...[...chains.values()].map(({ history }) => history?.begin?.windowMicros ?? 0));
    const known = this.#marks;
    const wanted = { store, chains: names, known, windowMicros, full, again, reading, onPlanned };
    // Under another id than it was made with, no chunk would have its name.
    const isOther = identity.suspects.length > 0;
    const { suspects: bad, snapshots } = isOther ? { suspects: [], snapshots: [] } : await checkSnapshots(wanted);
    suspects.push(...bad, ...(await this.#records()));
    const marks = [...chains].flatMap(([name, { mark }]) => (mark === null ? [] : [[name, mark] as const]));
    const placed = await this.#withInstants(suspects, chains, snapshots);
    const mark = {
      identity: identity.sha256,
      chains: Object.fromEntries(marks),
      suspects: placed.map(({ object }) => object),
    };
    return { suspects: placed, chains, snapshots, mark };
  }

  /** The source's own and those of the services beside it; what was known before and is gone included. */
  async #chains({ chains }: ArchiveMark): Promise<string[]> {
    const { source } = this.#options;
    const found = (await listSources(this.#store)).filter((name) => ownerOf(name).source === source);
    return [...new Set([source, ...found, ...Object.keys(chains)])].sort();
  }

  /** archive.json never changes; what it says was read when the archive was opened. */
  async #identity(before: ArchiveMark): Promise<{ sha256: string; suspects: Suspect[] }> {
    const sha256Of = (bytes: Buffer) => hash('sha256', bytes);
    const bytes = (await this.#store.get(archiveKey)) ?? Buffer.alloc(0);
    const sha256 = before.identity === '' ? sha256Of(bytes) : before.identity;
    const check = async (found: Buffer) =>
      sha256Of(found) === sha256 ? null : 'is not the one that the last verification had found';
    const problem = await check(bytes);
    return { sha256, suspects: problem === null ? [] : [suspect('archive', archiveKey, problem, check)] };
  }

  async #records(): Promise<Suspect[]> {
    const { source } = this.#options;
    const found: Suspect[] = [];
    for await (const { key } of this.#store.list(recordsPrefix(source), { signal: this.#reading.signal })) {
      const kind = kindOfRecord(key);
      if (kind === null) continue;
      const check = async (bytes: Buffer) => {
        try {
          decodeRecord(kind, bytes, key);
          return null;
        } catch (error) {
          if (isKind(error, 'integrity')) return clauseOf(error);
          throw error;
        }
      };
      const one = await probe(this.#store, key, check, { part: 'record', chain: source });
      if (one !== null && !one.isMissing) found.push(one);
    }
    return found;
  }

  /** From what is hidden to what cannot be restored: up to the next snapshot from which it goes on. */
  async #withInstants(
    suspects: readonly Suspect[],
    chains: ReadonlyMap<string, ChainChecked>,
    snapshots: readonly CheckedSnapshot[],
  ): Promise<Suspect[]> {
    if (suspects.length === 0) return [];
    const { signal } = this.#reading;
    const placed: Suspect[] = [];
    const gaps = new Map<string, RestoreWindow['gaps']>();
    for (const [chain, { history }] of chains) {
      if (history === null || ownerOf(chain).service !== null) continue;
      const usable = snapshots.filter(({ source, isSound }) => isSound && source === chain);
      const holed = new ArchiveHistory(this.#store, chain, withHoles(history, suspects), [], history.begin);
      const windows = await windowsOf(holed, usable, signal).catch(
        (error: unknown): { gaps: RestoreWindow['gaps'] }[] => {
          if (isKind(error, 'integrity')) return [];
          throw error;
        },
      );
      gaps.set(
        chain,
        windows.flatMap((window) => window.gaps),
      );
    }
    for (const one of suspects) placed.push(placedIn(one, gaps.get(one.chain) ?? [], snapshots));
    return placed;
  }

  async #judgeAll({ suspects, chains }: Inspected): Promise<Verdict[]> {
    const remedies = this.#remedies(suspects);
    const verdicts: Verdict[] = [];
    for (const one of suspects) {
      const found = await remedies.find(one, chains.get(one.chain)?.history ?? null);
      verdicts.push(
        verdictOf(
          one,
          found.remedies.map(({ by }) => by),
          '',
          found.not,
        ),
      );
    }
    return verdicts;
  }

  /** Until nothing is left that was not tried: what comes back may show what else is missing. */
  async #repairAll(first: Inspected): Promise<{ verdicts: Verdict[]; last: Inspected }> {
    const verdicts: Verdict[] = [];
    const tried = new Set<string>();
    for (let last = first; ; ) {
      const next = last.suspects.filter(({ object }) => !tried.has(object));
      if (next.length === 0) return { verdicts, last };
      verdicts.push(...(await this.#repairEach(next)));
      for (const { object } of next) tried.add(object);
      // What was read is known by now: only what is suspected is read again, and what was put.
      last = await this.#inspect(last.mark, false);
    }
  }

  /** One after the other, packs before the snapshots that need them; a chain is looked at again for each. */
  async #repairEach(suspects: readonly Suspect[]): Promise<Verdict[]> {
    const verdicts: Verdict[] = [];
    const order = ['key', 'pack', 'chain', 'floor', 'tip', 'index'];
    const rank = ({ part }: Suspect) => (order.indexOf(part) < 0 ? order.length : order.indexOf(part));
    const cures = this.#remedies(suspects);
    for (const one of suspects.toSorted((a, b) => rank(a) - rank(b))) {
      // What was put right before may have closed this one's gap, too.
      const history = one.chain === '' ? null : await this.#openHistory(one.chain);
      const { remedies, not } = await cures.find(one, history);
      const [by, why] = await this.#apply(one, remedies);
      const ways = remedies.map((each) => each.by);
      verdicts.push(verdictOf(one, ways, by, [...not, ...why]));
    }
    return verdicts;
  }

  async #apply(one: Suspect, remedies: readonly { by: string; apply(): Promise<void> }[]): Promise<[string, string[]]> {
    const { logger, archive } = this.#options;
    const why: string[] = [];
    for (const { by, apply } of remedies) {
      try {
        await apply();
        logger.info(`repaired ${one.object} in ${archive.name}`, { by });
        return [by, why];
      } catch (error) {
        this.#reading.signal.throwIfAborted();
        if (!(error instanceof QazynaError)) throw error;
        why.push(`${by}: ${error.message}`);
      }
    }
    return ['', why];
  }

  #remedies(suspects: readonly Suspect[]): Remedies {
    const { others, logger } = this.#options;
    const badPacks = new Set(
      suspects.flatMap(({ part, object }) => (part === 'pack' ? [object.slice(object.lastIndexOf('/') + 1)] : [])),
    );
    return new Remedies({ store: this.#store, others, badPacks, signal: this.#reading.signal, logger });
  }

  async #measure({ chains, snapshots }: Inspected): Promise<Verified['stored']> {
    const { signal } = this.#reading;
    const histories = [...chains.values()].flatMap(({ history }) => history ?? []);
    const aDay = meanDay(costByDay(histories, snapshots), new Date().toISOString().slice(0, 10));
    const stored = { objects: 0, bytes: 0, aDay };
    for await (const { sizeBytes } of this.#store.list('', { signal })) {
      stored.objects += 1;
      stored.bytes += sizeBytes;
    }
    signal.throwIfAborted();
    return stored;
  }
}

/** The history as a reader finds it who meets what is bad. */
function withHoles(history: ArchiveHistory, suspects: readonly Suspect[]): ArchiveHistory['items'] {
  const bad = suspects.filter(({ part, chain }) => part === 'chain' && chain === history.sourceName);
  return history.items.map((item, index) => {
    if (item.type === 'gap') return item;
    const { header } = item.decoded;
    const first = firstSequence(item.decoded);
    const one = bad.find(({ sequences: at }) => at !== null && first <= at.last && header.sequence >= at.first);
    if (one === undefined) return item;
    const before = history.items[index - 1];
    return {
      type: 'gap' as const,
      isPruned: false,
      firstSequence: first,
      lastSequence: header.sequence,
      fromMicros: before?.type === 'segment' ? before.decoded.header.chainLastCommitMicros : 0,
      throughMicros: header.chainLastCommitMicros,
      reason: one.problem,
    };
  });
}

function placedIn(one: Suspect, gaps: RestoreWindow['gaps'], snapshots: readonly CheckedSnapshot[]): Suspect {
  const { sequences } = one;
  if (sequences !== null) {
    const gap = gaps.find(({ firstSequence: a, lastSequence: b }) => a <= sequences.first && b >= sequences.last);
    return gap === undefined ? one : { ...one, fromMicros: gap.fromMicros, throughMicros: gap.throughMicros };
  }
  const hit = snapshots.filter(({ id }) => one.snapshots.includes(id));
  if (hit.length === 0) return one;
  // An older one that is sound serves those instants as well, with more to replay.
  const spans = hit.flatMap(({ source, finishedMicros }) => {
    const sound = snapshots.filter((other) => other.isSound && other.source === source);
    if (sound.some((other) => other.finishedMicros < finishedMicros)) return [];
    const next = Math.min(...sound.map((other) => other.finishedMicros));
    return [{ fromMicros: finishedMicros, throughMicros: Number.isFinite(next) ? next : Number.MAX_SAFE_INTEGER }];
  });
  if (spans.length === 0) return one;
  const fromMicros = Math.min(...spans.map((span) => span.fromMicros));
  return { ...one, fromMicros, throughMicros: Math.max(...spans.map((span) => span.throughMicros)) };
}

function verdictOf(one: Suspect, healableBy: string[], healedBy: string, not: string[]): Verdict {
  const { part, object, lastObject, isMissing, problem, fromMicros, throughMicros, snapshots } = one;
  const finding = { part, object, lastObject, isMissing, problem, fromMicros, throughMicros, snapshots };
  return { ...finding, healableBy, healedBy, not };
}
