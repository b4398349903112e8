/**
 * Leases: what somebody who reads or writes over hours needs to stay, said in the archive itself and renewed while he works.
 * He first puts his lease and then reads `begin` and `condemned`; whoever deletes first writes those and then looks for leases:
 * so one of the two always sees the other. An end is judged by the store's clock and by the holder's, with an hour to spare.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { integrityError, QazynaError } from '../errors/error.ts';
import type { Logger } from '../logging/logger.ts';
import { leasesPrefix } from './layout.ts';
import { parseObject } from './open.ts';
import type { ObjectInfo, ObjectStore } from './store.ts';

const leaseFormat = 1;
const defaultValidMs = 3_600_000;
/** Of its validity: so often it is renewed. */
const renewShare = 1 / 6;
/** Whoever stops must not wait for an archive that is away. */
const returnWithinMs = 2000;
/** Beyond its end, for clocks that differ and for a renewal on its way. */
export const leaseMarginMs = 3_600_000;

export type LeaseKind = 'restore' | 'standby' | 'snapshot';

/** What has to stay. */
export interface LeaseNeeds {
  /** Of this chain everything from this segment on. */
  sequence: number;
  /** This snapshot; '' while none is chosen: then every one of the source. */
  snapshot: string;
  /** For a snapshot that is being taken: the version of `condemned` that it knows; what was condemned later it may point at. */
  condemned: number;
}

export interface HeldLease extends LeaseNeeds {
  key: string;
  kind: LeaseKind;
  source: string;
  /** By the holder's clock (ms since 1970), and how long it was given for. */
  expiresMs: number;
  validMs: number;
  modifiedMs: number | undefined;
}

export interface LeaseOptions {
  kind: LeaseKind;
  source: string;
  needs?: Partial<LeaseNeeds>;
  logger: Logger;
  validMs?: number;
}

/** Everything, until it is known better. */
const everything: LeaseNeeds = { sequence: 0, snapshot: '', condemned: 0 };

export class Lease implements AsyncDisposable {
  readonly #store: ObjectStore;
  readonly #options: LeaseOptions;
  readonly #key = `${leasesPrefix}${randomBytes(16).toString('hex')}`;
  readonly #validMs: number;
  readonly #stop = new AbortController();
  #needs: LeaseNeeds;
  #etag: string | null = null;
  /** By two clocks: one stands still while a machine is frozen, the other can be set. */
  #renewed = { monotonicMs: performance.now(), wallMs: Date.now() };
  #lapsed = false;
  #renewing: Promise<void> = Promise.resolve();
  #turn: Promise<void> = Promise.resolve();

  private constructor(store: ObjectStore, options: LeaseOptions) {
    this.#store = store;
    this.#options = options;
    this.#validMs = options.validMs ?? defaultValidMs;
    this.#needs = { ...everything, ...options.needs };
  }

  /** Held when it resolves; renewed until it is disposed of. Rejects when the archive cannot be written to. */
  static async take(store: ObjectStore, options: LeaseOptions): Promise<Lease> {
    const lease = new Lease(store, options);
    await lease.#put(false);
    lease.#renewing = lease.#renew();
    return lease;
  }

  /** From now on less is needed. */
  async narrow(needs: Partial<LeaseNeeds>): Promise<void> {
    this.#needs = { ...this.#needs, ...needs };
    await this.#put(false);
  }

  /** Whether it may have ended at any time since it was taken: what it protected may be gone. */
  get hasLapsed(): boolean {
    const { monotonicMs, wallMs } = this.#renewed;
    const elapsedMs = Math.max(performance.now() - monotonicMs, Date.now() - wallMs);
    this.#lapsed ||= elapsedMs > this.#validMs;
    return this.#lapsed;
  }

