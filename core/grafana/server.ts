/**
 * A Grafana server over its HTTP API, as one organization sees it. Every call has a deadline and a bound; what can pass is
 * a transient error, and so is an answer that is cut short. A limit of requests (429) is waited for, unless it lasts. The
 * token stands in a header only.
 */
import { type IncomingMessage, Agent as PlainAgent, request as plainRequest } from 'node:http';
import { Agent as TlsAgent, request as tlsRequest } from 'node:https';
import { configurationError, type QazynaError, transientError } from '../errors/error.ts';
import { retrying } from '../errors/retry.ts';
import { silentLogger } from '../logging/logger.ts';
import { canonical, isObject, type Json, numberOf, objectOf, parseJson, textOf } from './json.ts';

export interface GrafanaEndpoint {
  /** Perhaps with a path, below which it is served; without a slash at its end. */
  url: string;
  token: string;
  /** For tests: how long an answer may take. */
  answerMs?: number;
  /** For tests: how long a limit of requests may refuse one call. */
  patienceMs?: number;
}

export interface Organization {
  org: number;
  name: string;
}

/** What a change was answered with: done, or refused with Grafana's own words. */
export type Outcome = { done: true; body: Json } | { done: false; status: number; reason: string; kind: string };

/** From the first byte asked to the last one answered. */
const defaultAnswerMs = 30_000;
/** A limit that refuses a call for longer is said. */
const defaultPatienceMs = 60_000;
/** Of what `Retry-After` asks for. */
const leaveAloneMaxMs = 30_000;
const limitedDelaysMs = { minDelayMs: 500, maxDelayMs: 5000 };
const answerMaxBytes = 64 * 1024 * 1024;
const reasonMax = 500;
const oldest = 9;
const newestTried = 12;

/** Whoever asks sees `limited`. */
const quiet = silentLogger();

interface Call {
  method: string;
  path: string;
  content: Buffer | null;
  headers: Record<string, string>;
}

export class GrafanaServer {
  readonly url: string;
  readonly #token: string;
  readonly #answerMs: number;
  readonly #patienceMs: number;
  readonly #agent: PlainAgent;
  /** Sent with each call once it is known: a token of another organization is refused then instead of answered. */
  #org: number | null = null;
  #limited = 0;

  constructor(
    { url, token, answerMs = defaultAnswerMs, patienceMs = defaultPatienceMs }: GrafanaEndpoint,
    connections = 8,
  ) {
    this.url = url;
    this.#token = token;
    this.#answerMs = answerMs;
    this.#patienceMs = patienceMs;
    const options = { keepAlive: true, maxSockets: connections };
    this.#agent = url.startsWith('https:') ? new TlsAgent(options) : new PlainAgent(options);
  }

  /** How often it said that it is asked too often (429). */
  get limited(): number {
    return this.#limited;
  }

  close(): void {
    this.#agent.destroy();
  }

  /** Its version, e.g. `11.2.0`; '' where it tells nobody. Throws QZ2952 for one that is too old. */
  async requireVersion(signal: AbortSignal): Promise<string> {
    const version = await this.#version(signal);
    const major = majorOf(version);
    if (major === null || major >= oldest) return version;
    throw configurationError(
      'QZ2952',
      `Grafana at ${this.url} is ${version}, and only 9 to ${newestTried} are protected.`,
      'Bring Grafana up to 9.0 or later.',
    );
  }

