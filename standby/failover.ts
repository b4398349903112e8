/**
 * Whether to take over by itself. The primary counts as gone only when both say so for the whole time: no entry comes through
 * the log (its agent writes a heartbeat each second, from a connection to its server), and our own look at the server fails.
 * Then it takes over only where nothing can be lost by it; anything else is an alarm, for a person to decide.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText } from '../core/archive/store-error.ts';
import type { GtidSet } from '../core/binlog/gtid-set.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { StandbyConfig } from '../core/config/config.ts';
import { type QazynaError, transientError } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { runHook } from './hooks.ts';
import type { Pair } from './pair.ts';
import { serverUuidOf } from './server.ts';

const lookEveryMs = 250;
const fenceDeadlineMs = 60_000;
/** An alarm that nobody reads is repeated no faster than this. */
const decideEveryMs = 5000;
/** A primary that nobody has met by then is not where the configuration looks for it. */
const meetWithinMs = 10_000;

export interface FailoverOptions {
  pair: Pair;
  config: StandbyConfig;
  sourceName: string;
  /** The newest state of the chain, and when (ms, performance.now) it last grew. */
  chain: () => { state: ChainState; grewAtMs: number };
  /** The primary's server as this host reaches it. */
  primary: MysqlEndpoint;
  onAlarm: (topic: string, error: QazynaError | null) => void;
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal;
  logger: Logger;
}

/** Looks for as long as the signal lets it; does nothing while this host is no standby. */
export async function watchPrimary(options: FailoverOptions): Promise<void> {
  await new Watcher(options).run();
}

class Watcher {
  readonly #options: FailoverOptions;
  readonly #probe: Probe;
  #decidedAtMs = Number.NEGATIVE_INFINITY;
  /** When it began to be a standby, as performance.now(). */
  #sinceMs = performance.now();

  constructor(options: FailoverOptions) {
    this.#options = options;
    const { primary, config, chain, pair } = options;
    this.#probe = new Probe({
      endpoint: primary,
      deadlineMs: Math.max(250, config.failover.afterMs / 2),
      isSource: (uuid) => uuid === chain().state.sourceUuid,
      onMet: (uuid) => pair.meet({ uuid, host: primary.host, port: primary.port }),
    });
  }

  async run(): Promise<void> {
    const { signal, pair, onAlarm } = this.#options;
    try {
      while (!signal.aborted) {
        if (pair.role === 'standby') await this.#look();
        else this.#forget();
        await sleep(lookEveryMs, undefined, { signal }).catch(() => undefined);
      }
    } finally {
      onAlarm('primary', null);
      await this.#probe.close();
    }
  }

  /** What was before it became a standby does not count. */
  #forget(): void {
    this.#options.onAlarm('primary', null);
    this.#sinceMs = performance.now();
    this.#probe.forget();
  }

  /** This host has met the present source where the configuration leads to: only then its own look says anything. */
  get #hasMet(): boolean {
    const { pair, chain } = this.#options;
    return pair.met?.uuid === chain().state.sourceUuid;
  }

  async #look(): Promise<void> {
    const { config, chain, onAlarm, signal } = this.#options;
    const { afterMs, automatic } = config.failover;
    const nowMs = performance.now();
    const silentMs = nowMs - chain().grewAtMs;
    const unseenMs = await this.#probe.unseenMs(signal);
    if (silentMs < afterMs || unseenMs < afterMs) {
      const { stranger } = this.#probe;
      const isLost = !this.#hasMet && (stranger !== '' || nowMs - this.#sinceMs > meetWithinMs);
      return onAlarm('primary', automatic && isLost ? notMet(this.#options.primary, stranger) : null);
    }
    if (nowMs - this.#decidedAtMs < decideEveryMs) return;
    this.#decidedAtMs = nowMs;
    const why = await this.#takeOver(silentMs);
    if (why !== null) onAlarm('primary', gone(silentMs, why));
  }

  /** Null when this server has taken over; else why it has not. */
  async #takeOver(silentMs: number): Promise<string | null> {
    const { pair, config, chain, logger, signal } = this.#options;
    const { failover } = config;
    if (!failover.automatic) return 'standby.failover.automatic is off';
    if (!this.#hasMet) return 'it has never met this primary where source.mysql leads to';
    const sinceMs = Date.now() - pair.tookOverAtMs;
    if (sinceMs < failover.notAgainWithinMs)
      return `this host took over by itself only ${Math.round(sinceMs / 1000)} s ago (standby.failover.not_again_within)`;
    const behind = await this.#drainedWithin(failover.drainDeadlineMs);
    if (behind !== null) return behind;
    const { semiSync } = chain().state;
    const isFenced = semiSync ? false : await this.#fence();
    if (!semiSync && !isFenced)
      return failover.fence === null
        ? 'RPO 0 was not in force at the end of the log, and there is no standby.failover.fence'
        : 'RPO 0 was not in force at the end of the log, and the fence did not succeed';
    signal.throwIfAborted();
    try {
      const reason = `the primary was gone for ${(silentMs / 1000).toFixed(1)} s`;
      await pair.promote({
        kind: 'failed-over',
        reason,
        isOldPrimaryOff: isFenced,
        onStep: (step) => logger.warn(step),
      });
      return null;
    } catch (error) {
      return `the promotion failed: ${errorText(error)}`;
    }
  }

  /** Null when this server follows and has executed all that the log holds; else what is in the way. */
  async #drainedWithin(ms: number): Promise<string | null> {
    const { pair, chain, signal } = this.#options;
    const deadline = performance.now() + ms;
    for (;;) {
      const target: GtidSet = chain().state.gtids;
      const status = pair.following;
      if (pair.role !== 'standby') return `this host is ${pair.role} by now`;
      if (status?.executed.containsAll(target) === true) return null;
      if (performance.now() > deadline) {
        if (status === null || status.state !== 'following') return 'the standby does not follow';
        return `the standby still lacks ${target.subtract(status.executed).count} transactions (standby.failover.drain_deadline)`;
      }
      await sleep(50, undefined, { signal });
    }
  }

  async #fence(): Promise<boolean> {
    const { config, sourceName, chain, primary, signal, logger, environment } = this.#options;
    const { fence } = config.failover;
    if (fence === null) return false;
    const { host, port } = primary;
    const generation = chain().state.generation + 1;
    const facts = {
      event: 'fence',
      source: sourceName,
      generation,
      primary: config.advertise,
      old: { host, port },
    } as const;
    return (
      (await runHook(fence, facts, { deadlineMs: fenceDeadlineMs, signal, logger, environment })).outcome === 'done'
    );
  }
}

