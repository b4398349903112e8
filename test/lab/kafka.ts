/**
 * Real Kafka brokers on loopback, each its own controller as well (KRaft), for the lab and for tests that kill them one by
 * one: `await using kafka = await KafkaLab.start({ brokers: 3 })`, `kafka.bootstrap`, `kafka.kill(0)`, `kafka.restart(0)`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { selfSignedCertificate } from '../../core/stream/certificate.ts';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { brokersKnownTo } from './kafka-wire.ts';
import { isFree, labPort } from './ports.ts';
import type { Advertise, LabService, ServiceContext, ServiceFacts } from './service.ts';

const readyWithinMs = 60_000;
const pollMs = 100;
const lastLines = 5;
const answerWithinMs = 2_000;
/** On a busy machine a broker may end while it joins (its own heartbeats time out); whatever supervises it starts it again. */
const startsMax = 3;
const host = '127.0.0.1';

/** For tests: death is noticed in seconds, and large messages pass. Topics say the rest themselves. */
const commonSettings: Record<string, string> = {
  'process.roles': 'broker,controller',
  'controller.listener.names': 'CONTROLLER',
  'inter.broker.listener.name': 'INTERNAL',
  'offsets.topic.num.partitions': '1',
  'transaction.state.log.num.partitions': '1',
  'group.initial.rebalance.delay.ms': '0',
  'auto.create.topics.enable': 'false',
  'message.max.bytes': '20971520',
  'replica.fetch.max.bytes': '20971520',
  'broker.session.timeout.ms': '3000',
  'broker.heartbeat.interval.ms': '500',
  'log.retention.check.interval.ms': '500',
  'log.initial.task.delay.ms': '200',
  'file.delete.delay.ms': '100',
};

interface ClientPort {
  /** Where clients connect, as it is told to them: a proxy may stand there. */
  advertised: number;
  client: number;
}

interface BrokerPorts extends ClientPort {
  internal: number;
  controller: number;
  /** Of further ways. */
  ways?: ClientPort[];
}

export interface KafkaLabOptions {
  brokers: number;
  /** Default: a new folder in the system's temporary folder, removed by `stop`. */
  dir?: string;
  /** Over the lab's own, by Kafka's names. */
  settings?: Record<string, string>;
  /** Clients come by TLS and log in by SCRAM-SHA-512: `lab.secured` says how. */
  secure?: boolean;
  /** Asked with each broker's port before anything is started. */
  advertise?: Advertise;
  /** Further ways to the brokers, each a listener of its own: who comes by one stays on it, so that it can be cut alone. */
  ways?: readonly Advertise[];
  /** What was used before in this folder: ports are worth keeping. */
  ports?: readonly BrokerPorts[];
  /** Whether `broker 1` and so on was started before, by whomever, and still runs: such a one is left alone. */
  isRunning?: (what: string) => boolean;
  onProcess?: (what: string, pid: number) => void;
  signal?: AbortSignal;
}

export class KafkaLab implements AsyncDisposable {
  readonly dir: string;
  readonly ports: readonly BrokerPorts[];
  readonly #options: KafkaLabOptions;
  /** Null where clients come as they are. */
  readonly secured: Secured | null;
  readonly #server: string;
  readonly #children: (ChildProcess | null)[];

  private constructor(dir: string, ports: readonly BrokerPorts[], server: string, options: KafkaLabOptions) {
    this.dir = dir;
    this.ports = ports;
    this.#server = server;
    this.#options = options;
    this.secured = options.secure ? secrets() : null;
    this.#children = ports.map(() => null);
  }

