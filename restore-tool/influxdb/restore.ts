/** A database of an InfluxDB as it was at an instant, in a running server: snapshot, journal, and a comparison of all of it. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openChunkKey } from '../../core/chunks/open.ts';
import { crashPoint } from '../../core/errors/crash-points.ts';
import { integrityError } from '../../core/errors/error.ts';
import { type FieldTypes, statementsOf } from '../../core/influxdb/definitions.ts';
import { slicesOf } from '../../core/influxdb/export.ts';
import { blocksOfLines, canonicalKey, eachLine, nsPer, parseLine } from '../../core/influxdb/lines.ts';
import { slicePath } from '../../core/influxdb/snapshot-files.ts';
import { neededFromPosition } from '../../core/journal/read.ts';
import { readSnapshotFile } from '../../core/snapshot/file-bytes.ts';
import type { SnapshotFile } from '../../core/snapshot/types.ts';
import { type InfluxdbPlan, planInfluxdb } from './plan.ts';
import { PointWriter } from './point-writer.ts';
import { type TimeRange, TimeRanges } from './ranges.ts';
import { goneBy, Replay } from './replay.ts';
import { SetAside } from './set-aside.ts';
import { Spill } from './spill.ts';
import { type InfluxdbRestoreState, StateFile } from './state.ts';
import { applyRetention, makeDatabase, requireFree, ShardLengths } from './target.ts';
import type { InfluxdbRestoreReport, InfluxdbRestoreRequest, VerifyResult } from './types.ts';
import { Verifier } from './verify.ts';

/** A slice of a shard of the snapshot. */
interface Slice extends TimeRange {
  file: SnapshotFile | null;
  /** How long its shard is. */
  shardNs: bigint;
}

/** What is compared at once: a slice, or several that overlap (a policy whose shards became longer makes such). */
interface Stretch extends TimeRange {
  slices: Slice[];
}

/** Points that are known to have been refused are remembered up to so many; more of them make the comparison say so. */
const refusedMax = 1_000_000;

/** Throws QZ3922 when what was restored is not what the archive says. */
export async function restoreInfluxdb(request: InfluxdbRestoreRequest): Promise<InfluxdbRestoreReport> {
  const plan = await planInfluxdb(request);
  const { history, began, snapshot, throughMicros, completeThroughMicros } = plan;
  const cutMicros = Math.min(throughMicros, completeThroughMicros);
  await request.onPlanned?.({ sequence: neededFromPosition(history, began) ?? 0, snapshot: snapshot.id, cutMicros });
  return await new Restore(request, plan).run();
}

class Restore {
  readonly #request: InfluxdbRestoreRequest;
  readonly #plan: InfluxdbPlan;
  readonly #states: StateFile;
  readonly #slices: readonly Slice[];
  readonly #ranges: TimeRanges<Stretch>;
  readonly #refused = new Set<string>();
  readonly #startedMs = performance.now();

  constructor(request: InfluxdbRestoreRequest, plan: InfluxdbPlan) {
    this.#request = request;
    this.#plan = plan;
    this.#states = new StateFile(request.workDir);
    this.#slices = slicesOfPlan(plan);
    this.#ranges = new TimeRanges(stretchesOf(this.#slices));
  }

