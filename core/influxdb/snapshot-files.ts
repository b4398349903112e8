/** Where what stands in a snapshot of an InfluxDB. FORMAT.md ("Snapshot of an InfluxDB") is the authority. */
import { z } from 'zod';
import { integrityError } from '../errors/error.ts';
import type { SnapshotManifest } from '../snapshot/types.ts';
import type { Definitions, FieldTypes, Shard } from './definitions.ts';
import { definitionsSchema } from './frames.ts';

/** A name as a part of a path. */
function part(name: string): string {
  const text = encodeURIComponent(name).replaceAll('.', '%2E');
  return text === '' ? '%' : text;
}

export function placePath({ database, policy }: { database: string; policy: string }): string {
  return `${part(database)}/${part(policy)}`;
}

export function shardPath(shard: Pick<Shard, 'database' | 'policy' | 'id'>): string {
  return `${placePath(shard)}/${shard.id}`;
}

/** The points of a slice of a shard (export.ts, `slicesOf`), as line protocol in ns. */
export function slicePath(shard: Pick<Shard, 'database' | 'policy' | 'id'>, { startNs }: { startNs: bigint }): string {
  return `${shardPath(shard)}/${startNs}`;
}

const placesSchema = z.array(
  z.object({
    id: z.number(),
    database: z.string(),
    policy: z.string(),
    startNs: z.string().regex(/^-?\d+$/),
    endNs: z.string().regex(/^-?\d+$/),
  }),
);
const fieldsSchema = z.record(z.string(), z.record(z.string(), z.record(z.string(), z.array(z.string()))));

export interface SnapshotContent {
  definitions: Definitions;
  shards: Shard[];
  /** By `placePath`. */
  fields: Record<string, FieldTypes>;
}

/** Throws QZ3921 when a snapshot does not say what is in it. */
export function contentOf({ id, settings }: SnapshotManifest): SnapshotContent {
  try {
    const shards = placesSchema.parse(JSON.parse(settings.places ?? ''));
    return {
      definitions: definitionsSchema.parse(JSON.parse(settings.definitions ?? '')),
      fields: fieldsSchema.parse(JSON.parse(settings.fields ?? '')),
      shards: shards.map((shard) => ({ ...shard, startNs: BigInt(shard.startNs), endNs: BigInt(shard.endNs) })),
    };
  } catch (error) {
    throw integrityError(
      'QZ3921',
      `Snapshot ${id} does not say what is in it.`,
      'Use another snapshot (an earlier --to) or another archive (--from).',
      { cause: error },
    );
  }
}
