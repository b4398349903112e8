/**
 * Where writes come in: what InfluxDB forwards (a subscription), or Telegraf sends by itself. 204 means that the log has the
 * bytes. While it has not, or is away, 503: whoever can try again does so. Never 4xx for what could be retried, because
 * Telegraf drops what is answered so. A body of any size passes through in pieces of whole lines.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { pipeline, type Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { configurationError, isKind, transientError } from '../../core/errors/error.ts';
import { writeItem } from '../../core/influxdb/frames.ts';
import { wholeLines } from '../../core/influxdb/lines.ts';
import { frameBodyMax } from '../../core/journal/frame.ts';
import type { JournalWriter } from '../../core/journal/writer.ts';
import type { Logger } from '../../core/logging/logger.ts';

export interface IngestOptions {
  listen: { host: string; port: number };
  journal: Pick<JournalWriter, 'append' | 'room'>;
  /** What /ping tells: clients ask for it. */
  version: () => string;
  logger: Logger;
}

/** A piece of a long body. */
const pieceBytes = 1024 * 1024;
/** All bodies in hand, read and not yet in the log. */
const inHandMaxBytes = 64 * 1024 * 1024;
/** Of one body; then it waits. */
const piecesMax = 4;
/** Before a client gives up by itself: Telegraf after 5 s, a subscription after 30 s. */
const durableWithinMs = 4000;
/** Below this path InfluxDB forwards, so that what others send is told from it. */
export const forwardedPath = '/forwarded';
const writePaths = ['/write', '/api/v2/write', `${forwardedPath}/write`];
const behind = 'the log is behind or away';
const connectionsMax = 512;
/** A pause in which InfluxDB would have sent the next write, if it had one. */
const idleMs = 250;

export interface IngestCounters {
  writes_total: number;
  bytes_total: number;
  refused_total: number;
}

export class Ingest {
  readonly counters: IngestCounters = { writes_total: 0, bytes_total: 0, refused_total: 0 };
  readonly #options: IngestOptions;
  readonly #server: Server;
  readonly #forwarded = new Map<string, Forwarded>();
  #inHandBytes = 0;
  #closing = false;