  async run(): Promise<InfluxdbRestoreReport> {
    const { server, database, signal, workDir } = this.#request;
    const state = await this.#begin();
    await using setAside = await SetAside.open(join(workDir, 'set-aside.lp'), state.setAside);
    const chunkKey = await openChunkKey(this.#request.store, { create: false });
    await makeDatabase(server, database, this.#plan.policies, signal);
    // What was there before is nobody's to change.
    const lengths = state.isOurs ? await ShardLengths.read(server, database, signal) : null;
    const pointsFromSnapshot = await this.#load(state, setAside, chunkKey, lengths);
    const spill = await Spill.open(join(workDir, 'replayed'));
    const replayed = await this.#replay(setAside, spill, lengths);
    await lengths?.setAll(this.#plan.policies, signal);
    const verified = await this.#verify(spill, chunkKey);
    await spill.remove();
    const retention = await applyRetention(server, database, this.#plan.policies, this.#oldest(), signal);
    const statements = [...retention.left, ...statementsOf(onlyOf(this.#plan))];
    await this.#states.write({ ...state, step: 'done', setAside: await setAside.keep() });
    const report = {
      database,
      fromDatabase: this.#plan.fromDatabase,
      snapshot: { id: this.#plan.snapshot.id, finishedMicros: this.#plan.snapshot.finishedMicros },
      toMicros: this.#request.toMicros ?? 0,
      completeThroughMicros: this.#plan.completeThroughMicros,
      policies: this.#plan.policies.map(({ name, duration, isDefault }) => {
        return { name, duration, isDefault, isApplied: retention.applied.has(name) };
      }),
      pointsFromSnapshot,
      pointsFromJournal: replayed.points,
      setAside: setAside.count,
      setAsideFile: setAside.count === 0 ? null : setAside.path,
      expired: state.expired + replayed.expired,
      verified,
      statements,
      statementsFile: await this.#writeStatements(statements),
      durationMs: performance.now() - this.#startedMs,
    };
    if (verified.missing + verified.different + verified.unexpected > 0) throw notTheSame(report);
    return report;
  }

  /** Goes on with what was begun, or begins; nothing is written to the server yet. */
  async #begin(): Promise<InfluxdbRestoreState> {
    const { chainName, to, server, database, intoExisting, workDir, signal } = this.#request;
    const { snapshot, fromDatabase } = this.#plan;
    const wanted = { chainName, to, snapshot: snapshot.id, url: server.url, database, fromDatabase };
    await mkdir(workDir, { recursive: true });
    const earlier = await this.#states.read(wanted);
    await requireFree(server, database, intoExisting || earlier?.isOurs === true, signal);
    if (earlier !== null) return earlier;
    const nothing = { files: 0, points: 0, expired: 0, setAside: { count: 0, bytes: 0 } };
    const state: InfluxdbRestoreState = { format: 1, ...wanted, ...nothing, isOurs: !intoExisting, step: 'load' };
    // Before the database is made: one that stands there after a kill is known to be ours.
    await this.#states.write(state);
    return state;
  }

  async #load(
    state: InfluxdbRestoreState,
    setAside: SetAside,
    chunkKey: Buffer,
    lengths: ShardLengths | null,
  ): Promise<number> {
    const { progress, store, signal } = this.#request;
    const writer = this.#writer(setAside, () => undefined);
    progress.begin('loading the snapshot', null);
    for (const [index, { file, policy, endNs, shardNs: lengthNs }] of this.#slices.entries()) {
      if (index < state.files || file === null) continue;
      if (lengths !== null && file.sizeBytes > 0 && !lengths.isSet(policy, lengthNs)) {
        await writer.flush();
        await lengths.set(policy, lengthNs, signal);
      }
      const isDropped = this.#isDropped(policy, endNs);
      for await (const block of blocksOfLines(readSnapshotFile(store, chunkKey, file))) {
        const points = countLines(block);
        if (isDropped) state.expired += points;
        else {
          await writer.addBlock(policy, block);
          state.points += points;
          progress.add(points);
        }
      }
      if ((index + 1) % slicesPerNote === 0) await this.#noteLoaded(writer, state, setAside, index + 1);
      crashPoint('restore-influxdb:during-load');
    }
    await this.#noteLoaded(writer, state, setAside, this.#slices.length);
    await this.#rememberRefused(setAside);
    progress.end();
    return state.points;
  }

  /** Whether the source itself had dropped by then what lies before `endNs`. */
  #isDropped(name: string, endNs: bigint): boolean {
    const policy = this.#plan.policies.find((one) => one.name === name);
    return policy !== undefined && goneBy(this.#plan, policy)(endNs - 1n);
  }

  async #noteLoaded(
    writer: PointWriter,
    state: InfluxdbRestoreState,
    setAside: SetAside,
    files: number,
  ): Promise<void> {
    await writer.flush();
    state.files = files;
    state.setAside = await setAside.keep();
    if (files === this.#slices.length) state.step = 'replay';
    await this.#states.write(state);
  }

  async #replay(setAside: SetAside, spill: Spill, lengths: ShardLengths | null): Promise<Replay> {
    const { progress, signal } = this.#request;
    const writer = this.#writer(setAside, (policy, precision, lines) => this.#spill(spill, policy, precision, lines));
    progress.begin('replaying the journal', null);
    const onPoints = (points: number) => progress.add(points);
    const replay = new Replay({ plan: this.#plan, writer, setAside, lengths, onPoints, signal });
    await replay.run();
    await writer.flush();
    await spill.flush();
    progress.end();
    crashPoint('restore-influxdb:after-replay');
    return replay;
  }

  #writer(setAside: SetAside, onTaken: ConstructorParameters<typeof PointWriter>[0]['onTaken']): PointWriter {
    const { server, database, signal, logger } = this.#request;
    return new PointWriter({ server, database, setAside, onTaken, signal, logger });
  }

  /** What the server took, by range and in ns, for the comparison. */
  async #spill(spill: Spill, policy: string, precision: string, lines: readonly Buffer[]): Promise<void> {
    const factor = nsPer(precision);
    for (const bytes of lines) {
      const line = parseLine(bytes, 0, bytes.length);
      if (line === null || typeof line === 'string' || line.time === null) continue;
      const timeNs = line.time * factor;
      const whole =
        factor === 1n ? bytes : Buffer.concat([bytes.subarray(0, line.fieldsEnd), Buffer.from(` ${timeNs}`)]);
      await spill.add(this.#ranges.of(policy, timeNs), whole);
    }
  }

  async #verify(spill: Spill, chunkKey: Buffer): Promise<VerifyResult> {
    const { server, database, intoExisting, workDir, progress, signal, store } = this.#request;
    progress.begin('comparing', null);
    const verifier = new Verifier({
      server,
      database,
      types: mergedTypes(this.#plan),
      refused: this.#refused,
      isAlone: !intoExisting,
      differencesFile: join(workDir, 'differences.lp'),
      onPoints: (points) => progress.add(points),
      signal,
    });
    for (const range of this.#ranges.all()) {
      const slices = 'slices' in range ? range.slices : [];
      const files = slices.flatMap(({ file, policy, endNs }) =>
        file === null || this.#isDropped(policy, endNs) ? [] : [file],
      );
      const isPlain = !spill.has(range) && slices.length === 1 && files.length === 1;
      const read = async function* () {
        for (const file of files) yield* readSnapshotFile(store, chunkKey, file);
        yield* spill.read(range);
      };
      const sizeBytes = files.reduce((sum, file) => sum + file.sizeBytes, await spill.sizeOf(range));
      await verifier.compare({ range, sizeBytes, isPlain, read });
    }
    progress.end();
    return await verifier.finish();
  }

  /** Of the snapshot's own lines: the comparison must not miss them. */
  async #rememberRefused(setAside: SetAside): Promise<void> {
    if (setAside.count === 0 || setAside.count > refusedMax) return;
    for (const { policy, line } of await setAside.read()) {
      const parsed = parseLine(line, 0, line.length);
      if (parsed === null || typeof parsed === 'string') continue;
      this.#refused.add(`${policy} ${canonicalKey(line, parsed)} ${parsed.time}`);
    }
  }

  /** Where the oldest points that were written are, by policy: the end of their range. */
  #oldest(): Map<string, bigint> {
    const oldest = new Map<string, bigint>();
    for (const range of this.#ranges.all()) {
      const hasNone = 'slices' in range && range.slices.every(isEmpty);
      const known = oldest.get(range.policy);
      if (!hasNone && (known === undefined || range.endNs < known)) oldest.set(range.policy, range.endNs);
    }
    return oldest;
  }

  async #writeStatements(statements: readonly string[]): Promise<string | null> {
    if (statements.length === 0) return null;
    const path = join(this.#request.workDir, 'statements.influxql');
    await writeFile(path, `${statements.join('\n')}\n`, { mode: 0o640 });
    return path;
  }
}

/** How many slices are written between two notes of how far it is. */
const slicesPerNote = 24;

function slicesOfPlan({ shards }: InfluxdbPlan): Slice[] {
  return shards.flatMap(({ shard, files }) => {
    const byPath = new Map(files.map((file) => [file.path, file]));
    return slicesOf(shard).map((slice) => ({
      ...slice,
      policy: shard.policy,
      shardNs: shard.endNs - shard.startNs,
      file: byPath.get(slicePath(shard, slice)) ?? null,
    }));
  });
}

/** A question costs much where there are many series, so slices without points are asked for together. */
function stretchesOf(slices: readonly Slice[]): Stretch[] {
  const stretches: Stretch[] = [];
  const byTime = (a: Slice, b: Slice) => (a.startNs < b.startNs ? -1 : 1);
  const ordered = slices.toSorted((a, b) => (a.policy === b.policy ? byTime(a, b) : a.policy < b.policy ? -1 : 1));
  for (const slice of ordered) {
    const { policy, startNs, endNs } = slice;
    const last = stretches.at(-1);
    const isBeside = last?.endNs === startNs && [last.slices.at(-1), slice].every(isEmpty);
    if (last !== undefined && last.policy === policy && (last.endNs > startNs || isBeside)) {
      last.slices.push(slice);
      if (endNs > last.endNs) last.endNs = endNs;
    } else stretches.push({ policy, startNs, endNs, slices: [slice] });
  }
  return stretches;
}

function isEmpty(slice: Slice | undefined): boolean {
  return (slice?.file?.sizeBytes ?? 0) === 0;
}

/** The database's own queries, and users who may do anything with it. */
function onlyOf({ at, fromDatabase }: InfluxdbPlan) {
  return {
    databases: at.databases.filter(({ name }) => name === fromDatabase),
    users: at.users
      .map((user) => ({ ...user, grants: user.grants.filter((grant) => grant.database === fromDatabase) }))
      .filter(({ isAdmin, grants }) => isAdmin || grants.length > 0),
  };
}

function mergedTypes({ types }: InfluxdbPlan): FieldTypes {
  const merged: FieldTypes = {};
  for (const told of [...types.values()].flat()) {
    for (const [measurement, fields] of Object.entries(told))
      merged[measurement] = { ...merged[measurement], ...fields };
  }
  return merged;
}

function countLines(block: Buffer): number {
  let count = 0;
  eachLine(block, () => {
    count += 1;
  });
  return count;
}

function notTheSame(report: InfluxdbRestoreReport) {
  const { missing, different, unexpected, differencesFile } = report.verified;
  return integrityError(
    'QZ3922',
    `The restored database ${report.database} is not what the archive says: ${missing} points are missing, ${different} differ, ${unexpected} are there beyond.`,
    `They are listed in ${differencesFile ?? 'no file'}. If somebody else writes into this database, restore into another one; else restore from another archive.`,
    { details: { ...report } },
  );
}
