/** The subscriptions by which InfluxDB forwards each write to the ingest endpoint: one for each database and retention policy. */
import { setTimeout as sleep } from 'node:timers/promises';
import { transientError } from '../../core/errors/error.ts';
import { type Definitions, readSubscriptions } from '../../core/influxdb/definitions.ts';
import { identifier, literal } from '../../core/influxdb/escape.ts';
import type { InfluxdbServer } from '../../core/influxdb/server.ts';
import type { Logger } from '../../core/logging/logger.ts';

/** How often, and how long, one that was just made is looked for. */
const looksMax = 50;
const lookEveryMs = 100;
/** Before writes come to the queue of a subscription they stand in one for all of them (services/subscriber/service.go). */
const sharedQueue = 100;

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

/** Until InfluxDB's own statistics show them: it begins a little after the statement was answered. Throws QZ4927. */
export async function awaitSubscriptions(
  places: readonly Place[],
  { server, name, destination, signal }: Omit<SubscriptionOptions, 'logger'>,
): Promise<void> {
  for (let look = 0; look < looksMax; look += 1) {
    const sections = Object.values(await server.variables(signal));
    const isThere = ({ database, policy }: Place) =>
      sections.some(
        ({ name: section, tags }) =>
          section === 'subscriber' &&
          tags?.name === name &&
          tags.database === database &&
          tags.retention_policy === policy &&
          tags.destination === destination,
      );
    if (places.every(isThere)) return;
    await sleep(lookEveryMs, undefined, { signal });
  }
  throw transientError(
    'QZ4927',
    `InfluxDB at ${server.url} has a subscription called ${name}, but does not forward writes.`,
    'Look at [subscriber] in influxdb.conf: enabled must be true. It is tried again by itself.',
  );
}

/** How many writes one subscription may hold back before it drops (SHOW DIAGNOSTICS; else the defaults of 1.x). */
export async function readQueueMax(server: InfluxdbServer, signal: AbortSignal): Promise<number> {
  const found = (await server.query('SHOW DIAGNOSTICS', signal)).find((series) => series.name === 'config-subscriber');
  const value = (column: string, usual: number) => {
    const told = Number(found?.values[0]?.[found.columns.indexOf(column)]);
    return Number.isSafeInteger(told) && told > 0 ? told : usual;
  };
  return value('write-buffer-size', 1000) + value('write-concurrency', 40) + sharedQueue;
}
