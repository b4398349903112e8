/**
 * The daemons in one shape: `run` captures and ships, `agent` captures (and with a local log ships, which only its holder
 * can), `shipper` ships. Wires log, archives, agent, status server and service manager into one process.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent } from '../agent/agent.ts';
import { Alarms } from '../agent/alarms.ts';
import { judge } from '../agent/http/judge.ts';
import { startStatusServer } from '../agent/http/server.ts';
import { PrimaryWatch } from '../agent/primary-watch.ts';
import { type ServiceNotifier, serviceNotifier } from '../agent/service/notify.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { ArchiveConfig, Config } from '../core/config/config.ts';
import { mysqlEndpointOf } from '../core/config/secrets.ts';
import { exitCodes, integrityError, type QazynaError } from '../core/errors/error.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { MysqlEndpoint } from '../core/mysql/connection.ts';
import {
  type ArchiveWorker,
  chainsOf,
  followingWithin,
  furthest,
  openArchives,
  openWorkers,
} from './archive-worker.ts';
import { StatusTeller } from './daemon-status.ts';
import { openLog } from './log.ts';
import { watchRetention } from './retention.ts';
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

/** All of a shutdown fits into 5 s: the agent drains into the log, then the shippers get this long. */
const shipDrainMs = 1800;
/**
 * How bytes of the binlog gather before they are an entry. What is in Kafka survives this host, so it goes there at once, and
 * what comes meanwhile follows soon. What is in a local log does not before it is in an archive, and fewer entries cost the
 * source's host less: at 2,500 commits a second 0.2 of a core instead of 0.33 (bench/overhead.ts).
 */
export const gather = { kafka: { maxMs: 5, alsoWhenIdle: false }, local: { maxMs: 50, alsoWhenIdle: true } };
/** The line that `systemctl status` shows. */
const statusLineEveryMs = 10_000;

/** Until a signal; resolves with the exit code. Throws what stopped it. */
export async function runDaemon(context: Context, role: DaemonRole): Promise<number> {
  const config = await context.config();
  const { logger, environment } = context;
  const warn = (sentence: string) => logger.warn(sentence);
  const endpoint = role.captures ? await mysqlEndpointOf(config.source.mysql, { warn, environment }) : null;
  const notifier = serviceNotifier({ warn });
  try {
    await new Daemon(context, config, role, notifier).run(endpoint);
  } finally {
    notifier.close();
  }
  logger.info(role.captures ? 'stopped: everything captured is in the log' : 'stopped');
  return exitCodes.done;
}

class Daemon {
  readonly #context: Context;
  readonly #config: Config;
  readonly #role: DaemonRole;
  readonly #notifier: ServiceNotifier;
  readonly #alarms: Alarms;
  readonly #workers: readonly ArchiveWorker[];
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
    this.#workers = openWorkers(config, role, this.#alarms, logger);
    const from = role.captures ? 'agent' : 'shipper';
    this.#teller = new StatusTeller({ from, config, workers: this.#workers, alarms: this.#alarms });
  }

  async run(endpoint: MysqlEndpoint | null): Promise<void> {
    const { logger } = this.#context;
    await using opened = new AsyncDisposableStack();
    const openLog = async () => opened.adopt(await this.#openLog(), (log) => log.close());
    // Who holds a local log is known at once. Brokers may be away for long: status must tell of it meanwhile.
    const local = this.#config.log.kind === 'local' ? await openLog() : null;
    const status = () => this.#teller.status();
    const roles = () => this.#watch;
    const server = await startStatusServer({ listen: this.#role.listen, status, roles, logger });
    opened.defer(() => server.close());
    logger.info(`status on http://${server.address.host}:${server.address.port}/status`);
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
    return new Agent({
      sourceName: source.name,
      endpoint,
      start: source.start,
      gather: gather[this.#config.log.kind],
      isLogShared: this.#config.log.kind === 'kafka',
      acknowledges: this.#config.source.acknowledgeAfter === 'log',
      log,
      archives: this.#workers,
      continued: await whereHistoryStands(log, chainsOf(this.#workers)),
      snapshots: { ...snapshots, scratchDir: snapshots.scratchDir ?? '' },
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
    const working = Promise.all(
      this.#workers.map((worker) => (this.#role.ships ? worker.ship(log, stop) : worker.watch(stop))),
    );
    const retention = watchRetention({ log, workers: this.#workers, alarms: this.#alarms, logger, signal: stop });
    void this.#notifier.ready();
    const told = setInterval(() => {
      this.#teller.status().then(
        (now) => this.#notifier.status(judge(now).firstLine),
        (error: unknown) => logger.debug('no status line', { reason: String(error) }),
      );
    }, statusLineEveryMs);
    try {
      if (agent === null) throwFirst(await working, signal);
      else await agent.run();
    } catch (error) {
      const what = agent === null ? 'shipping' : 'capture';
      logger.error(`${what} has stopped: ${error instanceof Error ? error.message : String(error)}`);
      throw error;
    } finally {
      clearInterval(told);
      void this.#notifier.stopping();
      // What is in the log already is still brought to the archives that can take it.
      if (agent !== null && this.#role.ships) await drained(agent, this.#workers);
      shipping.abort(new Error('the daemon is stopping'));
      await Promise.all([working, retention]);
    }
  }
}

/** Waits while there is more to ship than the shippers hold in hand; what they hold they put when they are told to stop. */
async function drained(agent: Agent, workers: readonly ArchiveWorker[]): Promise<void> {
  const untilMs = performance.now() + shipDrainMs;
  const tip = agent.chain?.next ?? 0;
  const isBehind = (worker: ArchiveWorker) => tip - (worker.progress()?.nextLogNumber ?? 0) > followingWithin;
  do await sleep(50);
  while (performance.now() < untilMs && workers.some(isBehind));
}

/** A shipper whose every archive has ended its work has nothing left to do but to say why. */
function throwFirst(ends: readonly unknown[], signal: AbortSignal): void {
  const error = ends.find((end) => end !== null);
  if (!signal.aborted && error !== undefined) throw error;
}

/** The generation is the highest found anywhere. A log that is new goes on from the archive that stands furthest. */
export async function whereHistoryStands(log: ChainLog, archived: readonly ChainState[]): Promise<ChainState | null> {
  const ahead = furthest(archived);
  const { state } = await log.checkpoint();
  if (state === null || ahead === null) return ahead;
  if (ahead.generation <= state.generation) return null;
  throw integrityError(
    'QZ3314',
    `An archive is at generation ${ahead.generation} (source ${ahead.sourceUuid}), but the ${log.name} ends at ${state.generation}.`,
    'Another server has taken over, or the log is an older copy. Move the log away to go on from the archive, if this server is the present source.',
    { details: { archive: ahead.generation, log: state.generation } },
  );
}
