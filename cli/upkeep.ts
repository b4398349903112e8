/**
 * Verification and drills that come by themselves, beside a daemon: in processes of their own, at low priority, one after the
 * other. What is due follows from the records in each archive, so it does not matter who did it last.
 */
import { spawn } from 'node:child_process';
import { constants, setPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Alarms } from '../agent/alarms.ts';
import type { ArchiveUpkeep } from '../agent/http/status.ts';
import { upkeepProblems, upkeepTopics } from '../agent/http/upkeep.ts';
import { openArchive, parseObject } from '../core/archive/open.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import type { ArchiveConfig, Config } from '../core/config/config.ts';
import { exitCodes, QazynaError, transientError } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';
import type { StatusTeller } from './daemon-status.ts';
import { readUpkeep } from './upkeep-records.ts';
import type { Context } from './verb.ts';

/** Two listings for each archive; what this process does itself is looked at at once. */
const lookEveryMs = 120_000;
const againAfterFailureMs = 600_000;
const endWithinMs = 2000;
const outputMax = 1024 * 1024;

export interface UpkeepOptions {
  config: Config;
  configFile: string;
  archives: readonly ArchiveConfig[];
  /** Whether this process does what is due; else it only looks. */
  works: boolean;
  alarms: Alarms;
  logger: Logger;
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal;
}

/** Until `opened` is disposed of. */
export function startUpkeep(
  opened: AsyncDisposableStack,
  options: Pick<UpkeepOptions, 'config' | 'archives' | 'works' | 'alarms'> & { teller: StatusTeller },
  { configFile, logger, environment }: Context,
): void {
  const { teller, ...rest } = options;
  const stop = new AbortController();
  const upkeep = new Upkeep({ ...rest, configFile, logger, environment, signal: stop.signal });
  teller.upkeep = upkeep;
  const running = upkeep.run().catch((error: unknown) => {
    logger.error('verification and drills by themselves have ended by a bug', { error: String(error) });
  });
  opened.defer(async () => {
    stop.abort(new Error('the daemon is stopping'));
    await running;
  });
}

export class Upkeep {
  readonly #options: UpkeepOptions;
  readonly #stores = new Map<string, ObjectStore>();
  readonly #known = new Map<string, ArchiveUpkeep>();
  readonly #notBeforeMs = new Map<string, number>();

  constructor(options: UpkeepOptions) {
    this.#options = options;
  }

  /** As it was seen last; in the order of the configuration. */
  get status(): ArchiveUpkeep[] {
    return this.#options.archives.flatMap(({ name }) => this.#known.get(name) ?? []);
  }

