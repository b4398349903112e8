/** What InfluxDB tells of itself at one moment (/debug/vars): whether it forwarded everything, and which shards changed. */
import type { Shard } from '../../core/influxdb/definitions.ts';
import type { Checked } from '../../core/influxdb/frames.ts';
import type { InfluxdbServer } from '../../core/influxdb/server.ts';
import type { Place } from './subscriptions.ts';

export interface ServerState extends Omit<Checked, 'subscribed'> {
  /** How often each place (`db`, `rp` as JSON) got new fields or shards: another text means that it did again. */
  schemas: ReadonlyMap<string, string>;
  /** Another text means that a database, shard or subscription came or went. */
  outline: string;
}

type Counted = Omit<Checked, 'subscribed'>;

/** The counters by which a lost write is noticed, and each shard's. `only` null: of all databases but _internal. */
export async function readServerState(
  server: InfluxdbServer,
  only: readonly string[] | null,
  signal: AbortSignal,
): Promise<ServerState> {
  const variables = await server.variables(signal);
  const isWanted = (database: string) => (only === null ? database !== '_internal' : only.includes(database));
  const outline: string[] = [];
  const created = new Map<string, number[]>();
  const state = { started: '', writeFailures: 0, subWriteDrop: 0, shards: {} as ServerState['shards'] };
  for (const [key, section] of Object.entries(variables)) {
    const values = section.values ?? {};
    if (key === 'system') state.started = String(section.started ?? '');
    // Each subscription has a section of its own, with tags; the one without counts for all of them.
    else if (section.name === 'subscriber' && !section.tags?.name)
      state.writeFailures = (values.writeFailures ?? 0) + (values.createFailures ?? 0);
    else if (section.name === 'write') state.subWriteDrop = values.subWriteDrop ?? 0;
    else if (section.name === 'shard' && isWanted(section.tags?.database ?? '')) {
      const { id, database, retentionPolicy } = section.tags ?? {};
      state.shards[String(id)] = [values.writePointsOk ?? 0, values.diskBytes ?? 0];
      const place = JSON.stringify([database, retentionPolicy]);
      created.set(place, [...(created.get(place) ?? []), Number(id), values.fieldsCreate ?? 0]);
    }
    if (['subscriber', 'shard', 'database'].includes(section.name ?? '')) outline.push(key);
  }
  const schemas = new Map([...created].map(([place, numbers]) => [place, `${state.started} ${numbers.join(' ')}`]));
  return { ...state, schemas, outline: outline.sort().join('\n') };
}

/** Whether a write may have been dropped between the two. */
export function lostBetween(before: Counted, now: Counted): boolean {
  return (
    now.started !== before.started ||
    now.writeFailures !== before.writeFailures ||
    now.subWriteDrop !== before.subWriteDrop
  );
}

/** Whether this shard holds other points than before, as far as its numbers tell. */
export function changedBetween(before: Counted, now: Counted, id: number): boolean {
  const [was, is] = [before.shards[id], now.shards[id]];
  if (is === undefined) return false;
  if (was === undefined) return true;
  // After a restart it counts from 0 again.
  if (before.started !== now.started) return is[0] > 0 || is[1] !== was[1];
  return is[0] !== was[0];
}

/**
 * Which shards must be exported again, because something of what changed in them since `before` may not have come in.
 * `newly`: places whose writes were not forwarded until now.
 */
export function shardsInDoubt(
  before: Checked,
  now: Counted,
  shards: readonly Shard[],
  newly: readonly Place[],
): Shard[] {
  const isLost = lostBetween(before, now);
  return shards.filter(({ id, database, policy }) => {
    const isNewly =
      newly.some((place) => place.database === database && place.policy === policy) ||
      !before.subscribed.some(([db, rp]) => db === database && rp === policy);
    return (isLost || isNewly) && changedBetween(before, now, id);
  });
}