  private constructor(options: IngestOptions) {
    this.#options = options;
    this.#server = createServer({
      maxHeaderSize: 16 * 1024,
      headersTimeout: 10_000,
      requestTimeout: 120_000,
      keepAliveTimeout: 60_000,
    });
    this.#server.maxConnections = connectionsMax;
    this.#server.on('request', (request, response) => void this.#answer(request, response));
    this.#server.on('clientError', (_error, socket) => socket.destroy());
  }

  /** Throws QZ2922 when the address cannot be used. */
  static async start(options: IngestOptions): Promise<Ingest> {
    const ingest = new Ingest(options);
    const { host, port } = options.listen;
    await new Promise<void>((resolve, reject) => {
      ingest.#server.once('error', (error: NodeJS.ErrnoException) => reject(unusable(host, port, error)));
      ingest.#server.listen({ host, port, exclusive: true }, resolve);
    });
    ingest.#server.on('error', (error) => options.logger.warn('ingest endpoint', { reason: error.message }));
    return ingest;
  }

  get port(): number {
    const address = this.#server.address();
    return address !== null && typeof address === 'object' ? address.port : this.#options.listen.port;
  }

  /**
   * Whether all that InfluxDB had accepted before `sinceMs` (performance.now()), and meant to forward, has come in: of each
   * place either nothing was under way for a moment since then, or more writes came than one subscription can hold back.
   */
  deliveredSince(sinceMs: number, queueMax: number): boolean {
    return [...this.#forwarded.values()].every((place) => place.deliveredSince(sinceMs, queueMax));
  }

  /** Takes nothing new, and waits for what is under way; then cuts what is left. */
  async close(): Promise<void> {
    this.#closing = true;
    const ended = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    const cut = setTimeout(() => this.#server.closeAllConnections(), durableWithinMs / 2);
    await ended;
    clearTimeout(cut);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const [path = '', query = ''] = (request.url ?? '').split('?', 2);
    if (this.#closing) response.setHeader('connection', 'close');
    try {
      if (request.method === 'POST' && writePaths.includes(path))
        return await this.#write(path, new URLSearchParams(query), request, response);
      request.resume();
      if (path === '/ping') return this.#say(response, 204, '');
      if (path === '/health') return this.#health(response);
      if (path === '/query') return this.#query(response);
      this.#say(response, 404, '{"error":"not found"}');
    } catch (error) {
      this.#options.logger.warn('ingest endpoint', { reason: error instanceof Error ? error.message : String(error) });
      this.#refuse(response, 503, 'the write could not be taken');
      request.resume();
    }
  }

  async #write(
    path: string,
    query: URLSearchParams,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const meta = path === '/api/v2/write' ? placeOfBucket(query) : placeOf(query);
    if (meta === null) {
      request.resume();
      return this.#say(response, 400, '{"error":"database is required"}');
    }
    const forwarded = path === `${forwardedPath}/write` ? this.#placeOf(meta) : null;
    forwarded?.begin();
    const held = { bytes: 0 };
    try {
      const taken = await this.#take(meta, bodyOf(request), held);
      if (taken === 'taken') this.#say(response, 204, '');
      else if (taken === 'tooLong') this.#say(response, 413, '{"error":"a line is longer than 8 MiB"}');
      else this.#refuse(response, 503, taken);
      if (!request.complete) request.resume();
      this.counters.writes_total += taken === 'taken' ? 1 : 0;
    } finally {
      this.#inHandBytes -= held.bytes;
      forwarded?.end();
    }
  }

  /** Durable when it resolves with `taken`; `tooLong`, or else why it is refused for now. */
  async #take(meta: Parameters<typeof writeItem>[0], body: Readable, held: { bytes: number }): Promise<string> {
    const appended: Promise<unknown>[] = [];
    const append = (piece: Buffer) => {
      const promise = this.#options.journal.append([writeItem(meta, piece)]);
      promise.catch(() => undefined); // looked at below
      appended.push(promise);
    };
    let parts: Buffer[] = [];
    let bytes = 0;
    // A line of many parts is not looked through again with each of them.
    let lookAt = pieceBytes;
    for await (const part of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      held.bytes += part.length;
      this.#inHandBytes += part.length;
      this.counters.bytes_total += part.length;
      if (this.#inHandBytes > inHandMaxBytes) return 'too much is under way';
      parts.push(part);
      bytes += part.length;
      if (bytes < lookAt) continue;
      const whole = Buffer.concat(parts);
      const end = wholeLines(whole);
      if (end === 0 && whole.length > frameBodyMax) return 'tooLong';
      if (end > 0) append(whole.subarray(0, end));
      parts = end === whole.length ? [] : [whole.subarray(end)];
      bytes = whole.length - end;
      lookAt = end > 0 ? pieceBytes : 2 * bytes;
      // A long body waits for its own beginning.
      if (appended.length >= piecesMax && !(await this.#settled(appended, held, bytes))) return behind;
    }
    if (bytes > frameBodyMax) return 'tooLong';
    if (bytes > 0) append(Buffer.concat(parts));
    return (await this.#settled(appended, held, 0)) ? 'taken' : behind;
  }

  /** Whether all are durable within the time; `stays` bytes are still in hand then. */
  async #settled(appended: Promise<unknown>[], held: { bytes: number }, stays: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), durableWithinMs);
    });
    try {
      if ((await Promise.race([Promise.all(appended), late])) === 'late') return false;
    } catch (error) {
      if (!isKind(error, 'transient')) throw error;
      return false;
    } finally {
      clearTimeout(timer);
    }
    appended.length = 0;
    this.#inHandBytes -= held.bytes - stays;
    held.bytes = stays;
    return true;
  }

  #placeOf({ db, rp }: { db: string; rp: string }): Forwarded {
    const key = JSON.stringify([db, rp]);
    const place = this.#forwarded.get(key) ?? new Forwarded();
    this.#forwarded.set(key, place);
    return place;
  }

  #health(response: ServerResponse): void {
    const status = this.#inHandBytes > inHandMaxBytes / 2 ? 'fail' : 'pass';
    const body = JSON.stringify({ name: 'qazyna', message: 'takes writes', status, version: this.#options.version() });
    this.#say(response, status === 'pass' ? 200 : 503, body);
  }

  /** CREATE DATABASE, which clients send before they write: whatever is written is kept, so it is as good as made. */
  #query(response: ServerResponse): void {
    this.#say(response, 200, '{"results":[{"statement_id":0}]}');
  }

  #refuse(response: ServerResponse, status: number, reason: string): void {
    this.counters.refused_total += 1;
    if (response.headersSent) return;
    response.setHeader('retry-after', '1');
    response.setHeader('connection', 'close');
    this.#say(response, status, JSON.stringify({ error: reason }));
  }

  #say(response: ServerResponse, status: number, body: string): void {
    const headers =
      body === '' ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    response.writeHead(status, { ...headers, 'x-influxdb-version': this.#options.version() });
    response.end(body === '' ? undefined : body);
  }
}

