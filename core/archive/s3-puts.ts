/**
 * Conditional puts whose outcome is known. Each carries a random mark in its metadata: when the answer is lost (a reset, a
 * time-out, 5xx, 409) or a 412 may be the echo of one's own success (somebody between here and there sent it twice), the
 * object is looked up, and is this put's exactly when it has its mark.
 */
import { randomBytes } from 'node:crypto';
import { crashPoint } from '../errors/crash-points.ts';
import { transientError } from '../errors/error.ts';
import { checkKey } from './key.ts';
import { bodyOf } from './s3-body.ts';
import type { S3Calls } from './s3-calls.ts';
import { isReset, S3Failure } from './s3-errors.ts';
import { multipartAboveBytes, putInParts } from './s3-multipart.ts';
import type { Condition, S3Body } from './s3-types.ts';
import type { ObjectInfo } from './store.ts';

/** Metadata of each object: FORMAT.md, "Objects in S3". */
export const shaName = 'qazyna-sha256';
const markName = 'qazyna-put';
const doubtsMax = 256;
/** One object for ever: the probe needs no right to delete. */
export const probeKey = 'probe/conditional-writes';

interface Put {
  key: string;
  body: S3Body;
  mark: string;
  condition: Condition;
}

export class S3Puts {
  readonly #calls: S3Calls;
  /** Puts that may have landed, or may yet; put again with the same content, they keep their mark. By key. */
  readonly #doubts = new Map<string, { sha256: Buffer; mark: string }>();
  /** Whether the service honours the condition of an upload in parts; null until it was asked. */
  #areParts: Promise<boolean> | null = null;

  constructor(calls: S3Calls) {
    this.#calls = calls;
  }

  /**
   * Services learnt conditions on puts earlier than on uploads in parts (Ceph 16 takes the header and replaces the object), so
   * it is asked once, before the first of them; where they are ignored, large objects are put in one piece. It is asked with a
   * lock where there are to be some, so that what cannot be locked shows: where nothing comes of it, nothing is locked by it.
   */
  async probeParts(): Promise<boolean> {
    this.#areParts ??= this.#askParts().catch((error: unknown) => {
      this.#areParts = null;
      throw error;
    });
    return await this.#areParts;
  }

  async #askParts(): Promise<boolean> {
    const body = await bodyOf([randomBytes(16)]);
    await this.put(probeKey, body.parts, { ifNoneMatch: '*' });
    const mark = randomBytes(16).toString('hex');
    try {
      const metadata = { [markName]: mark };
      await putInParts(this.#calls, { key: probeKey, body, metadata, condition: { ifNoneMatch: '*' }, locked: true });
      return false;
    } catch (error) {
      if (!(error instanceof S3Failure)) throw error;
      if (error.status === 412 || error.status === 409) return true;
      // Done, and answered as Ceph 16 does when it has replaced an object: without an ETag.
      if (error.code === 'NoHeader') return false;
      const found = await this.#calls.run('s3:GetObject', probeKey, () => this.#calls.requests.head(probeKey));
      if (found?.metadata[markName] === mark) return false;
      throw this.#calls.error(error, 's3:PutObject', probeKey);
    }
  }

  /** `declined`: the condition does not hold. Rejects with a transient error when nothing of it is there yet. */
  async put(key: string, parts: readonly Uint8Array[], condition: Condition): Promise<ObjectInfo | 'declined'> {
    checkKey(key);
    const body = await bodyOf(parts);
    const doubt = this.#doubts.get(key);
    const mark = doubt?.sha256.equals(body.sha256) ? doubt.mark : randomBytes(16).toString('hex');
    const put = { key, body, mark, condition };
    for (let attempt = 1; ; attempt += 1) {
      const outcome = await this.#once(put);
      if (!(outcome instanceof S3Failure)) return outcome;
      // As in S3Calls.run: a broken connection alone is tried again here, at once. It keeps its mark, so it lands once.
      if (attempt > 1 || !isReset(outcome)) throw this.#calls.error(outcome, 's3:PutObject', key);
    }
  }

  /** A failure: nothing has landed so far. */
  async #once(put: Put): Promise<ObjectInfo | 'declined' | S3Failure> {
    const { key, body } = put;
    try {
      crashPoint('s3:before-put');
      const etag = await this.#send(put);
      crashPoint('s3:after-put');
      if (etag === null) return await this.#lookUp(put, null);
      this.#calls.worked('s3:PutObject');
      this.#doubts.delete(key);
      return { key, sizeBytes: body.sizeBytes, etag };
    } catch (error) {
      if (!(error instanceof S3Failure)) throw error;
      const isDeclined = error.status === 412 || (error.status === 404 && put.condition.ifMatch !== undefined);
      if (error.code === 'NoSuchBucket' || (error.isCertain && !isDeclined)) {
        throw this.#calls.error(error, 's3:PutObject', key);
      }
      return await this.#lookUp(put, error);
    }
  }

  /** The new etag; null when something is there already and so nothing was sent. */
  async #send({ key, body, mark, condition }: Put): Promise<string | null> {
    const { requests } = this.#calls;
    const metadata = { [shaName]: body.sha256.toString('hex'), [markName]: mark };
    if (condition.ifNoneMatch === undefined || body.sizeBytes <= multipartAboveBytes) {
      return await requests.put(key, body, metadata, condition);
    }
    if ((await requests.head(key)) !== null) return null;
    if (!(await this.probeParts())) return await requests.put(key, body, metadata, condition);
    return await putInParts(this.#calls, { key, body, metadata, condition });
  }

  /** `failure`: why the outcome is not known; null when something is known to be there. */
  async #lookUp(put: Put, failure: S3Failure | null): Promise<ObjectInfo | 'declined' | S3Failure> {
    const { key, condition, mark } = put;
    this.#doubt(put);
    const found = await this.#calls.run('s3:GetObject', key, () => this.#calls.requests.head(key));
    const isOurs = found?.metadata[markName] === mark;
    const isOthers = found !== null && (condition.ifNoneMatch !== undefined || found.etag !== condition.ifMatch);
    if (isOurs || isOthers) this.#doubts.delete(key);
    if (isOurs) return { key, sizeBytes: found.sizeBytes, etag: found.etag };
    if (isOthers) return 'declined';
    if (failure === null || failure.status === 412 || failure.status === 404) {
      if (condition.ifMatch !== undefined && found === null) return 'declined';
      throw this.#declinedFor(key, found !== null, failure);
    }
    return failure;
  }

  /** Declined, and not by what is there now. */
  #declinedFor(key: string, isThere: boolean, failure: S3Failure | null) {
    const why = isThere ? 'though it is still what was to be put over' : 'because of an object that is no longer there';
    const hint = isThere
      ? 'Somebody else is changing it at this moment, and it is tried again.'
      : 'Somebody else is changing it at this moment, and it is tried again; if it stays so, the service keeps a name without an object (after a crash): delete it there.';
    return transientError('QZ4409', `${this.#calls.requests.place.name} declined to put ${key}, ${why}.`, hint, {
      details: { key },
      ...(failure === null ? {} : { cause: failure }),
    });
  }

  #doubt({ key, body, mark }: Put): void {
    this.#doubts.delete(key);
    this.#doubts.set(key, { sha256: body.sha256, mark });
    const [oldest] = this.#doubts.keys();
    if (this.#doubts.size > doubtsMax && oldest !== undefined) this.#doubts.delete(oldest);
  }
}
