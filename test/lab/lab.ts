/**
 * Real servers on loopback, each on a free port, all state below one folder. What runs is written down there before it
 * is ready, so that `down` stops exactly what was started, also after the lab itself was killed, and nothing else.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { lockFile } from '../../core/archive/file-lock.ts';
import { configurationError } from '../../core/errors/error.ts';
import type { MysqlEndpoint } from '../../core/mysql/connection.ts';
import type { MysqldHandle } from '../../core/mysql/mysqld.ts';
import { FaultDesk, FaultService } from './fault-desk.ts';
import { type InfluxdbLab, InfluxdbService } from './influxdb.ts';
import { brokerPorts, type KafkaLab, KafkaService } from './kafka.ts';
import { MysqlService, type MysqlServiceOptions } from './mysql.ts';
import { labPort } from './ports.ts';
import { endProcess, identify, isRunning } from './processes.ts';
import { type S3Lab, S3Service } from './s3.ts';
import type { Advertise, LabService, ServiceFacts } from './service.ts';
import { type LabState, lastOfEach, readState, type ServiceState, stateFile, writeState } from './state.ts';

const stopDeadlineMs = 60_000;
const brokerDeadlineMs = 3_000;
const secretMode = 0o600;

export interface LabOptions {
  /** Default: a new folder in the system's temporary folder, removed by `stop`. */
  dir?: string;
  /** Stop and remove what an earlier lab left in `dir`, then begin anew. */
  fresh?: boolean;
  mysql?: MysqlServiceOptions;
  /** Brokers of a Kafka log in place of local files; none by default. */
  kafka?: 0 | 1 | 3;
  /** The archive `offsite` in an S3 server instead of a folder. */
  s3?: boolean;
  /** An InfluxDB 1.8 beside MySQL, protected as well. */
  influxdb?: boolean;
  /** Puts fault proxies before every one of them: `lab.faults` tells them what to do. */
  faults?: boolean;
  signal?: AbortSignal;
}

export interface ServiceStatus {
  name: string;
  /** All of it. */
  running: boolean;
  /** Which of its processes should run and do not. */
  stopped: string[];
  pids: number[];
  facts: ServiceFacts;
}

export interface LabMysql {
  /** Over the socket, all rights. */
  root: MysqlEndpoint;
  /** What the agent uses (not made in a stock lab). */
  qazyna: MysqlEndpoint;
  /** What a workload uses. */
  app: MysqlEndpoint;
  dataDir: string;
  socket: string;
  port: number;
  version: string;
  /** Null when the lab was started by another process. */
  handle: MysqldHandle | null;
}

export class Lab implements AsyncDisposable {
  readonly dir: string;
  /** A ready configuration: this source, the log that was asked for, the archives `onsite` and `offsite`. */
  readonly configFile: string;
  readonly mysql: LabMysql;
  /** Null when there is none, or when it was started by another process. */
  readonly kafka: KafkaLab | null;
  readonly s3: S3Lab | null;
  readonly influxdb: InfluxdbLab | null;
  /** Null without proxies. */
  readonly faults: FaultDesk | null;
  /** What each service says of itself, also one that another process started. */
  readonly facts: LabFacts;
  /** What to give to `--from` for the archive `offsite`, by somebody who knows nothing else. */
  readonly offsiteUrl: string;
  readonly httpPort: number;
  readonly #removeAfter: boolean;

  private constructor(dir: string, parts: LabParts, httpPort: number, removeAfter: boolean) {
    this.dir = dir;
    this.configFile = join(dir, 'qazyna.yaml');
    this.mysql = parts.mysql;
    this.kafka = parts.kafka;
    this.s3 = parts.s3;
    this.influxdb = parts.influxdb;
    this.faults = parts.faults;
    this.facts = parts.facts;
    this.offsiteUrl = offsiteUrl(dir, parts.facts);
    this.httpPort = httpPort;
    this.#removeAfter = removeAfter;
  }