/** What comes through one subscription. InfluxDB sends the next write as soon as one is answered, so a pause says: no more. */
class Forwarded {
  #underWay = 0;
  /** performance.now(); null while something is under way. */
  #idleSinceMs: number | null = null;
  #lastIdleMs = 0;
  #served = 0;
  /** A time, and how many were served by then: asked for again and again with the same time. */
  #noted = { sinceMs: -1, served: 0 };

  begin(): void {
    this.#noteIdle();
    this.#underWay += 1;
    this.#idleSinceMs = null;
  }

  end(): void {
    this.#underWay -= 1;
    this.#served += 1;
    if (this.#underWay === 0) this.#idleSinceMs = performance.now();
  }

  deliveredSince(sinceMs: number, queueMax: number): boolean {
    this.#noteIdle();
    if (this.#lastIdleMs > sinceMs) return true;
    // Served since this was first asked, which is later than `sinceMs`.
    if (this.#noted.sinceMs !== sinceMs) this.#noted = { sinceMs, served: this.#served };
    return this.#served - this.#noted.served > queueMax;
  }

  #noteIdle(): void {
    const nowMs = performance.now();
    if (this.#idleSinceMs !== null && nowMs - this.#idleSinceMs >= idleMs) this.#lastIdleMs = nowMs - idleMs;
  }
}

function bodyOf(request: IncomingMessage): Readable {
  if (request.headers['content-encoding'] !== 'gzip') return request;
  return pipeline(request, createGunzip(), () => undefined);
}

function placeOf(query: URLSearchParams) {
  const db = query.get('db') ?? '';
  return db === '' ? null : { db, rp: query.get('rp') ?? '', precision: query.get('precision') ?? 'ns' };
}

/** `bucket` is `database` or `database/policy`, as InfluxDB 1.8 takes it. */
function placeOfBucket(query: URLSearchParams) {
  const [db = '', rp = ''] = (query.get('bucket') ?? '').split('/', 2);
  return db === '' ? null : { db, rp, precision: query.get('precision') ?? 'ns' };
}

function unusable(host: string, port: number, cause: NodeJS.ErrnoException) {
  if (cause.code === 'EADDRINUSE')
    return transientError(
      'QZ4926',
      `influxdb.listen cannot be used: ${host}:${port} is taken.`,
      'Another agent may be running on this host, or has only just ended; else choose another port. It is tried again.',
      { cause },
    );
  return configurationError(
    'QZ2922',
    `influxdb.listen cannot be used: ${host}:${port} (${cause.code ?? cause.message}).`,
    'Choose a free port above 1023 on an address of this host.',
    { cause },
  );
}
