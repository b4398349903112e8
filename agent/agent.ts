/**
 * The agent: claims the chain, captures the source into the log, takes snapshots, releases from the log what every archive
 * holds, and knows how all of it stands. Shippers run beside it, in this process or another; it only looks at how far they are.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { supersededCodes } from '../core/chain/superseded.ts';
import type { ChainState } from '../core/chain/types.ts';
import { ChainWriter } from '../core/chain/writer.ts';
import { crashPoint } from '../core/errors/crash-points.ts';
import { isKind, QazynaError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import { connectMysql } from '../core/mysql/connection.ts';
import { readSourceFacts } from '../core/mysql/source-facts.ts';
import type { AgentOptions } from './agent-options.ts';
import { Attachments } from './attachments.ts';
import { type CaptureOptions, captureEntries } from './capture/capture.ts';
import { capturedPrefixCrc } from './capture/captured-prefix.ts';
import type { CapturedBatch, CapturedEntry } from './capture/types.ts';
import { drainSignal } from './drain.ts';
import type { CaptureStatus } from './http/status.ts';
import { releaseArchived } from './release.ts';
import { keepCounted } from './rows/keep-counted.ts';
import { RpoWatch } from './semi-sync/watch.ts';
import { dueOfSourceMs, SnapshotScheduler, snapshotAlarms } from './snapshot/scheduler.ts';
import type { NamedStore } from './snapshot/sides.ts';
import { type SnapshotReport, type SnapshotRequest, takeSnapshot } from './snapshot/snapshot.ts';
import { Unaccepted } from './unaccepted.ts';

const lookEveryMs = 1000;
/** Between a promotion's claim and its entry. */
const claimSettlesMs = 2000;
const claimPollMs = 100;

