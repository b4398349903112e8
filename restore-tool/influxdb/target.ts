/** The database that is restored into: made with the source's retention policies, which delete nothing until all is there. */
import { configurationError } from '../../core/errors/error.ts';
import { durationMs, type RetentionPolicy, readDatabases, readPolicies } from '../../core/influxdb/definitions.ts';
import { identifier } from '../../core/influxdb/escape.ts';
import type { InfluxdbServer } from '../../core/influxdb/server.ts';

/** Throws QZ2927 when it is there and nobody said that it may be. */
export async function requireFree(
  server: InfluxdbServer,
  database: string,
  mayExist: boolean,
  signal: AbortSignal,
): Promise<void> {
  const present = await readDatabases(server, [database], signal);
  if (present.length === 0 || mayExist) return;
  throw configurationError(
    'QZ2927',
    `InfluxDB at ${server.url} has a database ${database} already, and it is left alone.`,
    'Name another one with --database, drop that one first, or give --into-existing to write into it.',
  );
}

/** What is there already stays as it is. */
export async function makeDatabase(
  server: InfluxdbServer,
  database: string,
  policies: readonly RetentionPolicy[],
  signal: AbortSignal,
): Promise<void> {
  const present = await readDatabases(server, [database], signal);
  const ordered = [...policies].sort((a, b) => Number(b.isDefault) - Number(a.isDefault));
  const [first] = ordered;
  if (present.length === 0) await server.query(`CREATE DATABASE ${identifier(database)}${withPolicy(first)}`, signal);
  const known = new Set((await readPolicies(server, database, signal)).map(({ name }) => name));
  for (const policy of ordered) {
    if (known.has(policy.name)) continue;
    const { shardGroupDuration, isDefault, name } = policy;
    const options = `DURATION INF REPLICATION 1 SHARD DURATION ${shardGroupDuration}${isDefault ? ' DEFAULT' : ''}`;
    await server.query(`CREATE RETENTION POLICY ${identifier(name)} ON ${identifier(database)} ${options}`, signal);
  }
}

/**
 * How long the shards are that a policy makes. A field has one type in a shard, and may have another in the next: so what is
 * restored is cut as it was at the source, also where the policy's shard duration was changed in the meantime.
 */
export class ShardLengths {
  readonly #server: InfluxdbServer;
  readonly #database: string;
  readonly #present: Map<string, bigint>;

  private constructor(server: InfluxdbServer, database: string, present: Map<string, bigint>) {
    this.#server = server;
    this.#database = database;
    this.#present = present;
  }

  static async read(server: InfluxdbServer, database: string, signal: AbortSignal): Promise<ShardLengths> {
    const policies = await readPolicies(server, database, signal);
    return new ShardLengths(server, database, new Map(policies.map((policy) => [policy.name, shardNs(policy)])));
  }

  isSet(policy: string, lengthNs: bigint): boolean {
    return this.#present.get(policy) === lengthNs;
  }

  areSet(policies: readonly RetentionPolicy[]): boolean {
    return policies.every((policy) => this.isSet(policy.name, shardNs(policy)));
  }

  async setAll(policies: readonly RetentionPolicy[], signal: AbortSignal): Promise<void> {
    for (const policy of policies) await this.set(policy.name, shardNs(policy), signal);
  }

  async set(policy: string, lengthNs: bigint, signal: AbortSignal): Promise<void> {
    if (this.isSet(policy, lengthNs)) return;
    const alter = `ALTER RETENTION POLICY ${identifier(policy)} ON ${identifier(this.#database)}`;
    await this.#server.query(`${alter} SHARD DURATION ${lengthNs}ns`, signal);
    this.#present.set(policy, lengthNs);
  }
}

function shardNs({ shardGroupDuration }: RetentionPolicy): bigint {
  return BigInt(durationMs(shardGroupDuration)) * 1_000_000n;
}

function withPolicy(policy: RetentionPolicy | undefined): string {
  if (policy === undefined) return '';
  const { shardGroupDuration, name } = policy;
  return ` WITH DURATION INF REPLICATION 1 SHARD DURATION ${shardGroupDuration} NAME ${identifier(name)}`;
}

/**
 * Lets each policy keep points as long as the source did, unless it would delete some of the restored ones: then it stays
 * for ever, and the statement is left to a person. `oldestNs`: the end of the oldest range with points, by policy.
 */
export async function applyRetention(
  server: InfluxdbServer,
  database: string,
  policies: readonly RetentionPolicy[],
  oldestNs: ReadonlyMap<string, bigint>,
  signal: AbortSignal,
): Promise<{ applied: Set<string>; left: string[] }> {
  const applied = new Set<string>();
  const left: string[] = [];
  for (const policy of policies) {
    const keptMs = durationMs(policy.duration);
    const alter = `ALTER RETENTION POLICY ${identifier(policy.name)} ON ${identifier(database)} DURATION ${policy.duration} SHARD DURATION ${policy.shardGroupDuration}`;
    const oldestMs = Number((oldestNs.get(policy.name) ?? BigInt(Date.now()) * 1_000_000n) / 1_000_000n);
    if (keptMs > 0 && oldestMs < Date.now() - keptMs) {
      left.push(`${alter};`);
      continue;
    }
    if (keptMs > 0) await server.query(alter, signal);
    applied.add(policy.name);
  }
  return { applied, left };
}
