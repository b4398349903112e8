/**
 * The daemons in one shape: `run` captures and ships, `agent` captures (and with a local log ships, which only its holder
 * can), `shipper` ships. Wires log, archives, agent, status server and service manager into one process.
 */
import { Agent } from '../agent/agent.ts';
import type { Gather } from '../agent/agent-options.ts';
import { Alarms } from '../agent/alarms.ts';
import { SourceFence } from '../agent/fence.ts';
import { startStatusServer } from '../agent/http/server.ts';
import { openService } from '../agent/journaled/open.ts';
import { PrimaryWatch } from '../agent/primary-watch.ts';
import { type ServiceNotifier, serviceNotifier } from '../agent/service/notify.ts';
import type { ArchiveConfig, Config } from '../core/config/config.ts';
import { mysqlEndpointOf } from '../core/config/secrets.ts';
import { type ServiceConfig, servicesOf } from '../core/config/services.ts';
import { exitCodes, QazynaError } from '../core/errors/error.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { MysqlEndpoint } from '../core/mysql/connection.ts';
import {
  type ArchiveWorker,
  chainsOf,
  drained,
  openArchives,
  openWorkers,
  requireKeys,
  whereHistoryStands,
} from './archive-worker.ts';
import { keepTelling, StatusTeller } from './daemon-status.ts';
import { openLog } from './log.ts';
import { startMetrics } from './metrics.ts';
import { yieldCpu } from './priority.ts';
import { watchRetention } from './retention.ts';
import { ServiceRunner } from './service-runner.ts';
import { Shipping } from './shipping.ts';
import { startUpkeep } from './upkeep.ts';
import type { Context } from './verb.ts';

export interface DaemonRole {
  /** What tells this process from others on the host: `agent`, `shipper`, `shipper-offsite`. */
  role: string;
  captures: boolean;
  ships: boolean;
  /** Those it ships to, or watches. */
  archives: readonly ArchiveConfig[];
  /** Where status answers. */
  listen: { host: string; port: number };
}

/**
 * How bytes of the binlog gather before they are an entry. What is in Kafka survives this host, so it goes there at once, and
 * what comes meanwhile follows soon. What is in a local log does not before it is in an archive, and fewer entries cost the
 * source's host less: at 2,500 commits a second 0.2 of a core instead of 0.33 (bench/overhead.ts).
 */
const gather: Record<Config['log']['kind'], Gather> = {
  kafka: { maxMs: 5, alsoWhenIdle: false, restMs: 0 },
  local: { maxMs: 50, alsoWhenIdle: true, restMs: 20 },
};
/** Where commits wait for an archive, what came goes at once, and what comes during a put is in the log when that has ended. */
const gatherAwaited: Gather = { maxMs: 5, alsoWhenIdle: false, restMs: 0 };
const notLogged =
  'the log did not take what was captured last in time; nothing is lost by that, the next start reads it from the source again';

/** Until a signal; resolves with the exit code. Throws what stopped it. */
export async function runDaemon(context: Context, role: DaemonRole): Promise<number> {
  const config = await context.config();
  const { logger, environment } = context;
  const warn = (sentence: string) => logger.warn(sentence);
  const { mysql } = config.source;
  const endpoint = role.captures && mysql !== null ? await mysqlEndpointOf(mysql, { warn, environment }) : null;
  await requireKeys(role.archives, environment);
  const notifier = serviceNotifier({ warn });
  const daemon = new Daemon(context, config, role, notifier);
  try {
    await daemon.run(endpoint);
  } finally {
    notifier.close();
  }
  if (!role.captures) logger.info('stopped');
  else if (daemon.isLogged) logger.info('stopped: everything captured is in the log');
  else logger.warn(`stopped: ${notLogged}`);
  return exitCodes.done;
}

class Daemon {
  readonly #context: Context;
  readonly #config: Config;
  readonly #role: DaemonRole;
  readonly #notifier: ServiceNotifier;
  readonly #alarms: Alarms;
  readonly #workers: readonly ArchiveWorker[];
  readonly #shipping: Shipping;
  readonly #services: readonly ServiceRunner[];
  readonly #stopping = new AbortController();
  readonly #teller: StatusTeller;
  /** Null where nothing is captured, and until the agent is there. */
  #watch: PrimaryWatch | null = null;