  /** Resolves when every broker has joined and the cluster answers. What is in `dir` already is gone on with. */
  static async start(options: KafkaLabOptions): Promise<KafkaLab> {
    const { paths } = await ensureTools(['kafka-server', 'kafka-storage']);
    const dir = options.dir ?? (await mkdtemp(join(tmpdir(), 'qazyna-kafka-')));
    await mkdir(dir, { recursive: true });
    const isMissing = (index: number) => options.isRunning?.(nameOf(index)) !== true;
    const ports = await choosePorts(options, isMissing);
    const missing = ports.flatMap((_, index) => (isMissing(index) ? [index] : []));
    const lab = new KafkaLab(dir, ports, paths['kafka-server'] ?? '', options);
    try {
      await Promise.all(missing.map((index) => lab.#format(index, paths['kafka-storage'] ?? '')));
      await Promise.all(missing.map((index) => lab.#spawn(index)));
      await lab.untilReady();
      return lab;
    } catch (error) {
      await lab.stop();
      throw error;
    }
  }

  /** What a client needs to begin with. */
  get bootstrap(): string[] {
    return this.ports.map(({ advertised }) => `${host}:${advertised}`);
  }

  /** The same, for who comes by a way of its own. */
  bootstrapOf(way: number): string[] {
    return this.ports.map(({ ways = [] }) => `${host}:${ways[way]?.advertised}`);
  }

  /** kill -9, or another signal; resolves when it has ended. SIGSTOP and SIGCONT only send. */
  async kill(index: number, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#children[index] ?? null;
    if (child === null || !isAlive(child)) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    if (signal !== 'SIGSTOP' && signal !== 'SIGCONT') await ended;
  }

  /** Starts a broker again on what it wrote; resolves when all that run have joined. */
  async restart(index: number): Promise<void> {
    await this.kill(index);
    await this.#spawn(index);
    await this.untilReady();
  }

  /** Until every broker that this lab runs answers by itself, and knows as many in the cluster. */
  async untilReady(): Promise<void> {
    const running = this.#children.flatMap((child, index) => (isAlive(child) ? [index] : []));
    const deadline = performance.now() + readyWithinMs;
    const starts = this.#children.map(() => 1);
    for (const index of running) {
      while ((await brokersKnownTo(this.ports[index]?.internal ?? 0, answerWithinMs)) < running.length) {
        this.#options.signal?.throwIfAborted();
        // Any of them: this one waits for all.
        const ended = running.find((other) => !isAlive(this.#children[other] ?? null));
        const isOver = ended !== undefined && starts[ended] === startsMax;
        if (performance.now() > deadline || isOver) {
          const which = ended ?? index;
          throw await failure(`${nameOf(which)} did not join`, join(this.#folder(which), 'broker.log'));
        }
        if (ended !== undefined) {
          await this.#spawn(ended);
          starts[ended] = (starts[ended] ?? 0) + 1;
        }
        await sleep(pollMs);
      }
    }
  }

  /** Leaves the brokers running when this process ends: the lab stops them by their pids. */
  release(): void {
    for (const child of this.#children) child?.unref();
  }

  async stop(): Promise<void> {
    await Promise.all(this.#children.map((_, index) => this.kill(index)));
    if (this.#options.dir === undefined) await rm(this.dir, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #folder(index: number): string {
    return join(this.dir, `broker-${index + 1}`);
  }

  async #format(index: number, program: string): Promise<void> {
    const folder = this.#folder(index);
    const file = join(folder, 'server.properties');
    const own = this.ports[index];
    if (own === undefined) throw new RangeError(`there is no broker ${index + 1}`);
    await mkdir(folder, { recursive: true });
    const secure = this.secured === null ? {} : await secureSettings(folder, this.secured);
    const settings = { ...commonSettings, ...this.#placed(own, index), ...secure, ...this.#options.settings };
    const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
    await writeFile(file, lines.join(''));
    if (existsSync(join(folder, 'data/meta.properties'))) return;
    const args = ['format', '-t', await this.#clusterId(), '-c', file];
    if (this.secured !== null)
      args.push('--add-scram', `SCRAM-SHA-512=[name=${this.secured.user},password=${this.secured.password}]`);
    const output = openSync(join(folder, 'format.log'), 'w');
    const child = spawn(program, args, { stdio: ['ignore', output, output] });
    const [code] = (await once(child, 'exit')) as [number | null];
    closeSync(output);
    if (code !== 0)
      throw await failure(`the storage of ${nameOf(index)} could not be made`, join(folder, 'format.log'));
  }

  #placed({ internal, controller, ways = [], ...first }: BrokerPorts, index: number): Record<string, string> {
    const replicas = String(Math.min(3, this.ports.length));
    const listeners = [
      { name: 'CLIENT', ...first },
      { name: 'INTERNAL', client: internal, advertised: internal },
      ...ways.map((port, way) => ({ name: `WAY${way}`, ...port })),
    ];
    const each = (text: (one: (typeof listeners)[number]) => string) => listeners.map(text).join(',');
    return {
      'node.id': String(index + 1),
      'controller.quorum.voters': this.ports.map((other, at) => `${at + 1}@${host}:${other.controller}`).join(','),
      'listener.security.protocol.map': `CONTROLLER:PLAINTEXT,${each(({ name }) => `${name}:PLAINTEXT`)}`,
      listeners: `CONTROLLER://${host}:${controller},${each(({ name, client }) => `${name}://${host}:${client}`)}`,
      'advertised.listeners': each(({ name, advertised }) => `${name}://${host}:${advertised}`),
      'log.dirs': join(this.#folder(index), 'data'),
      'offsets.topic.replication.factor': replicas,
      'transaction.state.log.replication.factor': replicas,
      'transaction.state.log.min.isr': '1',
    };
  }

  #id: Promise<string> | null = null;

  /** One for all brokers, kept in the folder. */
  #clusterId(): Promise<string> {
    this.#id ??= (async () => {
      const file = join(this.dir, 'cluster-id');
      const present = await readFile(file, 'utf8').catch(() => '');
      if (present !== '') return present.trim();
      const id = clusterIdOf(randomBytes(16));
      await writeFile(file, `${id}\n`);
      return id;
    })();
    return this.#id;
  }

  async #spawn(index: number): Promise<void> {
    const folder = this.#folder(index);
    const output = openSync(join(folder, 'broker.log'), 'a');
    const child = spawn(this.#server, [join(folder, 'server.properties')], {
      stdio: ['ignore', output, output],
      detached: true,
    });
    await once(child, 'spawn');
    closeSync(output);
    this.#options.onProcess?.(nameOf(index), child.pid ?? 0);
    this.#children[index] = child;
  }
}

/** How clients of a secured cluster come in. */
export interface Secured {
  user: string;
  password: string;
  /** PEM of the authority of the brokers' certificate, which is its own. */
  ca: string;
  key: string;
}

function secrets(): Secured {
  const { certPem, keyPem } = selfSignedCertificate('qazyna lab', 2);
  return { user: 'qazyna', password: randomBytes(12).toString('hex'), ca: certPem, key: keyPem };
}

async function secureSettings(folder: string, { ca, key }: Secured): Promise<Record<string, string>> {
  const store = join(folder, 'broker.pem');
  await writeFile(store, `${key}${ca}`, { mode: 0o600 });
  return {
    'listener.security.protocol.map': 'CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT',
    'sasl.enabled.mechanisms': 'SCRAM-SHA-512',
    'listener.name.client.scram-sha-512.sasl.jaas.config':
      'org.apache.kafka.common.security.scram.ScramLoginModule required;',
    'ssl.keystore.type': 'PEM',
    'ssl.keystore.location': store,
  };
}

/** With the program's last words: the folder may be gone when somebody reads this. */
async function failure(sentence: string, log: string): Promise<Error> {
  const lines = (await readFile(log, 'utf8').catch(() => '')).trim().split('\n');
  return new Error(`${sentence}: ${lines.slice(-lastLines).join('\n')}`);
}

/** As Kafka writes ids. One that begins with `-` its programs take for an option: the first bit is cleared. */
export function clusterIdOf(bytes: Buffer): string {
  bytes.writeUInt8(bytes.readUInt8(0) & 0x7f, 0);
  return bytes.toString('base64url');
}

function nameOf(index: number): string {
  return `broker ${index + 1}`;
}

function isAlive(child: ChildProcess | null): boolean {
  return child !== null && child.exitCode === null && child.signalCode === null;
}

/** Those of before, but for a port that somebody has by now. */
async function choosePorts(
  { brokers, ports: before, advertise, ways = [] }: KafkaLabOptions,
  isMissing: (index: number) => boolean,
): Promise<BrokerPorts[]> {
  const ports: BrokerPorts[] = [];
  for (let index = 0; index < (before?.length ?? brokers); index += 1) {
    const own = before?.[index];
    if (own !== undefined && (!isMissing(index) || (await areFree(own)))) ports.push(own);
    else ports.push({ client: await labPort(), internal: await labPort(), controller: await labPort(), advertised: 0 });
  }
  for (const own of ports) {
    own.advertised = (await advertise?.(own.client, own.advertised || undefined)) ?? own.client;
    if (ways.length > 0) own.ways = await Promise.all(ways.map(openWay));
  }
  return ports;
}

async function openWay(advertise: Advertise): Promise<ClientPort> {
  const client = await labPort();
  return { client, advertised: await advertise(client) };
}

async function areFree({ client, internal, controller }: BrokerPorts): Promise<boolean> {
  return (await isFree(client)) && (await isFree(internal)) && (await isFree(controller));
}

/** As they are recorded in the lab's folder; none when nothing is. */
export function brokerPorts({ ports }: ServiceFacts): BrokerPorts[] {
  return typeof ports === 'string' ? (JSON.parse(ports) as BrokerPorts[]) : [];
}

/** The brokers as a part of the lab. */
export class KafkaService implements LabService {
  readonly name = 'kafka';
  readonly startsOnlyMissing = true;
  readonly #brokers: number;
  readonly #advertise: Advertise | undefined;
  /** Set once it runs and was started by this very process. */
  handle: KafkaLab | null = null;

  constructor(brokers: number, advertise?: Advertise) {
    this.#brokers = brokers;
    this.#advertise = advertise;
  }

  async start(context: ServiceContext): Promise<ServiceFacts> {
    const { dir, before, signal, onProcess, isRunning } = context;
    this.handle = await KafkaLab.start({
      brokers: this.#brokers,
      dir,
      signal,
      onProcess,
      isRunning,
      ...(before.ports === undefined ? {} : { ports: brokerPorts(before) }),
      ...(this.#advertise === undefined ? {} : { advertise: this.#advertise }),
    });
    const [first] = this.handle.ports;
    return {
      host,
      port: first?.advertised ?? 0,
      brokers: this.handle.bootstrap.join(','),
      ports: JSON.stringify(this.handle.ports),
    };
  }
}
