/**
 * Object storage in an S3 bucket: strong consistency and conditional writes are asked of the service and proved by probe().
 * Whoever calls retries passing faults; listings are told as they are, never taken for the truth.
 */
import { randomBytes } from 'node:crypto';
import { configurationError, integrityError, QazynaError } from '../errors/error.ts';
import { checkKey, checkPrefix, isKey } from './key.ts';
import { S3Calls } from './s3-calls.ts';
import { type S3Deadlines, S3Requests } from './s3-client.ts';
import { S3Failure } from './s3-errors.ts';
import { isPrivateWay, parseS3Place } from './s3-place.ts';
import { probeKey, S3Puts, shaName } from './s3-puts.ts';
import type { S3Bytes } from './s3-types.ts';
import { earlierVersions } from './s3-versions.ts';
import type { ObjectInfo, ObjectStore } from './store.ts';

const probeAttempts = 5;

export interface S3StoreOptions {
  /** Told what is unwise but works; one sentence. */
  warn?: (sentence: string) => void;
  deadlines?: Partial<S3Deadlines>;
}

/** Throws QZ2407 (URL), QZ2419 (credentials file) or QZ2421 (ca_file). Nothing is asked of the service yet. */
export async function openS3Store(url: URL, options: S3StoreOptions = {}): Promise<S3Store> {
  const place = parseS3Place(url);
  const warn = options.warn ?? (() => undefined);
  if (!isPrivateWay(place.endpoint)) {
    warn(`What is written to ${place.name} can be read on its way: its endpoint is http://, not https://.`);
  }
  const { deadlines } = options;
  return new S3Store(await S3Requests.open({ place, warn, ...(deadlines === undefined ? {} : { deadlines }) }));
}

export class S3Store implements ObjectStore {
  readonly url: string;
  readonly #calls: S3Calls;
  readonly #puts: S3Puts;

  constructor(requests: S3Requests) {
    this.url = requests.place.name;
    this.#calls = new S3Calls(requests);
    this.#puts = new S3Puts(this.#calls);
  }

  async probe(): Promise<void> {
    await this.putIfAbsent(probeKey, [randomBytes(16)]);
    const second = await this.putIfAbsent(probeKey, [randomBytes(16)]);
    if (second !== 'exists') throw this.#unconditional('a put with If-None-Match replaced an object');
    await this.#puts.probeParts();
    for (let attempt = 0; attempt < probeAttempts; attempt += 1) {
      const info = await this.head(probeKey);
      if (info === null) continue;
      const stale = await this.putIfMatch(probeKey, [randomBytes(16)], `"${randomBytes(16).toString('hex')}"`);
      if (stale !== 'changed') throw this.#unconditional('a put with the If-Match of another object replaced this one');
      const race = await Promise.all(
        [1, 2].map(() => this.putIfMatch(probeKey, [randomBytes(16)], info.etag).catch(lostRace)),
      );
      const won = race.filter((outcome) => outcome !== 'changed').length;
      if (won === 1) return;
      if (won === 2) throw this.#unconditional('two puts with the same If-Match both replaced an object');
      // None: another process probes at this moment.
    }
    throw this.#unconditional('no put with the present If-Match was taken');
  }

