/**
 * The one file that imports the AWS SDK: single requests to one bucket, in this project's words. Each has deadlines, is
 * tried once, and rejects with an S3Failure; what that means is its caller's business (s3.ts).
 */
import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  type DeleteMarkerEntry,
  DeleteObjectCommand,
  GetBucketVersioningCommand,
  GetObjectCommand,
  type GetObjectCommandOutput,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  type ObjectLockMode,
  type ObjectVersion,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { isReplacedKey } from './layout.ts';
import { readBody, streamOf } from './s3-body.ts';
import { type AccessKeys, authorities, CredentialsFile } from './s3-credentials.ts';
import { areKeysRefused, failureOf, S3Failure } from './s3-errors.ts';
import type { S3Place } from './s3-place.ts';
import { absent, modifiedAt, newestFirst, preconditions, regionOf, required, signedContent } from './s3-shapes.ts';
import type { Condition, S3Body, S3Bytes, S3Object, S3Page, S3Upload, S3Version, UploadedPart } from './s3-types.ts';
import { errorCode } from './store-error.ts';

export interface S3ClientOptions {
  place: S3Place;
  warn: (sentence: string) => void;
  deadlines?: Partial<S3Deadlines>;
}

export interface S3Deadlines {
  /** To a connection, with its TLS handshake. */
  connectMs: number;
  /** To the answer's first byte, besides the time its body may take. */
  answerMs: number;
  /** The slowest transfer that is waited for. */
  bytesPerSecondMin: number;
}

const defaultDeadlines: S3Deadlines = { connectMs: 10_000, answerMs: 30_000, bytesPerSecondMin: 128 * 1024 };
const socketsMax = 32;
/** Shorter than what services allow, so that a kept-alive connection is seldom found closed by the other side. */
const idleSocketMs = 15_000;
/** Smaller bodies are sent from one buffer. */
const joinBytesMax = 256 * 1024;
/** No object of an archive comes near; what claims to be larger is none of ours. */
const objectBytesMax = 2 ** 31 - 1;
const pageKeys = 1000;
/** New clients, and with them new looks for keys, at most this often. */
const renewEveryMs = 10_000;

type Send<T> = (client: S3Client, signal: AbortSignal) => Promise<T>;

export class S3Requests {
  readonly place: S3Place;
  readonly #deadlines: S3Deadlines;
  readonly #file: CredentialsFile | null;
  readonly #ca: string[];
  /** The keys the last request was signed with. */
  #keys: AccessKeys | null = null;
  #client: S3Client;
  #renewedMs = 0;

  private constructor(options: S3ClientOptions, ca: string[]) {
    const { place, warn, deadlines } = options;
    this.place = place;
    this.#deadlines = { ...defaultDeadlines, ...deadlines };
    this.#file = place.credentialsFile === null ? null : new CredentialsFile(place.credentialsFile, warn);
    this.#ca = ca;
    this.#client = this.#connect();
  }

  /** Reads what the place names: throws QZ2419 for the credentials file, QZ2421 for the authorities. */
  static async open(options: S3ClientOptions): Promise<S3Requests> {
    const requests = new S3Requests(options, await authorities(options.place));
    await requests.#file?.keys();
    return requests;
  }

  /** Resolves with the new object's etag. */
  async put(key: string, body: S3Body, metadata: Record<string, string>, condition: Condition): Promise<string> {
    const command = new PutObjectCommand({
      ...this.#at(key),
      ...preconditions(condition),
      ...this.#bodyInput(body),
      Metadata: metadata,
      ContentType: 'application/octet-stream',
      ...this.#lock(!isReplacedKey(key)),
    });
    command.middlewareStack.add(signedContent(body), { step: 'build' });
    const { ETag } = await this.#send(body.sizeBytes, (client, abortSignal) => client.send(command, { abortSignal }));
    return required(ETag, 'ETag');
  }

