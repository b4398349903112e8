/** `qazyna run` and `qazyna agent`: wires agent, shippers, status server and service manager into one process. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent } from '../agent/agent.ts';
import { Alarms } from '../agent/alarms.ts';
import { judge } from '../agent/http/judge.ts';
import { startStatusServer } from '../agent/http/server.ts';
import type { StatusSnapshot } from '../agent/http/status.ts';
import { serviceNotifier } from '../agent/service/notify.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { Config } from '../core/config/config.ts';
import { mysqlEndpointOf } from '../core/config/secrets.ts';
import { exitCodes, integrityError } from '../core/errors/error.ts';
import { LocalLog } from '../core/log/local/log.ts';
import type { Logger } from '../core/logging/logger.ts';
import { type ArchiveWorker, followingWithin, furthest, openArchives, openWorkers } from './archive-worker.ts';
import type { Context } from './verb.ts';
import { readVersion } from './version.ts';

/** All of a shutdown fits into 5 s: the agent drains into the log, then the shippers get this long. */
const shipDrainMs = 1800;
/** The line that `systemctl status` shows. */
const statusLineEveryMs = 10_000;

/** Until a signal; resolves with the exit code. Throws what stopped it. */
export async function runDaemon(context: Context): Promise<number> {
  const config = await context.config();
  const { logger, signal } = context;
  const warn = (sentence: string) => logger.warn(sentence);
  const endpoint = await mysqlEndpointOf(config.source.mysql, { warn, environment: context.environment });
  const alarms = new Alarms(logger);
  const { dir, maxSizeBytes } = config.log.local;
  const log = await LocalLog.open({ dir, maxBytes: maxSizeBytes, logger });
  try {
    const workers = openWorkers(config, join(dir, 'archives.json'), alarms, logger);
    const archived = await openArchives(workers, signal);
    const continued = await whereHistoryStands(log, archived);
    const agent = new Agent({
      sourceName: config.source.name,
      endpoint,
      start: config.source.start,
      log,
      archives: workers,
      continued,
      snapshots: { ...config.snapshots, scratchDir: config.snapshots.scratchDir ?? '' },
      alarms,
      logger,
      signal,
    });
    await serve({ config, log, agent, workers, alarms, logger });
  } finally {
    await log.close();
  }
  logger.info('stopped: everything captured is in the log');
  return exitCodes.done;
}

interface Parts {
  config: Config;
  log: LocalLog;
  agent: Agent;
  workers: readonly ArchiveWorker[];
  alarms: Alarms;
  logger: Logger;
}

async function serve(parts: Parts): Promise<void> {
  const { config, log, agent, workers, logger } = parts;
  const startedMicros = Date.now() * 1000;
  const status = () => statusOf(parts, startedMicros);
  const server = await startStatusServer({ listen: config.http, status, logger });
  logger.info(`status on http://${server.address.host}:${server.address.port}/status`);
  const notifier = serviceNotifier({ warn: (sentence) => logger.warn(sentence) });
  const shipping = new AbortController();
  const shippers = Promise.all(workers.map((worker) => worker.run(log, shipping.signal)));
  void notifier.ready();
  const told = setInterval(() => {
    status().then(
      (now) => notifier.status(judge(now).firstLine),
      (error: unknown) => logger.debug('no status line', { reason: String(error) }),
    );
  }, statusLineEveryMs);
  try {
    await agent.run();
  } catch (error) {
    logger.error(`capture has stopped: ${error instanceof Error ? error.message : String(error)}`);
    throw error;
  } finally {
    clearInterval(told);
    void notifier.stopping();
    // What is in the log already is still brought to the archives that can take it.
    await drained(parts);
    shipping.abort(new Error('the daemon is stopping'));
    await shippers;
    await server.close();
    notifier.close();
  }
}

/** Waits while there is more to ship than the shippers hold in hand; what they hold they put when they are told to stop. */
async function drained({ agent, workers }: Parts): Promise<void> {
  const untilMs = performance.now() + shipDrainMs;
  const tip = agent.chain?.next ?? 0;
  const isBehind = (worker: ArchiveWorker) => tip - (worker.progress()?.nextLogNumber ?? 0) > followingWithin;
  do await sleep(50);
  while (performance.now() < untilMs && workers.some(isBehind));
}

/** The generation is the highest found anywhere. A log that is new goes on from the archive that stands furthest. */
async function whereHistoryStands(log: LocalLog, archived: readonly ChainState[]): Promise<ChainState | null> {
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

async function statusOf(
  { config, log, agent, workers, alarms }: Parts,
  agentStartedMicros: number,
): Promise<StatusSnapshot> {
  const { first, next } = await log.bounds();
  const { bytes, maxBytes } = await log.usage();
  const { state } = await log.checkpoint();
  const archives = await Promise.all(workers.map((worker) => worker.status(next)));
  const oldest = archives.toSorted((a, b) => a.snapshotMicros - b.snapshotMicros)[0];
  return {
    version: readVersion(),
    from: 'agent',
    source: config.source.name,
    atMicros: Date.now() * 1000,
    agentStartedMicros,
    capture: { ...agent.capture },
    log: {
      name: log.name,
      first,
      next,
      bytes,
      maxBytes,
      lastCommitMicros: state?.lastCommitMicros ?? 0,
      completeThroughMicros: state?.completeThroughMicros ?? 0,
    },
    archives,
    snapshots: {
      engine: config.snapshots.engine,
      everyMs: config.snapshots.everyMs,
      running: agent.snapshotRunning,
      lastId: oldest?.snapshotId ?? '',
      lastFinishedMicros: oldest?.snapshotMicros ?? 0,
    },
    acknowledgeAfter: config.source.acknowledgeAfter,
    rpoZero: false,
    alarms: alarms.list(),
  };
}
