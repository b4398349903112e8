/**
 * An InfluxDB 1.x server over HTTP, as far as backup and restore need it. Every call has a deadline; what can pass is a
 * transient error. The password stands in a header only.
 */
import { type IncomingMessage, Agent as PlainAgent, request as plainRequest, type RequestOptions } from 'node:http';
import { Agent as TlsAgent, request as tlsRequest } from 'node:https';
import { configurationError, type QazynaError, transientError } from '../errors/error.ts';

export interface InfluxdbEndpoint {
  /** Without a path. */
  url: string;
  user: string | null;
  password: string;
}

export interface SeriesRows {
  name: string;
  tags: Record<string, string>;
  columns: string[];
  values: unknown[][];
}

/** What `write` was answered with. `rejected`: the server took some of the points or none, and says why. */
export type WriteOutcome = 'taken' | { rejected: string };

const answerMs = 30_000;
/** An export may think before its first row. */
const exportMs = 120_000;
const answerMaxBytes = 64 * 1024 * 1024;
const reasonMax = 500;

export class InfluxdbServer {
  readonly #endpoint: Omit<InfluxdbEndpoint, 'password'>;
  #password: string;
  readonly #agent: PlainAgent;

  constructor(endpoint: InfluxdbEndpoint, connections = 8) {
    this.#endpoint = endpoint;
    this.#password = endpoint.password;
    const options = { keepAlive: true, maxSockets: connections };
    this.#agent = endpoint.url.startsWith('https:') ? new TlsAgent(options) : new PlainAgent(options);
  }

  get url(): string {
    return this.#endpoint.url;
  }

  /** For whatever is asked from now on. */
  changePassword(password: string): void {
    this.#password = password;
  }

  close(): void {
    this.#agent.destroy();
  }

  /** The server's version, e.g. `1.8.10`. */
  async version(signal: AbortSignal): Promise<string> {
    const response = await this.#send('GET', '/ping', null, signal);
    await this.#textOf(response, signal);
    return String(response.headers['x-influxdb-version'] ?? '');
  }

  /** The same of a server that can be protected. Throws QZ2932 for any other. */
  async requireVersion(signal: AbortSignal): Promise<string> {
    const version = await this.version(signal);
    if (/^v?1\./.test(version)) return version;
    throw configurationError(
      'QZ2932',
      `${this.url} is no InfluxDB 1.x: it calls itself ${version === '' ? 'nothing' : `InfluxDB ${version}`}.`,
      'Check the URL; this version protects InfluxDB 1.6 to 1.8.',
    );
  }

  /**
   * All rows of one or more statements, in their order. Names that are not UTF-8 come out damaged. In pieces (a JSON object
   * each), because `max-row-limit` of influxdb.conf cuts what is not, and only says `partial`.
   */
  async query(text: string, signal: AbortSignal): Promise<SeriesRows[]> {
    const response = await this.#ask(text, { accept: 'application/json' }, '?chunked=true', signal);
    const body = await this.#textOf(response, signal);
    const found: SeriesRows[] = [];
    let isPartial = false;
    for (const piece of body.split('\n').filter((line) => line !== '')) {
      const { results = [], error } = parsed(this.url, piece) as { results?: QueryResult[]; error?: string };
      const wrong = error ?? results.find((result) => result.error !== undefined)?.error;
      if (wrong !== undefined) throw refusedQuery(this.url, wrong);
      const all = results.flatMap(({ series = [] }) => series);
      for (const { name = '', tags = {}, columns = [], values = [], partial } of all) {
        const last = found.at(-1);
        if (isPartial && last !== undefined) last.values.push(...values);
        else found.push({ name, tags, columns, values });
        isPartial = partial === true;
      }
    }
    if (isPartial) throw refusedQuery(this.url, 'an answer that is not complete');
    return found;
  }

  /** A chunked MessagePack answer as it comes. The caller finds out whether it is complete (export-decoder.ts). */
  async *chunks(text: string, chunkPoints: number, signal: AbortSignal): AsyncIterable<Buffer> {
    const accept = { accept: 'application/x-msgpack' };
    const parameters = `?epoch=ns&chunked=true&chunk_size=${chunkPoints}`;
    const response = await this.#ask(text, accept, parameters, signal);
    try {
      for await (const chunk of response) yield chunk as Buffer;
    } catch (error) {
      signal.throwIfAborted();
      throw broken(this.url, error);
    } finally {
      response.destroy();
    }
  }

  /** Line protocol into one database and retention policy. */
  async write(
    place: { database: string; policy: string; precision: string },
    lines: Buffer,
    signal: AbortSignal,
  ): Promise<WriteOutcome> {
    const parameters = new URLSearchParams({ db: place.database, rp: place.policy, precision: place.precision });
    const response = await this.#send('POST', `/write?${parameters}`, lines, signal);
    const body = await this.#textOf(response, signal);
    const status = response.statusCode ?? 0;
    if (status === 204 || status === 200) return 'taken';
    const reason = reasonOf(body);
    if (status === 400 || status === 413) return { rejected: reason };
    throw answered(this.url, status, reason);
  }