  /** With `hide_version` only those who are signed in are told (…/developers/http_api/other: health, frontend settings). */
  async #version(signal: AbortSignal): Promise<string> {
    const told = textOf(objectOf(await this.get('/api/health', signal)).version);
    if (told !== '') return told;
    const settings = objectOf(await this.find('/api/frontend/settings', signal));
    return textOf(objectOf(settings.buildInfo).version);
  }

  /** Whose the token is. */
  async organization(signal: AbortSignal): Promise<Organization> {
    const body = objectOf(await this.get('/api/org', signal));
    const org = numberOf(body.id);
    if (org === null) throw this.unreadable('/api/org', 'no organization');
    this.#org ??= org;
    return { org, name: textOf(body.name) };
  }

  /** The answer, or null for 404. Throws QZ2950, QZ2951, QZ495x. */
  async find(path: string, signal: AbortSignal): Promise<Json | null> {
    const { isTold, body } = await this.findIfTold(path, signal);
    if (isTold) return body;
    throw this.#refused(path, 406, '');
  }

  /**
   * As `find`, of what the older API may be unable to tell: some 12 answer 406 for a dashboard of the second schema, and
   * name the newer API (esnet/gdg#467).
   */
  async findIfTold(path: string, signal: AbortSignal): Promise<{ isTold: boolean; body: Json | null }> {
    const { status, body } = await this.#call({ method: 'GET', path, content: null, headers: {} }, signal);
    if (status === 406) return { isTold: false, body: null };
    if (status === 404) return { isTold: true, body: null };
    if (status >= 200 && status < 300) return { isTold: true, body: this.#parsed(path, body) };
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
    const call = { method, path, content: Buffer.from(canonical(content)), headers };
    const { status, body } = await this.#call(call, signal);
    if (status >= 200 && status < 300) return { done: true, body: body === '' ? null : this.#parsed(path, body) };
    const reason = reasonOf(body);
    // Of versions before 11, with status 500 (grafana/grafana#74558).
    const isForGood = reason.includes('change provenance');
    if (status === 401 || (status >= 500 && !isForGood)) throw this.#refused(path, status, body);
    return { done: false, status, reason, kind: kindOf(body) };
  }

  /** What was refused for its number was not done: any call may be made again then. */
  async #call(call: Call, signal: AbortSignal): Promise<{ status: number; body: string }> {
    return await retrying(
      `asking Grafana at ${this.url}`,
      async () => {
        const { status, body, retryAfter } = await this.#once(call, signal);
        if (status !== 429) return { status, body };
        this.#limited += 1;
        throw this.#limits(call.path, retryAfter);
      },
      {
        signal,
        deadlineMs: this.#patienceMs,
        logger: quiet,
        ...limitedDelaysMs,
        askedMs: ({ details: { retryAfterMs } }) => (typeof retryAfterMs === 'number' ? retryAfterMs : null),
      },
    );
  }

  async #once(call: Call, signal: AbortSignal): Promise<{ status: number; body: string; retryAfter: string }> {
    const deadline = AbortSignal.timeout(this.#answerMs);
    try {
      const response = await this.#answer(call, AbortSignal.any([signal, deadline]));
      const { statusCode: status = 0, headers } = response;
      return { status, body: await textWithin(response), retryAfter: headers['retry-after'] ?? '' };
    } catch (error) {
      signal.throwIfAborted();
      throw broken(this.url, deadline.aborted ? new Error(`no whole answer within ${this.#answerMs} ms`) : error);
    }
  }

  #answer({ method, path, content, headers }: Call, signal: AbortSignal): Promise<IncomingMessage> {
    const request = (this.url.startsWith('https:') ? tlsRequest : plainRequest)(new URL(`${this.url}${path}`), {
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
      throw this.unreadable(path, 'it is no whole JSON');
    }
  }

  unreadable(path: string, reason: string): QazynaError {
    return transientError(
      'QZ4952',
      `An answer of Grafana at ${this.url} cannot be read (${path.replace(/\?.*$/s, '')}): ${reason}.`,
      'It is tried again by itself; look whether a proxy stands between.',
    );
  }

  #limits(path: string, retryAfter: string): QazynaError {
    const askedMs = /^\d{1,9}$/.test(retryAfter) ? Number(retryAfter) * 1000 : 0;
    return transientError(
      'QZ4955',
      `Grafana at ${this.url} limits how often it may be asked, and does not answer ${path.replace(/\?.*$/s, '')} (status 429).`,
      'It is tried again by itself. Have it, or the proxy before it, allow more; or have the agent ask less often (check_every).',
      { details: { retryAfterMs: Math.min(askedMs, leaveAloneMaxMs) } },
    );
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
    const isElsewhere = status < 400 || (status === 404 && what === '/api/health');
    return transientError(
      'QZ4951',
      `Grafana at ${this.url} answers ${what} with status ${status}${reason === '' ? '' : `: ${reason}`}.`,
      isElsewhere
        ? 'See whether the url is its root_url, with its path (serve_from_sub_path) and https where it has them.'
        : 'It is tried again by itself; Grafana’s own log may say more.',
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

function broken(url: string, cause: unknown): QazynaError {
  const { code, message } = cause as NodeJS.ErrnoException;
  return transientError(
    'QZ4950',
    `Grafana at ${url} cannot be reached: ${code ?? message ?? String(cause)}.`,
    'Look whether it runs (`systemctl status grafana-server`); it is tried again by itself.',
    { cause },
  );
}