  async putIfAbsent(key: string, body: readonly Uint8Array[]): Promise<'created' | 'exists'> {
    return (await this.#puts.put(key, body, { ifNoneMatch: '*' })) === 'declined' ? 'exists' : 'created';
  }

  async putIfMatch(key: string, body: readonly Uint8Array[], etag: string | null): Promise<ObjectInfo | 'changed'> {
    const outcome = await this.#puts.put(key, body, etag === null ? { ifNoneMatch: '*' } : { ifMatch: etag });
    return outcome === 'declined' ? 'changed' : outcome;
  }

  async get(key: string, range?: { start: number; end: number }): Promise<Buffer | null> {
    checkKey(key);
    if (range !== undefined && range.end <= range.start) {
      return (await this.head(key)) === null ? null : Buffer.alloc(0);
    }
    const first = await this.#read(key, range);
    if (first === null || isAsPut(first)) return first?.bytes ?? null;
    // Read twice: what differs again differs in the bucket, not on its way.
    const second = await this.#read(key, range);
    if (second === null || isAsPut(second)) return second?.bytes ?? null;
    throw integrityError(
      'QZ3409',
      `Object ${key} in ${this.url} is damaged: its bytes do not have the SHA-256 it was put with.`,
      'Use another archive of this source; `qazyna windows` names what else is missing.',
      { details: { object: key } },
    );
  }

  async head(key: string): Promise<ObjectInfo | null> {
    checkKey(key);
    const found = await this.#calls.run('s3:GetObject', key, () => this.#calls.requests.head(key));
    if (found === null) return null;
    const { metadata: _, ...info } = found;
    return info;
  }

  async *list(prefix: string, options: { after?: string; signal?: AbortSignal } = {}): AsyncIterable<ObjectInfo> {
    checkPrefix(prefix);
    const { signal, after = '' } = options;
    let last = after;
    let from: { after?: string; token?: string } = after === '' ? {} : { after };
    for (;;) {
      const page = await this.#page(prefix, from, signal);
      if (page === null) return;
      for (const info of page.objects) {
        if (signal?.aborted) return;
        // What is no key of ours was put by somebody else, as a console's "folders" are.
        if (!isKey(info.key) || info.key <= after) continue;
        if (info.key <= last) throw this.#unordered(last, info.key);
        last = info.key;
        yield info;
      }
      if (page.next === null) return;
      from = { token: page.next };
    }
  }

  async remove(key: string): Promise<void> {
    checkKey(key);
    await this.#calls.run('s3:DeleteObject', key, () => this.#calls.requests.remove(key));
  }

  earlier(key: string): AsyncIterable<Buffer> {
    checkKey(key);
    return earlierVersions(this.#calls, key);
  }

  async #read(key: string, range?: { start: number; end: number }): Promise<S3Bytes | null> {
    return await this.#calls.run('s3:GetObject', key, async () => {
      try {
        return await this.#calls.requests.get(key, range);
      } catch (error) {
        if (!(error instanceof S3Failure) || error.status !== 416) throw error;
        return { key, sizeBytes: 0, etag: '', metadata: {}, bytes: Buffer.alloc(0), sha256: '' };
      }
    });
  }

  /** Null when the signal aborted. */
  async #page(prefix: string, from: { after?: string; token?: string }, signal?: AbortSignal) {
    if (signal?.aborted) return null;
    try {
      return await this.#calls.run('s3:ListBucket', prefix, () => this.#calls.requests.list(prefix, from, signal));
    } catch (error) {
      if (signal?.aborted) return null;
      throw error;
    }
  }

  #unconditional(what: string): QazynaError {
    return configurationError(
      'QZ2404',
      `The archive ${this.url} does not honour conditional writes: ${what}.`,
      'Two writers would overwrite one another there. Use a service that knows If-None-Match and If-Match, or a newer version of this one.',
    );
  }

  #unordered(last: string, next: string): QazynaError {
    return configurationError(
      'QZ2425',
      `${this.url} does not list in the order of names: ${next} behind ${last}.`,
      'Use a general purpose bucket; directory buckets (S3 Express) list in no order.',
    );
  }
}

/** Ceph declines the loser before the winner's object can be seen. */
function lostRace(error: unknown): 'changed' {
  if (error instanceof QazynaError && error.code === 'QZ4409') return 'changed';
  throw error;
}

/** Ranges, and objects that came here without our metadata, are for those above to verify. */
function isAsPut({ metadata, sha256 }: S3Bytes): boolean {
  return sha256 === '' || metadata[shaName] === undefined || metadata[shaName] === sha256;
}
