/** `node test/lab/fault-desk-server.ts PORT`: the process in which the lab's fault proxies live; fault-desk.ts talks to it. */
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { type Fault, S3Proxy } from '../made/s3-proxy.ts';
import { drawFaults, type FaultMaker, FaultProxy, tcpFaults } from './fault-proxy.ts';

const host = '127.0.0.1';
const bodyMaxBytes = 4096;
const everyMsUsual = 2_000;

const times = z.number().int().positive().exactOptional();
const tcpFault = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.enum(['pass', 'refuse', 'blackhole']) }),
  z.strictObject({ kind: z.literal('lose-answer'), times }),
  z.strictObject({ kind: z.literal('delay'), ms: z.number().positive() }),
  z.strictObject({ kind: z.literal('throttle'), bytesPerSecond: z.number().positive() }),
  z.strictObject({
    kind: z.literal('reset-after'),
    bytes: z.number().int().nonnegative(),
    direction: z.enum(['up', 'down']),
    times,
  }),
]);
/** Request by request, before an S3 server only. */
const httpFault = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.enum(['status', 'status-after']),
    status: z.number().int(),
    code: z.string().exactOptional(),
    times,
  }),
  z.strictObject({ kind: z.enum(['lost', 'twice', 'reset', 'half', 'cut-request', 'flip']), times }),
  z.strictObject({ kind: z.enum(['slow', 'drip']), ms: z.number().positive(), times }),
]);
const anyFault = z.union([tcpFault, httpFault]);

export type DeskFault = z.infer<typeof anyFault>;
type HttpFault = z.infer<typeof httpFault>;

const asked = z.strictObject({
  service: z.string(),
  target: z.number().int().optional(),
  port: z.number().int().optional(),
  fault: anyFault.optional(),
  seed: z.number().int().optional(),
  everyMs: z.number().positive().optional(),
});
type Asked = z.infer<typeof asked>;

export interface ProxyFacts {
  service: string;
  /** Where the service itself listens. */
  target: number;
  /** Where clients connect. */
  port: number;
  fault: DeskFault;
}

const httpFaults: readonly FaultMaker<HttpFault>[] = [
  () => ({ kind: 'status', status: 500, code: 'InternalError' }),
  () => ({ kind: 'status', status: 503, code: 'SlowDown' }),
  () => ({ kind: 'status-after', status: 500, code: 'InternalError' }),
  () => ({ kind: 'lost' }),
  () => ({ kind: 'half' }),
  () => ({ kind: 'cut-request' }),
  (below) => ({ kind: 'slow', ms: 1 + below(2_000) }),
];

/** What stands before one port. */
class Post {
  readonly service: string;
  readonly target: number;
  readonly #tcp: FaultProxy;
  readonly #http: S3Proxy | null;
  #httpFault: HttpFault | null = null;
  #endLot = (): Promise<void> => Promise.resolve();

  private constructor(service: string, target: number, tcp: FaultProxy, http: S3Proxy | null) {
    this.service = service;
    this.target = target;
    this.#tcp = tcp;
    this.#http = http;
  }

  static async start(service: string, target: number, port: number): Promise<Post> {
    if (service !== 's3') return new Post(service, target, await FaultProxy.start(target, port), null);
    // The keys are for faults that sign anew, which are not offered here.
    const http = await S3Proxy.start(`http://${host}:${target}`, { user: '', secret: '' });
    return new Post(service, target, await FaultProxy.start(Number(new URL(http.endpoint).port), port), http);
  }

  get port(): number {
    return this.#tcp.port;
  }