  /** Bytes [start, end), or all; null when there is no such object. An empty buffer where the range begins behind its end. */
  async get(key: string, range?: { start: number; end: number }, version?: string): Promise<S3Bytes | null> {
    const command = new GetObjectCommand({
      ...this.#at(key),
      ...(version === undefined ? {} : { VersionId: version }),
      ...(range === undefined ? {} : { Range: `bytes=${range.start}-${range.end - 1}` }),
    });
    try {
      return await this.#send(0, async (client, abortSignal) => {
        const output = await client.send(command, { abortSignal });
        return await this.#collect(key, output, range);
      });
    } catch (error) {
      return absent(error);
    }
  }

  async head(key: string): Promise<S3Object | null> {
    try {
      const command = new HeadObjectCommand(this.#at(key));
      const found = await this.#send(0, (client, abortSignal) => client.send(command, { abortSignal }));
      return {
        key,
        sizeBytes: found.ContentLength ?? 0,
        etag: required(found.ETag, 'ETag'),
        metadata: found.Metadata ?? {},
        ...modifiedAt(found.LastModified),
      };
    } catch (error) {
      return absent(error);
    }
  }

  /** One page of keys below `prefix`, strictly after `after`. */
  async list(prefix: string, from: { after?: string; token?: string }, signal?: AbortSignal): Promise<S3Page> {
    const { Bucket, Key } = this.#at(prefix);
    const command = new ListObjectsV2Command({
      Bucket,
      Prefix: Key,
      MaxKeys: pageKeys,
      ...(from.token === undefined ? {} : { ContinuationToken: from.token }),
      ...(from.after === undefined ? {} : { StartAfter: this.#at(from.after).Key }),
    });
    const page = await this.#send(0, (client, abortSignal) => client.send(command, { abortSignal }), signal);
    const objects = (page.Contents ?? []).map(({ Key: key = '', Size, ETag = '', LastModified }) => ({
      key: this.#keyOf(key),
      sizeBytes: Size ?? 0,
      etag: ETag,
      ...modifiedAt(LastModified),
    }));
    return { objects, next: page.IsTruncated ? required(page.NextContinuationToken, 'NextContinuationToken') : null };
  }

  async remove(key: string): Promise<void> {
    const command = new DeleteObjectCommand(this.#at(key));
    try {
      await this.#send(0, (client, abortSignal) => client.send(command, { abortSignal }));
    } catch (error) {
      absent(error);
    }
  }

  /** Resolves with the upload's id. */
  async beginUpload(key: string, metadata: Record<string, string>, locked = !isReplacedKey(key)): Promise<string> {
    const command = new CreateMultipartUploadCommand({
      ...this.#at(key),
      ...(this.#checksums ? { ChecksumAlgorithm: 'SHA256' as const } : {}),
      Metadata: metadata,
      ContentType: 'application/octet-stream',
      ...this.#lock(locked),
    });
    const { UploadId } = await this.#send(0, (client, abortSignal) => client.send(command, { abortSignal }));
    return required(UploadId, 'UploadId');
  }

  /** `number` from 1. */
  async putPart(key: string, uploadId: string, number: number, body: S3Body): Promise<UploadedPart> {
    const input = { ...this.#at(key), ...this.#bodyInput(body), UploadId: uploadId, PartNumber: number };
    const command = new UploadPartCommand(input);
    command.middlewareStack.add(signedContent(body), { step: 'build' });
    const { ETag } = await this.#send(body.sizeBytes, (client, abortSignal) => client.send(command, { abortSignal }));
    const part = { PartNumber: number, ETag: required(ETag, 'ETag') };
    return input.ChecksumSHA256 === undefined ? part : { ...part, ChecksumSHA256: input.ChecksumSHA256 };
  }

  /** Resolves with the new object's etag. */
  async endUpload(
    key: string,
    uploadId: string,
    parts: readonly UploadedPart[],
    condition: Condition,
    sizeBytes: number,
  ): Promise<string> {
    const command = new CompleteMultipartUploadCommand({
      ...this.#at(key),
      ...preconditions(condition),
      UploadId: uploadId,
      MultipartUpload: { Parts: [...parts] },
    });
    // The service may copy the parts together before it answers.
    const { ETag } = await this.#send(sizeBytes, (client, abortSignal) => client.send(command, { abortSignal }));
    return required(ETag, 'ETag');
  }

  async abortUpload(key: string, uploadId: string): Promise<void> {
    const command = new AbortMultipartUploadCommand({ ...this.#at(key), UploadId: uploadId });
    await this.#send(0, (client, abortSignal) => client.send(command, { abortSignal }));
  }

  /** Whether the bucket keeps versions. */
  async isVersioned(): Promise<boolean> {
    const command = new GetBucketVersioningCommand({ Bucket: this.place.bucket });
    const { Status } = await this.#send(0, (client, abortSignal) => client.send(command, { abortSignal }));
    return Status !== undefined;
  }

  /** One page of uploads that were begun below the prefix and not ended; `from`: where the page before ended. */
  async uploads(from: { key: string; id: string } | null): Promise<{ uploads: S3Upload[]; next: typeof from }> {
    const command = new ListMultipartUploadsCommand({
      Bucket: this.place.bucket,
      Prefix: this.place.prefix,
      ...(from === null ? {} : { KeyMarker: from.key, UploadIdMarker: from.id }),
    });
    const page = await this.#send(0, (client, abortSignal) => client.send(command, { abortSignal }));
    const uploads = (page.Uploads ?? []).map(({ Key = '', UploadId = '', Initiated }) => {
      return { key: this.#keyOf(Key), id: UploadId, begunMs: Initiated?.getTime() ?? Number.POSITIVE_INFINITY };
    });
    const { NextKeyMarker: key, NextUploadIdMarker: id = '' } = page;
    return { uploads, next: page.IsTruncated && key !== undefined ? { key, id } : null };
  }

  /** One page of versions of keys that begin so, by key, and of each key the newest first. */
  async versions(
    from: { key: string; id: string } | null,
    beginning = '',
  ): Promise<{ versions: S3Version[]; next: typeof from }> {
    const command = new ListObjectVersionsCommand({
      Bucket: this.place.bucket,
      Prefix: `${this.place.prefix}${beginning}`,
      MaxKeys: pageKeys,
      ...(from === null ? {} : { KeyMarker: from.key, ...(from.id === '' ? {} : { VersionIdMarker: from.id }) }),
    });
    const page = await this.#send(0, (client, abortSignal) => client.send(command, { abortSignal }));
    const version = (found: ObjectVersion | DeleteMarkerEntry, isMark: boolean): S3Version => ({
      key: this.#keyOf(found.Key ?? ''),
      id: found.VersionId ?? '',
      isCurrent: found.IsLatest === true,
      isMark,
      etag: 'ETag' in found ? (found.ETag ?? '') : '',
      modifiedMs: found.LastModified?.getTime() ?? Number.POSITIVE_INFINITY,
    });
    const versions = [
      ...(page.Versions ?? []).map((one) => version(one, false)),
      ...(page.DeleteMarkers ?? []).map((one) => version(one, true)),
    ].sort((a, b) => (a.key === b.key ? newestFirst(a, b) : a.key < b.key ? -1 : 1));
    const { NextKeyMarker: key, NextVersionIdMarker: id = '' } = page;
    return { versions, next: page.IsTruncated && key !== undefined ? { key, id } : null };
  }

  async removeVersion(key: string, versionId: string): Promise<void> {
    const command = new DeleteObjectCommand({ ...this.#at(key), VersionId: versionId });
    try {
      await this.#send(0, (client, abortSignal) => client.send(command, { abortSignal }));
    } catch (error) {
      absent(error);
    }
  }

  /** Until when a version is locked; 0 where nobody says that it is. */
  async lockedUntilMs(key: string, version: string): Promise<number> {
    const command = new HeadObjectCommand({ ...this.#at(key), VersionId: version });
    const found = await this.#send(0, (client, abortSignal) => client.send(command, { abortSignal }));
    return found.ObjectLockRetainUntilDate?.getTime() ?? 0;
  }

  /** What is put once is locked; what is replaced again and again would only fill the bucket. */
  #lock(locked: boolean) {
    const { lock } = this.place;
    if (lock === null || !locked) return {};
    const ObjectLockMode: ObjectLockMode = lock.mode === 'compliance' ? 'COMPLIANCE' : 'GOVERNANCE';
    return { ObjectLockMode, ObjectLockRetainUntilDate: new Date(Date.now() + lock.forMs) };
  }

  #keyOf(name: string): string {
    return name.slice(this.place.prefix.length);
  }

  get #checksums(): boolean {
    return this.place.checksums === 'when_supported';
  }

  #at(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.place.bucket, Key: `${this.place.prefix}${key}` };
  }

  #bodyInput({ parts, sizeBytes, sha256 }: S3Body) {
    const Body = sizeBytes <= joinBytesMax ? Buffer.concat(parts) : streamOf(parts);
    const checksum = this.#checksums ? { ChecksumSHA256: sha256.toString('base64') } : {};
    return { Body, ContentLength: sizeBytes, ...checksum };
  }

  /**
   * One request within its deadline. Only keys that were refused are tried once more, when there are other ones by now: a
   * rotation must not stop a daemon, and only here both pairs are known.
   */
  async #send<T>(sizeBytes: number, send: Send<T>, signal?: AbortSignal): Promise<T> {
    try {
      return await this.#once(sizeBytes, send, signal);
    } catch (error) {
      const renewed = error instanceof S3Failure && areKeysRefused(error) && (await this.#renewKeys());
      if (!renewed) throw error;
      return await this.#once(sizeBytes, send, signal);
    }
  }

  async #once<T>(sizeBytes: number, send: Send<T>, signal?: AbortSignal): Promise<T> {
    const { connectMs, answerMs, bytesPerSecondMin } = this.#deadlines;
    const deadline = AbortSignal.timeout(connectMs + answerMs + Math.ceil((sizeBytes / bytesPerSecondMin) * 1000));
    try {
      return await send(this.#client, signal === undefined ? deadline : AbortSignal.any([deadline, signal]));
    } catch (error) {
      signal?.throwIfAborted();
      if (errorCode(error).startsWith('QZ')) throw error;
      throw failureOf(error, deadline.aborted);
    }
  }

  async #renewKeys(): Promise<boolean> {
    if (this.#file !== null) return await this.#file.haveChanged(this.#keys);
    if (performance.now() - this.#renewedMs < renewEveryMs) return false;
    this.#renewedMs = performance.now();
    this.#client = this.#connect();
    return true;
  }

  #connect(): S3Client {
    const { place } = this;
    const file = this.#file;
    const agent = { keepAlive: true, maxSockets: socketsMax, timeout: idleSocketMs };
    // `memoized`: the SDK asks for each request, so that a changed file counts at once.
    const fromFile = async () => {
      this.#keys = (await file?.keys()) ?? null;
      return this.#keys ?? { accessKeyId: '', secretAccessKey: '' };
    };
    const client = new S3Client({
      ...(place.endpoint === null ? {} : { endpoint: place.endpoint.origin }),
      ...regionOf(place),
      ...(file === null ? {} : { credentials: Object.assign(fromFile, { memoized: true }) }),
      forcePathStyle: place.pathStyle,
      followRegionRedirects: false,
      // With it, a service or proxy that does not know `Expect` would cost six seconds for each large put.
      expectContinueHeader: false,
      // SHA-256 is computed here, over parts as they lie, and verified here: the SDK's own would need bodies in one piece.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      requestHandler: {
        connectionTimeout: this.#deadlines.connectMs,
        httpAgent: new HttpAgent(agent),
        httpsAgent: new HttpsAgent({ ...agent, ca: this.#ca }),
      },
    });
    // One try: core/errors/retry.ts retries. A second try in here would turn the first one's success into a 412, and even with
    // a single one the SDK's middleware writes warnings and wraps what Node threw.
    client.middlewareStack.add((next) => next, {
      name: 'retryMiddleware',
      step: 'finalizeRequest',
      priority: 'high',
      override: true,
    });
    return client;
  }

  async #collect(key: string, output: GetObjectCommandOutput, range?: { start: number; end: number }) {
    const body = output.Body;
    if (!(body instanceof Readable)) throw new S3Failure('EPIPE', 0, 'an answer without a body');
    const sizeBytes = output.ContentLength ?? -1;
    const { bytesPerSecondMin } = this.#deadlines;
    const late = AbortSignal.timeout(this.#deadlines.answerMs + Math.ceil((sizeBytes / bytesPerSecondMin) * 1000));
    const stop = () => body.destroy(new S3Failure('Deadline', 0, 'a body slower than its deadline'));
    late.addEventListener('abort', stop);
    try {
      if (sizeBytes < 0 || sizeBytes > objectBytesMax)
        throw new S3Failure('BadLength', 0, `a body of ${sizeBytes} bytes`);
      const { bytes, sha256 } = await readBody(body, sizeBytes);
      const found = { key, etag: output.ETag ?? '', metadata: output.Metadata ?? {}, sizeBytes };
      if (range === undefined) return { ...found, bytes, sha256 };
      // A service that knows no ranges answers with the whole.
      const isRange = output.ContentRange !== undefined;
      return { ...found, bytes: isRange ? bytes : bytes.subarray(range.start, range.end), sha256: '' };
    } finally {
      late.removeEventListener('abort', stop);
      body.destroy();
    }
  }
}
