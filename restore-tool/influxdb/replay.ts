/**
 * From the journal into the new database: line by line, as the source would have taken them. A subscription also forwards
 * what the source itself refused; so a line that contradicts a field's known type, or was older than its retention policy
 * allowed when it came in, is not written. What was exported the source had: nothing of that is left out.
 */
import {
  type Definitions,
  durationMs,
  type FieldTypes,
  type RetentionPolicy,
} from '../../core/influxdb/definitions.ts';
import { escapeFieldKey, escapeMeasurement } from '../../core/influxdb/escape.ts';
import { type InfluxdbFrame, openFrame } from '../../core/influxdb/frames.ts';
import {
  canonicalFieldKey,
  eachField,
  fieldType,
  hashBytes,
  type Line,
  lineEnd,
  measurementOf,
  nsPer,
  parseLine,
} from '../../core/influxdb/lines.ts';
import type { JournalFrame } from '../../core/journal/frame.ts';
import { readJournal } from '../../core/journal/read.ts';
import type { JournalPosition } from '../../core/journal/source.ts';
import type { InfluxdbPlan } from './plan.ts';
import type { PointWriter } from './point-writer.ts';
import type { SetAside } from './set-aside.ts';
import type { ShardLengths } from './target.ts';

const nsPerMs = 1_000_000n;
/** What was accepted just in time may come in later: a subscription holds writes back, and two clocks differ. */
const heldBackMs = 120_000;

export interface ReplayOptions {
  plan: InfluxdbPlan;
  writer: PointWriter;
  setAside: SetAside;
  /** Null: nothing may be changed there. */
  lengths: ShardLengths | null;
  onPoints: (points: number) => void;
  signal: AbortSignal;
}

export class Replay {
  /** Lines written, and lines that the source had dropped by the instant as well. */
  points = 0;
  expired = 0;
  readonly #options: ReplayOptions;
  readonly #types: ReadonlyMap<string, KnownTypes>;
  /** By the policies of the instant. */
  readonly #isGone: ReadonlyMap<string, (timeNs: bigint) => boolean>;
  /** As they were when the present frame came in. */
  #definitions: Definitions;

  constructor(options: ReplayOptions) {
    const { plan } = options;
    this.#options = options;
    this.#definitions = plan.before;
    this.#types = new Map([...plan.types].map(([policy, types]) => [policy, new KnownTypes(types)]));
    this.#isGone = new Map(plan.policies.map((policy) => [policy.name, goneBy(plan, policy)]));
  }

  async run(): Promise<void> {
    const { plan, signal } = this.#options;
    const { history, began: after, throughMicros } = plan;
    await this.#define(plan.before);
    for await (const { frame, end } of readJournal({ history, after, throughMicros, signal })) {
      const opened = openFrame(frame, `${end.file}:${end.offset}`);
      if (opened.kind === 'definitions') await this.#define(opened.definitions);
      else if (opened.kind === 'write') await this.#lines(opened, clockMicros(frame));
      else if (opened.kind === 'exported') await this.#round(opened, end);
    }
    signal.throwIfAborted();
  }

  /** From here on. */
  async #define(definitions: Definitions): Promise<void> {
    const { plan, lengths, writer, signal } = this.#options;
    this.#definitions = definitions;
    const then = definitions.databases.find(({ name }) => name === plan.fromDatabase)?.policies ?? [];
    // Policies that were gone by the instant were not made.
    const policies = then.filter(({ name }) => this.#isGone.has(name));
    if (lengths === null || lengths.areSet(policies)) return;
    await writer.flush();
    await lengths.setAll(policies, signal);
  }

