/** What can put a bad object right: an earlier version of it, the rest of its own archive, or another archive. */
import { type CompactedRange, listCompacted, widest } from '../archive/compacted.ts';
import { floorBody, readFloor } from '../archive/floor.ts';
import { floorKey, rangeOfIndexKey } from '../archive/layout.ts';
import { SealedStore } from '../archive/sealed.ts';
import { sealIndex } from '../archive/segment-index.ts';
import type { ObjectStore } from '../archive/store.ts';
import { tipBody, tipOf } from '../archive/tip.ts';
import { isKind } from '../errors/error.ts';
import { ArchiveHistory } from '../history/open.ts';
import type { Logger } from '../logging/logger.ts';
import { completeKey, readManifest } from '../snapshot/manifest.ts';
import { chainObjectProblem } from './chain-objects.ts';
import { neededFloor } from './derived-check.ts';
import type { Suspect } from './finding.ts';
import { putHealed } from './put-healed.ts';
import { recopy, remark } from './recopy.ts';
import { type Refill, type RefillOptions, raiseOver, refillGap, sameAgain } from './refill.ts';
import { repack } from './repack.ts';

export interface NamedStore {
  name: string;
  store: ObjectStore;
}

export interface Remedy {
  /** In words: an archive's name, or what else. */
  by: string;
  apply(): Promise<void>;
}

const earlierVersion = 'an earlier version of it';
const ownArchive = 'the rest of this archive';

export interface RemediesOptions {
  store: ObjectStore;
  others: readonly NamedStore[];
  /** Packs here that are bad. */
  badPacks: ReadonlySet<string>;
  signal: AbortSignal;
  logger: Logger;
}

export class Remedies {
  readonly #options: RemediesOptions;
  readonly #histories = new Map<string, Promise<ArchiveHistory | null>>();

  constructor(options: RemediesOptions) {
    this.#options = options;
  }

  /** Those that were tried and would do, best first; and why others would not. */
  async find(bad: Suspect, history: ArchiveHistory | null): Promise<{ remedies: Remedy[]; not: string[] }> {
    const not: string[] = [];
    const remedies: Remedy[] = [];
    const attempt = async (by: string, work: () => Promise<(() => Promise<void>) | null>) => {
      try {
        const apply = await work();
        if (apply !== null) remedies.push({ by, apply });
      } catch (error) {
        if (!isKind(error, 'integrity')) throw error;
        not.push(`${by}: ${error.message}`);
      }
    };
    await attempt(earlierVersion, () => this.#earlier(bad));
    await attempt(ownArchive, () => this.#ownWay(bad, history));
    for (const other of this.#options.others) await attempt(other.name, () => this.#from(other, bad, history));
    return { remedies, not };
  }

  async #earlier(bad: Suspect): Promise<(() => Promise<void>) | null> {
    const { store } = this.#options;
    // Of what is replaced an earlier one is true and says less; it is made again.
    if (bad.part === 'tip' || bad.part === 'floor' || bad.object !== bad.lastObject) return null;
    for await (const bytes of store.earlier?.(bad.object) ?? []) {
      if ((await bad.check(bytes)) !== null) continue;
      return () => putHealed(store, bad.object, [bytes], bad.check);
    }
    return null;
  }

  /** What follows from other objects of the same archive. */
  async #ownWay(bad: Suspect, history: ArchiveHistory | null): Promise<(() => Promise<void>) | null> {
    const { store, signal } = this.#options;
    const put = (body: readonly Uint8Array[] | null) =>
      body === null ? null : () => putHealed(store, bad.object, body, bad.check);
    switch (bad.part) {
      case 'chain':
        return history === null ? null : await this.#same({ history, from: null, suspect: bad, signal });
      case 'index':
        return put(history === null ? null : await indexOf(bad.object, history));
      case 'tip':
        return put(tipBodyOf(history));
      case 'floor':
        return history === null ? null : () => raisedFloor(history, signal);
      case 'key':
        return store instanceof SealedStore && store.newestRecord === bad.object ? put([store.chunkKey]) : null;
      case 'snapshot':
        return bad.object.endsWith('/COMPLETE') && !bad.isMissing ? put(await remark(store, idOf(bad.object))) : null;
      default:
        return null;
    }
  }

  async #from(other: NamedStore, bad: Suspect, history: ArchiveHistory | null): Promise<(() => Promise<void>) | null> {
    const { store, signal, badPacks } = this.#options;
    switch (bad.part) {
      case 'chain':
        return history === null ? null : await this.#chainFrom(other, bad, history);
      case 'pack': {
        const packId = bad.object.slice(bad.object.lastIndexOf('/') + 1);
        const body = await repack({ store, from: other.store, packId, snapshots: bad.snapshots, signal });
        return () => putHealed(store, bad.object, body, bad.check);
      }
      case 'snapshot': {
        const id = idOf(bad.object);
        if ((await other.store.head(completeKey(id))) === null) return null;
        await readManifest(other.store, id);
        return () => recopy({ store, from: other.store, id, badPacks, signal });
      }
      case 'record': {
        const bytes = await other.store.get(bad.object);
        if (bytes === null || (await bad.check(bytes)) !== null) return null;
        return () => putHealed(store, bad.object, [bytes], bad.check);
      }
      default:
        return null;
    }
  }

