/**
 * The lab's fault proxies, in a process of their own that outlives the command that started them; told what to do over a small
 * loopback port: `curl -d '{"service":"kafka","fault":{"kind":"blackhole"}}' http://127.0.0.1:PORT/fault`.
 * `node test/lab/fault-desk.ts PORT` is that process.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createServer, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { freePort } from '../../core/mysql/mysqld.ts';
import { FaultProxy, type TcpFault } from './fault-proxy.ts';
import type { LabService, ServiceContext, ServiceFacts } from './service.ts';

const host = '127.0.0.1';
const bodyMaxBytes = 4096;
const readyWithinMs = 10_000;

export interface ProxyFacts {
  service: string;
  /** Where the service itself listens. */
  target: number;
  /** Where clients connect. */
  port: number;
}

/** Talks to the process. */
export class FaultDesk {
  readonly #url: string;

  constructor(port: number) {
    this.#url = `http://${host}:${port}`;
  }

  /** A proxy before `target`; the same one when it is asked for again. Resolves with its port. */
  async before(service: string, target: number, port = 0): Promise<number> {
    return (await this.#post<ProxyFacts>('/proxy', { service, target, port })).port;
  }

  /** To every proxy of that service. */
  async set(service: string, fault: TcpFault): Promise<void> {
    await this.#post('/fault', { service, fault });
  }

  /** Cuts every open connection of that service. */
  async reset(service: string): Promise<void> {
    await this.#post('/reset', { service });
  }

  async list(): Promise<ProxyFacts[]> {
    return (await (await fetch(this.#url)).json()) as ProxyFacts[];
  }

  async #post<T>(path: string, body: object): Promise<T> {
    const answer = await fetch(this.#url + path, { method: 'POST', body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`the fault proxies refused ${path}: ${await answer.text()}`);
    return (await answer.json()) as T;
  }
}

/** The process as a part of the lab. */
export class FaultService implements LabService {
  readonly name = 'faults';

  async start({ dir, before, onProcess, signal }: ServiceContext): Promise<ServiceFacts> {
    await mkdir(dir, { recursive: true });
    const port = typeof before.port === 'number' ? before.port : await freePort();
    const output = openSync(join(dir, 'faults.log'), 'a');
    const child: ChildProcess = spawn(process.execPath, [fileURLToPath(import.meta.url), String(port)], {
      stdio: ['ignore', output, output],
      detached: true,
    });
    await once(child, 'spawn');
    closeSync(output);
    child.unref();
    onProcess('fault proxies', child.pid ?? 0);
    const deadline = performance.now() + readyWithinMs;
    const desk = new FaultDesk(port);
    while ((await desk.list().catch(() => null)) === null) {
      signal.throwIfAborted();
      if (performance.now() > deadline) throw new Error(`the fault proxies did not start; see ${dir}/faults.log`);
      await sleep(50);
    }
    return { host, port };
  }
}

class DeskServer {
  readonly #proxies: { service: string; proxy: FaultProxy }[] = [];

  async listen(port: number): Promise<void> {
    const server = createServer((request, response) => {
      this.#answer(request).then(
        (body) => response.end(JSON.stringify(body)),
        (error: unknown) => response.writeHead(400).end(String(error)),
      );
    });
    server.listen(port, host);
    await once(server, 'listening');
  }

  async #answer(request: IncomingMessage): Promise<unknown> {
    if (request.method === 'GET') return this.#proxies.map(factsOf);
    const asked = JSON.parse(await bodyOf(request)) as {
      service: string;
      target: number;
      port: number;
      fault: TcpFault;
    };
    const meant = this.#proxies.filter(({ service }) => service === asked.service);
    if (request.url === '/proxy') return factsOf(await this.#proxy(asked.service, asked.target, asked.port));
    if (meant.length === 0) throw new RangeError(`no proxy stands before ${asked.service}`);
    if (request.url === '/fault') await Promise.all(meant.map(({ proxy }) => proxy.set(asked.fault)));
    else if (request.url === '/reset') for (const { proxy } of meant) proxy.reset();
    else throw new RangeError(`unknown: ${request.url}`);
    return { proxies: meant.length };
  }

  async #proxy(service: string, target: number, port: number) {
    const present = this.#proxies.find((each) => each.service === service && each.proxy.target === target);
    if (present !== undefined) return present;
    const made = { service, proxy: await FaultProxy.start(target, port) };
    this.#proxies.push(made);
    return made;
  }
}

function factsOf({ service, proxy }: { service: string; proxy: FaultProxy }): ProxyFacts & { fault: TcpFault } {
  return { service, target: proxy.target, port: proxy.port, fault: proxy.fault };
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const part of request.setEncoding('utf8')) {
    text += String(part);
    if (text.length > bodyMaxBytes) throw new RangeError('too long');
  }
  return text;
}

if (import.meta.main) await new DeskServer().listen(Number(process.argv[2]));