  /** Starts what is not running yet; data of an earlier run in the same folder stays. Errors: QZ2830, QZ2831, those of mysqld. */
  static async start(options: LabOptions = {}): Promise<Lab> {
    const dir = options.dir ? resolve(options.dir) : await mkdtemp(join(tmpdir(), 'qazyna-lab-'));
    await requireLabFolder(dir);
    await mkdir(dir, { recursive: true });
    await using _lock = await lockFile(`${dir}.lock`);
    if (options.fresh) await empty(dir);
    const state = readState(dir) ?? { lab: 1, httpPort: await labPort(), services: {} };
    requireSameBrokers(dir, state, options.kafka ?? 0);
    writeState(dir, state);
    try {
      const parts = await startParts(dir, state, options);
      const lab = new Lab(dir, parts, state.httpPort, options.dir === undefined);
      await lab.#writeConfig(Number(parts.facts.faults?.mysql ?? lab.mysql.port));
      return lab;
    } catch (error) {
      await stopAll(dir);
      throw error;
    }
  }

  /** Stops everything; a folder of the lab's own choosing is removed, a given one keeps data and logs. */
  async stop(): Promise<void> {
    await stopAll(this.dir);
    if (this.#removeAfter) await rm(this.dir, { recursive: true, force: true });
    await rm(`${this.dir}.lock`, { force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #writeConfig(mysqlPort: number): Promise<void> {
    for (const folder of ['log', 'state', 'scratch', 'archives/onsite', 'archives/offsite']) {
      await mkdir(join(this.dir, folder), { recursive: true });
    }
    await writeFile(this.configFile, configText(this.dir, mysqlPort, this.httpPort, this.facts));
  }
}

export type LabFacts = Record<string, ServiceFacts | undefined>;

interface LabParts {
  mysql: LabMysql;
  kafka: KafkaLab | null;
  s3: S3Lab | null;
  influxdb: InfluxdbLab | null;
  faults: FaultDesk | null;
  facts: LabFacts;
}

/** What is wanted now, and what was started here before. */
async function startParts(dir: string, state: LabState, options: LabOptions): Promise<LabParts> {
  const stop = new AbortController();
  const signal = AbortSignal.any([stop.signal, ...(options.signal === undefined ? [] : [options.signal])]);
  const start = (service: LabService) => startService(dir, state, service, signal);
  const isWanted = (name: string, now: boolean) => now || state.services[name]?.facts.host !== undefined;
  let faults: FaultDesk | null = null;
  if (isWanted('faults', options.faults === true)) {
    await start(new FaultService());
    faults = new FaultDesk(Number(state.services.faults?.facts.port));
  }
  const advertise = (service: string): Advertise | undefined =>
    faults === null ? undefined : (port, before) => faults.before(service, port, before);
  const mysql = new MysqlService(options.mysql);
  const kafka = new KafkaService(options.kafka ?? 0, advertise('kafka'));
  const s3 = new S3Service(advertise('s3'));
  const influxdb = new InfluxdbService();
  const wanted: LabService[] = [mysql];
  if (isWanted('kafka', (options.kafka ?? 0) > 0)) wanted.push(kafka);
  if (isWanted('s3', options.s3 === true)) wanted.push(s3);
  if (isWanted('influxdb', options.influxdb === true)) wanted.push(influxdb);
  await allTogether(wanted, start, stop);
  if (faults !== null) await standBefore(faults, dir, state);
  const facts = factsOf(state);
  const handles = { kafka: kafka.handle, s3: s3.handle, influxdb: influxdb.handle };
  return { mysql: await mysqlOf(dir, state, mysql.handle), ...handles, faults, facts };
}

/** When one fails the others are called off, and waited for: what they started is recorded by then. */
async function allTogether(
  services: readonly LabService[],
  start: (service: LabService) => Promise<void>,
  stop: AbortController,
): Promise<void> {
  const failures: unknown[] = [];
  const failed = (error: unknown) => {
    failures.push(error);
    stop.abort(error);
  };
  await Promise.all(services.map((service) => start(service).catch(failed)));
  if (failures.length > 0) throw failures[0];
}

/** A proxy before each service, on the port of before: those of a process that was killed are gone. */
async function standBefore(faults: FaultDesk, dir: string, state: LabState): Promise<void> {
  const { mysql, kafka, s3, faults: own } = factsOf(state);
  if (own === undefined) return;
  if (kafka !== undefined) {
    for (const { client, advertised } of brokerPorts(kafka)) await faults.before('kafka', client, advertised);
  }
  if (s3 !== undefined) await faults.before('s3', Number(s3.servicePort), Number(s3.port));
  own.mysql = await faults.before('mysql', Number(mysql?.port), Number(own.mysql) || undefined);
  writeState(dir, state);
}

function requireSameBrokers(dir: string, state: LabState, wanted: number): void {
  const facts = state.services.kafka?.facts ?? {};
  const present = brokerPorts(facts).length;
  if (wanted === 0 || present === 0 || wanted === present) return;
  throw configurationError(
    'QZ2831',
    `The lab in ${dir} has ${present} Kafka broker${present === 1 ? '' : 's'}, not ${wanted}.`,
    'Add --fresh to begin anew, or name another folder.',
  );
}

function factsOf(state: LabState): LabFacts {
  return Object.fromEntries(Object.entries(state.services).map(([name, { facts }]) => [name, facts]));
}

function offsiteUrl(dir: string, { s3 }: LabFacts): string {
  if (s3 === undefined) return `file://${dir}/archives/offsite`;
  const place = { endpoint: String(s3.endpoint), path_style: 'true', credentials_file: String(s3.credentials) };
  return `s3://${s3.bucket}/prod?${new URLSearchParams(place)}`;
}

/** What is recorded in `dir` and what of it runs. Errors: QZ2830 not a lab's folder. */
export async function labStatus(dir: string): Promise<ServiceStatus[]> {
  return Object.entries(stateOf(dir).services).map(([name, { facts, processes }]) => {
    const stopped = lastOfEach(processes).filter((process) => !isRunning(process));
    const pids = processes.filter(isRunning).map(({ pid }) => pid);
    return {
      name,
      running: pids.length > 0 && stopped.length === 0,
      stopped: stopped.map(({ what }) => what),
      pids,
      facts,
    };
  });
}

/** Stops what was started in `dir`, by whichever process; one line for each process. Errors: QZ2830. */
export async function stopLab(dir: string): Promise<string[]> {
  stateOf(dir);
  const told = await stopAll(dir);
  await rm(`${resolve(dir)}.lock`, { force: true });
  return told;
}

async function startService(dir: string, state: LabState, service: LabService, signal: AbortSignal): Promise<void> {
  const record: ServiceState = state.services[service.name] ?? { facts: {}, processes: [] };
  state.services[service.name] = record;
  const cameUp = record.facts.host !== undefined;
  const last = lastOfEach(record.processes);
  if (cameUp && last.length > 0 && last.every(isRunning)) return;
  if (!cameUp || service.startsOnlyMissing !== true) {
    for (const process of record.processes) await endProcess(process, stopDeadlineMs);
  }
  record.processes = record.processes.filter(isRunning);
  const running = new Set(record.processes.map(({ what }) => what));
  record.facts = await service.start({
    dir: join(dir, service.name),
    before: record.facts,
    signal,
    secret: (name) => secretOf(dir, name),
    isRunning: (what) => running.has(what),
    onProcess: (what, pid) => {
      const identity = identify(pid);
      if (identity) record.processes.push({ what, ...identity });
      writeState(dir, state);
    },
  });
  writeState(dir, state);
}

async function stopAll(dir: string): Promise<string[]> {
  const state = readState(dir);
  const told: string[] = [];
  for (const [name, { processes }] of Object.entries(state?.services ?? {}).reverse()) {
    for (const process of [...processes].reverse()) {
      // The last broker waits for a majority that is gone already.
      const deadlineMs = name === 'kafka' ? brokerDeadlineMs : stopDeadlineMs;
      told.push(`${name}: ${process.what} (${process.pid}) ${await endProcess(process, deadlineMs)}`);
    }
    processes.length = 0;
  }
  if (state) writeState(dir, state);
  return told;
}

async function mysqlOf(dir: string, state: LabState, handle: MysqldHandle | null): Promise<LabMysql> {
  const facts = state.services.mysql?.facts ?? {};
  const socket = String(facts.socket);
  const place = { host: '127.0.0.1', port: Number(facts.port) };
  const endpoint = async (user: string): Promise<MysqlEndpoint> => ({
    ...place,
    user,
    password: await secretOf(dir, user),
  });
  return {
    root: { ...(await endpoint('root')), socketPath: socket },
    qazyna: await endpoint('qazyna'),
    app: await endpoint('app'),
    dataDir: String(facts.dataDir),
    socket,
    port: place.port,
    version: String(facts.version),
    handle,
  };
}

export function secretPath(dir: string, name: string): string {
  return join(dir, 'secrets', name);
}

async function secretOf(dir: string, name: string): Promise<string> {
  const path = secretPath(dir, name);
  await mkdir(join(dir, 'secrets'), { recursive: true, mode: 0o700 });
  // Letters and digits only: it also stands in SQL and on command lines of people.
  await writeFile(path, randomBytes(18).toString('hex'), { mode: secretMode, flag: 'wx' }).catch((error) => {
    if (error.code !== 'EEXIST') throw error;
  });
  return (await readFile(path, 'utf8')).trim();
}

function configText(dir: string, mysqlPort: number, httpPort: number, facts: LabFacts): string {
  const { kafka, s3, influxdb } = facts;
  const brokers = JSON.stringify(String(kafka?.brokers).split(','));
  const log =
    kafka === undefined
      ? `local: { dir: ${dir}/log }`
      : `kafka: { brokers: ${brokers}, topic: qazyna.agama, state_dir: ${dir}/state }`;
  const offsite =
    s3 === undefined
      ? `url: "file://${dir}/archives/offsite"`
      : `url: "s3://${s3.bucket}/prod", endpoint: "${s3.endpoint}", path_style: true, credentials_file: ${s3.credentials}`;
  const services =
    influxdb === undefined
      ? ''
      : `influxdb:\n  - { name: syslog, url: "${influxdb.url}", listen: "127.0.0.1:${influxdb.ingestPort}" }\n`;
  return `# Made by the lab in ${dir}.
source:
  name: agama
  mysql:
    host: 127.0.0.1
    port: ${mysqlPort}
    user: qazyna
    password_file: ${secretPath(dir, 'qazyna')}
    tls: { mode: required }
log:
  ${log}
archives:
  onsite: { url: "file://${dir}/archives/onsite" }
  offsite: { ${offsite} }
snapshots:
  engine: clone
  scratch_dir: ${dir}/scratch
${services}http: { listen: "127.0.0.1:${httpPort}" }
`;
}

function stateOf(dir: string): LabState {
  const state = readState(resolve(dir));
  if (state) return state;
  throw configurationError(
    'QZ2830',
    `${dir} is not the folder of a lab.`,
    'Give the folder that `up --dir` was given.',
  );
}

async function requireLabFolder(dir: string): Promise<void> {
  const entries = await readdir(dir).catch(() => []);
  if (entries.length === 0 || existsSync(join(dir, stateFile))) return;
  throw configurationError(
    'QZ2830',
    `${dir} is neither empty nor the folder of a lab.`,
    'Name an empty folder, or one that `up --dir` was given before.',
  );
}

async function empty(dir: string): Promise<void> {
  await stopAll(dir);
  for (const entry of await readdir(dir)) await rm(join(dir, entry), { recursive: true, force: true });
}
