/**
 * One topic as this process knows it: how far it was seen to go, and by which record. What brokers say is held against that:
 * an end before it is stale or lost, and lost is said only after looking again for a while, by new connections.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { integrityError, isKind, type QazynaError } from '../../errors/error.ts';
import type { Logger } from '../../logging/logger.ts';
import { BrokerFault, type Brokers, type Fetched, type KafkaRecord } from './brokers.ts';
import { brokerError, type TopicPlace } from './faults.ts';
import { markOf, type Remembered, recall, remember } from './memory.ts';

const saveEveryMs = 5000;
const fetchMaxBytes = 1024 * 1024;
const looksAtLeast = 3;
const checkWaitMs = 500;

export interface TopicViewOptions extends TopicPlace {
  name: string;
  client: Brokers;
  stateFile: string;
  /** How long an end before what was seen may be an old leader's, before it counts as lost. */
  lossConfirmMs: number;
  /** Aborted when the log is closed. */
  signal: AbortSignal;
  logger: Logger;
}

export class TopicView {
  readonly #options: TopicViewOptions;
  #next = 0;
  #mark = '';
  #chainId = '';
  /** Since everything was as it must be. */
  isOpen = false;
  /** After any fault the brokers may be others than before: the last known record is looked at first. */
  #isSuspect = false;
  #savedAtMs = Number.NEGATIVE_INFINITY;
  #saving: Promise<void> | null = null;
  #records = 0;
  #bytes = 0;

  constructor(options: TopicViewOptions) {
    this.#options = options;
  }

  /** The number behind the last record that was accepted, as far as this process and this host know. */
  get next(): number {
    return this.#next;
  }

  get chainId(): string {
    return this.#chainId;
  }

  /** Of the records that went through here; 0 before any did. */
  get meanRecordBytes(): number {
    return this.#records === 0 ? 0 : this.#bytes / this.#records;
  }

  /** What an earlier process saw. Throws QZ2317. */
  async recall(): Promise<void> {
    const { stateFile, topic } = this.#options;
    const found = await recall(stateFile, topic);
    if (found === null) return;
    this.#next = found.next;
    this.#mark = found.mark;
    this.#chainId = found.chainId;
    this.#isSuspect = true;
  }

