/**
 * The log as one partition of a Kafka topic (core/log/types.ts is the contract; FORMAT.md, "Kafka topic", the format): offsets
 * are the numbers. No transactions, no consumer group, no state but a witness file. Deleting is the brokers' affair (retention).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { encodeEntry, entryFixedBytes, packBody } from '../../chain/entry.ts';
import type { ChainState, Entry, LandedEntry, PackedBody } from '../../chain/types.ts';
import { crashPoint } from '../../errors/crash-points.ts';
import { integrityError, isKind, transientError } from '../../errors/error.ts';
import type { Logger } from '../../logging/logger.ts';
import type { AppendOutcome, ChainLog, Headroom, ReadOptions } from '../types.ts';
import { BrokerFault, type Brokers, type BrokersOptions } from './brokers.ts';
import { brokerError } from './faults.ts';
import { readTopic } from './read.ts';
import { ThreadBrokers } from './thread-brokers.ts';
import { checkTopic, missingTopic, topicPlan } from './topic.ts';
import { TopicView } from './topic-view.ts';
import { Turns } from './turns.ts';

/**
 * One request at a time, and none much larger: kafkajs copies each several times over, and requests of 1 MB were not faster.
 * A larger entry goes alone.
 */
const sendMaxBytes = 256 * 1024;
const defaultLossConfirmMs = 15_000;
const usableWithinMs = 30_000;
const usablePollMs = 100;
const settingsKeptMs = 60_000;
/** The chain's id is looked for in so many of the first entries. */
const chainIdWithin = 100;

export interface KafkaLogOptions {
  /** `host:port`, one or more. */
  brokers: readonly string[];
  topic: string;
  /** null: 3, or as many as there are brokers. */
  replicationFactor?: number | null;
  /** How long the brokers must keep an entry. */
  retentionMs: number;
  clientId: string;
  /** PEM; null: no TLS. */
  tls?: BrokersOptions['tls'] | undefined;
  sasl?: BrokersOptions['sasl'] | undefined;
  /** Whether the source's commits wait for this log: then a topic that could lose an accepted entry is refused. */
  acknowledges: boolean;
  /** What usage() tells as its bound; nothing is held back by it. 0: the brokers' retention is the only one. */
  maxBytes: number;
  /** Folded states known elsewhere (where the archives end), of this or other chains. */
  states: () => Promise<readonly ChainState[]>;
  /** Remembers topic, chain and end over restarts. Absolute. */
  stateFile: string;
  /** Whether a missing topic is made. */
  create: boolean;
  logger: Logger;
  /** Aborts opening. */
  signal: AbortSignal;
  /** How long an end before what was seen may be an old leader's, before it counts as lost. Default 15 s. */
  lossConfirmMs?: number;
  /** Another client of Kafka; by default kafkajs, in a thread of its own. */
  client?: Brokers;
}

export class KafkaLog implements ChainLog {
  readonly name: string;
  readonly showsEarly = true;
  readonly #options: KafkaLogOptions;
  readonly #client: Brokers;
  readonly #view: TopicView;
  readonly #closing = new AbortController();
  #appending: Promise<unknown> | null = null;
  #reads = 0;
  #settings: { atMs: number; values: Record<string, string> } = { atMs: Number.NEGATIVE_INFINITY, values: {} };

