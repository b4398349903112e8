/** An HTTP proxy in front of an S3 server that misbehaves as it is told, request by request. */
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  request,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type RawKeys, rawRequest } from './s3-raw.ts';

/**
 * `pass` · `status`: an answer of the proxy's own, nothing reaches the server · `lost`: carried out, then the connection is
 * reset instead of the answer · `status-after`: carried out, but answered with that status · `twice`: carried out twice, the
 * second answer is given · `reset`: reset before anything reaches the server · `half`: half the answer's body, then reset ·
 * `slow`: the answer is held back · `drip`: half the answer's body, then nothing for that time · `cut-request`: reset amid
 * the body · `unconditional`: without If-None-Match and If-Match, as by a service that does not know them.
 */
export type Fault =
  | { kind: 'pass' | 'lost' | 'twice' | 'reset' | 'half' | 'cut-request' | 'unconditional' | 'flip' }
  | { kind: 'status' | 'status-after'; status: number; code?: string; headers?: Record<string, string> }
  | { kind: 'slow' | 'drip'; ms: number };

export interface Seen {
  method: string;
  /** Path and query as sent. */
  url: string;
  headers: IncomingHttpHeaders;
}

export type Misbehave = (seen: Seen, number: number) => Fault;

const pass: Fault = { kind: 'pass' };

export class S3Proxy implements AsyncDisposable {
  readonly seen: Seen[] = [];
  misbehave: Misbehave = () => pass;
  readonly #server: Server;
  readonly #backend: URL;
  readonly #keys: RawKeys;

  private constructor(backend: string, keys: RawKeys) {
    this.#backend = new URL(backend);
    this.#keys = keys;
    this.#server = createServer((incoming, outgoing) => {
      const { socket } = incoming;
      this.#handle(incoming, outgoing, socket).catch(() => socket.destroy());
    });
  }

  static async start(backend: string, keys: RawKeys): Promise<S3Proxy> {
    const proxy = new S3Proxy(backend, keys);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get endpoint(): string {
    const address = this.#server.address();
    return `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #handle(incoming: IncomingMessage, outgoing: ServerResponse, socket: Socket): Promise<void> {
    const seen = { method: incoming.method ?? '', url: incoming.url ?? '', headers: incoming.headers };
    this.seen.push(seen);
    const fault = this.misbehave(seen, this.seen.length - 1);
    if (fault.kind === 'reset') return void socket.resetAndDestroy();
    const body = await bodyOf(incoming, fault.kind === 'cut-request');
    if (fault.kind === 'cut-request') return void socket.resetAndDestroy();
    if (fault.kind === 'status') return this.#answer(outgoing, fault);
    if (fault.kind === 'twice') await this.#forward(incoming, body);
    const answer =
      fault.kind === 'unconditional' ? await this.#unconditional(incoming, body) : await this.#forward(incoming, body);
    if (fault.kind === 'lost') return void socket.resetAndDestroy();
    if (fault.kind === 'status-after') return this.#answer(outgoing, fault);
    if (fault.kind === 'slow') await sleep(fault.ms);
    if (fault.kind === 'flip' && answer.body.length > 0) answer.body[0] = (answer.body[0] ?? 0) ^ 1;
    outgoing.writeHead(answer.status, answer.headers);
    if (fault.kind !== 'half' && fault.kind !== 'drip') return void outgoing.end(answer.body);
    outgoing.write(answer.body.subarray(0, answer.body.length / 2));
    await sleep(fault.kind === 'drip' ? fault.ms : 20);
    socket.resetAndDestroy();
  }

  #answer(outgoing: ServerResponse, fault: { status: number; code?: string; headers?: Record<string, string> }): void {
    const text = fault.code === undefined ? '' : `<Error><Code>${fault.code}</Code><Message>made</Message></Error>`;
    outgoing.writeHead(fault.status, { 'content-type': 'application/xml', ...fault.headers });
    outgoing.end(text);
  }

  async #forward(incoming: IncomingMessage, body: Buffer) {
    const { method, headers, url: path } = incoming;
    const { hostname: host, port } = this.#backend;
    return await new Promise<Awaited<ReturnType<typeof rawRequest>>>((resolve, reject) => {
      const sent = request({ host, port, method, path, headers }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.once('error', reject);
        response.once('end', () =>
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }),
        );
      });
      sent.once('error', reject);
      sent.end(body);
    });
  }

  /** Signed anew: the client's signature covers the conditions. */
  async #unconditional(incoming: IncomingMessage, body: Buffer) {
    const url = new URL(incoming.url ?? '', this.#backend);
    const kept = Object.entries(incoming.headers).filter(([name]) => name.startsWith('x-amz-meta-'));
    return await rawRequest({
      endpoint: this.#backend.origin,
      keys: this.#keys,
      method: incoming.method ?? '',
      path: url.pathname,
      query: Object.fromEntries(url.searchParams),
      headers: Object.fromEntries(kept.map(([name, value]) => [name, String(value)])),
      body,
    });
  }
}

async function bodyOf(incoming: IncomingMessage, onlyBegin: boolean): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    if (onlyBegin) break;
  }
  return Buffer.concat(chunks);
}
