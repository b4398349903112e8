/** Puts a daemon's status together (agent/http/status.ts), from what it knows while its log and archives come and go. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Agent } from '../agent/agent.ts';
import type { Alarms } from '../agent/alarms.ts';
import { judge } from '../agent/http/judge.ts';
import type {
  ArchiveUpkeep,
  LogStatus,
  MetricsPushStatus,
  ServiceStatus,
  StandbyStatus,
  StatusSnapshot,
} from '../agent/http/status.ts';
import type { ServiceNotifier } from '../agent/service/notify.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { Config } from '../core/config/config.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import { type ArchiveWorker, chainsOf, furthest } from './archive-worker.ts';
import { readVersion } from './version.ts';

/** A log that does not answer within this is told of as it last was: status must not hang on brokers. */
const lookMs = 300;
const lineEveryMs = 10_000;

export interface TellerOptions {
  from: 'agent' | 'shipper' | 'standby';
  config: Config;
  workers: readonly ArchiveWorker[];
  alarms: Alarms;
  services?: readonly { status(): Promise<ServiceStatus> }[];
  /** Where there is one. */
  standby?: () => StandbyStatus;
  /** Of snapshots that are not the agent's. */
  snapshotRunning?: () => boolean;
}

export class StatusTeller {
  #log: ChainLog | null = null;
  /** Null until it runs, and where none does. */
  agent: Agent | null = null;
  /** Null where there is none. */
  metricsPush: { counters: MetricsPushStatus } | null = null;
  /** Null before it begins. */
  upkeep: { readonly status: ArchiveUpkeep[] } | null = null;
  readonly #options: TellerOptions;
  readonly #startedMicros = Date.now() * 1000;
  #lastLog: LogStatus | null = null;

  constructor(options: TellerOptions) {
    this.#options = options;
  }

  /** Null until it is open, and once it is let go of. */
  set log(log: ChainLog | null) {
    this.#log = log;
    if (log === null) this.#lastLog = null;
  }

  async status(): Promise<StatusSnapshot> {
    const { from, config, workers, alarms, services = [] } = this.#options;
    const { agent } = this;
    const log = this.#log;
    if (log !== null) await Promise.race([this.#lookAt(log), sleep(lookMs, undefined, { ref: false })]);
    const next = Math.max(this.#lastLog?.next ?? 0, agent?.chain?.next ?? 0);
    const { lastCommitMicros = 0, completeThroughMicros = 0 } = this.#lastLog ?? {};
    const howFar = { next, lastCommitMicros, completeThroughMicros };
    const archives = await Promise.all(workers.map((worker) => worker.status(howFar)));
    const oldest = archives.toSorted((a, b) => a.snapshotMicros - b.snapshotMicros)[0];
    return {
      version: readVersion(),
      from,
      source: config.source.name,
      atMicros: Date.now() * 1000,
      agentStartedMicros: this.#startedMicros,
      capture: this.#captures ? { ...(agent?.capture ?? notYet) } : null,
      log: this.#lastLog === null ? null : { ...this.#lastLog, next },
      archives,
      upkeep: this.upkeep?.status ?? [],
      standby: this.#options.standby?.() ?? null,
      mysql: config.source.mysql !== null,
      services: await Promise.all(services.map((service) => service.status())),
      metricsPush: this.metricsPush === null ? null : { ...this.metricsPush.counters },
      snapshots: {
        engine: config.snapshots.engine,
        everyMs: config.snapshots.everyMs,
        running: agent?.snapshotRunning ?? this.#options.snapshotRunning?.() ?? false,
        lastId: oldest?.snapshotId ?? '',
        lastFinishedMicros: oldest?.snapshotMicros ?? 0,
      },
      acknowledgeAfter: config.source.acknowledgeAfter,
      rpoZero: agent?.rpoZero ?? false,
      alarms: alarms.list(),
    };
  }

  get #captures(): boolean {
    const { from, config } = this.#options;
    return config.source.mysql !== null && from !== 'shipper' && (from !== 'standby' || this.agent !== null);
  }

  async #lookAt(log: ChainLog): Promise<void> {
    const found = await lookAtLog(log, this.agent?.chain ?? null, this.#options.workers);
    this.#lastLog = found ?? this.#lastLog;
  }
}

/** The line that `systemctl status` shows, until `opened` is disposed of. */
export function keepTelling(
  opened: AsyncDisposableStack,
  { teller, notifier, logger }: { teller: StatusTeller; notifier: ServiceNotifier; logger: Logger },
): void {
  const timer = setInterval(() => {
    teller.status().then(
      (now) => notifier.status(judge(now).firstLine),
      (error: unknown) => logger.debug('no status line', { reason: String(error) }),
    );
  }, lineEveryMs);
  opened.defer(() => clearInterval(timer));
}

/** `chain`: its newest state, where that is known. Null when it cannot be told: the alarm on the log says why. */
export async function lookAtLog(
  log: ChainLog,
  chain: ChainState | null,
  workers: readonly ArchiveWorker[],
): Promise<LogStatus | null> {
  try {
    const [{ first, next }, { bytes, maxBytes }] = await Promise.all([log.bounds(), log.usage()]);
    const state = chain ?? (await log.checkpoint()).state ?? furthest(chainsOf(workers));
    const { lastCommitMicros = 0, completeThroughMicros = 0 } = state ?? {};
    return { name: log.name, first, next, bytes, maxBytes, lastCommitMicros, completeThroughMicros };
  } catch {
    return null;
  }
}

const notYet = {
  state: 'connecting' as const,
  file: '',
  position: 0,
  generation: 0,
  sourceUuid: '',
  transactions: 0,
  bytes: 0,
};
