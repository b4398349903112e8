/**
 * Events (CREATE EVENT) that came by the replay: a replica keeps them from running (`DISABLE ON REPLICA`), but the restored
 * server is no replica. Those of the history's own servers are enabled again, each under its own definer and settings; a
 * source's replicated ones stay as they were there.
 * Facts: `Event_parse_data::check_originator_id`, sql/event_parse_data.cc; manual, "Replication of Invoked Features".
 */
import type { MysqlConnection } from '../../core/mysql/connection.ts';

/** How many were enabled. Nothing of it gets a GTID. */
export async function enableReplayedEvents(
  connection: MysqlConnection,
  serverIds: ReadonlySet<number>,
): Promise<number> {
  const rows = await connection.query(
    `SELECT event_schema AS db, event_name AS name, definer AS definer, sql_mode AS mode, time_zone AS zone,
            character_set_client AS charset, collation_connection AS collation, originator AS originator
     FROM information_schema.events WHERE status IN ('SLAVESIDE_DISABLED', 'REPLICA_SIDE_DISABLED')`,
  );
  let enabled = 0;
  for (const row of rows) {
    if (!serverIds.has(Number(row.originator))) continue;
    await connection.query(
      'SET SESSION sql_log_bin = 0, sql_mode = ?, time_zone = ?, character_set_client = ?, collation_connection = ?',
      [row.mode, row.zone, row.charset, row.collation],
    );
    await connection.query(
      `ALTER DEFINER = ${definerText(String(row.definer))} EVENT ${quoted(String(row.db))}.${quoted(String(row.name))} ENABLE`,
    );
    enabled += 1;
  }
  await connection.query('SET SESSION sql_mode = DEFAULT, time_zone = DEFAULT, character_set_client = utf8mb4');
  return enabled;
}

/** `user@host` as information_schema writes it; only the last @ separates. */
function definerText(definer: string): string {
  const at = definer.lastIndexOf('@');
  return `${quoted(definer.slice(0, at))}@${quoted(definer.slice(at + 1))}`;
}

function quoted(name: string): string {
  return `\`${name.replaceAll('`', '``')}\``;
}