  /** Nobody may have the right to delete it: it is marked as given back; where that takes long, it ends by itself. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    const returned = this.#renewing.then(() => this.#put(true)).catch((error: unknown) => this.#trouble(error));
    await Promise.race([returned, sleep(returnWithinMs, undefined, { ref: false })]);
  }

  async #renew(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await sleep(this.#validMs * renewShare, undefined, { signal, ref: false }).catch(() => undefined);
      if (signal.aborted) return;
      await this.#put(false).catch((error: unknown) => this.#trouble(error));
    }
  }

  #trouble(error: unknown): void {
    if (!(error instanceof QazynaError)) throw error;
    this.#options.logger.warn(`the lease in ${this.#store.url} could not be renewed: ${error.message}`, {
      code: error.code,
    });
  }

  /** One put at a time, each in its turn. */
  async #put(isReturned: boolean): Promise<void> {
    const mine = this.#turn.catch(() => undefined).then(() => this.#putNow(isReturned));
    this.#turn = mine;
    await mine;
  }

  async #putNow(isReturned: boolean): Promise<void> {
    const { kind, source } = this.#options;
    const started = { monotonicMs: performance.now(), wallMs: Date.now() };
    const validMs = isReturned ? 0 : this.#validMs;
    const lease = { format: leaseFormat, kind, source, ...this.#needs, expiresMs: Date.now() + validMs, validMs };
    const body = [Buffer.from(`${JSON.stringify(lease)}\n`)];
    const outcome = await this.#store.putIfMatch(this.#key, body, this.#etag);
    if (outcome !== 'changed') return this.#renewedBy(outcome.etag, started);
    // Deleted as outlived, or an answer was lost: it is put again as it has to be now.
    const info = await this.#store.head(this.#key);
    const again = await this.#store.putIfMatch(this.#key, body, info?.etag ?? null);
    if (again === 'changed') throw new Error('nobody else writes a lease');
    this.#renewedBy(again.etag, started);
  }

  /** What has lapsed once stays so, whatever came after it. */
  #renewedBy(etag: string, started: { monotonicMs: number; wallMs: number }): void {
    this.#etag = etag;
    if (!this.hasLapsed) this.#renewed = started;
  }
}

/** A reader's lease, or why he has none: he may have no right to write. */
export async function holdLease(store: ObjectStore, options: LeaseOptions): Promise<Lease | null> {
  try {
    return await Lease.take(store, options);
  } catch (error) {
    if (!(error instanceof QazynaError)) throw error;
    options.logger.debug(`no lease in ${store.url}: ${error.message}`, { code: error.code });
    return null;
  }
}

export interface LeaseClocks {
  /** The store's and one's own, ms since 1970; the store's is null where it does not tell. */
  storeMs: number | null;
  nowMs: number;
  marginMs?: number;
}

/** Those that hold, and the keys of those that do not any more. Throws QZ3442 for one that cannot be read. */
export async function readLeases(store: ObjectStore, clocks: LeaseClocks, signal: AbortSignal) {
  const held: HeldLease[] = [];
  const over: string[] = [];
  for await (const info of store.list(leasesPrefix, { signal })) {
    const bytes = await store.get(info.key);
    if (bytes === null) continue;
    const lease = decodeLease(bytes, info, store.url);
    if (isOver(lease, clocks)) over.push(info.key);
    else held.push(lease);
  }
  signal.throwIfAborted();
  return { held, over };
}

/** By both clocks: one that is wrong must not end it. */
function isOver(lease: HeldLease, { storeMs, nowMs, marginMs = leaseMarginMs }: LeaseClocks): boolean {
  if (lease.validMs === 0) return true;
  if (storeMs === null || lease.modifiedMs === undefined) return false;
  const isOldInStore = storeMs - lease.modifiedMs > lease.validMs + marginMs;
  return isOldInStore && nowMs > lease.expiresMs + marginMs;
}

function decodeLease(bytes: Buffer, { key, modifiedMs }: ObjectInfo, url: string): HeldLease {
  const found = parseObject(bytes.toString());
  const number = (field: string): number => {
    const value = found?.[field];
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
    throw damaged(key, url);
  };
  const kind = (['restore', 'standby', 'snapshot'] as const).find((one) => one === found?.kind);
  const { source, snapshot } = found ?? {};
  if (found?.format !== leaseFormat || kind === undefined) throw damaged(key, url);
  if (typeof source !== 'string' || typeof snapshot !== 'string') throw damaged(key, url);
  return {
    key,
    kind,
    source,
    sequence: number('sequence'),
    snapshot,
    condemned: number('condemned'),
    expiresMs: number('expiresMs'),
    validMs: number('validMs'),
    modifiedMs,
  };
}

function damaged(key: string, url: string) {
  return integrityError(
    'QZ3442',
    `The lease ${key} in ${url} is damaged: nobody can tell what it needs, nor until when.`,
    'Nothing is deleted while it is so. Delete it once no restore, standby or snapshot is under way.',
    { details: { object: key } },
  );
}