  async #chainFrom(other: NamedStore, bad: Suspect, history: ArchiveHistory): Promise<(() => Promise<void>) | null> {
    const { signal } = this.#options;
    const from = await this.#historyOf(other, history.sourceName);
    if (from === null) return null;
    const options = { history, from, suspect: bad, signal };
    const same = await this.#same(options);
    if (same !== null) return same;
    // Read and made for a try, so that what is promised holds.
    for await (const _ of refillGap(options)) signal.throwIfAborted();
    return async () => {
      let last = -1;
      for await (const refill of refillGap(options)) {
        await this.#putRefill(history, refill);
        last = refill.decoded.header.sequence;
      }
      await this.#raiseOver(history, last);
    };
  }

  /** The object as it was; null where it cannot be had so. */
  async #same(options: RefillOptions): Promise<(() => Promise<void>) | null> {
    const { history, suspect } = options;
    if (suspect.object !== suspect.lastObject) return null;
    const refill = await sameAgain(options);
    if (refill === null) return null;
    if (refill.key === suspect.object) return () => putHealed(history.store, refill.key, refill.body, suspect.check);
    return async () => {
      await this.#putRefill(history, refill);
      await this.#raiseOver(history, refill.decoded.header.sequence);
    };
  }

  async #putRefill({ store, sourceName }: ArchiveHistory, { key, body, decoded }: Refill): Promise<void> {
    const { header, compactedFrom } = decoded;
    const range = { first: compactedFrom ?? header.sequence, last: header.sequence };
    const place = { chain: sourceName, key, ...range, isCompacted: compactedFrom !== null };
    const wanted = Buffer.concat(body);
    const check = async (bytes: Buffer) =>
      bytes.equals(wanted)
        ? await chainObjectProblem(bytes, place, { before: null, after: null })
        : 'is another than was put there';
    await putHealed(store, key, body, check);
  }

  async #raiseOver({ store, sourceName }: ArchiveHistory, last: number): Promise<void> {
    await raiseOver(await ArchiveHistory.open(store, sourceName, this.#options), last, this.#options.signal);
  }

  #historyOf({ name, store }: NamedStore, chain: string): Promise<ArchiveHistory | null> {
    const key = `${name} ${chain}`;
    const opening = this.#histories.get(key) ?? ArchiveHistory.find(store, chain, this.#options);
    this.#histories.set(key, opening);
    return opening;
  }
}

function idOf(snapshotKey: string): string {
  return snapshotKey.split('/')[1] ?? '';
}

async function indexOf(key: string, history: ArchiveHistory): Promise<Uint8Array[] | null> {
  const range = rangeOfIndexKey(key);
  if (range === null) return null;
  const block = history.items.flatMap((item) =>
    item.type === 'segment' &&
    item.decoded.compactedFrom === null &&
    item.decoded.header.sequence >= range.first &&
    item.decoded.header.sequence <= range.last
      ? [item.decoded]
      : [],
  );
  return block.length === range.last - range.first + 1 ? await sealIndex(block) : null;
}

function tipBodyOf(history: ArchiveHistory | null): Uint8Array[] | null {
  const last = history?.items.at(-1);
  return last?.type === 'segment' ? [tipBody(tipOf(last.decoded.header))] : null;
}

/** Where its object is damaged, as far as compacted objects go without a hole; then as high as it has to be. */
async function raisedFloor(history: ArchiveHistory, signal: AbortSignal): Promise<void> {
  const { store, sourceName: chain } = history;
  const ranges = await listCompacted(store, chain, signal);
  let floor = await readFloor(store, chain).catch((error: unknown) => {
    if (isKind(error, 'integrity')) return null;
    throw error;
  });
  if (floor === null || !(floor < 0 || ranges.some(({ last }) => last === floor))) {
    const body = floorBody(reachOf(ranges));
    await putHealed(store, floorKey(chain), [body], async (bytes) => (bytes.equals(body) ? null : 'is another one'));
    floor = reachOf(ranges);
  }
  const needed = await neededFloor({ store, chain, signal }, ranges, floor);
  if (needed > floor) await raiseOver(history, needed, signal);
}

function reachOf(ranges: readonly CompactedRange[]): number {
  let reach: number | null = null;
  for (const { first, last } of widest(ranges)) {
    if (reach !== null && first !== reach + 1) break;
    reach = last;
  }
  return reach ?? 0;
}