  constructor(context: Context, config: Config, role: DaemonRole, notifier: ServiceNotifier) {
    const { logger } = context;
    this.#context = context;
    this.#config = config;
    this.#role = role;
    this.#notifier = notifier;
    this.#alarms = new Alarms(logger);
    this.#workers = config.source.mysql === null ? [] : openWorkers(config, role, this.#alarms, logger);
    this.#shipping = new Shipping(config, this.#workers);
    this.#services = servicesOf(config).map((one) => this.#runner(one));
    const from = role.captures ? 'agent' : 'shipper';
    const services = this.#services;
    this.#teller = new StatusTeller({ from, config, workers: this.#workers, alarms: this.#alarms, services });
  }

  get isLogged(): boolean {
    return this.#teller.agent?.isLogged ?? true;
  }

  #runner(one: ServiceConfig): ServiceRunner {
    const { logger, environment } = this.#context;
    const signal = AbortSignal.any([this.#context.signal, this.#stopping.signal]);
    const { kind, name } = one;
    const service = this.#role.captures ? openService(one, { logger, environment }) : null;
    const shared = { config: this.#config, role: this.#role, alarms: this.#alarms, logger, environment, signal };
    return new ServiceRunner({ ...shared, id: { kind, name }, service });
  }

  async run(endpoint: MysqlEndpoint | null): Promise<void> {
    const { logger } = this.#context;
    await using opened = new AsyncDisposableStack();
    const openLog = async () => opened.adopt(await this.#openLog(), (log) => log.close());
    const hasMysql = this.#config.source.mysql !== null;
    // Who holds a local log is known at once. Brokers may be away for long: status must tell of it meanwhile.
    const local = hasMysql && this.#config.log.kind === 'local' ? await openLog() : null;
    const status = () => this.#teller.status();
    const roles = () => this.#watch;
    const server = await startStatusServer({ listen: this.#role.listen, status, roles, logger });
    opened.defer(() => server.close());
    logger.info(`status on http://${server.address.host}:${server.address.port}/status`);
    const services = Promise.all(this.#services.map((service) => service.run()));
    opened.defer(async () => {
      this.#stopping.abort(new Error('the daemon is stopping'));
      await services;
    });
    await startMetrics(opened, this.#config, this.#teller, this.#alarms, this.#context);
    const { archives, ships: works } = this.#role;
    startUpkeep(
      opened,
      { archives, works, config: this.#config, alarms: this.#alarms, teller: this.#teller },
      this.#context,
    );
    keepTelling(opened, { teller: this.#teller, notifier: this.#notifier, logger });
    if (hasMysql) await this.#besideServices(() => this.#runMysql(opened, openLog, local, endpoint));
    else void this.#notifier.ready();
    await services;
    void this.#notifier.stopping();
  }

  /** What stops MySQL's capture for good does not stop the services: the process ends, with that error, when it is told to. */
  async #besideServices(mysql: () => Promise<void>): Promise<void> {
    const { signal } = this.#context;
    try {
      await mysql();
    } catch (error) {
      if (this.#services.length > 0 && !signal.aborted && error instanceof QazynaError) {
        this.#alarms.raise(this.#role.captures ? 'capture' : 'shipping', error);
        await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
      }
      throw error;
    }
  }

  async #runMysql(
    opened: AsyncDisposableStack,
    openLog: () => Promise<ChainLog>,
    local: ChainLog | null,
    endpoint: MysqlEndpoint | null,
  ): Promise<void> {
    const log = local ?? (await openLog());
    this.#teller.log = log;
    const agent = endpoint === null ? await this.#openShipping() : await this.#openAgent(log, endpoint);
    this.#teller.agent = agent;
    const watching = new AbortController();
    opened.defer(() => watching.abort());
    if (agent !== null && endpoint !== null) this.#watch = this.#watchOver(agent, endpoint, watching.signal);
    await this.#serve(log, agent);
  }

  #watchOver(agent: Agent, endpoint: MysqlEndpoint, signal: AbortSignal): PrimaryWatch {
    const { logger } = this.#context;
    // Where commits wait for the log, another server may take over as soon as this one no longer reaches it.
    const needsLog = this.#config.source.acknowledgeAfter !== 'none';
    const acceptedAtMs = () => (needsLog ? agent.acceptedAtMs : null);
    const watch = new PrimaryWatch({ endpoint, chain: () => agent.chain, acceptedAtMs, logger });
    void watch.run(signal);
    return watch;
  }

  async #openLog(): Promise<ChainLog> {
    const { logger, signal, environment } = this.#context;
    const onTrouble = (error: QazynaError | null) => {
      if (error === null) return this.#alarms.clear('log');
      this.#alarms.raise('log', error);
      // The service does what it can: nothing that is ordered after it should wait for brokers.
      void this.#notifier.ready();
    };
    const archived = () => chainsOf(this.#workers);
    const creates = this.#role.captures;
    const patienceMs = Number.POSITIVE_INFINITY;
    const options = { config: this.#config, role: this.#role.role, archived, creates, patienceMs, onTrouble };
    return await openLog({ ...options, logger, signal, environment });
  }

  async #openShipping(): Promise<null> {
    await openArchives(this.#workers, this.#context.signal);
    return null;
  }

  async #openAgent(log: ChainLog, endpoint: MysqlEndpoint): Promise<Agent> {
    const { logger, signal } = this.#context;
    const { source, snapshots } = this.#config;
    const failure = await openArchives(this.#workers, signal);
    // Where neither the log nor an archive can say where history stands, it must not begin anew.
    if (failure !== null && (await log.bounds()).next === 0) throw failure;
    const onAlarm = (error: QazynaError | null) => this.#alarms.tell('fence', error);
    const fence = new SourceFence({ endpoint, onAlarm, signal, logger });
    const isAwaited = source.acknowledgeAfter !== 'none';
    if (!isAwaited) await yieldCpu();
    return new Agent({
      sourceName: source.name,
      endpoint,
      start: source.start,
      gather: gatherFor(this.#config),
      isLogShared: this.#config.log.kind === 'kafka',
      acknowledges: isAwaited,
      acceptance: this.#shipping.acceptance,
      // Only where other hosts see the chain can another server have taken over.
      ...(isAwaited || this.#config.log.kind === 'kafka' ? { onAttached: (attached) => fence.lift(attached) } : {}),
      ...(isAwaited ? { onFenced: (attached) => fence.shut(attached) } : {}),
      log,
      archives: this.#workers,
      continued: await whereHistoryStands(log, chainsOf(this.#workers)),
      snapshots: { ...snapshots, scratchDir: snapshots.scratchDir ?? '' },
      rows: rowsFor(this.#config),
      alarms: this.#alarms,
      logger,
      signal,
    });
  }

  async #serve(log: ChainLog, agent: Agent | null): Promise<void> {
    const { logger, signal } = this.#context;
    const shipping = new AbortController();
    // An agent's shippers outlive the signal: what it captured last is still brought to the archives.
    const stop = agent === null ? AbortSignal.any([signal, shipping.signal]) : shipping.signal;
    this.#shipping.agent = agent;
    const working = this.#role.ships
      ? this.#shipping.run(log, stop)
      : Promise.all(this.#workers.map((worker) => worker.watch(stop)));
    const retention = watchRetention({ log, workers: this.#workers, alarms: this.#alarms, logger, signal: stop });
    void this.#notifier.ready();
    try {
      if (agent === null) throwFirst(await working, signal);
      else await agent.run();
    } catch (error) {
      const what = agent === null ? 'shipping' : 'capture';
      logger.error(`${what} has stopped: ${error instanceof Error ? error.message : String(error)}`);
      throw error;
    } finally {
      void this.#notifier.stopping();
      // What is in the log already is still brought to the archives that can take it.
      const hangs = signal.aborted && agent?.isLogged === false && this.#config.log.kind === 'kafka';
      if (agent !== null && this.#role.ships && !hangs) await drained(agent.chain?.next ?? 0, this.#workers);
      shipping.abort(new Error('the daemon is stopping'));
      // Whoever waits for brokers that hang is told that they do not answer.
      if (hangs) await log.close();
      await Promise.all([working, retention]);
    }
  }
}

export function rowsFor({ drill }: Config): { everyMs: number; tableBytesMax: number } | null {
  const { rowsEveryMs: everyMs, rowsMaxTableBytes: tableBytesMax } = drill;
  return everyMs === null ? null : { everyMs, tableBytesMax };
}

export function gatherFor({ log, source }: Config): Gather {
  return log.kind === 'local' && source.acknowledgeAfter !== 'none' ? gatherAwaited : gather[log.kind];
}

/** A shipper whose every archive has ended its work has nothing left to do but to say why. */
function throwFirst(ends: readonly unknown[], signal: AbortSignal): void {
  const error = ends.find((end) => end !== null);
  if (!signal.aborted && error !== undefined) throw error;
}
