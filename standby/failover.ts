/**
 * Whether to take over by itself. The primary counts as gone only when both say so for the whole time: no entry comes through
 * the log (its agent writes a heartbeat each second, from a connection to its server), and our own look at the server fails.
 * Then it takes over only where nothing can be lost by it; anything else is an alarm, for a person to decide.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText } from '../core/archive/store-error.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { StandbyConfig } from '../core/config/config.ts';
import { type QazynaError, transientError } from '../core/errors/error.ts';
import type { Began } from '../core/live/began.ts';
import type { Logger } from '../core/logging/logger.ts';
import { askEnd, type ChainEnd } from './chain-end.ts';
import { runHook } from './hooks.ts';
import type { Pair } from './pair.ts';
import type { PrimaryProbe } from './probe.ts';

const lookEveryMs = 250;
const fenceDeadlineMs = 60_000;
/** An alarm that nobody reads is repeated no faster than this. */
const decideEveryMs = 5000;
/** Our own server is looked at five times a second: what is older than this does not tell that it still answers. */
const freshMs = 500;
/** A primary that nobody has met by then is not where the configuration looks for it. */
const meetWithinMs = 10_000;

export interface FailoverOptions {
  pair: Pair;
  config: StandbyConfig;
  sourceName: string;
  /** The newest state of the chain, how its generation began, and when (ms, performance.now) it last grew. */
  chain: () => { state: ChainState; began: Began | null; grewAtMs: number };
  end: ChainEnd;
  probe: PrimaryProbe;
  /** Where the primary's server is, as this host reaches it. */
  primary: { host: string; port: number };
  onAlarm: (topic: string, error: QazynaError | null) => void;
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal;
  logger: Logger;
}

/** Looks for as long as the signal lets it; does nothing while this host is the primary. */
export async function watchPrimary(options: FailoverOptions): Promise<void> {
  await new Watcher(options).run();
}

class Watcher {
  readonly #options: FailoverOptions;
  #decidedAtMs = Number.NEGATIVE_INFINITY;
  /** When it began to be a standby, as performance.now(). */
  #sinceMs = performance.now();

  constructor(options: FailoverOptions) {
    this.#options = options;
  }

  async run(): Promise<void> {
    const { signal, pair, probe, onAlarm } = this.#options;
    try {
      while (!signal.aborted) {
        if (pair.role === 'primary' || pair.role === 'promoting') this.#rest();
        else await this.#look();
        await sleep(lookEveryMs, undefined, { signal }).catch(() => undefined);
      }
    } finally {
      onAlarm('primary', null);
      await probe.close();
    }
  }

