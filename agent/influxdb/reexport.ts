/** Shards, whole, into the journal. */
import { randomBytes } from 'node:crypto';
import { type FieldTypes, readFieldTypes, type Shard } from '../../core/influxdb/definitions.ts';
import { exportRange, readMeasurements, slicesOf } from '../../core/influxdb/export.ts';
import { exportedItem, exportItem } from '../../core/influxdb/frames.ts';
import type { InfluxdbServer } from '../../core/influxdb/server.ts';
import type { JournalWriter } from '../../core/journal/writer.ts';
import type { Logger } from '../../core/logging/logger.ts';
import type { Positions } from './positions.ts';

export interface ReexportOptions {
  server: InfluxdbServer;
  journal: Pick<JournalWriter, 'append' | 'room'>;
  positions: Positions;
  logger: Logger;
  signal: AbortSignal;
}

/** How many points they held. A round that breaks off counts for nothing; what it wrote is passed over by readers. */
export async function exportShards(shards: readonly Shard[], options: ReexportOptions): Promise<number> {
  const { server, logger, signal } = options;
  const measurements = new Map<string, readonly Buffer[]>();
  let points = 0;
  for (const shard of shards) {
    const { id, database, policy } = shard;
    if (!measurements.has(database)) measurements.set(database, await readMeasurements(server, database, signal));
    const types = await readFieldTypes(server, { database, policy }, signal);
    const exported = await exportShard(shard, measurements.get(database) ?? [], types, options);
    logger.info(`exported shard ${id} of ${database}.${policy} again`, { component: 'influxdb', points: exported });
    points += exported;
  }
  return points;
}

async function exportShard(
  shard: Shard,
  measurements: readonly Buffer[],
  types: FieldTypes,
  { server, journal, positions, signal }: ReexportOptions,
): Promise<number> {
  const { file, offset } = positions.earlier;
  const meta = {
    db: shard.database,
    rp: shard.policy,
    shard: shard.id,
    round: randomBytes(8).toString('hex'),
  };
  let points = 0;
  for (const slice of slicesOf(shard)) {
    for await (const lines of exportRange(server, { ...shard, ...slice }, { measurements, types, signal })) {
      points += countLines(lines);
      await journal.room();
      await journal.append([exportItem(meta, lines)]);
    }
  }
  await journal.append([exportedItem({ ...meta, file, offset, points })]);
  return points;
}

/** A newline inside a text counts as well: the number is for people. */
function countLines(lines: Buffer): number {
  let count = 0;
  for (let at = lines.indexOf(0x0a); at >= 0; at = lines.indexOf(0x0a, at + 1)) count += 1;
  return count;
}