  /** Until the signal aborts; rejects only by a bug. */
  async run(): Promise<void> {
    const { archives, works, signal, logger } = this.#options;
    while (!signal.aborted) {
      for (const archive of archives) {
        try {
          await this.#look(archive);
          if (works && (await this.#work(archive))) await this.#look(archive);
        } catch (error) {
          if (signal.aborted) return;
          if (!(error instanceof QazynaError)) throw error;
          logger.debug(`the upkeep of ${archive.name} could not be looked at: ${error.message}`);
        }
      }
      await sleep(this.#pauseMs(), undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  /** Short intervals are for tests and demonstrations. */
  #pauseMs(): number {
    const { verify, drill } = this.#options.config;
    const each = [verify.everyMs, verify.fullEveryMs, drill.everyMs].map((every) => (every ?? lookEveryMs) / 60);
    return Math.max(1000, Math.min(lookEveryMs, ...each));
  }

  async #look({ name, url, encryption }: ArchiveConfig): Promise<void> {
    const { config, environment, logger, signal } = this.#options;
    let store = this.#stores.get(name);
    if (store === undefined) {
      const warn = (sentence: string) => logger.debug(sentence);
      store = (await openArchive(url, { create: false, keys: encryption, environment, warn })).store;
      this.#stores.set(name, store);
    }
    const known = await readUpkeep({ name, store, source: config.source.name }, config, signal);
    this.#known.set(name, known);
    this.#alarm(known);
  }

  #alarm(known: ArchiveUpkeep): void {
    const { alarms } = this.#options;
    const problems = upkeepProblems(Date.now() * 1000, known);
    for (const topic of upkeepTopics(known.name)) {
      const problem = problems.find((one) => one.topic === topic);
      if (problem === undefined) alarms.clear(topic);
      else alarms.raise(topic, { ...problem, message: problem.sentence });
    }
  }

  /** Whether anything was due. */
  async #work({ name }: ArchiveConfig): Promise<boolean> {
    const { config } = this.#options;
    const known = this.#known.get(name);
    if (known === undefined) return false;
    const { everyMs, fullEveryMs } = config.verify;
    const isFullDue = isDue(fullEveryMs, known.verifiedFullMicros || known.createdMicros);
    const isVerifyDue = isFullDue || isDue(everyMs, known.verified?.atMicros ?? known.createdMicros);
    const { drill } = config;
    const isDrillDue = drill.archive === name && isDue(drill.everyMs, known.drilled?.atMicros ?? known.createdMicros);
    if (isVerifyDue)
      await this.#runVerb(`verify-run:${name}`, ['verify', '--from', name, ...(isFullDue ? ['--full'] : [])]);
    if (isDrillDue) await this.#runVerb('drill-run', ['drill', '--from', name]);
    return isVerifyDue || isDrillDue;
  }

  async #runVerb(topic: string, verb: readonly string[]): Promise<void> {
    const { alarms, signal, logger } = this.#options;
    if ((this.#notBeforeMs.get(topic) ?? 0) > performance.now()) return;
    logger.info(`beginning: qazyna ${verb.join(' ')}`);
    const { code, stdout } = await this.#child(verb);
    if (signal.aborted) return;
    const hasResult = code === exitCodes.done || code === exitCodes.attention;
    if (hasResult) {
      logger.info(`ended: qazyna ${verb.join(' ')}`, { exitCode: code });
      return alarms.clear(topic);
    }
    this.#notBeforeMs.set(topic, performance.now() + againAfterFailureMs);
    alarms.raise(topic, failureOf(verb, code, stdout));
  }

  async #child(verb: readonly string[]): Promise<{ code: number | null; stdout: string }> {
    const { configFile, environment, signal } = this.#options;
    const main = process.argv[1] ?? '';
    const child = spawn(process.execPath, [...process.execArgv, main, ...verb, '--config', configFile, '--json'], {
      stdio: ['ignore', 'pipe', 'ignore'],
      env: environment,
    });
    if (child.pid !== undefined) lower(child.pid);
    const stop = () => {
      child.kill('SIGTERM');
      setTimeout(() => child.kill('SIGKILL'), endWithinMs).unref();
    };
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    let stdout = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (stdout.length < outputMax) stdout += text;
    });
    return await new Promise((resolve) => {
      const ended = (code: number | null) => {
        signal.removeEventListener('abort', stop);
        resolve({ code, stdout });
      };
      child.on('error', () => ended(null));
      child.on('close', ended);
    });
  }
}

function isDue(everyMs: number | null, lastMicros: number): boolean {
  return everyMs !== null && lastMicros > 0 && Date.now() - lastMicros / 1000 >= everyMs;
}

/** What is captured comes first. */
function lower(pid: number): void {
  try {
    setPriority(pid, constants.priority.PRIORITY_LOW);
  } catch {
    // It has ended already, or may not be touched: then it runs as it is.
  }
}

function failureOf(verb: readonly string[], code: number | null, stdout: string) {
  const { error } = parseObject(stdout.trim()) ?? {};
  const told = typeof error === 'object' && error !== null ? (error as { message?: unknown; code?: unknown }) : {};
  const why = typeof told.message === 'string' ? `${String(told.code)}, ${told.message}` : `it ended with ${code}`;
  return transientError(
    'QZ4960',
    `qazyna ${verb[0]} could not be run by itself: ${why.replace(/\.$/, '')}.`,
    'It is tried again in ten minutes; run it by hand to see more.',
  );
}