  #rest(): void {
    const { probe, onAlarm } = this.#options;
    probe.forget();
    this.#sinceMs = performance.now();
    onAlarm('primary', null);
  }

  /** This host has met the present source where the configuration leads to: only then its own look says anything. */
  get #hasMet(): boolean {
    const { pair, chain } = this.#options;
    return pair.met?.uuid === chain().state.sourceUuid;
  }

  async #look(): Promise<void> {
    const { pair, onAlarm } = this.#options;
    const goneMs = await this.#goneMs();
    if (pair.role !== 'standby') this.#sinceMs = performance.now();
    await this.#meet();
    if (goneMs === null) return onAlarm('primary', this.#notMet());
    if (performance.now() - this.#decidedAtMs < decideEveryMs) return;
    this.#decidedAtMs = performance.now();
    const why = await this.#takeOver(goneMs);
    if (why !== null) onAlarm('primary', gone(goneMs, why));
  }

  async #meet(): Promise<void> {
    const { pair, chain, probe, primary } = this.#options;
    const { seen } = probe;
    if (seen?.serverUuid !== chain().state.sourceUuid) return;
    await pair.meet({ uuid: seen.serverUuid, host: primary.host, port: primary.port });
  }

  /** For how long neither the log nor our own look has told of the primary; null while that is less than configured. */
  async #goneMs(): Promise<number | null> {
    const { config, chain, probe, signal } = this.#options;
    const unseenMs = await probe.unseenMs(signal);
    const silentMs = performance.now() - chain().grewAtMs;
    const { afterMs } = config.failover;
    return silentMs < afterMs || unseenMs < afterMs ? null : silentMs;
  }

  #notMet(): QazynaError | null {
    const { config, probe, primary } = this.#options;
    const isLost = !this.#hasMet && (probe.stranger !== '' || performance.now() - this.#sinceMs > meetWithinMs);
    return config.failover.automatic && isLost ? notMet(primary, probe.stranger) : null;
  }

  /** Null when this server has taken over, or need not; else why it has not. */
  async #takeOver(goneMs: number): Promise<string | null> {
    const { pair, config, logger, signal } = this.#options;
    const hindrance = this.#hindrance() ?? (await this.#behind());
    if (hindrance !== null) return hindrance;
    // That took a while.
    if ((await this.#goneMs()) === null) return null;
    const doubt = this.#doubt();
    const isFenced = doubt !== null && (await this.#fence());
    if (doubt !== null && !isFenced)
      return `${doubt}, and ${config.failover.fence === null ? 'there is no standby.failover.fence' : 'the fence did not succeed'}`;
    signal.throwIfAborted();
    try {
      const reason = `the primary was gone for ${(goneMs / 1000).toFixed(1)} s`;
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

  /** What no waiting helps against; null when there is nothing of it. */
  #hindrance(): string | null {
    const { pair, config, chain, probe } = this.#options;
    const { failover } = config;
    if (!failover.automatic) return 'standby.failover.automatic is off';
    if (pair.role !== 'standby') return `this host is ${pair.role}`;
    const { began } = chain();
    if (began?.reason.startsWith('failed-over:') === true) {
      const sinceMs = Math.max(0, Date.now() - began.atMicros / 1000);
      if (sinceMs < failover.notAgainWithinMs)
        return `the last failover was only ${Math.round(sinceMs / 1000)} s ago (standby.failover.not_again_within)`;
    }
    if (!this.#hasMet) return 'it has never met this primary where source.mysql leads to';
    if (probe.stranger !== '') return `the server ${probe.stranger} answers in its place`;
    return null;
  }

  /** Null when this server has executed all that the log holds; else what is in the way, also after the drain deadline. */
  async #behind(): Promise<string | null> {
    const { pair, chain, config, end, signal, logger } = this.#options;
    const wanted = await askEnd(end, signal, logger);
    if (wanted === null) return 'the log cannot be read to its end';
    const deadline = performance.now() + config.failover.drainDeadlineMs;
    for (;;) {
      const { state } = chain();
      const status = pair.following;
      if (pair.role !== 'standby') return `this host is ${pair.role} by now`;
      const isFresh = status !== null && Math.abs(Date.now() - status.atMs) < freshMs;
      if (isFresh && end.taken() >= wanted && status.executed.containsAll(state.gtids)) return null;
      if (performance.now() > deadline) {
        if (!isFresh) return 'its own server has not answered lately';
        if (status.state !== 'following') return 'it does not follow: see its other alarms';
        if (end.taken() < wanted) return 'the log could not be read to its end (standby.failover.drain_deadline)';
        return `it still lacks ${state.gtids.subtract(status.executed).count} transactions (standby.failover.drain_deadline)`;
      }
      await sleep(50, undefined, { signal });
    }
  }

  /** Why something that a client was told of could be lost by it; null when nothing can. */
  #doubt(): string | null {
    const { chain, probe } = this.#options;
    const { state } = chain();
    if (!state.semiSync) return 'RPO 0 was not in force at the end of the log';
    const { seen } = probe;
    if (seen?.serverUuid !== state.sourceUuid) return null;
    const beyond = seen.executed.subtract(state.gtids);
    if (beyond.isEmpty) return null;
    return `when it was last seen, the primary had committed ${beyond}, which the log does not hold`;
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

function notMet({ host, port }: { host: string; port: number }, stranger: string): QazynaError {
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
