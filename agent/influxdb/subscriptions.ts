/** The subscriptions by which InfluxDB forwards each write to the ingest endpoint: one for each database and retention policy. */
import { type Definitions, readSubscriptions } from '../../core/influxdb/definitions.ts';
import { identifier, literal } from '../../core/influxdb/escape.ts';
import type { InfluxdbServer } from '../../core/influxdb/server.ts';
import type { Logger } from '../../core/logging/logger.ts';

export interface Place {
  database: string;
  policy: string;
}

export interface SubscriptionOptions {
  server: InfluxdbServer;
  /** Of the subscriptions: one that leads elsewhere under this name is replaced. */
  name: string;
  destination: string;
  logger: Logger;
  signal: AbortSignal;
}

/**
 * Makes those that are missing or lead elsewhere. Resolves with the places that were not forwarded here until now. Others'
 * subscriptions are left alone; ours are never removed while they are wanted.
 */
export async function ensureSubscriptions(
  { databases }: Definitions,
  { server, name, destination, logger, signal }: SubscriptionOptions,
): Promise<Place[]> {
  const present = (await readSubscriptions(server, signal)).filter((one) => one.name === name);
  const missing: Place[] = [];
  for (const { name: database, policies } of databases) {
    for (const { name: policy } of policies) {
      const found = present.find((one) => one.database === database && one.policy === policy);
      if (found?.destinations.length === 1 && found.destinations[0] === destination) continue;
      const on = `${identifier(name)} ON ${identifier(database)}.${identifier(policy)}`;
      if (found !== undefined) await server.query(`DROP SUBSCRIPTION ${on}`, signal);
      await server.query(`CREATE SUBSCRIPTION ${on} DESTINATIONS ALL ${literal(destination)}`, signal);
      logger.info(`subscribed to the writes of ${database}.${policy}`, { component: 'influxdb' });
      missing.push({ database, policy });
    }
  }
  return missing;
}
