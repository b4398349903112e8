/**
 * One service beside MySQL in a running daemon: its own log, its own shippers, and what captures it. Whatever befalls it
 * becomes an alarm of its own; nothing it does ends the process or stops the others.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Alarms } from '../agent/alarms.ts';
import { drainSignal } from '../agent/drain.ts';
import type { LogStatus, ServiceStatus } from '../agent/http/status.ts';
import type { CapturedService } from '../agent/journaled/types.ts';
import { releaseArchived } from '../agent/release.ts';
import { serviceChain } from '../core/archive/layout.ts';
import type { ArchiveConfig, Config } from '../core/config/config.ts';
import type { ServiceId } from '../core/config/services.ts';
import { QazynaError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import { JournalWriter } from '../core/journal/writer.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import {
  type ArchiveWorker,
  chainsOf,
  drained,
  openArchives,
  openWorkers,
  whereHistoryStands,
} from './archive-worker.ts';
import { lookAtLog } from './daemon-status.ts';
import { openLog } from './log.ts';
import { watchRetention } from './retention.ts';

/** As in StatusTeller: status must not hang on brokers. */
const lookMs = 300;

export interface ServiceRunnerOptions {
  config: Config;
  id: ServiceId;
  /** Null where another process captures it. */
  service: CapturedService | null;
  role: { role: string; ships: boolean; archives: readonly ArchiveConfig[] };
  /** Of the whole process. */
  alarms: Alarms;
  logger: Logger;
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal;
}

/**
 * The configuration as a chain of its own has it: below the log's folder, or in the topic `<topic>.<kind>.<name>`. Whoever
 * writes to a service waits until the log has it, as with `acknowledge_after: log`.
 */
export function serviceConfig(config: Config, { kind, name }: ServiceId): Config {
  const id = `${kind}.${name}`;
  const { log, source } = config;
  const dir = join(log.stateDir, id);
  const own =
    log.kind === 'local' ? { ...log, dir, stateDir: dir } : { ...log, topic: `${log.topic}.${id}`, stateDir: dir };
  const chainName = serviceChain(source.name, { kind, name });
  return { ...config, source: { ...source, name: chainName, acknowledgeAfter: 'log' }, log: own };
}

export class ServiceRunner {
  readonly #options: ServiceRunnerOptions;
  readonly #config: Config;
  readonly #alarms: Alarms;
  readonly #workers: readonly ArchiveWorker[];
  #log: ChainLog | null = null;
  #lastLog: LogStatus | null = null;
  #journal: JournalWriter | null = null;
  #stopped = false;

  constructor(options: ServiceRunnerOptions) {
    const { id, role, logger } = options;
    this.#options = options;
    this.#config = serviceConfig(options.config, id);
    this.#alarms = options.alarms.of(`${id.kind}.${id.name}`);
    this.#workers = openWorkers(this.#config, role, this.#alarms, logger);
  }

  /** Until the signal aborts; never rejects. */
  async run(): Promise<void> {
    const { logger, signal } = this.#options;
    try {
      await this.#work();
    } catch (error) {
      if (!signal.aborted) this.#stop('service', error);
      else if (error instanceof QazynaError) logger.warn(`${this.#name}: ${error.message}`, { code: error.code });
    } finally {
      this.#stopped = true;
    }
  }

