/** What the daemon of a pair does when `promote`, `switchover` or `rejoin` asks it to. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { GtidSet } from '../core/binlog/gtid-set.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { StandbyConfig } from '../core/config/config.ts';
import { configurationError, transientError } from '../core/errors/error.ts';
import type { LiveSource } from '../core/live/live-source.ts';
import type { Logger } from '../core/logging/logger.ts';
import type { MysqlEndpoint } from '../core/mysql/connection.ts';
import { type ChainEnd, reachEnd } from '../standby/chain-end.ts';
import type { ClosedPrimary } from '../standby/closed-primary.ts';
import type { ControlVerb } from '../standby/control.ts';
import type { Pair } from '../standby/pair.ts';
import type { PrimaryProbe } from '../standby/probe.ts';
import { switchOver } from '../standby/switchover.ts';
import type { PromotionAnswer } from './promote.ts';

/** What was committed just before it was looked at may still be on its way to us through the log. */
const underWayMs = 1000;
const pollMs = 20;
/** The log answers in time or not at all; what it holds is taken in soon. */
const endWithinMs = 10_000;

export interface VerbParts {
  pair: Pair;
  live: LiveSource;
  end: ChainEnd;
  probe: PrimaryProbe;
  closed: ClosedPrimary;
  takeSnapshot: (onStep: (sentence: string) => void) => Promise<object>;
  /** The primary as this host reaches it. */
  primary: MysqlEndpoint;
  config: StandbyConfig;
  signal: AbortSignal;
  logger: Logger;
}

export interface VerbRequest {
  verb: ControlVerb;
  options: Record<string, unknown>;
  onStep: (sentence: string) => void;
}

export async function answerVerb(parts: VerbParts, request: VerbRequest): Promise<Record<string, unknown>> {
  const { verb, options } = request;
  const dryRun = options.dryRun === true;
  if (verb === 'snapshot') return { ...(await parts.takeSnapshot(request.onStep)) };
  if (verb === 'rejoin') return { ...(await parts.pair.rejoin({ reseed: options.reseed === true, dryRun })) };
  return { ...(dryRun ? await plan(parts, verb) : await takeOver(parts, request)) };
}

async function plan(parts: VerbParts, verb: ControlVerb): Promise<PromotionAnswer> {
  const { pair, live } = parts;
  if (pair.role === 'primary') return { ...answerOf(parts, live.state, live.state.generation), dryRun: true };
  await requireEnd(parts);
  const lost = verb === 'switchover' ? '' : await beyondLog(parts);
  return { ...answerOf(parts, live.state, live.state.generation + 1), lost, dryRun: true };
}

async function takeOver(parts: VerbParts, { verb, options, onStep }: VerbRequest): Promise<PromotionAnswer> {
  const { pair, live, probe, closed, primary, signal, logger } = parts;
  const reason = typeof options.reason === 'string' && options.reason !== '' ? options.reason : 'asked by an operator';
  const before = live.state;
  if (verb === 'switchover' && pair.promotion?.kind !== 'switched-over') {
    const chain = () => live.state;
    const refusedMs = await switchOver({ pair, primary, closed, chain, reason, onStep, signal, logger });
    return { ...answerOf(parts, before, before.generation + 1), lost: '', refusedMs: Math.round(refusedMs) };
  }
  const isOldPrimaryOff = options.oldPrimaryIsOff === true;
  if (pair.role === 'standby') await requireEnd(parts);
  if (pair.role === 'standby' && !isOldPrimaryOff) await requireNothingBeyond(parts);
  const looking = probe.look(signal);
  const { generation, target, end } = await pair.promote({ kind: 'promoted', reason, isOldPrimaryOff, onStep });
  if (target === null) return answerOf(parts, before, generation);
  // One that still answers may have gone on meanwhile.
  const old = (await looking) === null ? null : await probe.look(signal);
  const isOld = old !== null && old.serverUuid === before.sourceUuid;
  return {
    ...answerOf(parts, end ?? before, generation),
    lost: isOld ? old.executed.subtract(target).toString() : null,
  };
}

/** RPO 0 may have been in force at the end of the log, and not any more afterwards: then the primary has gone on without it. */
async function requireNothingBeyond(parts: VerbParts): Promise<void> {
  const { live, probe } = parts;
  await beyondLog(parts);
  const { seen } = probe;
  const beyond = seen?.serverUuid === live.state.sourceUuid ? seen.executed.subtract(live.state.gtids) : null;
  if (beyond === null || beyond.isEmpty) return;
  throw configurationError(
    'QZ2752',
    `When it was last seen, the primary had committed ${beyond}, which the log does not hold: a promotion would lose it.`,
    'Let its agent bring it into the log. If the old primary is off and that cannot be had: --old-primary-is-off.',
    { details: { beyond: beyond.toString() } },
  );
}

/** What was seen of the chain may be old. */
async function requireEnd({ end, signal, logger }: VerbParts): Promise<void> {
  if (await reachEnd(end, { withinMs: endWithinMs, signal, logger })) return;
  throw transientError(
    'QZ4755',
    'The log cannot be read to its end, so what a promotion would keep cannot be told.',
    'Nothing was done. See the alarms in `qazyna status` on this host for what is in the way, and ask again.',
  );
}

/** What the primary has committed and the log does not come to hold; null when it does not answer. */
async function beyondLog({ live, probe, signal }: VerbParts): Promise<string | null> {
  const seen = await probe.look(signal);
  if (seen === null || seen.serverUuid !== live.state.sourceUuid) return null;
  const missing = (): GtidSet => seen.executed.subtract(live.state.gtids);
  for (const until = performance.now() + underWayMs; !missing().isEmpty && performance.now() < until; )
    await sleep(pollMs, undefined, { signal });
  return missing().toString();
}

function answerOf({ pair, config }: VerbParts, before: ChainState, generation: number): PromotionAnswer {
  const { host, port } = config.advertise;
  const { following } = pair;
  return {
    dryRun: false,
    already: generation === before.generation,
    generation,
    from: before.sourceUuid,
    to: following?.serverUuid ?? before.sourceUuid,
    lastCommitMicros: before.lastCommitMicros,
    behindTransactions: following?.behindTransactions ?? 0,
    rpoZero: before.semiSync,
    lost: null,
    refusedMs: 0,
    address: `${host}:${port}`,
  };
}