  get facts(): ProxyFacts {
    return { service: this.service, target: this.target, port: this.port, fault: this.#httpFault ?? this.#tcp.fault };
  }

  /** It ends what is drawn by lot. */
  async tell(fault: DeskFault): Promise<void> {
    await this.#endLot();
    await this.#set(fault);
  }

  /** One fault after the other, until the next one is told. */
  async draw(seed: number, everyMs: number): Promise<void> {
    await this.#endLot();
    const stop = new AbortController();
    const over = this.#drawUntil(stop.signal, seed, everyMs).catch((error: unknown) => {
      process.stderr.write(`${this.service} on ${this.port}: ${error}\n`);
    });
    this.#endLot = async () => {
      stop.abort();
      await over;
    };
  }

  async #drawUntil(signal: AbortSignal, seed: number, everyMs: number): Promise<void> {
    const makers: readonly FaultMaker<DeskFault>[] = this.#http === null ? tcpFaults : [...tcpFaults, ...httpFaults];
    let number = 0;
    for (const fault of drawFaults(seed, makers)) {
      if (signal.aborted) return;
      process.stdout.write(
        `${this.service} on ${this.port}, seed ${seed}, number ${number}: ${JSON.stringify(fault)}\n`,
      );
      number += 1;
      await this.#set(fault);
      await sleep(everyMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #set(fault: DeskFault): Promise<void> {
    const http = httpFault.safeParse(fault).data;
    if (http !== undefined && this.#http === null) throw new RangeError(`${this.service} does not speak HTTP`);
    await this.#tcp.set(tcpFault.safeParse(fault).data ?? { kind: 'pass' });
    this.#httpFault = http ?? null;
    if (this.#http !== null) this.#http.misbehave = () => this.#nextAnswer();
  }

  #nextAnswer(): Fault {
    const fault = this.#httpFault;
    if (fault === null) return { kind: 'pass' };
    if (fault.times !== undefined) this.#httpFault = fault.times > 1 ? { ...fault, times: fault.times - 1 } : null;
    return forProxy(fault);
  }

  reset(): void {
    this.#tcp.reset();
  }

  async stop(): Promise<void> {
    await this.#endLot();
    await this.#tcp[Symbol.asyncDispose]();
    await this.#http?.[Symbol.asyncDispose]();
  }
}

class DeskServer {
  readonly #posts: Post[] = [];

  async listen(port: number): Promise<void> {
    const server = createServer((request, response) => {
      this.#answer(request).then(
        (body) => response.end(`${JSON.stringify(body)}\n`),
        (error: unknown) => response.writeHead(400).end(`${error}\n`),
      );
    });
    server.listen(port, host);
    await once(server, 'listening');
  }

  async #answer(request: IncomingMessage): Promise<unknown> {
    if (request.method === 'GET') return this.#posts.map(({ facts }) => facts);
    const wanted = asked.parse(JSON.parse(await bodyOf(request)));
    if (request.url === '/proxy') return (await this.#before(wanted)).facts;
    const meant = this.#posts.filter(
      ({ service, port }) => service === wanted.service && port === (wanted.port ?? port),
    );
    if (meant.length === 0) throw new RangeError(`no proxy stands before ${wanted.service}`);
    if (request.url === '/reset') for (const post of meant) post.reset();
    else if (request.url === '/random') return await drawAll(wanted, meant);
    else if (request.url === '/fault') await tellAll(wanted, meant);
    else throw new RangeError(`unknown: ${request.url}`);
    return meant.map(({ facts }) => facts);
  }

  async #before({ service, target, port = 0 }: Asked): Promise<Post> {
    if (target === undefined) throw new RangeError('before what? "target" is missing');
    const present = this.#posts.find((post) => post.service === service && post.target === target);
    if (present !== undefined) return present;
    const instead = this.#posts.findIndex((post) => port !== 0 && post.port === port);
    if (instead >= 0) for (const post of this.#posts.splice(instead, 1)) await post.stop();
    const made = await Post.start(service, target, port);
    this.#posts.push(made);
    return made;
  }
}

async function tellAll({ fault }: Asked, posts: readonly Post[]): Promise<void> {
  if (fault === undefined) throw new RangeError('which? "fault" is missing');
  await Promise.all(posts.map((post) => post.tell(fault)));
}

/** Each proxy has a lot of its own: the n-th the one of the seed plus n. */
async function drawAll(
  { service, seed = Math.floor(Math.random() * 2 ** 31), everyMs = everyMsUsual }: Asked,
  posts: readonly Post[],
) {
  await Promise.all(posts.map((post, index) => post.draw(seed + index, everyMs)));
  return { service, seed, everyMs };
}

function forProxy({ times: _, ...fault }: HttpFault): Fault {
  return fault;
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const part of request.setEncoding('utf8')) {
    text += String(part);
    if (text.length > bodyMaxBytes) throw new RangeError('too long');
  }
  return text;
}

await new DeskServer().listen(Number(process.argv[2]));
