/** What a restore of an InfluxDB database would be made of: a snapshot, and the journal behind it up to an instant. */
import { configurationError } from '../../core/errors/error.ts';
import {
  type Definitions,
  durationMs,
  type FieldTypes,
  type RetentionPolicy,
  type Shard,
} from '../../core/influxdb/definitions.ts';
import { openFrame } from '../../core/influxdb/frames.ts';
import { contentOf, placePath, shardPath } from '../../core/influxdb/snapshot-files.ts';
import { readJournal } from '../../core/journal/read.ts';
import { type JournalPosition, positionOf } from '../../core/journal/source.ts';
import { readManifest } from '../../core/snapshot/manifest.ts';
import type { SnapshotFile } from '../../core/snapshot/types.ts';
import { findServiceBase, type ServiceBase, type ServiceBaseRequest } from '../service-base.ts';
import type { InfluxdbRestoreRequest } from './types.ts';

export interface InfluxdbPlan extends ServiceBase {
  fromDatabase: string;
  /** Where the journal is read from. */
  began: JournalPosition;
  /** As they were at the beginning of the journal, and at the instant. */
  before: Definitions;
  at: Definitions;
  policies: RetentionPolicy[];
  /** How long each policy kept points at most since the beginning of the journal: what is older when it comes in was refused. */
  longestKeptMs: Map<string, number>;
  /** Shards of the database in the snapshot, each with its files. */
  shards: { shard: Shard; files: SnapshotFile[] }[];
  /** Field types by retention policy, all that were ever told. */
  types: Map<string, FieldTypes[]>;
  journal: JournalScan;
}

interface JournalScan {
  /** Rounds of exports that were finished by then. */
  rounds: Set<string>;
  /** Bytes of lines for this database. */
  bytes: number;
}

type PlanRequest = ServiceBaseRequest & Pick<InfluxdbRestoreRequest, 'fromDatabase'>;

/** Throws QZ2923–QZ2926 when there is nothing to restore from, QZ333x when the journal is damaged on the way. */
export async function planInfluxdb(request: PlanRequest): Promise<InfluxdbPlan> {
  const { store, signal } = request;
  const base = await findServiceBase(request);
  const { history, snapshot, throughMicros } = base;
  const manifest = await readManifest(store, snapshot.id);
  const content = contentOf(manifest);
  const began = positionOf(manifest);
  const scan = new Scan(content.definitions);
  for await (const { frame, end } of readJournal({ history, after: began, throughMicros, signal }))
    scan.add(openFrame(frame, `${end.file}:${end.offset}`));
  signal.throwIfAborted();
  const at = scan.definitions;
  const fromDatabase = chooseDatabase(request, at);
  const policies = at.databases.find(({ name }) => name === fromDatabase)?.policies ?? [];
  return {
    ...base,
    fromDatabase,
    began,
    before: content.definitions,
    at,
    policies,
    longestKeptMs: scan.longestKeptMs(fromDatabase),
    shards: content.shards
      .filter(({ database, policy }) => database === fromDatabase && policies.some(({ name }) => name === policy))
      .map((shard) => ({ shard, files: manifest.files.filter(({ path }) => path.startsWith(`${shardPath(shard)}/`)) })),
    types: scan.typesOf(fromDatabase, content.fields),
    journal: { rounds: scan.rounds, bytes: scan.bytesOf(fromDatabase) },
  };
}

/** One pass over the journal: what must be known of its whole before its lines are replayed. */
class Scan {
  definitions: Definitions;
  readonly rounds = new Set<string>();
  readonly #told: Definitions[] = [];
  readonly #bytes = new Map<string, number>();
  readonly #types: { db: string; rp: string; types: FieldTypes }[] = [];

  constructor(definitions: Definitions) {
    this.definitions = definitions;
    this.#told.push(definitions);
  }

  add(frame: ReturnType<typeof openFrame>): void {
    switch (frame.kind) {
      case 'definitions':
        this.definitions = frame.definitions;
        this.#told.push(frame.definitions);
        break;
      case 'exported':
        this.rounds.add(frame.meta.round);
        break;
      case 'fields':
        this.#types.push({ ...frame.meta, types: frame.types });
        break;
      case 'write':
      case 'export':
        this.#bytes.set(frame.meta.db, (this.#bytes.get(frame.meta.db) ?? 0) + frame.body.length);
    }
  }

  bytesOf(database: string): number {
    return this.#bytes.get(database) ?? 0;
  }

  longestKeptMs(database: string): Map<string, number> {
    const longest = new Map<string, number>();
    const policies = this.#told.flatMap(
      ({ databases }) => databases.find(({ name }) => name === database)?.policies ?? [],
    );
    for (const { name, duration } of policies)
      longest.set(name, Math.max(longest.get(name) ?? 0, durationMs(duration) || Number.POSITIVE_INFINITY));
    return longest;
  }

  typesOf(database: string, atSnapshot: Record<string, FieldTypes>): Map<string, FieldTypes[]> {
    const types = new Map<string, FieldTypes[]>();
    const told = this.#types.filter(({ db }) => db === database);
    for (const { rp, types: each } of told) types.set(rp, [...(types.get(rp) ?? []), each]);
    for (const policy of this.#policies(database)) {
      const before = atSnapshot[placePath({ database, policy })];
      if (before !== undefined) types.set(policy, [before, ...(types.get(policy) ?? [])]);
    }
    return types;
  }

  #policies(database: string): string[] {
    const found = this.definitions.databases.find(({ name }) => name === database);
    return found?.policies.map(({ name }) => name) ?? [];
  }
}

function chooseDatabase({ fromDatabase, chainName }: PlanRequest, { databases }: Definitions): string {
  const names = databases.map(({ name }) => name);
  if (fromDatabase !== null && names.includes(fromDatabase)) return fromDatabase;
  const [only] = names;
  if (fromDatabase === null && only !== undefined && names.length === 1) return only;
  const held = names.length === 0 ? 'none' : names.join(', ');
  if (fromDatabase !== null)
    throw configurationError(
      'QZ2923',
      `${chainName} had no database ${fromDatabase} at that instant; it had ${held}.`,
      'Check the name, or choose an instant before it was dropped.',
      { details: { databases: names } },
    );
  throw configurationError(
    'QZ2924',
    `${chainName} had ${names.length} databases at that instant, and none was named.`,
    `Give --from-database with one of ${held}.`,
    { details: { databases: names } },
  );
}