  /** First offset held and the next one, never less than was seen. Throws QZ3320 when the brokers lost what they held. */
  async bounds(): Promise<{ first: number; next: number }> {
    await this.#verify();
    const { first, next } = await this.#ask('look at', ({ bounds }) => bounds);
    if (next < this.#next) await this.requireNotLost(this.#next);
    return { first, next: Math.max(next, this.#next) };
  }

  /** Records from `from` on, earlier ones of the same batch left out; none after `waitMs`. Throws as brokerError(), QZ3320. */
  async fetch(lane: string, from: number, waitMs: number): Promise<Fetched> {
    await this.#verify();
    const fetched = await this.#ask('read', (calls) => calls.fetch(lane, from, waitMs));
    const records = fetched.records.filter(({ offset }) => offset >= from);
    this.#saw(records);
    return { ...fetched, records };
  }

  /** Resolves with the first one's offset. */
  async append(values: Uint8Array<ArrayBuffer>[]): Promise<number> {
    await this.#verify();
    const bytes = values.reduce((sum, value) => sum + value.length, 0);
    const mark = markOf(values.at(-1) ?? new Uint8Array());
    const base = await this.#ask('append to', (calls) => calls.append(values));
    if (base < this.#next) await this.requireNotLost(this.#next);
    this.#note(base + values.length, mark, values.length, bytes);
    return base;
  }

  /** Records below the high watermark, in order. The one known as the last so far must be what it was. */
  #saw(records: readonly KafkaRecord[]): void {
    const known = records.find(({ offset }) => offset === this.#next - 1);
    if (known !== undefined && markOf(known.value) !== this.#mark) throw this.#replaced(known.offset);
    const last = records.at(-1);
    const bytes = records.reduce((sum, { value }) => sum + value.length, 0);
    if (last !== undefined) this.#note(last.offset + 1, markOf(last.value), records.length, bytes);
  }

  /** Every entry that counts names the chain. */
  sawChain(chainId: string): void {
    if (this.#chainId === '') this.#chainId = chainId;
  }

  /** Throws QZ3320 when the topic ends before `expected`, and goes on to; returns when what is missing may still show. */
  async requireNotLost(expected: number): Promise<void> {
    const { lossConfirmMs, signal } = this.#options;
    const untilMs = performance.now() + lossConfirmMs;
    for (let looks = 1; ; looks += 1) {
      const found = await this.#end(expected);
      if (found === 'there') return;
      if (looks >= looksAtLeast && performance.now() >= untilMs) throw this.#lost(expected, found);
      await sleep(lossConfirmMs / (looksAtLeast + 1), undefined, { signal });
    }
  }

  async save(): Promise<void> {
    await this.#saving;
    const { stateFile, topic } = this.#options;
    const content: Remembered = { format: 1, topic, chainId: this.#chainId, next: this.#next, mark: this.#mark };
    this.#savedAtMs = performance.now();
    await remember(stateFile, content);
  }

  /** Where the partition ends for a new connection; 'there' when it reaches to `expected`, seen or not yet shown. */
  async #end(expected: number): Promise<'there' | number | null> {
    const { client, topic } = this.#options;
    await Promise.all([client.leave('bounds'), client.leave('check')]);
    try {
      const { next } = await client.bounds(topic);
      if (next >= expected) return 'there';
      try {
        // Beyond the high watermark, but not beyond what the leader has: it only does not show it yet.
        await client.fetch(topic, expected, { lane: 'check', maxBytes: 1, waitMs: 0 });
        return 'there';
      } catch (error) {
        if (!(error instanceof BrokerFault) || error.reason !== 'out-of-range') throw error;
        return next;
      }
    } catch (error) {
      if (error instanceof BrokerFault && error.reason === 'no-topic') return null;
      throw brokerError(this.#options, 'look at', error, this.isOpen);
    }
  }

  /** After a fault: the last record known must be the one that stands there. */
  async #verify(): Promise<void> {
    if (!this.#isSuspect) return;
    const at = this.#next - 1;
    // Of that record: while it is fetched, later ones may come to be known.
    const mark = this.#mark;
    const { first } = at < 0 ? { first: 0 } : await this.#ask('look at', ({ bounds }) => bounds);
    // What was deleted by age cannot be compared, and needs not be.
    if (at >= first) {
      const { records } = await this.#ask('read', (calls) => calls.fetch('check', at, checkWaitMs));
      const record = records.find(({ offset }) => offset === at);
      // Not shown yet: nothing against it so far.
      if (record === undefined) return;
      if (markOf(record.value) !== mark) throw this.#replaced(at);
    }
    this.#isSuspect = false;
  }

  async #ask<T>(action: string, work: (calls: Calls) => Promise<T>): Promise<T> {
    const { client, topic } = this.#options;
    const calls: Calls = {
      get bounds() {
        return client.bounds(topic);
      },
      append: (values) => client.append(topic, values),
      fetch: (lane, from, waitMs) => client.fetch(topic, from, { lane, maxBytes: fetchMaxBytes, waitMs }),
    };
    try {
      return await work(calls);
    } catch (error) {
      this.#isSuspect = true;
      const reason = error instanceof BrokerFault ? error.reason : null;
      if (this.#next > 0 && (reason === 'no-topic' || reason === 'out-of-range')) await this.requireNotLost(this.#next);
      throw brokerError(this.#options, action, error, this.isOpen);
    }
  }

  #note(next: number, mark: string, records: number, bytes: number): void {
    this.#records += records;
    this.#bytes += bytes;
    if (next <= this.#next) return;
    this.#next = next;
    this.#mark = mark;
    if (this.#saving !== null || performance.now() - this.#savedAtMs < saveEveryMs) return;
    this.#saving = this.save()
      .catch((error: unknown) => void this.#options.logger.warn(String(error)))
      .finally(() => {
        this.#saving = null;
      });
  }

  #lost(expected: number, end: number | null): QazynaError {
    const { name, topic } = this.#options;
    const sentence =
      end === null
        ? `The ${name} is gone, although it held entry ${expected - 1}: the brokers lost data.`
        : `The ${name} ends before entry ${end}, although it held entry ${expected - 1}: the brokers lost data.`;
    return integrityError('QZ3320', sentence, lostHint, { details: { topic, end, expected } });
  }

  #replaced(at: number): QazynaError {
    const { name, topic } = this.#options;
    const sentence = `The ${name} holds another entry ${at} than before: the brokers lost data, or it is another topic now.`;
    return integrityError('QZ3320', sentence, lostHint, { details: { topic, at } });
  }
}

const lostHint =
  'Find out what happened to the topic before anything is started again. What the archives hold can be restored; to go on from there, give log.kafka.topic a new name.';

interface Calls {
  readonly bounds: Promise<{ first: number; next: number }>;
  append(values: Uint8Array<ArrayBuffer>[]): Promise<number>;
  fetch(lane: string, from: number, waitMs: number): Promise<Fetched>;
}

export function isLost(error: unknown): boolean {
  return isKind(error, 'integrity') && error.code === 'QZ3320';
}
