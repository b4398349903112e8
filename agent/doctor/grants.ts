/** Which privileges one account needs for capture and snapshots, and which of them an account has. */
import type { MysqlConnection } from '../../core/mysql/connection.ts';

/** Capture: the first two; snapshots: the rest (BACKUP_ADMIN is for the clone engine). All on *.*. */
export const neededPrivileges = [
  'REPLICATION SLAVE',
  'REPLICATION CLIENT',
  'SELECT',
  'SHOW VIEW',
  'TRIGGER',
  'EVENT',
  'PROCESS',
  'RELOAD',
  'BACKUP_ADMIN',
] as const;

/** More of them where commits wait for us: to shut the source when another one has taken over, and to get in while it is shut. */
export const fencePrivileges = ['CONNECTION_ADMIN', 'SYSTEM_VARIABLES_ADMIN'] as const;

/** Static ones are all in ALL PRIVILEGES; these are always printed by name. */
const dynamicPrivileges: ReadonlySet<string> = new Set(['BACKUP_ADMIN', ...fencePrivileges]);

/** Without these there is no capture; the others only keep snapshots from working. */
export const capturePrivileges: ReadonlySet<string> = new Set(['REPLICATION SLAVE', 'REPLICATION CLIENT']);

/** Of the needed ones, those the connected account lacks on *.*; active roles count. */
export async function missingPrivileges(
  connection: MysqlConnection,
  needed: readonly string[] = neededPrivileges,
): Promise<string[]> {
  const [active] = await connection.query('SELECT CURRENT_ROLE() AS roles');
  const roles = String(active?.roles ?? 'NONE');
  const using = roles === 'NONE' || roles === '' ? '' : ` USING ${roles}`;
  const rows = await connection.query(`SHOW GRANTS FOR CURRENT_USER()${using}`);
  return missingFrom(
    rows.map((row) => String(Object.values(row)[0])),
    needed,
  );
}

/** `grants` as SHOW GRANTS prints them. */
export function missingFrom(grants: readonly string[], needed: readonly string[] = neededPrivileges): string[] {
  const held = new Set<string>();
  for (const grant of grants) {
    const list = /^GRANT (.+?) ON \*\.\* TO /i.exec(grant)?.[1];
    for (const privilege of list?.split(/,\s*/) ?? []) held.add(privilege.trim().toUpperCase());
  }
  const hasAll = held.has('ALL PRIVILEGES') || held.has('ALL');
  return needed.filter((privilege) => !held.has(privilege) && !(hasAll && !dynamicPrivileges.has(privilege)));
}
