/**
 * A Grafana server over its HTTP API, as one organization sees it. Every call has a deadline and a bound; what can pass is
 * a transient error, and so is an answer that is cut short. The token stands in a header only.
 */
import { type IncomingMessage, Agent as PlainAgent, request as plainRequest } from 'node:http';
import { Agent as TlsAgent, request as tlsRequest } from 'node:https';
import { configurationError, type QazynaError, transientError } from '../errors/error.ts';
import { canonical, isObject, type Json, numberOf, objectOf, parseJson, textOf } from './json.ts';

export interface GrafanaEndpoint {
  /** Without a path. */
  url: string;
  token: string;
  /** For tests: how long an answer may take. */
  answerMs?: number;
}

export interface Organization {
  org: number;
  name: string;
}

/** What a change was answered with: done, or refused with Grafana's own words. */
export type Outcome = { done: true; body: Json } | { done: false; status: number; reason: string; kind: string };

/** From the first byte asked to the last one answered. */
const defaultAnswerMs = 30_000;
const answerMaxBytes = 64 * 1024 * 1024;
const reasonMax = 500;
const oldest = 9;
const newestTried = 12;

export class GrafanaServer {
  readonly url: string;
  readonly #token: string;
  readonly #answerMs: number;
  readonly #agent: PlainAgent;
  /** Sent with each call once it is known: a token of another organization is refused then instead of answered. */
  #org: number | null = null;

  constructor({ url, token, answerMs = defaultAnswerMs }: GrafanaEndpoint, connections = 8) {
    this.url = url;
    this.#token = token;
    this.#answerMs = answerMs;
    const options = { keepAlive: true, maxSockets: connections };
    this.#agent = url.startsWith('https:') ? new TlsAgent(options) : new PlainAgent(options);
  }

  close(): void {
    this.#agent.destroy();
  }

  /** Its version, e.g. `11.2.0`; '' where it tells nobody. Throws QZ2952 for one that is too old. */
  async requireVersion(signal: AbortSignal): Promise<string> {
    const version = textOf(objectOf(await this.get('/api/health', signal)).version);
    const major = majorOf(version);
    if (major === null || major >= oldest) return version;
    throw configurationError(
      'QZ2952',
      `Grafana at ${this.url} is ${version}, and only 9 to ${newestTried} are protected.`,
      'Bring Grafana up to 9.0 or later.',
    );
  }

  /** Whose the token is. */
  async organization(signal: AbortSignal): Promise<Organization> {
    const body = objectOf(await this.get('/api/org', signal));
    const org = numberOf(body.id);
    if (org === null) throw unreadable(this.url, '/api/org', 'no organization');
    this.#org ??= org;
    return { org, name: textOf(body.name) };
  }

  /** The answer, or null for 404. Throws QZ2950, QZ2951, QZ495x. */
  async find(path: string, signal: AbortSignal): Promise<Json | null> {
    const { status, body } = await this.#call('GET', path, null, {}, signal);
    if (status === 404) return null;
    if (status >= 200 && status < 300) return this.#parsed(path, body);
    throw this.#refused(path, status, body);
  }

  /** As `find`, where 404 is a fault. */
  async get(path: string, signal: AbortSignal): Promise<Json> {
    const found = await this.find(path, signal);
    if (found !== null) return found;
    throw this.#refused(path, 404, '');
  }