  /** /debug/vars: each section's name (with its instance) and content. */
  async variables(signal: AbortSignal): Promise<Record<string, DebugSection>> {
    const response = await this.#send('GET', '/debug/vars', null, signal);
    const body = await this.#textOf(response, signal);
    if (response.statusCode !== 200) throw answered(this.url, response.statusCode ?? 0, reasonOf(body));
    return parsed(this.url, body) as Record<string, DebugSection>;
  }

  async #ask(
    text: string,
    headers: Record<string, string>,
    parameters: string,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const body = Buffer.from(new URLSearchParams({ q: text }).toString());
    const form = { ...headers, 'content-type': 'application/x-www-form-urlencoded' };
    const response = await this.#send('POST', `/query${parameters}`, body, signal, form);
    if (response.statusCode === 200) return response;
    throw answered(this.url, response.statusCode ?? 0, reasonOf(await this.#textOf(response, signal)));
  }

  /** A server that goes away in the middle of an answer is one that cannot be reached. */
  async #textOf(response: IncomingMessage, signal: AbortSignal): Promise<string> {
    try {
      return await textOf(response);
    } catch (error) {
      signal.throwIfAborted();
      throw broken(this.url, error);
    }
  }

  async #send(
    method: string,
    path: string,
    body: Buffer | null,
    signal: AbortSignal,
    headers: Record<string, string> = {},
  ): Promise<IncomingMessage> {
    const { url, user } = this.#endpoint;
    const account = Buffer.from(`${user}:${this.#password}`).toString('base64');
    const auth = user === null ? {} : { authorization: `Basic ${account}` };
    const length = body === null ? {} : { 'content-length': body.length };
    const timeout = path.includes('chunk_size') ? exportMs : answerMs;
    const options: RequestOptions = { method, agent: this.#agent, signal, timeout };
    const request = (url.startsWith('https:') ? tlsRequest : plainRequest)(new URL(path, url), {
      ...options,
      headers: { ...headers, ...auth, ...length },
    });
    return await new Promise<IncomingMessage>((resolve, reject) => {
      request.once('response', resolve);
      request.once('timeout', () => request.destroy(new Error(`no answer within ${timeout / 1000} s`)));
      request.once('error', (error) => reject(signal.aborted ? signal.reason : broken(url, error)));
      request.end(body ?? undefined);
    });
  }
}

interface QueryResult {
  /** `partial`: the next piece goes on with it. */
  series?: (Partial<SeriesRows> & { partial?: boolean })[];
  error?: string;
}

export interface DebugSection {
  name?: string;
  tags?: Record<string, string> | null;
  values?: Record<string, number>;
  started?: string;
}

async function textOf(response: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of response) {
    bytes += (part as Buffer).length;
    if (bytes > answerMaxBytes) throw new Error(`an answer of InfluxDB is longer than ${answerMaxBytes} bytes`);
    parts.push(part as Buffer);
  }
  return Buffer.concat(parts).toString('utf8');
}

function parsed(url: string, body: string): unknown {
  try {
    return JSON.parse(body);
  } catch (error) {
    throw broken(url, error);
  }
}

function reasonOf(body: string): string {
  try {
    const { error } = JSON.parse(body) as { error?: unknown };
    if (typeof error === 'string') return error.slice(0, reasonMax);
  } catch {
    // A proxy's page, perhaps.
  }
  return body.slice(0, reasonMax);
}

function refusedQuery(url: string, reason: string): QazynaError {
  return transientError(
    'QZ4923',
    `InfluxDB at ${url} answers: ${reason}.`,
    'It is tried again by itself; InfluxDB’s own log may say more.',
  );
}

function answered(url: string, status: number, reason: string): QazynaError {
  if (status === 401 || status === 403)
    return configurationError(
      'QZ2921',
      `InfluxDB at ${url} refuses the account: ${reason || status}.`,
      'Check influxdb.user and its password file; it has to be an administrator (CREATE USER … WITH ALL PRIVILEGES).',
    );
  return transientError(
    'QZ4924',
    `InfluxDB at ${url} answers with status ${status}${reason === '' ? '' : `: ${reason}`}.`,
    'It is tried again by itself; InfluxDB’s own log may say more.',
  );
}

function broken(url: string, cause: unknown): QazynaError {
  const { code, message } = cause as NodeJS.ErrnoException;
  return transientError(
    'QZ4925',
    `InfluxDB at ${url} cannot be reached: ${code ?? message ?? String(cause)}.`,
    'Look whether it runs (`systemctl status influxdb`); it is tried again by itself.',
    { cause },
  );
}
