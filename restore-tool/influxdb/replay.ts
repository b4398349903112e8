/**
 * From the journal into the new database: line by line, as the source would have taken them. A subscription also forwards
 * what the source itself refused; so a line that contradicts a field's known type, or was older than its retention policy
 * allowed when it came in, is not written.
 */
import {
  type Definitions,
  durationMs,
  type FieldTypes,
  type RetentionPolicy,
} from '../../core/influxdb/definitions.ts';
import { escapeFieldKey, escapeMeasurement, unescapeFieldKey } from '../../core/influxdb/escape.ts';
import { type InfluxdbFrame, openFrame } from '../../core/influxdb/frames.ts';
import {
  eachField,
  fieldType,
  hashBytes,
  type Line,
  lineEnd,
  measurementOf,
  nsPer,
  parseLine,
} from '../../core/influxdb/lines.ts';
import { readJournal } from '../../core/journal/read.ts';
import type { JournalPosition } from '../../core/journal/source.ts';
import type { InfluxdbPlan } from './plan.ts';
import type { PointWriter } from './point-writer.ts';
import type { SetAside } from './set-aside.ts';

const nsPerMs = 1_000_000n;

export interface ReplayOptions {
  plan: InfluxdbPlan;
  writer: PointWriter;
  setAside: SetAside;
  onPoints: (points: number) => void;
  signal: AbortSignal;
}

export class Replay {
  /** Lines written, and lines that the source had dropped by the instant as well. */
  points = 0;
  expired = 0;
  readonly #options: ReplayOptions;
  readonly #types: ReadonlyMap<string, KnownTypes>;
  readonly #kept: ReadonlyMap<string, Retention>;
  /** As they were when the present frame came in. */
  #definitions: Definitions;

  constructor(options: ReplayOptions) {
    const { plan } = options;
    this.#options = options;
    this.#definitions = plan.before;
    this.#types = new Map([...plan.types].map(([policy, types]) => [policy, new KnownTypes(types)]));
    this.#kept = new Map(plan.policies.map((policy) => [policy.name, retentionOf(policy)]));
  }

  async run(): Promise<void> {
    const { plan, signal } = this.#options;
    const { history, began: after, throughMicros } = plan;
    for await (const { frame, end } of readJournal({ history, after, throughMicros, signal })) {
      const opened = openFrame(frame, `${end.file}:${end.offset}`);
      if (opened.kind === 'definitions') this.#definitions = opened.definitions;
      else if (opened.kind === 'write') await this.#lines(opened, frame.arrivalMicros);
      else if (opened.kind === 'exported') await this.#round(opened, end);
    }
    signal.throwIfAborted();
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
        await this.#lines(opened, frame.arrivalMicros);
      }
    }
  }

  async #lines(frame: Extract<InfluxdbFrame, { kind: 'write' | 'export' }>, arrivalMicros: number): Promise<void> {
    const { meta, body } = frame;
    if (meta.db !== this.#options.plan.fromDatabase) return;
    const policy = meta.rp === '' ? this.#defaultPolicy() : meta.rp;
    const kept = this.#kept.get(policy);
    // A policy that was gone by then took its points with it.
    if (kept === undefined) return;
    const precision = frame.kind === 'write' ? frame.meta.precision : 'ns';
    const before = this.points;
    for (let at = 0; at < body.length; ) {
      const end = lineEnd(body, at);
      const waits = end > at ? this.#line(body, at, end, { policy, precision, kept, arrivalMicros }) : null;
      if (waits !== null) await waits;
      at = end + 1;
    }
    this.#options.onPoints(this.points - before);
  }

  #line(
    body: Buffer,
    at: number,
    end: number,
    { policy, precision, kept, arrivalMicros }: Place,
  ): Promise<void> | null {
    const { writer, setAside } = this.#options;
    const line = parseLine(body, at, end);
    if (line === null) return null;
    if (typeof line === 'string') return setAside.add(policy, precision, line, body.subarray(at, end));
    const timeNs = line.time === null ? BigInt(arrivalMicros) * 1000n : line.time * nsPer(precision);
    if (kept.refused(timeNs, arrivalMicros) || kept.isGone(timeNs, this.#options.plan.throughMicros)) {
      this.expired += 1;
      return null;
    }
    const conflict = this.#types.get(policy)?.conflict(body, line) ?? null;
    if (conflict !== null) return setAside.add(policy, precision, conflict, body.subarray(at, end));
    this.points += 1;
    const whole =
      line.time === null
        ? Buffer.concat([body.subarray(line.start, line.fieldsEnd), Buffer.from(` ${timeNs}`)])
        : body.subarray(line.start, end);
    const written = line.time === null ? 'ns' : precision;
    return writer.add(hashBytes(body, line.start, line.keyEnd), policy, written, whole);
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
  kept: Retention;
  arrivalMicros: number;
}

function isBehind(one: JournalPosition, other: JournalPosition): boolean {
  return one.file === other.file ? one.offset > other.offset : one.file > other.file;
}

/** What a retention policy refuses, and what it has dropped by then. */
export interface Retention {
  refused(timeNs: bigint, arrivalMicros: number): boolean;
  isGone(timeNs: bigint, throughMicros: number): boolean;
}

export function retentionOf(policy: RetentionPolicy): Retention {
  const keptNs = BigInt(durationMs(policy.duration)) * nsPerMs;
  const groupNs = BigInt(durationMs(policy.shardGroupDuration)) * nsPerMs;
  if (keptNs === 0n) return { refused: () => false, isGone: () => false };
  return {
    refused: (timeNs, arrivalMicros) => timeNs < BigInt(arrivalMicros) * 1000n - keptNs,
    // Whole shard groups go, once their end is old enough (services/retention/service.go).
    isGone: (timeNs, throughMicros) => {
      if (!Number.isFinite(throughMicros)) return false;
      const endNs = groupNs === 0n ? timeNs : timeNs - (((timeNs % groupNs) + groupNs) % groupNs) + groupNs;
      return endNs + keptNs <= BigInt(throughMicros) * 1000n;
    },
  };
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
      const raw = bytes.subarray(keyStart, keyEnd);
      const key = (raw.includes(0x5c) ? escapeFieldKey(unescapeFieldKey(raw)) : raw).toString('latin1');
      const type = known.get(key);
      if (type === undefined || type === null) return;
      const found = fieldType(bytes, keyEnd + 1, valueEnd);
      if (found === type) return;
      conflict ??= `field type conflict: input field "${key}" on measurement "${measurement}" is type ${found}, already exists as type ${type}`;
    });
    return conflict;
  }
}
