/** What an InfluxDB 1.x server holds besides points: databases, retention policies, shards, subscriptions, users, queries. */
import { identifier, literal } from './escape.ts';
import type { InfluxdbServer, SeriesRows } from './server.ts';

export interface RetentionPolicy {
  name: string;
  /** As InfluxQL writes it; 0s: for ever. */
  duration: string;
  shardGroupDuration: string;
  replicas: number;
  isDefault: boolean;
}

export interface Database {
  name: string;
  policies: RetentionPolicy[];
  continuousQueries: { name: string; query: string }[];
}

export interface User {
  name: string;
  isAdmin: boolean;
  grants: { database: string; privilege: string }[];
}

export interface Definitions {
  databases: Database[];
  users: User[];
}

/** One shard, which holds the points of [startNs, endNs) of a retention policy. */
export interface Shard {
  id: number;
  database: string;
  policy: string;
  startNs: bigint;
  endNs: bigint;
}

export interface Subscription {
  database: string;
  policy: string;
  name: string;
  mode: string;
  destinations: string[];
}

const ownDatabase = '_internal';

/** `only` null: all but _internal. */
export async function readDefinitions(
  server: InfluxdbServer,
  only: readonly string[] | null,
  signal: AbortSignal,
): Promise<Definitions> {
  const names = await readDatabases(server, only, signal);
  const policies = await Promise.all(names.map((name) => readPolicies(server, name, signal)));
  const queries = await server.query('SHOW CONTINUOUS QUERIES', signal);
  const databases = names.map((name, index) => ({
    name,
    policies: policies[index] ?? [],
    continuousQueries: queries
      .filter((series) => series.name === name)
      .flatMap((series) => rowsOf(series).map((row) => ({ name: textOf(row.name), query: textOf(row.query) }))),
  }));
  return { databases, users: await readUsers(server, signal) };
}

export async function readDatabases(
  server: InfluxdbServer,
  only: readonly string[] | null,
  signal: AbortSignal,
): Promise<string[]> {
  const rows = await server.query('SHOW DATABASES', signal);
  const names = rows.flatMap(rowsOf).map((row) => textOf(row.name));
  return names.filter((name) => (only === null ? name !== ownDatabase : only.includes(name))).sort();
}

export async function readPolicies(
  server: InfluxdbServer,
  database: string,
  signal: AbortSignal,
): Promise<RetentionPolicy[]> {
  const rows = await server.query(`SHOW RETENTION POLICIES ON ${identifier(database)}`, signal);
  return rows.flatMap(rowsOf).map((row) => ({
    name: textOf(row.name),
    duration: textOf(row.duration),
    shardGroupDuration: textOf(row.shardGroupDuration),
    replicas: Number(row.replicaN ?? 1),
    isDefault: row.default === true,
  }));
}

async function readUsers(server: InfluxdbServer, signal: AbortSignal): Promise<User[]> {
  const users = (await server.query('SHOW USERS', signal)).flatMap(rowsOf);
  return await Promise.all(
    users.map(async (user) => {
      const name = textOf(user.user);
      const grants = (await server.query(`SHOW GRANTS FOR ${identifier(name)}`, signal)).flatMap(rowsOf);
      return {
        name,
        isAdmin: user.admin === true,
        grants: grants.map((row) => ({ database: textOf(row.database), privilege: textOf(row.privilege) })),
      };
    }),
  );
}

/** Of these databases, in the order of their ids. */
export async function readShards(
  server: InfluxdbServer,
  databases: readonly string[],
  signal: AbortSignal,
): Promise<Shard[]> {
  const wanted = new Set(databases);
  const rows = (await server.query('SHOW SHARDS', signal)).flatMap(rowsOf);
  return rows
    .map((row) => ({
      id: Number(row.id),
      database: textOf(row.database),
      policy: textOf(row.retention_policy),
      startNs: nanoseconds(textOf(row.start_time)),
      endNs: nanoseconds(textOf(row.end_time)),
    }))
    .filter(({ database }) => wanted.has(database))
    .sort((a, b) => a.id - b.id);
}

export async function readSubscriptions(server: InfluxdbServer, signal: AbortSignal): Promise<Subscription[]> {
  return (await server.query('SHOW SUBSCRIPTIONS', signal)).flatMap((series) =>
    rowsOf(series).map((row) => ({
      database: series.name,
      policy: textOf(row.retention_policy),
      name: textOf(row.name),
      mode: textOf(row.mode),
      destinations: Array.isArray(row.destinations) ? row.destinations.map(String) : [],
    })),
  );
}

/** Which types each field has, over all shards of a retention policy: measurement → field → types. */
export type FieldTypes = Record<string, Record<string, string[]>>;

export async function readFieldTypes(
  server: InfluxdbServer,
  { database, policy }: { database: string; policy: string },
  signal: AbortSignal,
): Promise<FieldTypes> {
  const from = `${identifier(policy)}./.*/`;
  const types: FieldTypes = {};
  for (const series of await server.query(`SHOW FIELD KEYS ON ${identifier(database)} FROM ${from}`, signal)) {
    const fields: Record<string, string[]> = {};
    for (const row of rowsOf(series)) {
      const field = textOf(row.fieldKey);
      fields[field] = [...(fields[field] ?? []), textOf(row.fieldType)];
    }
    types[series.name] = fields;
  }
  return types;
}

function rowsOf({ columns, values }: SeriesRows): Record<string, unknown>[] {
  return values.map((row) => Object.fromEntries(columns.map((column, index) => [column, row[index]])));
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : String(value ?? '');
}

/** `2023-11-13T00:00:00.5Z` → ns since 1970. */
export function nanoseconds(instant: string): bigint {
  const fraction = /\.(\d{1,9})/.exec(instant)?.[1] ?? '';
  const seconds = BigInt(Date.parse(instant.replace(/\.\d+/, ''))) / 1000n;
  return seconds * 1_000_000_000n + BigInt(fraction.padEnd(9, '0'));
}

/** `168h0m0s` → ms; 0 for ever. */
export function durationMs(text: string): number {
  const unitMs: Record<string, number> = { w: 604_800_000, d: 86_400_000, h: 3_600_000, m: 60_000, s: 1000, ms: 1 };
  let ms = 0;
  for (const [, count, unit] of text.matchAll(/(\d+)(ms|[wdhms])/g)) ms += Number(count) * (unitMs[unit ?? ''] ?? 0);
  return ms;
}

/** The statements that make these definitions again, for a person to read and run. */
export function statementsOf({ databases, users }: Definitions): string[] {
  const lines: string[] = [];
  for (const { name, continuousQueries } of databases) {
    for (const { query } of continuousQueries) lines.push(`-- of ${name}`, `${query};`);
  }
  for (const { name, isAdmin, grants } of users) {
    const rights = isAdmin ? ' WITH ALL PRIVILEGES' : '';
    lines.push(`CREATE USER ${identifier(name)} WITH PASSWORD ${literal('CHOOSE-ONE')}${rights};`);
    for (const { database, privilege } of grants) {
      const what = privilege === 'ALL PRIVILEGES' ? 'ALL' : privilege;
      if (what !== 'NO PRIVILEGES') lines.push(`GRANT ${what} ON ${identifier(database)} TO ${identifier(name)};`);
    }
  }
  return lines;
}