interface ProbeOptions {
  endpoint: MysqlEndpoint;
  deadlineMs: number;
  /** A server that the chain does not name says nothing about the one that it does. */
  isSource: (uuid: string) => boolean;
  onMet: (uuid: string) => Promise<void>;
}

/** Our own look at the primary: one connection that is kept, a question on it, and a short deadline. */
class Probe {
  readonly #options: ProbeOptions;
  #connection: MysqlConnection | null = null;
  #seenAtMs = performance.now();
  #asking: Promise<void> | null = null;
  #stranger = '';

  constructor(options: ProbeOptions) {
    const { endpoint, deadlineMs } = options;
    this.#options = { ...options, endpoint: { ...endpoint, connectTimeoutMs: deadlineMs } };
  }

  /** server_uuid of another server than the source that answered last; '' when none did. */
  get stranger(): string {
    return this.#stranger;
  }

  /** How long ago it last answered. Waits for an answer no longer than its deadline. */
  async unseenMs(signal: AbortSignal): Promise<number> {
    this.#asking ??= this.#ask(signal).finally(() => {
      this.#asking = null;
    });
    await Promise.race([this.#asking, sleep(lookEveryMs, undefined, { ref: false })]);
    return performance.now() - this.#seenAtMs;
  }

  /** As if it had been seen just now: what was before does not count. */
  forget(): void {
    this.#seenAtMs = performance.now();
  }

  async close(): Promise<void> {
    await this.#connection?.close().catch(() => undefined);
    this.#connection = null;
  }

  async #ask(signal: AbortSignal): Promise<void> {
    const { endpoint, deadlineMs, isSource, onMet } = this.#options;
    try {
      this.#connection ??= await connectMysql(endpoint, signal);
      const uuid = await serverUuidOf(this.#connection, deadlineMs);
      this.#stranger = isSource(uuid) ? '' : uuid;
      if (this.#stranger !== '') return;
      this.#seenAtMs = performance.now();
      await onMet(uuid);
    } catch {
      await this.close();
    }
  }
}

function notMet({ host, port }: MysqlEndpoint, stranger: string): QazynaError {
  const found = stranger === '' ? 'nobody answers there' : `the server ${stranger} answers there`;
  return transientError(
    'QZ4721',
    `This standby cannot look at its primary, and will not take over by itself: source.mysql leads to ${host}:${port}, and ${found}.`,
    'Name the server that is the primary now in source.mysql of this host, and see that its account gets in from here.',
  );
}

function gone(silentMs: number, why: string): QazynaError {
  return transientError(
    'QZ4716',
    `The primary has been gone for ${Math.round(silentMs / 1000)} s, and this standby does not take over by itself: ${why}.`,
    'When the old primary is off for certain, run `qazyna promote --old-primary-is-off` here; `--dry-run` says what would be lost.',
  );
}