  /** A finished export: its lines, and then again what was written to the same place while it ran, which is newer. */
  async #round({ meta }: Extract<InfluxdbFrame, { kind: 'exported' }>, until: JournalPosition): Promise<void> {
    const { plan, signal } = this.#options;
    if (meta.db !== plan.fromDatabase) return;
    const after = { file: meta.file, offset: meta.offset };
    for (const wanted of ['export', 'write'] as const) {
      for await (const { frame, end } of readJournal({ history: plan.history, after, signal })) {
        if (isBehind(end, until)) break;
        const opened = openFrame(frame, `${end.file}:${end.offset}`);
        if (opened.kind !== wanted || opened.meta.db !== meta.db) continue;
        if (opened.kind === 'export' && opened.meta.round !== meta.round) continue;
        await this.#lines(opened, clockMicros(frame));
      }
    }
  }

  async #lines(frame: Extract<InfluxdbFrame, { kind: 'write' | 'export' }>, atMicros: number): Promise<void> {
    const { meta, body } = frame;
    if (meta.db !== this.#options.plan.fromDatabase) return;
    const policy = meta.rp === '' ? this.#defaultPolicy() : meta.rp;
    const isGone = this.#isGone.get(policy);
    // A policy that was gone by then took its points with it.
    if (isGone === undefined) return;
    const place: Place = { policy, isGone, atMicros, precision: 'ns', types: null, oldestNs: null };
    if (frame.kind === 'write') {
      place.precision = frame.meta.precision;
      place.types = this.#types.get(policy) ?? null;
      place.oldestNs = this.#oldestNs(policy, atMicros);
    }
    const before = this.points;
    for (let at = 0; at < body.length; ) {
      const end = lineEnd(body, at);
      const waits = end > at ? this.#line(body, at, end, place) : null;
      if (waits !== null) await waits;
      at = end + 1;
    }
    this.#options.onPoints(this.points - before);
  }

  #line(
    body: Buffer,
    at: number,
    end: number,
    { policy, precision, oldestNs, isGone, types, atMicros }: Place,
  ): Promise<void> | null {
    const { writer, setAside } = this.#options;
    const line = parseLine(body, at, end);
    if (line === null) return null;
    if (typeof line === 'string') return setAside.add(policy, precision, line, body.subarray(at, end));
    const timeNs = line.time === null ? BigInt(atMicros) * 1000n : line.time * nsPer(precision);
    if ((oldestNs !== null && timeNs < oldestNs) || isGone(timeNs)) {
      this.expired += 1;
      return null;
    }
    const conflict = types?.conflict(body, line) ?? null;
    if (conflict !== null) return setAside.add(policy, precision, conflict, body.subarray(at, end));
    this.points += 1;
    const whole =
      line.time === null
        ? Buffer.concat([body.subarray(line.start, line.fieldsEnd), Buffer.from(` ${timeNs}`)])
        : body.subarray(line.start, end);
    const written = line.time === null ? 'ns' : precision;
    return writer.add(hashBytes(body, line.start, line.keyEnd), policy, written, whole);
  }

  /** What came in then and is older than this the source refused, whichever policy was in force; null: nothing. */
  #oldestNs(policy: string, atMicros: number): bigint | null {
    const keptMs = this.#options.plan.longestKeptMs.get(policy) ?? Number.POSITIVE_INFINITY;
    return Number.isFinite(keptMs) ? (BigInt(atMicros) - BigInt(keptMs + heldBackMs) * 1000n) * 1000n : null;
  }

  #defaultPolicy(): string {
    const { fromDatabase } = this.#options.plan;
    const policies = this.#definitions.databases.find(({ name }) => name === fromDatabase)?.policies ?? [];
    return policies.find(({ isDefault }) => isDefault)?.name ?? 'autogen';
  }
}

interface Place {
  policy: string;
  precision: string;
  /** What is older was refused by the source; null: nothing was. */
  oldestNs: bigint | null;
  /** Whether it was dropped by the instant. */
  isGone: (timeNs: bigint) => boolean;
  types: KnownTypes | null;
  /** When it came in. */
  atMicros: number;
}

/** When a frame came in by the clock of then: its arrival stands still where that was set back (FORMAT.md, "Journal"). */
function clockMicros({ arrivalMicros, meta }: JournalFrame): number {
  return Number.isSafeInteger(meta.clockMicros) ? Number(meta.clockMicros) : arrivalMicros;
}

function isBehind(one: JournalPosition, other: JournalPosition): boolean {
  return one.file === other.file ? one.offset > other.offset : one.file > other.file;
}

/**
 * Which points a retention policy had dropped by the instant: whole shard groups go, once their end is old enough
 * (services/retention/service.go). One that is known may be longer than those that the policy makes now.
 */
export function goneBy(
  { throughMicros, shards }: Pick<InfluxdbPlan, 'throughMicros' | 'shards'>,
  policy: RetentionPolicy,
): (timeNs: bigint) => boolean {
  const keptNs = BigInt(durationMs(policy.duration)) * nsPerMs;
  const groupNs = BigInt(durationMs(policy.shardGroupDuration)) * nsPerMs;
  if (keptNs === 0n || !Number.isFinite(throughMicros)) return () => false;
  const lastEndNs = BigInt(throughMicros) * 1000n - keptNs;
  const stay = shards.map(({ shard }) => shard).filter((one) => one.policy === policy.name && one.endNs > lastEndNs);
  const endOf = (timeNs: bigint) =>
    groupNs === 0n ? timeNs : timeNs - (((timeNs % groupNs) + groupNs) % groupNs) + groupNs;
  return (timeNs) =>
    endOf(timeNs) <= lastEndNs && !stay.some(({ startNs, endNs }) => startNs <= timeNs && timeNs < endNs);
}

/** The types that a policy's fields were ever told to have; where there are several, the server decides. */
class KnownTypes {
  readonly #types = new Map<string, Map<string, string | null>>();

  constructor(told: readonly FieldTypes[]) {
    for (const [measurement, fields] of told.flatMap((one) => Object.entries(one))) {
      const name = escapeMeasurement(Buffer.from(measurement)).toString('latin1');
      const known = this.#types.get(name) ?? new Map<string, string | null>();
      this.#types.set(name, known);
      for (const [field, types] of Object.entries(fields)) {
        const key = escapeFieldKey(Buffer.from(field)).toString('latin1');
        for (const type of types) known.set(key, known.has(key) && known.get(key) !== type ? null : type);
      }
    }
  }

  /** Why the server would refuse the line, in its own words; null when nothing is known against it. */
  conflict(bytes: Buffer, line: Line): string | null {
    const measurement = measurementOf(bytes, line);
    const known = this.#types.get(measurement);
    if (known === undefined) return null;
    let conflict: string | null = null;
    eachField(bytes, line, (keyStart, keyEnd, valueEnd) => {
      const key = canonicalFieldKey(bytes.subarray(keyStart, keyEnd));
      const type = known.get(key);
      if (type === undefined || type === null) return;
      const found = fieldType(bytes, keyEnd + 1, valueEnd);
      if (found === type) return;
      conflict ??= `field type conflict: input field "${key}" on measurement "${measurement}" is type ${found}, already exists as type ${type}`;
    });
    return conflict;
  }
}
