/**
 * Events (CREATE EVENT) that came by the replay: a replica keeps them from running (`DISABLE ON REPLICA`), enabled and
 * disabled ones alike, but the restored server is no replica. Each gets the status back that it had at the cut, under its
 * own definer and settings. Those that were replicated to the source itself stay as they were there.
 * Facts: `Event_parse_data::check_originator_id`, sql/event_parse_data.cc; manual, "Replication of Invoked Features".
 */
import { GtidSet } from '../binlog/gtid-set.ts';
import type { Logger } from '../logging/logger.ts';
import type { MysqlConnection, MysqlRow } from '../mysql/connection.ts';
import type { EventRecord, EventStatus } from '../snapshot/types.ts';
import type { EventBaseline } from './event-history.ts';
import { eventKey } from './event-statements.ts';

const replicaSide = "('SLAVESIDE_DISABLED', 'REPLICA_SIDE_DISABLED')";

/** The events of a source's copy, before anything is replayed on it. */
export async function recordEvents(connection: MysqlConnection): Promise<EventRecord> {
  const [executed] = await connection.query('SELECT @@GLOBAL.gtid_executed AS gtids');
  const rows = await connection.query(
    'SELECT event_schema AS db, event_name AS name, status AS status FROM information_schema.events',
  );
  const statuses: Record<string, EventStatus> = {};
  for (const row of rows) {
    const status = String(row.status);
    statuses[eventKey(String(row.db), String(row.name))] = isPlain(status) ? status : 'REPLICA_SIDE_DISABLED';
  }
  return { gtids: String(executed?.gtids ?? ''), statuses };
}

export function baselineOf({ gtids, statuses }: EventRecord): EventBaseline {
  return { gtids: GtidSet.parse(gtids), statuses: new Map(Object.entries(statuses)) };
}

export interface EventsOptions {
  connection: MysqlConnection;
  /** server_ids of the history: events that came from elsewhere are left as they are. */
  serverIds: ReadonlySet<number>;
  /** How they stood when the replay began: a replica's copy may hold some of a source that the history has forgotten. */
  baseline: EventRecord;
  /** Asked only when there is an event to be judged; by `eventKey`. */
  statuses: () => Promise<ReadonlyMap<string, EventStatus>>;
  logger: Logger;
}

/** Nothing of it gets a GTID. */
export async function giveEventsTheirStatus(options: EventsOptions): Promise<void> {
  const { connection, serverIds, baseline, logger } = options;
  const rows = await connection.query(
    `SELECT event_schema AS db, event_name AS name, definer AS definer, sql_mode AS mode, time_zone AS zone,
            character_set_client AS charset, collation_connection AS collation, originator AS originator
     FROM information_schema.events WHERE status IN ${replicaSide}`,
  );
  const isOurs = (row: MysqlRow) =>
    serverIds.has(Number(row.originator)) || isPlain(baseline.statuses[eventKey(String(row.db), String(row.name))]);
  const ours = rows.filter(isOurs);
  if (ours.length === 0) return;
  const statuses = await options.statuses();
  for (const row of ours) {
    const name = `${quoted(String(row.db))}.${quoted(String(row.name))}`;
    const status = statuses.get(eventKey(String(row.db), String(row.name)));
    if (status === undefined) {
      logger.warn(`the event ${name} was left disabled: the history does not say whether it was enabled`, {
        component: 'events',
      });
    }
    if (!isPlain(status)) continue;
    await connection.query(
      'SET SESSION sql_log_bin = 0, sql_mode = ?, time_zone = ?, character_set_client = ?, collation_connection = ?',
      [row.mode, row.zone, row.charset, row.collation],
    );
    const verb = status === 'ENABLED' ? 'ENABLE' : 'DISABLE';
    await connection.query(`ALTER DEFINER = ${definerText(String(row.definer))} EVENT ${name} ${verb}`);
  }
  await connection.query('SET SESSION sql_mode = DEFAULT, time_zone = DEFAULT, character_set_client = utf8mb4');
}

function isPlain(status: string | undefined): status is 'ENABLED' | 'DISABLED' {
  return status === 'ENABLED' || status === 'DISABLED';
}

/** `user@host` as information_schema writes it; only the last @ separates. */
function definerText(definer: string): string {
  const at = definer.lastIndexOf('@');
  return `${quoted(definer.slice(0, at))}@${quoted(definer.slice(at + 1))}`;
}

function quoted(name: string): string {
  return `\`${name.replaceAll('`', '``')}\``;
}