  private constructor(options: KafkaLogOptions, client: Brokers) {
    const { brokers, topic, stateFile, logger } = options;
    this.name = `Kafka topic ${topic}`;
    this.#options = options;
    this.#client = client;
    this.#view = new TopicView({
      name: this.name,
      brokers,
      topic,
      client,
      stateFile,
      logger,
      signal: this.#closing.signal,
      lossConfirmMs: options.lossConfirmMs ?? defaultLossConfirmMs,
    });
  }

  /**
   * Makes the topic or checks it. Throws QZ2310 to QZ2319 for what has to be set right first, QZ3320 when it lost what it held,
   * QZ431x when the brokers cannot be reached: try again.
   */
  static async open(options: KafkaLogOptions): Promise<KafkaLog> {
    const { brokers, clientId, tls = null, sasl = null, logger } = options;
    const verbose = logger.isDebugEnabled();
    const client = options.client ?? new ThreadBrokers({ brokers, clientId, tls, sasl, verbose }, logger);
    const log = new KafkaLog(options, client);
    const stop = () => log.#closing.abort();
    options.signal.addEventListener('abort', stop, { once: true });
    try {
      options.signal.throwIfAborted();
      await log.#begin();
      return log;
    } catch (error) {
      await log.close();
      throw brokerError(options, 'open', error);
    } finally {
      options.signal.removeEventListener('abort', stop);
    }
  }

  async #begin(): Promise<void> {
    const { topic, logger } = this.#options;
    const wishes = { ...this.#options, replicationFactor: this.#options.replicationFactor ?? null };
    await this.#view.recall();
    let { brokers, topic: facts } = await this.#client.describe(topic);
    if (facts === null) {
      if (this.#view.next > 0) await this.#view.requireNotLost(this.#view.next);
      await this.#make(brokers);
    }
    const untilMs = performance.now() + usableWithinMs;
    while (facts === null || !facts.isLed) {
      if (performance.now() > untilMs) throw new BrokerFault('no-leader', 'its partition has no leader');
      await sleep(usablePollMs, undefined, { signal: this.#options.signal });
      ({ topic: facts } = await this.#client.describe(topic));
    }
    for (const warning of checkTopic(wishes, facts)) logger.warn(`${this.name}: ${warning}`);
    this.#settings = { atMs: performance.now(), values: facts.settings };
    await this.#reach(untilMs);
    await this.#view.save();
    this.#view.isOpen = true;
  }

  /** One broker has told of the topic; others, and its leader among them, may hear of it a moment later. */
  async #reach(untilMs: number): Promise<void> {
    for (;;) {
      try {
        await this.#view.bounds();
        return;
      } catch (error) {
        if (!isUnknownTopic(error) || performance.now() > untilMs) throw error;
        await sleep(usablePollMs, undefined, { signal: this.#options.signal });
      }
    }
  }

  async #make(brokers: number): Promise<void> {
    const { topic, create, logger } = this.#options;
    const wishes = { ...this.#options, replicationFactor: this.#options.replicationFactor ?? null };
    if (!create) throw missingTopic(wishes, 'only the agent makes it');
    const plan = topicPlan(wishes, brokers);
    try {
      await this.#client.create(topic, plan);
      logger.info(`made the ${this.name}`, { replicas: plan.replicas });
    } catch (error) {
      if (error instanceof BrokerFault && error.reason === 'denied')
        throw missingTopic(wishes, 'this user may not make it');
      throw error;
    }
  }

  async append(entries: readonly Entry[]): Promise<AppendOutcome> {
    if (this.#appending !== null || this.#closing.signal.aborted)
      throw new Error(`${this.name}: a second append at once, or after close`);
    const appending = this.#append(entries);
    this.#appending = appending.catch(() => undefined);
    return await appending.finally(() => {
      this.#appending = null;
    });
  }

  /** Several requests one after the other, each with the entries that fit; the next only when the one before stands in its place. */
  async #append(entries: readonly Entry[]): Promise<AppendOutcome> {
    const first = entries[0]?.number ?? 0;
    for (let at = 0; at < entries.length; ) {
      const values = await someEncoded(entries, at);
      crashPoint('kafka-log:before-send');
      const base = await this.#view.append(values);
      crashPoint('kafka-log:after-send');
      if (base !== first + at) {
        if (at === 0) return { base };
        throw this.#cutIn(first + at, base);
      }
      at += values.length;
    }
    const chainId = entries[0]?.chainId;
    if (chainId !== undefined) this.#view.sawChain(chainId);
    return { base: first };
  }

  async bounds(): Promise<{ first: number; next: number }> {
    return await this.#view.bounds();
  }

  async base(): Promise<{ state: ChainState | null; next: number }> {
    const { first, next } = await this.#view.bounds();
    if (first === 0) return { state: null, next: 0 };
    const [oldest] = await this.#usable(first, next);
    if (oldest === undefined) throw this.#noState(first);
    return { state: oldest, next: oldest.next };
  }

  async checkpoint(): Promise<{ state: ChainState | null; next: number }> {
    const { first, next } = await this.#view.bounds();
    const newest = next === 0 ? undefined : (await this.#usable(first, next)).at(-1);
    if (newest !== undefined) return { state: newest, next: newest.next };
    if (first > 0) throw this.#noState(first);
    return { state: null, next: 0 };
  }

  /** States of this very chain that stand within what is held, oldest first. Throws QZ3320 when one stands beyond the end. */
  async #usable(first: number, next: number): Promise<ChainState[]> {
    const states = await this.#options.states();
    if (states.length === 0) return [];
    const chainId = await this.#chainId(first, next);
    // Nothing left to look at: only a state exactly here can be the one before the next entry.
    const ours = states.filter((state) => (chainId === null ? state.next === next : state.chainId === chainId));
    const furthest = Math.max(0, ...ours.map((state) => state.next));
    if (furthest > next) await this.#view.requireNotLost(furthest);
    if (furthest > next) throw this.#behind(next, furthest);
    return ours.filter((state) => state.next >= first).sort((a, b) => a.next - b.next);
  }

  /** Of the first entry that stands where it was meant to; null when there is none. */
  async #chainId(first: number, next: number): Promise<string | null> {
    if (this.#view.chainId !== '') return this.#view.chainId;
    const until = Math.min(next, first + chainIdWithin);
    for await (const { landed, entry } of this.read(first, { follow: false, signal: this.#closing.signal })) {
      if (entry.number === landed) return entry.chainId;
      if (landed + 1 >= until) break;
    }
    return null;
  }

  async *read(from: number, options: ReadOptions): AsyncGenerator<LandedEntry> {
    this.#reads += 1;
    const lane = `read ${this.#reads}`;
    const signal = AbortSignal.any([options.signal, this.#closing.signal]);
    const { name } = this;
    const { topic } = this.#options;
    try {
      const { follow, gatherMs = 0 } = options;
      yield* readTopic(from, { name, topic, view: this.#view, lane, follow, gatherMs, signal });
      // An end that is none must not be taken for the log's.
      if (this.#closing.signal.aborted && !options.signal.aborted && !options.follow)
        throw new Error(`${name} was closed while it was read`);
    } finally {
      // Not waited for: a fetch under way is answered within its second.
      if (!this.#closing.signal.aborted) this.#client.leave(lane).catch(() => undefined);
    }
  }

  /** The brokers delete by age (retention.ms). */
  async release(_number: number, _state: ChainState): Promise<void> {}

  /** Kafka tells no sizes that kafkajs could ask for: the mean of the records that went through here, for all that are held. */
  async usage(): Promise<{ bytes: number; maxBytes: number }> {
    const { maxBytes } = this.#options;
    const { first, next } = await this.#view.bounds();
    return { bytes: Math.round((next - first) * this.#view.meanRecordBytes), maxBytes };
  }

  async headroom(number: number): Promise<Headroom> {
    const { first, next } = await this.#view.bounds();
    const settings = await this.#currentSettings();
    const retentionMs = limitOf(settings['retention.ms']);
    const retentionBytes = limitOf(settings['retention.bytes']);
    const bytes = Math.round(Math.max(0, next - number) * this.#view.meanRecordBytes);
    if (number < first) return { share: 1, ageMs: retentionMs ?? 0, retentionMs, bytes, retentionBytes };
    const writtenMs = number < next ? await this.#writtenMs(number) : null;
    const ageMs = writtenMs === null ? 0 : Math.max(0, Date.now() - writtenMs);
    const share = Math.max(ageMs / (retentionMs ?? Infinity), bytes / (retentionBytes ?? Infinity));
    return { share, ageMs, retentionMs, bytes, retentionBytes };
  }

  async #writtenMs(number: number): Promise<number | null> {
    const { records } = await this.#view.fetch('headroom', number, 0);
    return records[0]?.offset === number ? records[0].timestampMs : null;
  }

  /** A keeper of the brokers may change them at any time. */
  async #currentSettings(): Promise<Record<string, string>> {
    if (performance.now() - this.#settings.atMs < settingsKeptMs) return this.#settings.values;
    try {
      const { topic } = await this.#client.describe(this.#options.topic);
      this.#settings = { atMs: performance.now(), values: topic?.settings ?? this.#settings.values };
      return this.#settings.values;
    } catch (error) {
      throw brokerError(this.#options, 'look at', error, true);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#client.close();
    await this.#appending;
    if (this.#view.isOpen) await this.#view.save().catch((error: unknown) => this.#options.logger.warn(String(error)));
  }

  #cutIn(expected: number, base: number) {
    return transientError(
      'QZ4315',
      `Another writer came between the parts of one append to the ${this.name}: ${base} instead of ${expected}.`,
      'What counts of it is read back.',
      { details: { expected, base } },
    );
  }

  #noState(first: number) {
    return integrityError(
      'QZ3321',
      `The ${this.name} begins with entry ${first}, and no archive that can be read reaches so far.`,
      'Make the archives readable first. If every one of them ends before that entry, the brokers’ retention was too short and what lies between is lost: give log.kafka.topic a new name to go on from the archives.',
      { details: { first } },
    );
  }

  #behind(next: number, furthest: number) {
    return transientError(
      'QZ4316',
      `The ${this.name} shows its entries only up to ${next - 1}, but an archive holds them up to ${furthest - 1}.`,
      'Its replicas are not in step yet; it is looked at again.',
      { details: { next, furthest } },
    );
  }
}

/** In a buffer of its own, which the thread takes over. */
function encoded(entry: Entry, packed: PackedBody): Uint8Array<ArrayBuffer> {
  const parts = encodeEntry(entry, entry.body.length, packed);
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** From entry `from` on, as many as fit one request; at least one. */
async function someEncoded(entries: readonly Entry[], from: number): Promise<Uint8Array<ArrayBuffer>[]> {
  const values: Uint8Array<ArrayBuffer>[] = [];
  const turns = new Turns();
  let bytes = 0;
  for (let at = from; at < entries.length; at += 1) {
    const entry = entries[at];
    if (entry === undefined) break;
    const packed = entry.packed ?? (await packBody(entry.body));
    bytes += packed.sizeBytes + entryFixedBytes;
    if (values.length > 0 && bytes > sendMaxBytes) break;
    values.push(encoded(entry, packed));
    await turns.yield();
  }
  return values;
}

function isUnknownTopic(error: unknown): boolean {
  return isKind(error, 'transient') && error.code === 'QZ4314';
}

function limitOf(setting: string | undefined): number | null {
  const limit = Number(setting ?? -1);
  return limit < 0 ? null : limit;
}
