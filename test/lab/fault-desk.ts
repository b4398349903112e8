/**
 * The lab's fault proxies, in a process of their own that outlives the command that started them; told what to do over a small
 * loopback port:
 *
 *   curl -d '{"service":"kafka","fault":{"kind":"blackhole"}}' http://127.0.0.1:PORT/fault          "port": one proxy alone
 *   curl -d '{"service":"s3","fault":{"kind":"status","status":503,"code":"SlowDown","times":5}}' http://127.0.0.1:PORT/fault
 *   curl -d '{"service":"s3","seed":7,"everyMs":2000}' http://127.0.0.1:PORT/random                 drawn by lot, until /fault
 *   curl -d '{"service":"mysql"}' http://127.0.0.1:PORT/reset                                       cuts what is open
 *   curl http://127.0.0.1:PORT                                                                      what stands where
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { DeskFault, ProxyFacts } from './fault-desk-server.ts';
import { keptPort } from './ports.ts';
import type { LabService, ServiceContext, ServiceFacts } from './service.ts';

const host = '127.0.0.1';
const readyWithinMs = 10_000;
const answerWithinMs = 10_000;
const serverFile = fileURLToPath(new URL('fault-desk-server.ts', import.meta.url));

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

  /** To every proxy of that service, or to the one on that port. */
  async set(service: string, fault: DeskFault, port?: number): Promise<void> {
    await this.#post('/fault', { service, fault, port });
  }

  /** Cuts every open connection of that service. */
  async reset(service: string): Promise<void> {
    await this.#post('/reset', { service });
  }

  /** One fault after the other, always the same for one seed, until `set`; they are told in faults.log. Resolves with the seed. */
  async random(service: string, options: { seed?: number; everyMs?: number } = {}): Promise<number> {
    return (await this.#post<{ seed: number }>('/random', { service, ...options })).seed;
  }

  async list(): Promise<ProxyFacts[]> {
    const answer = await fetch(this.#url, { signal: AbortSignal.timeout(answerWithinMs) });
    return (await answer.json()) as ProxyFacts[];
  }

  async #post<T>(path: string, body: object): Promise<T> {
    const answer = await fetch(this.#url + path, {
      method: 'POST',
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(answerWithinMs),
    });
    if (!answer.ok) throw new Error(`the fault proxies refused ${path}: ${await answer.text()}`);
    return (await answer.json()) as T;
  }
}

/** The process as a part of the lab. */
export class FaultService implements LabService {
  readonly name = 'faults';

  async start({ dir, before, onProcess, signal }: ServiceContext): Promise<ServiceFacts> {
    await mkdir(dir, { recursive: true });
    const port = await keptPort(Number(before.port) || undefined);
    const output = openSync(join(dir, 'faults.log'), 'a');
    const child: ChildProcess = spawn(process.execPath, [serverFile, String(port)], {
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
      if (performance.now() > deadline || child.exitCode !== null)
        throw new Error(`the fault proxies did not start; see ${dir}/faults.log`);
      await sleep(50);
    }
    return { ...before, host, port };
  }
}