  /** A change. What Grafana refuses for good is an outcome; what can pass, and a wrong token, is thrown. */
  async send(
    method: 'POST' | 'PUT' | 'PATCH',
    path: string,
    content: Json,
    signal: AbortSignal,
    headers: Record<string, string> = {},
  ): Promise<Outcome> {
    const { status, body } = await this.#call(method, path, Buffer.from(canonical(content)), headers, signal);
    if (status >= 200 && status < 300) return { done: true, body: body === '' ? null : this.#parsed(path, body) };
    if (status === 401 || status === 429 || status >= 500 || status < 300) throw this.#refused(path, status, body);
    return { done: false, status, reason: reasonOf(body), kind: kindOf(body) };
  }

  async #call(
    method: string,
    path: string,
    content: Buffer | null,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<{ status: number; body: string }> {
    const deadline = AbortSignal.timeout(this.#answerMs);
    const either = AbortSignal.any([signal, deadline]);
    try {
      const response = await this.#answer(method, path, content, headers, either);
      return { status: response.statusCode ?? 0, body: await textWithin(response) };
    } catch (error) {
      signal.throwIfAborted();
      throw broken(this.url, deadline.aborted ? new Error(`no whole answer within ${this.#answerMs} ms`) : error);
    }
  }

  #answer(
    method: string,
    path: string,
    content: Buffer | null,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const request = (this.url.startsWith('https:') ? tlsRequest : plainRequest)(new URL(path, this.url), {
      method,
      agent: this.#agent,
      signal,
      headers: {
        accept: 'application/json',
        authorization: `Bearer ${this.#token}`,
        ...(this.#org === null ? {} : { 'x-grafana-org-id': String(this.#org) }),
        ...(content === null ? {} : { 'content-type': 'application/json', 'content-length': content.length }),
        ...headers,
      },
    });
    return new Promise((resolve, reject) => {
      request.once('response', resolve);
      request.once('error', reject);
      request.end(content ?? undefined);
    });
  }

  #parsed(path: string, body: string): Json {
    try {
      return parseJson(body);
    } catch {
      throw unreadable(this.url, path, 'it is no whole JSON');
    }
  }

  #refused(path: string, status: number, body: string): QazynaError {
    const what = path.replace(/\?.*$/s, '');
    const reason = reasonOf(body);
    if (status === 401)
      return configurationError(
        'QZ2950',
        `Grafana at ${this.url} refuses the token${reason === '' ? '' : `: ${reason}`}.`,
        'Make a new token for the service account (Administration, Service accounts) and write it into the token file; it is read again by itself.',
      );
    if (status === 403)
      return configurationError(
        'QZ2951',
        `Grafana at ${this.url} does not let the token see ${what}${reason === '' ? '' : `: ${reason}`}.`,
        'Give the service account the role Admin in its organization.',
        { details: { path: what } },
      );
    return transientError(
      'QZ4951',
      `Grafana at ${this.url} answers ${what} with status ${status}${reason === '' ? '' : `: ${reason}`}.`,
      'It is tried again by itself; Grafana’s own log may say more.',
    );
  }
}

/** Of `11.2.0`; null where nothing is told. */
export function majorOf(version: string): number | null {
  const match = /^v?(\d+)\./.exec(version);
  return match === null ? null : Number(match[1]);
}

/** Whether this version was made for it. */
export function isTried(version: string): boolean {
  const major = majorOf(version);
  return major !== null && major >= oldest && major <= newestTried;
}

async function textWithin(response: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of response) {
    bytes += (part as Buffer).length;
    if (bytes > answerMaxBytes) throw new Error(`an answer is longer than ${answerMaxBytes} bytes`);
    parts.push(part as Buffer);
  }
  return Buffer.concat(parts).toString('utf8');
}

/** In Grafana's words. */
function reasonOf(body: string): string {
  try {
    const json = parseJson(body);
    if (isObject(json)) return textOf(json.message ?? json.msg ?? json.error).slice(0, reasonMax);
  } catch {
    // A proxy's page, perhaps.
  }
  return body.slice(0, reasonMax);
}

/** `version-mismatch`, `name-exists`, `plugin-dashboard`, or ''. */
function kindOf(body: string): string {
  try {
    return textOf(objectOf(parseJson(body)).status);
  } catch {
    return '';
  }
}

function unreadable(url: string, path: string, reason: string): QazynaError {
  return transientError(
    'QZ4952',
    `An answer of Grafana at ${url} cannot be read (${path.replace(/\?.*$/s, '')}): ${reason}.`,
    'It is tried again by itself; look whether a proxy stands between.',
  );
}

function broken(url: string, cause: unknown): QazynaError {
  const { code, message } = cause as NodeJS.ErrnoException;
  return transientError(
    'QZ4950',
    `Grafana at ${url} cannot be reached: ${code ?? message ?? String(cause)}.`,
    'Look whether it runs (`systemctl status grafana-server`); it is tried again by itself.',
    { cause },
  );
}
