/**
 * A snapshot of an InfluxDB: each shard cut in time, each piece a file of line protocol. A shard that did not change since
 * the snapshot before is not asked for again; its files are pointed at.
 */
import { z } from 'zod';
import { transientError } from '../../core/errors/error.ts';
import {
  type Definitions,
  type FieldTypes,
  readDefinitions,
  readFieldTypes,
  readShards,
  type Shard,
} from '../../core/influxdb/definitions.ts';
import { exportRange, readMeasurements, slicesOf } from '../../core/influxdb/export.ts';
import type { InfluxdbServer } from '../../core/influxdb/server.ts';
import { placePath, slicePath } from '../../core/influxdb/snapshot-files.ts';
import type { JournalPosition } from '../../core/journal/source.ts';
import type { SnapshotManifest } from '../../core/snapshot/types.ts';
import { type SnapshotFiles, takeServiceSnapshot } from '../journaled/snapshot.ts';
import type { TakenSnapshot } from '../snapshot/scheduler.ts';
import type { SidesRequest } from '../snapshot/sides.ts';
import { readServerState, type ServerState } from './server-state.ts';

export interface InfluxdbSnapshotRequest extends Omit<SidesRequest, 'engine'> {
  server: InfluxdbServer;
  version: string;
  /** null: all databases but _internal. */
  only: readonly string[] | null;
  began: JournalPosition;
  /** Told at the end: shards that the server does not open. What was known of them stays. */
  onUnopened: (shards: readonly Shard[]) => void;
}

/**
 * A deletion in a shard that takes no more points shows in none of its numbers until the shard is compacted. So each one is
 * asked for again after this long; what did not change is not stored again.
 */
const lookAgainMs = 24 * 3_600_000;
/** Shards in a message. */
const namedMax = 10;

/** What was known of a shard just before it was exported: by these a later snapshot sees that it did not change. */
const shardFacts = z.record(
  z.string(),
  z.object({ started: z.string(), pointsOk: z.number(), diskBytes: z.number(), exportedMs: z.number() }),
);
type ShardFacts = z.infer<typeof shardFacts>;

export async function takeInfluxdbSnapshot(request: InfluxdbSnapshotRequest): Promise<TakenSnapshot> {
  const { server, only, signal } = request;
  const startedMicros = Date.now() * 1000;
  const definitions = await readDefinitions(server, only, signal);
  const names = definitions.databases.map(({ name }) => name);
  // Before anything is exported: what changes meanwhile must look changed to the next snapshot.
  const state = await readServerState(server, only, signal);
  const shards = await readShards(server, names, signal);
  const facts: ShardFacts = {};
  const unopened: Shard[] = [];
  const taken = await takeServiceSnapshot({
    ...request,
    kind: 'influxdb',
    serverVersion: request.version,
    startedMicros,
    settings: async () => ({
      definitions: JSON.stringify(definitions),
      fields: JSON.stringify(await allFieldTypes(server, definitions, signal)),
      places: JSON.stringify(shards.map(shardText)),
      shards: JSON.stringify(facts),
    }),
    copy: (files) => copyShards({ server, shards, state, facts, unopened, files, signal }),
  });
  request.onUnopened(unopened);
  return taken;
}

function shardText({ id, database, policy, startNs, endNs }: Shard) {
  return { id, database, policy, startNs: String(startNs), endNs: String(endNs) };
}

interface Copying {
  server: InfluxdbServer;
  shards: readonly Shard[];
  state: ServerState;
  /** To be filled. */
  facts: ShardFacts;
  unopened: Shard[];
  files: SnapshotFiles;
  signal: AbortSignal;
}

async function copyShards({ server, shards, state, facts, unopened, files, signal }: Copying): Promise<void> {
  const before = files.previous.map(({ manifest }) => factsOf(manifest));
  const measurements = new Map<string, readonly Buffer[]>();
  const types = new Map<string, FieldTypes>();
  for (const shard of shards) {
    signal.throwIfAborted();
    const [pointsOk = 0, diskBytes = 0] = state.shards[String(shard.id)] ?? [];
    const now = { started: state.started, pointsOk, diskBytes, exportedMs: Date.now() };
    const earlier = before[0]?.[String(shard.id)];
    const isUnopened = earlier !== undefined && earlier.diskBytes > 0 && !(String(shard.id) in state.shards);
    if (isUnopened) unopened.push(shard);
    if (earlier !== undefined && (isUnopened || before.every((one) => isSame(one[String(shard.id)], now)))) {
      if (await repeatShard(files, shard)) {
        facts[String(shard.id)] = earlier;
        continue;
      }
      // To a query it is empty, which would be stored.
      if (isUnopened) throw unopenedShards(server, [shard]);
    }
    const { database } = shard;
    if (!measurements.has(database)) measurements.set(database, await readMeasurements(server, database, signal));
    const place = placePath(shard);
    if (!types.has(place)) types.set(place, await readFieldTypes(server, shard, signal));
    for (const slice of slicesOf(shard)) {
      const options = { measurements: measurements.get(database) ?? [], types: types.get(place) ?? {}, signal };
      await files.write(slicePath(shard, slice), exportRange(server, { ...shard, ...slice }, options));
    }
    facts[String(shard.id)] = now;
  }
}

/**
 * A shard that the server lists, but has no numbers of, although it had bytes: it could not open it when it started, says so in
 * its log alone, and answers queries as if it held nothing (tsdb/store.go, "Failed to open shard").
 */
export function unopenedShards({ url }: Pick<InfluxdbServer, 'url'>, shards: readonly Shard[]) {
  const some = shards.slice(0, namedMax).map(({ id, database, policy }) => `${id} of ${database}.${policy}`);
  const named = [...some, ...(shards.length > namedMax ? [`${shards.length - namedMax} more`] : [])].join(', ');
  return transientError(
    'QZ4928',
    `InfluxDB at ${url} does not open ${shards.length === 1 ? 'shard' : 'shards'} ${named}, and answers as if nothing were there.`,
    'Its own log says why (“Failed to open shard”). What the archives have of it stays in every snapshot; mend it and restart InfluxDB, or give it up with DROP SHARD.',
  );
}

function factsOf(manifest: SnapshotManifest | null): ShardFacts {
  try {
    return shardFacts.parse(JSON.parse(manifest?.settings.shards ?? '{}'));
  } catch {
    // Of another version: then all is exported again.
    return {};
  }
}

function isSame(earlier: ShardFacts[string] | undefined, now: ShardFacts[string]): boolean {
  // Either way: a clock that was ahead must not keep it from being looked at.
  if (earlier === undefined || Math.abs(now.exportedMs - earlier.exportedMs) > lookAgainMs) return false;
  if (earlier.diskBytes !== now.diskBytes) return false;
  return earlier.started === now.started ? earlier.pointsOk === now.pointsOk : now.pointsOk === 0;
}

/** All of its files or none: one that an archive lacks is found before any is taken over. */
async function repeatShard(files: SnapshotFiles, shard: Shard): Promise<boolean> {
  return await files.repeat(slicesOf(shard).map((slice) => slicePath(shard, slice)));
}

/** Of every retention policy, by its place in the snapshot. */
async function allFieldTypes(server: InfluxdbServer, { databases }: Definitions, signal: AbortSignal) {
  const types: Record<string, FieldTypes> = {};
  for (const { name: database, policies } of databases) {
    for (const { name: policy } of policies) {
      types[placePath({ database, policy })] = await readFieldTypes(server, { database, policy }, signal);
    }
  }
  return types;
}