export class Agent {
  readonly #options: AgentOptions;
  readonly #capture: CaptureStatus = {
    state: 'connecting',
    file: '',
    position: 0,
    generation: 0,
    sourceUuid: '',
    transactions: 0,
    bytes: 0,
  };
  #writer: ChainWriter | null = null;
  #claimed: { writer: string; next: number } | null = null;
  readonly #attachments = new Attachments((signal) => this.#options.onAttached?.(signal));
  #acceptedAtMs = 0;
  /** Batches that were captured and are not durable in the log yet. */
  #underWay = 0;
  /** Everything of the source's binlog before this is accepted; null before anything was. */
  #acceptedPlace: { file: string; position: number } | null = null;
  #scheduler: SnapshotScheduler | null = null;
  #rpo: RpoWatch | null = null;
  #fencing: Promise<void> | null = null;
  #promotion: Promise<QazynaError | null> | null = null;

  constructor(options: AgentOptions) {
    this.#options = options;
  }

  get capture(): CaptureStatus {
    return this.#capture;
  }

  /** The fold through the last accepted entry; null before the claim. */
  get chain(): ChainState | null {
    return this.#writer?.state ?? null;
  }

  /** Which writer this agent has claimed the log as, and the number behind that claim; null before. */
  get claim(): { writer: string; next: number } | null {
    return this.#claimed;
  }

  /** Everything that was captured is in the log. What is not is still in the source's binlog, and is read again. */
  get isLogged(): boolean {
    return this.#underWay === 0;
  }

  /** When the chain last took entries of ours, as performance.now(); 0 before the first. Each second something is due. */
  get acceptedAtMs(): number {
    return this.#acceptedAtMs;
  }

  /** Every condition of RPO 0 is measured to hold right now. */
  get rpoZero(): boolean {
    return this.#rpo?.holds ?? false;
  }

  get snapshotRunning(): boolean {
    return this.#scheduler?.state.running ?? false;
  }

  /** Until the signal aborts. Rejects with a configuration or integrity error: capture cannot go on by itself. */
  async run(): Promise<void> {
    const { signal } = this.#options;
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    try {
      const sourceUuid = await this.#sourceUuid();
      const drain = drainSignal(either);
      this.#writer = await this.#claim(sourceUuid, drain);
      const looking = this.#lookForOthers(this.#writer, either);
      const beside = [
        this.#takeSnapshots(either),
        this.#countRows(either),
        this.#release(either),
        this.#watchRpo(either),
      ];
      const capturing = this.#captureInto(this.#writer, either, drain);
      await Promise.race([capturing, looking, this.#superseded()]).finally(() => stop.abort());
      await capturing;
      await Promise.all([...beside, looking]);
    } catch (error) {
      if (signal.aborted && !(error instanceof QazynaError)) return;
      await this.#fenceWhen(error);
      throw (await this.#promotionBehind(error)) ?? error;
    } finally {
      stop.abort();
      this.#attachments.end();
      this.#capture.state = 'stopped';
    }
  }

  /** Another server may be the source by now: then this one is shut before it is left. */
  #fenceWhen(error: unknown): Promise<void> {
    this.#fencing ??= this.#fence(error);
    return this.#fencing;
  }

  async #fence(error: unknown): Promise<void> {
    const { onFenced, alarms } = this.#options;
    if (onFenced === undefined || !isKind(error, 'integrity')) return;
    const attached = this.#capture.state === 'running' || this.#capture.state === 'paused';
    const why = error.code === 'QZ3310' ? error : await this.#promotionBehind(error);
    // One that only begins must not shut a server that has nothing to do with this chain.
    if (why === null || (this.#writer === null && why.details.isFormerSource !== true)) return;
    alarms.raise('fence', why);
    this.#capture.state = 'fenced';
    this.#attachments.end();
    await onFenced(attached);
  }

  /** A promotion claims the chain first, and that may be all that was seen of it: QZ3310 where one follows the claim, else null. */
  async #promotionBehind(error: unknown): Promise<QazynaError | null> {
    if (this.#writer === null || !isKind(error, 'integrity') || error.code !== 'QZ3311') return null;
    this.#promotion ??= replacementOf(this.#writer, this.#options.signal);
    return await this.#promotion;
  }

  /** Which server stands there; waits for one that is not up yet. */
  async #sourceUuid(): Promise<string> {
    const { endpoint, signal, logger } = this.#options;
    const ask = async () => {
      const connection = await connectMysql(endpoint, signal);
      try {
        return (await readSourceFacts(connection)).serverUuid;
      } finally {
        await connection.close();
      }
    };
    const onFailure = (error: Error) => this.#trouble('capture', error);
    return await retrying('reaching the source', ask, {
      signal,
      logger,
      deadlineMs: Number.POSITIVE_INFINITY,
      maxDelayMs: 1000,
      onFailure,
    });
  }

  async #claim(sourceUuid: string, signal: AbortSignal): Promise<ChainWriter> {
    const { log, continued, logger } = this.#options;
    const { state, next } = await log.checkpoint();
    const onTrouble = (error: QazynaError | null) => this.#trouble('log', error);
    const writer = await ChainWriter.open(log, {
      signal,
      logger,
      base: state,
      first: next,
      sourceUuid,
      continued,
      onTrouble,
    });
    this.#claimed = { writer: writer.writer, next: writer.state.next };
    logger.info(`claimed the chain in ${log.name}`, { generation: writer.state.generation, next: writer.state.next });
    return writer;
  }

  async #captureInto(writer: ChainWriter, signal: AbortSignal, drain: AbortSignal): Promise<void> {
    const { acceptance, acknowledges } = this.#options;
    const unaccepted = acceptance !== null && acknowledges ? new Unaccepted(acceptance, drain) : null;
    // To register at the source acknowledges all that was before; our own claim tells that nobody else has gone on until now.
    if (unaccepted !== null) await acceptance?.through(writer.state, signal);
    this.#attachments.claimed();
    const { range } = writer.state;
    this.#acceptedPlace = range === null ? null : { file: range.file, position: range.end };
    const options = await this.#captureOptions(writer, unaccepted, signal);
    const failed = new AbortController();
    let last = Promise.resolve();
    for await (const batch of captureEntries(options, AbortSignal.any([signal, failed.signal]))) {
      this.#underWay += 1;
      await writer.room();
      await unaccepted?.room();
      const attachment = this.#attachments.number;
      last = writer
        .append(this.#witnessed(batch.items))
        .then(() => this.#appended(writer, batch, unaccepted))
        .then(() => this.#attachments.accepted(attachment));
      // Seen by the next round or after the loop; the source must not be read on meanwhile, unless it has to be held.
      last.catch(async (error: unknown) => {
        batch.release();
        await this.#fenceWhen(error);
        failed.abort(error);
      });
    }
    await last;
  }

  async #captureOptions(
    writer: ChainWriter,
    unaccepted: Unaccepted | null,
    signal: AbortSignal,
  ): Promise<CaptureOptions> {
    const { endpoint, start, gather, isLogShared, logger, log } = this.#options;
    const { range, gtids, sourceUuid, chainId, generation } = writer.state;
    const prefixCrc = await capturedPrefixCrc(log, writer.state, signal);
    const isIdle = () => writer.isIdle && (unaccepted?.isEmpty ?? true);
    return {
      endpoint,
      chainId,
      resume: range === null ? null : { sourceUuid, range, gtids, prefixCrc },
      start,
      forkSet: range === null && generation > 1 ? gtids : null,
      isLogShared,
      semiSync: this.#options.acknowledges,
      flushMs: gather.maxMs,
      restMs: gather.restMs,
      ...(gather.alsoWhenIdle ? {} : { isIdle }),
      logger,
      onConnection: (trouble: QazynaError | null) => {
        if (this.#capture.state !== 'fenced') this.#capture.state = trouble === null ? 'running' : 'connecting';
        this.#trouble('capture', trouble);
        if (trouble === null) this.#attachments.reached();
        else this.#attachments.lost();
      },
    };
  }

  /** Heartbeats say whether RPO 0 was in force when they were written. */
  #witnessed(items: readonly CapturedEntry[]): readonly CapturedEntry[] {
    if (!this.rpoZero) return items;
    return items.map((item) => (item.kind === 'heartbeat' ? { ...item, semiSync: true } : item));
  }

  async #watchRpo(signal: AbortSignal): Promise<void> {
    const { acknowledges, endpoint, alarms, logger } = this.#options;
    if (!acknowledges) return;
    const onAlarm = (error: QazynaError | null) => alarms.tell('rpo', error);
    const inTheWay = () => this.#options.acceptance?.hindrance ?? null;
    const hindrance = () => (this.#capture.state === 'running' ? inTheWay() : `capture is ${this.#capture.state}`);
    this.#rpo = new RpoWatch({ endpoint, hindrance, accepted: () => this.#acceptedPlace, onAlarm, logger });
    await this.#rpo.run(signal);
    this.#rpo = null;
  }

  /** These entries are durable in the log; where another place decides, they count only once they are there. */
  #appended(writer: ChainWriter, batch: CapturedBatch, unaccepted: Unaccepted | null): Promise<void> | void {
    this.#underWay -= 1;
    if (unaccepted === null) return this.#accepted(writer, batch);
    batch.release();
    return unaccepted.add(writer.state, () => this.#accepted(writer, batch));
  }

  /** These entries count: the moment at which a semi-sync source is told. */
  #accepted(writer: ChainWriter, { items, bodyBytes, release, accepted }: CapturedBatch): void {
    crashPoint('agent:accepted');
    accepted();
    release();
    this.#acceptedAtMs = performance.now();
    const last = items.findLast(({ kind }) => kind === 'events');
    if (last !== undefined) this.#acceptedPlace = { file: last.file, position: last.end };
    const { range, generation, sourceUuid } = writer.state;
    const transactions = items.reduce((sum, item) => sum + item.gtidsAdded.count, this.#capture.transactions);
    const where = range === null ? {} : { file: range.file, position: range.end };
    Object.assign(this.#capture, {
      ...where,
      generation,
      sourceUuid,
      transactions,
      bytes: this.#capture.bytes + bodyBytes,
    });
  }

  /** From the first capture on: a snapshot counts only with the history around it. */
  async #takeSnapshots(signal: AbortSignal): Promise<void> {
    const { archives, sourceName, logger, alarms, snapshots } = this.#options;
    while (!signal.aborted && this.chain?.range === null) await sleep(50, undefined, { signal }).catch(() => undefined);
    this.#scheduler = new SnapshotScheduler({
      everyMs: dueOfSourceMs(snapshots),
      sourceName,
      generation: () => this.chain?.generation ?? 0,
      stores: archives.map(({ name, store }) => ({ name, store })),
      take: (stores, each) => this.#takeSnapshot(stores, { signal: each }),
      onAlarm: snapshotAlarms(alarms),
      logger,
      signal,
    });
    await this.#scheduler.run();
  }

  async #countRows(signal: AbortSignal): Promise<void> {
    const { rows, archives, endpoint, sourceName, alarms, logger } = this.#options;
    if (!rows) return;
    const chain = () => this.chain;
    await keepCounted({ ...rows, endpoint, sourceName, stores: archives, chain, alarms, logger, signal });
  }

  /** Into every archive, now. Errors: those of `takeSnapshot`. */
  snapshot(onProgress: SnapshotRequest['onProgress']): Promise<SnapshotReport> {
    const { archives, signal } = this.#options;
    return this.#takeSnapshot(archives, { signal, onProgress });
  }

  #takeSnapshot(stores: readonly NamedStore[], options: Pick<SnapshotRequest, 'signal' | 'onProgress'>) {
    const { endpoint, sourceName, snapshots, logger } = this.#options;
    const { generation, sourceUuid } = this.chain ?? { generation: 0, sourceUuid: '' };
    const { engine, scratchDir } = snapshots;
    const timeline = { generation, sourceUuid };
    return takeSnapshot({ engine, scratchDir, source: endpoint, stores, sourceName, timeline, logger, ...options });
  }

  /** Never resolves; rejects when the archive that decides is somebody else's by now, or takes nothing more that is waited for. */
  async #superseded(): Promise<never> {
    const { acceptance, acknowledges } = this.#options;
    const stops = (error: unknown) =>
      acknowledges || (isKind(error, 'integrity') && supersededCodes.includes(error.code));
    await acceptance?.ended.catch(async (error: unknown) => {
      if (!stops(error)) return;
      await this.#fenceWhen(error);
      throw error;
    });
    return await new Promise<never>(() => undefined);
  }

  /** While the source is away nothing is appended, and a promotion would go unnoticed. Rejects when there was one. */
  async #lookForOthers(writer: ChainWriter, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(lookEveryMs, undefined, { signal }).catch(() => undefined);
      if (this.#capture.state !== 'running' && this.#fencing === null && !signal.aborted) await writer.look();
    }
  }

  #release(signal: AbortSignal): Promise<void> {
    const { log, archives, logger } = this.#options;
    return releaseArchived({ log, archives, chainId: () => this.chain?.chainId, logger, signal });
  }

  #trouble(topic: string, error: Error | null): void {
    if (error === null) this.#options.alarms.clear(topic);
    else if (isKind(error, 'transient')) this.#options.alarms.raise(topic, error);
    if (topic === 'log' && this.#capture.state !== 'connecting' && this.#capture.state !== 'fenced')
      this.#capture.state = error === null ? 'running' : 'paused';
  }
}

/** What follows the claim that ended this writer, where that is another one's promotion; null where it is not. */
async function replacementOf(writer: ChainWriter, signal: AbortSignal): Promise<QazynaError | null> {
  for (const until = performance.now() + claimSettlesMs; performance.now() < until && !signal.aborted; ) {
    const why = await writer.replacement().catch(() => null);
    if (why !== null) return why;
    await sleep(claimPollMs, undefined, { signal }).catch(() => undefined);
  }
  return null;
}
