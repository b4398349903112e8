/** `qazyna standby`: one host of a pair, from its log and archives to the roles it plays (standby/pair.ts). */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { Alarms } from '../agent/alarms.ts';
import { startStatusServer } from '../agent/http/server.ts';
import type { StandbyStatus } from '../agent/http/status.ts';
import type { PrimaryWatch } from '../agent/primary-watch.ts';
import { type ServiceNotifier, serviceNotifier } from '../agent/service/notify.ts';
import { endOfChain } from '../core/archive/chain.ts';
import { type Config, decidingArchive, mysqlOf, type StandbyConfig } from '../core/config/config.ts';
import { mysqlEndpointOf, readSecret } from '../core/config/secrets.ts';
import { exitCodes, isKind, type QazynaError, transientError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import { LiveSource } from '../core/live/live-source.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { MysqlEndpoint } from '../core/mysql/connection.ts';
import { defaultOsUser, Mysqld } from '../core/mysql/mysqld.ts';
import type { ReplicaSource } from '../core/restore/replication.ts';
import { startStreamServer } from '../core/stream/server.ts';
import type { ChainEnd } from '../standby/chain-end.ts';
import { ClosedPrimary } from '../standby/closed-primary.ts';
import { serveControl } from '../standby/control.ts';
import { decideInArchive, decideInLog } from '../standby/decide.ts';
import { watchPrimary } from '../standby/failover.ts';
import { Pair } from '../standby/pair.ts';
import { PrimaryProbe } from '../standby/probe.ts';
import { ArchiveWatch } from './archive-watch.ts';
import { type ArchiveWorker, chainsOf, openArchives, openWorkers, requireKeys } from './archive-worker.ts';
import { keepTelling, StatusTeller } from './daemon-status.ts';
import { fillProgress } from './fill-progress.ts';
import { openLog, stateFolder } from './log.ts';
import { listLost } from './lost.ts';
import { startMetrics } from './metrics.ts';
import { PairCapture } from './pair-capture.ts';
import { PairRoles } from './pair-roles.ts';
import { requireRunner, standbyOf } from './standby-config.ts';
import { holdStandbyLease } from './standby-lease.ts';
import { StandbySnapshots } from './standby-snapshots.ts';
import { answerVerb } from './standby-verbs.ts';
import { startUpkeep } from './upkeep.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

const role = 'standby';
const growthPollMs = 25;

export function addStandby(program: Command, frame: Frame): void {
  addVerb(program, frame, {
    usage: 'standby',
    summary: 'keep a MySQL server warm that takes over when the primary is gone; on each of the two hosts of a pair',
    about:
      'Fills its own server from the newest snapshot, keeps it a replica of the history, and serves any other stock replica. Where the chain (the Kafka log, or without one the archive that commits wait for) names its server as the source, it is the primary: it captures, and takes writes. SIGTERM ends it, and leaves its server running.',
    examples: [
      ['standby', 'With the configuration at its usual place; its section `standby` says where the server is'],
    ],
    daemon: true,
    run: runStandby,
  });
}

async function runStandby(context: Context): Promise<number> {
  const config = await context.config();
  const standby = standbyOf(config);
  requireRunner(standby, context.environment);
  const warn = (sentence: string) => context.logger.warn(sentence);
  const primary = await mysqlEndpointOf(mysqlOf(config), { warn, environment: context.environment });
  await requireKeys(config.archives, context.environment);
  const notifier = serviceNotifier({ warn });
  try {
    await new PairDaemon(context, config, standby, primary, notifier).run();
  } finally {
    notifier.close();
  }
  context.logger.info('stopped; its server runs on');
  return exitCodes.done;
}

class PairDaemon {
  readonly #context: Context;
  readonly #config: Config;
  readonly #standby: StandbyConfig;
  readonly #primary: MysqlEndpoint;
  readonly #notifier: ServiceNotifier;
  readonly #alarms: Alarms;
  readonly #workers: readonly ArchiveWorker[];
  readonly #archives: ArchiveWatch;
  readonly #teller: StatusTeller;
  #pair: Pair | null = null;
  #live: LiveSource | null = null;
  #snapshots: StandbySnapshots | null = null;
  /** While this host's server is captured. */
  #watch: PrimaryWatch | null = null;
  readonly #roles = new PairRoles({
    pair: () => this.#pair,
    watch: () => this.#watch,
    generation: () => this.#live?.state.generation ?? null,
  });
  #grewAtMs = performance.now();

  constructor(
    context: Context,
    config: Config,
    standby: StandbyConfig,
    primary: MysqlEndpoint,
    notifier: ServiceNotifier,
  ) {
    this.#context = context;
    this.#config = config;
    this.#standby = standby;
    this.#primary = primary;
    this.#notifier = notifier;
    this.#alarms = new Alarms(context.logger);
    this.#workers = openWorkers(config, { archives: config.archives, role }, this.#alarms, context.logger);
    this.#archives = new ArchiveWatch(this.#workers);
    const standbyStatus = () => this.#standbyStatus();
    this.#teller = new StatusTeller({
      from: 'standby',
      config,
      workers: this.#workers,
      alarms: this.#alarms,
      standby: standbyStatus,
      snapshotRunning: () => this.#snapshots?.isRunning ?? false,
    });
  }

  async run(): Promise<void> {
    const { logger, signal } = this.#context;
    await using opened = new AsyncDisposableStack();
    const status = () => this.#teller.status();
    const server = await startStatusServer({ listen: this.#config.http, status, roles: () => this.#roles, logger });
    opened.defer(() => server.close());
    logger.info(`status on http://${server.address.host}:${server.address.port}/status`);
    await startMetrics(opened, this.#config, this.#teller, this.#alarms, this.#context);
    const { archives } = this.#config;
    const works = !this.#isShared;
    startUpkeep(
      opened,
      { archives, works, config: this.#config, alarms: this.#alarms, teller: this.#teller },
      this.#context,
    );
    keepTelling(opened, { teller: this.#teller, notifier: this.#notifier, logger });
    // The service does what it can: nothing that is ordered after it should wait for brokers or archives.
    void this.#notifier.ready();
    // With local logs each host has its own, and holds it only while its server is captured.
    const log = this.#isShared ? opened.adopt(await this.#openLog(), (one) => one.close()) : null;
    if (log === null) await mkdir(stateFolder(this.#config, role), { recursive: true, mode: 0o750 });
    this.#teller.log = log;
    await openArchives(this.#workers, signal);
    const stop = new AbortController();
    this.#archives.start();
    try {
      await this.#serve(log, opened, stop);
    } finally {
      void this.#notifier.stopping();
      stop.abort(new Error('the daemon is stopping'));
      await this.#archives.stop();
    }
  }

  get #isShared(): boolean {
    return this.#config.log.kind === 'kafka';
  }

  async #serve(log: ChainLog | null, opened: AsyncDisposableStack, stop: AbortController): Promise<void> {
    const { logger } = this.#context;
    const signal = AbortSignal.any([this.#context.signal, stop.signal]);
    const live = opened.adopt(await this.#openLive(log, signal), (one) => one.close());
    const running = live.run();
    // A topic that was only just made holds nothing yet.
    await Promise.race([running, live.changed(0, signal)]);
    const stream = await this.#openStream(live, opened);
    const pair = await this.#openPair(log, live, stream, signal);
    const { environment } = this.#context;
    const onAlarm = (topic: string, error: QazynaError | null) => this.#alarms.tell(topic, error);
    const { dir } = this.#standby;
    const closed = await ClosedPrimary.open({ dir, primary: this.#primary, live, onAlarm, signal, logger });
    this.#pair = pair;
    this.#live = live;
    const config = this.#standby;
    const primary = this.#primary;
    const isSource = (serverUuid: string) => serverUuid === live.state.sourceUuid;
    const probe = new PrimaryProbe(primary, config.failover.afterMs / 2, isSource);
    const snapshots = this.#openSnapshots(pair, signal);
    this.#snapshots = snapshots;
    const takeSnapshot = (onStep: (sentence: string) => void) => snapshots.ask(this.#teller.agent, onStep);
    const end = this.#endOf(log, live);
    const parts = { pair, live, end, probe, closed, takeSnapshot, primary, config, signal, logger };
    opened.use(
      await serveControl(config.dir, (verb, options, onStep) => answerVerb(parts, { verb, options, onStep }), logger),
    );
    const failover = {
      pair,
      config,
      sourceName: this.#config.source.name,
      chain: () => ({ state: live.state, began: live.began, grewAtMs: this.#grewAtMs }),
      end,
      probe,
      primary,
    };
    const beside = [
      running,
      closed.watch(),
      snapshots.run(),
      this.#watchGrowth(live, signal),
      watchPrimary({ ...failover, onAlarm, environment, signal, logger }),
      this.#holdLease(pair, live, signal),
    ];
    try {
      await Promise.race([pair.run(), ...beside]);
    } finally {
      stop.abort();
      await Promise.allSettled(beside);
    }
  }

  async #holdLease(pair: Pair, live: LiveSource, signal: AbortSignal): Promise<void> {
    const { store } = this.#archive(this.#standby.archive);
    const { name: sourceName } = this.#config.source;
    await holdStandbyLease({ store, sourceName, pair, live, signal, logger: this.#context.logger });
  }

  async #openLog(): Promise<ChainLog> {
    const { logger, signal, environment } = this.#context;
    const onTrouble = (error: QazynaError | null) => this.#alarms.tell('log', error);
    const archived = () => chainsOf(this.#workers);
    const patienceMs = Number.POSITIVE_INFINITY;
    const options = { config: this.#config, role, archived, creates: false, patienceMs, onTrouble };
    return await openLog({ ...options, logger, signal, environment });
  }

  /** Waits for a history to begin: a standby may be started before the first agent. */
  async #openLive(log: ChainLog | null, signal: AbortSignal): Promise<LiveSource> {
    const { logger } = this.#context;
    const { store } = this.#archive(decidingArchive(this.#config) ?? this.#standby.archive);
    const onTrouble = (error: QazynaError | null) => this.#alarms.tell('history', error);
    const options = { log, store, sourceName: this.#config.source.name, onTrouble, signal, logger };
    const open = () =>
      LiveSource.open(options).catch((error: unknown) => {
        if (!isKind(error, 'configuration') || error.code !== 'QZ2410') throw error;
        throw transientError('QZ4718', error.message, 'The standby waits for the first segment of its history.', {
          cause: error,
        });
      });
    const onFailure = (error: Error) => isKind(error, 'transient') && this.#alarms.tell('standby', error);
    const patience = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY, onFailure };
    const live = await retrying('reading the history', open, patience);
    this.#alarms.tell('standby', null);
    return live;
  }

  async #openStream(live: LiveSource, opened: AsyncDisposableStack): Promise<ReplicaSource> {
    const { logger, environment } = this.#context;
    const { listen, replicaUser, replicaPasswordFile } = this.#standby;
    const warn = (sentence: string) => logger.warn(sentence);
    const password =
      replicaPasswordFile === null
        ? randomBytes(16).toString('hex')
        : await readSecret(replicaPasswordFile, { warn, environment });
    const credentials = { user: replicaUser, password };
    const stream = await startStreamServer({
      source: live,
      credentials,
      identity: `standby of ${this.#config.source.name} on ${this.#standby.dir}`,
      host: listen.host,
      port: listen.port,
      requireTls: true,
      logger,
      onFault: (error) => logger.error('the stream server met a fault', { reason: String(error) }),
    });
    opened.defer(() => stream.close());
    logger.info(`stream server for replicas on ${stream.host}:${stream.port}`, { user: replicaUser });
    const host = listen.host === '0.0.0.0' ? '127.0.0.1' : listen.host === '::' ? '::1' : listen.host;
    return { host, port: stream.port, ...credentials };
  }

  async #openPair(log: ChainLog | null, live: LiveSource, stream: ReplicaSource, signal: AbortSignal): Promise<Pair> {
    const { logger, environment, progress } = this.#context;
    const { name } = this.#config.source;
    const decides = decidingArchive(this.#config) ?? this.#standby.archive;
    const capture = new PairCapture({
      config: this.#config,
      shared: log,
      workers: this.#workers,
      watch: this.#archives,
      live,
      teller: this.#teller,
      alarms: this.#alarms,
      onWatch: (watch) => {
        this.#watch = watch;
      },
      logger,
    });
    const { mysqldPath, osUser } = this.#standby;
    const onFill = fillProgress(progress);
    return new Pair({
      config: this.#standby,
      sourceName: name,
      decide: log === null ? decideInArchive(this.#archive(decides).store, name, live) : decideInLog(log),
      live,
      store: this.#archive(this.#standby.archive).store,
      stream,
      mysqld: await Mysqld.find(mysqldPath ?? undefined, environment),
      osUser: osUser ?? (await defaultOsUser()),
      semiSync: this.#config.source.acknowledgeAfter !== 'none',
      capture: (endpoint, hooks) => capture.run(endpoint, hooks),
      onAlarm: (topic, error) => this.#alarms.tell(topic, error),
      listChanges: listLost,
      onFill,
      environment,
      signal,
      logger,
    });
  }

  #endOf(log: ChainLog | null, live: LiveSource): ChainEnd {
    if (log !== null) return { ask: async () => (await log.bounds()).next, taken: () => live.state.next };
    const { store } = this.#archive(decidingArchive(this.#config) ?? this.#standby.archive);
    const ask = (signal: AbortSignal) => endOfChain(store, this.#config.source.name, live.lastSegment, signal);
    return { ask, taken: () => (live.lastSegment?.header.sequence ?? -1) + 1 };
  }

  #openSnapshots(pair: Pair, signal: AbortSignal): StandbySnapshots {
    const stores = this.#workers.map(({ name, store }) => ({ name, store }));
    const { logger } = this.#context;
    return new StandbySnapshots({ pair, config: this.#config, stores, alarms: this.#alarms, signal, logger });
  }

  async #watchGrowth(live: LiveSource, signal: AbortSignal): Promise<void> {
    for (let version = 0; !signal.aborted; ) {
      const grown = await live.grown(version, signal).catch(() => null);
      if (grown === null) break;
      version = grown;
      this.#grewAtMs = performance.now();
      await sleep(growthPollMs, undefined, { signal }).catch(() => undefined);
    }
  }

  #standbyStatus(): StandbyStatus {
    const following = this.#pair?.following ?? null;
    return {
      role: this.#pair?.role ?? 'starting',
      isWritable: this.#pair?.isWritable ?? false,
      serverUuid: following?.serverUuid ?? '',
      replication: following?.state ?? 'starting',
      behindTransactions: following?.behindTransactions ?? 0,
      completeThroughMicros: following?.throughMicros ?? 0,
      promotion: this.#pair?.promotion?.step ?? '',
    };
  }

  #archive(named: string): ArchiveWorker {
    const worker = this.#workers.find(({ name }) => name === named);
    if (worker === undefined) throw new Error('the configuration was checked');
    return worker;
  }
}