  get #name(): string {
    return this.#config.source.name;
  }

  async #work(): Promise<void> {
    const { logger, signal, service, role } = this.#options;
    await using opened = new AsyncDisposableStack();
    const log = opened.adopt(await this.#openLog(), (one) => one.close());
    this.#log = log;
    const failure = await openArchives(this.#workers, signal);
    // Where neither the log nor an archive can say where history stands, it must not begin anew.
    if (service !== null && failure !== null && (await log.bounds()).next === 0) throw failure;
    const shipping = new AbortController();
    const stop = service === null ? AbortSignal.any([signal, shipping.signal]) : shipping.signal;
    const working = this.#workers.map((worker) => (role.ships ? worker.ship(log, stop) : worker.watch(stop)));
    const watching = watchRetention({ log, workers: this.#workers, alarms: this.#alarms, logger, signal: stop });
    const releasing = releaseArchived({
      log,
      archives: this.#workers,
      chainId: () => this.#journal?.state.chainId,
      logger,
      signal: stop,
    });
    try {
      if (service !== null) await this.#capture(service, log);
      // Its shippers work on also when its capture has ended by a fault.
      await aborted(signal);
      if (service !== null && role.ships) await drained(this.#journal?.state.next ?? 0, this.#workers);
    } finally {
      shipping.abort(new Error('the daemon is stopping'));
      await Promise.all([...working, watching, releasing]);
    }
  }

  async #openLog(): Promise<ChainLog> {
    const { role, logger, signal, environment, service } = this.#options;
    return await openLog({
      config: this.#config,
      role: role.role,
      archived: () => chainsOf(this.#workers),
      creates: service !== null,
      patienceMs: Number.POSITIVE_INFINITY,
      onTrouble: (error) => this.#alarms.tell('log', error),
      logger,
      signal,
      environment,
    });
  }

  /** Until the signal aborts, or until a fault that does not pass by itself; then with an alarm. */
  async #capture(service: CapturedService, log: ChainLog): Promise<void> {
    const { logger, signal } = this.#options;
    const ended = new AbortController();
    try {
      const { state, next } = await log.checkpoint();
      this.#journal = await JournalWriter.open(log, {
        chainName: this.#name,
        base: state,
        first: next,
        continued: await whereHistoryStands(log, chainsOf(this.#workers)),
        signal: AbortSignal.any([drainSignal(signal), ended.signal]),
        logger,
        onTrouble: (error) => this.#alarms.tell('log', error),
      });
      const context = {
        chainName: this.#name,
        journal: this.#journal,
        log,
        archives: this.#workers,
        alarms: this.#alarms,
        logger,
        signal,
      };
      const options = { signal, logger, deadlineMs: Number.POSITIVE_INFINITY };
      const onFailure = (error: Error) => error instanceof QazynaError && this.#alarms.raise('capture', error);
      await retrying(`capturing ${this.#name}`, () => service.run(context), { ...options, onFailure });
    } catch (error) {
      if (!signal.aborted) this.#stop('capture', error);
    } finally {
      ended.abort(new Error('the service is stopping'));
      this.#stopped = true;
    }
  }

  #stop(topic: string, error: unknown): void {
    const { logger } = this.#options;
    const text = error instanceof Error ? error.message : String(error);
    logger.error(`${this.#name} has stopped: ${text}`, error instanceof QazynaError ? {} : { error: String(error) });
    const hint = 'Please report it with the log; restart the agent to go on.';
    const bug = { code: 'bug', message: `The capture of ${this.#name} ended by a bug: ${text}.`, hint };
    this.#alarms.raise(topic, error instanceof QazynaError ? error : bug);
  }

  async status(): Promise<ServiceStatus> {
    const { id, service } = this.#options;
    if (this.#log !== null) await Promise.race([this.#lookAt(this.#log), sleep(lookMs, undefined, { ref: false })]);
    const { next = 0, lastCommitMicros = 0, completeThroughMicros = 0 } = this.#lastLog ?? {};
    const howFar = { next: Math.max(next, this.#journal?.state.next ?? 0), lastCommitMicros, completeThroughMicros };
    return {
      kind: id.kind,
      name: id.name,
      state: this.#stopped ? 'stopped' : (service?.state ?? 'watched'),
      log: this.#lastLog === null ? null : { ...this.#lastLog, ...howFar },
      archives: await Promise.all(this.#workers.map((worker) => worker.status(howFar))),
      seenMicros: service === null ? null : service.seenMicros,
      snapshots: service?.snapshots ?? { everyMs: 0, running: false },
      counters: { ...service?.counters },
    };
  }

  async #lookAt(log: ChainLog): Promise<void> {
    this.#lastLog = (await lookAtLog(log, this.#journal?.state ?? null, this.#workers)) ?? this.#lastLog;
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
