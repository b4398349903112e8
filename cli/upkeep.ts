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

interface UpkeepOptions {
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

class Upkeep {
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
          const known = await this.#look(archive);
          if (works) await this.#work(archive, known);
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

  async #look({ name, url, encryption }: ArchiveConfig): Promise<ArchiveUpkeep> {
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
    return known;
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

  async #work(archive: ArchiveConfig, known: ArchiveUpkeep): Promise<void> {
    const { verify, drill } = this.#options.config;
    const { name } = archive;
    const isFullDue = isDue(verify.fullEveryMs, known.verifiedFullMicros || known.createdMicros);
    const isVerifyDue = isFullDue || isDue(verify.everyMs, known.verified?.atMicros ?? known.createdMicros);
    const isDrillDue = drill.archive === name && isDue(drill.everyMs, known.drilled?.atMicros ?? known.createdMicros);
    if (isVerifyDue) {
      const verb = ['verify', '--from', name, ...(isFullDue ? ['--full'] : [])];
      await this.#runVerb(archive, `verify-run:${name}`, verb, ({ verified }) => verified?.atMicros ?? 0);
    }
    if (isDrillDue)
      await this.#runVerb(archive, 'drill-run', ['drill', '--from', name], ({ drilled }) => drilled?.atMicros ?? 0);
  }

  /** Done is what the archive has a record of, whatever was found; everything else is tried again. */
  async #runVerb(
    archive: ArchiveConfig,
    topic: string,
    verb: readonly string[],
    notedMicros: (known: ArchiveUpkeep) => number,
  ): Promise<void> {
    const { alarms, signal, logger } = this.#options;
    if ((this.#notBeforeMs.get(topic) ?? 0) > performance.now()) return;
    logger.info(`beginning: qazyna ${verb.join(' ')}`);
    const beganMicros = Date.now() * 1000;
    const { code, stdout } = await this.#child(verb);
    if (signal.aborted) return;
    this.#notBeforeMs.set(topic, performance.now() + againAfterFailureMs);
    if (notedMicros(await this.#look(archive)) < beganMicros) return alarms.raise(topic, failureOf(verb, code, stdout));
    this.#notBeforeMs.delete(topic);
    logger.info(`ended: qazyna ${verb.join(' ')}`, { exitCode: code });
    alarms.clear(topic);
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
  const hasResult = code === exitCodes.done || code === exitCodes.attention;
  const why = toldBy(stdout) ?? (hasResult ? 'its result could not be noted' : `it ended with ${code}`);
  return transientError(
    'QZ4960',
    `qazyna ${verb[0]} could not be run by itself: ${why.replace(/\.$/, '')}.`,
    'It is tried again in ten minutes; run it by hand to see more.',
  );
}

/** The error that stopped it, or that stopped it in its one archive; null where it tells of none. */
function toldBy(stdout: string): string | null {
  const { error, archives } = parseObject(stdout.trim()) ?? {};
  const [archive]: unknown[] = Array.isArray(archives) ? archives : [];
  for (const each of [error, (archive as { error?: unknown } | undefined)?.error]) {
    const { message, code } = (each ?? {}) as { message?: unknown; code?: unknown };
    if (typeof message === 'string') return `${String(code)}, ${message}`;
  }
  return null;
}
