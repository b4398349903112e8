/** What would make capture or snapshots of a source fail, found before it does. */
import { isKind } from '../../core/errors/error.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { globalVariables, readSourceFacts, type SourceFacts } from '../../core/mysql/source-facts.ts';
import { checkSettings } from '../capture/source-checks.ts';
import { requireSemiSync } from '../semi-sync/settings.ts';
import { capturePrivileges, fencePrivileges, missingPrivileges } from './grants.ts';

export interface Finding {
  /** Stable; the same code as the error that it would become. */
  code: string;
  /** `fail`: capture or snapshots will not work. `warn`: they work, but something can be lost or slow. */
  severity: 'ok' | 'warn' | 'fail';
  sentence: string;
  /** What to do; '' when all is well. */
  hint: string;
  /** Whether `doctor --fix` does it. */
  fixable: boolean;
}

const daySeconds = 86_400;
const safeExpiryDays = 3;
const namedTables = 10;
const firstWithClone = 80_017;

export function hasClone(facts: SourceFacts): boolean {
  return !facts.isMariaDb && facts.versionNumber >= firstWithClone;
}

/** Connects as the configured account. Throws only transient errors; what is wrong with the account is a finding. */
export async function examine(
  endpoint: MysqlEndpoint,
  signal: AbortSignal,
  { semiSync }: { semiSync: boolean } = { semiSync: false },
): Promise<Finding[]> {
  let connection: MysqlConnection;
  try {
    connection = await connectMysql(endpoint, signal);
  } catch (error) {
    if (!isKind(error, 'configuration')) throw error;
    const fixable = error.code === 'QZ2110' || error.code === 'QZ2111';
    return [{ code: error.code, severity: 'fail', sentence: error.message, hint: error.hint, fixable }];
  }
  try {
    return [...(await examineConnected(connection)), ...(semiSync ? await examineAcknowledged(connection) : [])];
  } finally {
    await connection.close();
  }
}

async function examineConnected(connection: MysqlConnection): Promise<Finding[]> {
  const grants = await examineGrants(connection);
  if (grants.some((finding) => finding.severity === 'fail')) return grants;
  const facts = await readSourceFacts(connection);
  return [
    ...grants,
    ...(grants.every(({ severity }) => severity === 'ok') ? [await examineLogin(connection)] : []),
    ...examineSettings(facts, connection.name),
    examineDurability(facts, connection.name),
    examineExpiry(facts, connection.name),
    ...(await examineFilters(connection, facts)),
    ...(await examineChecksum(connection)),
    await examineRowMetadata(connection),
    await examineClone(connection, facts),
    ...(await examineTables(connection)),
  ];
}

/** Only where commits are to wait for us. */
async function examineAcknowledged(connection: MysqlConnection): Promise<Finding[]> {
  return [await examineSemiSync(connection), await examineUnfenced(connection), await examineFencing(connection)];
}

async function examineFencing(connection: MysqlConnection): Promise<Finding> {
  const missing = await missingPrivileges(connection, fencePrivileges);
  if (missing.length === 0) return ok('QZ2143', 'The agent can shut this server out when another one has taken over.');
  return {
    code: 'QZ2143',
    severity: 'warn',
    sentence: `User ${connection.user} lacks ${missing.join(', ')} on ${connection.name}: when another server has taken over, the agent cannot put this one into offline_mode, and clients wait instead of going there.`,
    hint: `As an administrator run: GRANT ${missing.join(', ')} ON *.* TO that account; or \`qazyna doctor --fix\`.`,
    fixable: true,
  };
}

/**
 * `offline_mode` spares whoever holds CONNECTION_ADMIN or SUPER: commits of such an account that wait when mysqld is stopped
 * are answered OK all the same (ops/README.md). Left out are our account, root of this host and the server's own.
 */
async function examineUnfenced(connection: MysqlConnection): Promise<Finding> {
  const rows = await connection.query(
    `SELECT DISTINCT GRANTEE AS name FROM information_schema.USER_PRIVILEGES
     WHERE PRIVILEGE_TYPE IN ('CONNECTION_ADMIN', 'SUPER')
       AND GRANTEE <> CONCAT("'", REPLACE(CURRENT_USER(), '@', "'@'"), "'")
       AND GRANTEE <> "'root'@'localhost'" AND GRANTEE NOT LIKE "'mysql.%'@'localhost'" ORDER BY 1`,
  );
  if (rows.length === 0) return ok('QZ2142', 'No account but administrators gets past offline_mode.');
  return {
    code: 'QZ2142',
    severity: 'warn',
    sentence: `${names(rows)} on ${connection.name} hold CONNECTION_ADMIN or SUPER: offline_mode does not stop them, so a commit of theirs can be answered OK that no other host has.`,
    hint: 'Where an application uses such an account: REVOKE CONNECTION_ADMIN, SUPER ON *.* FROM it.',
    fixable: false,
  };
}

async function examineSemiSync(connection: MysqlConnection): Promise<Finding> {
  try {
    await requireSemiSync(connection);
    return ok('QZ2141', 'Commits wait for their acknowledgement, whatever happens (RPO 0).');
  } catch (error) {
    if (!isKind(error, 'configuration')) throw error;
    return { code: error.code, severity: 'fail', sentence: error.message, hint: error.hint, fixable: true };
  }
}

async function examineGrants(connection: MysqlConnection): Promise<Finding[]> {
  const missing = await missingPrivileges(connection);
  if (missing.length === 0)
    return [ok('QZ2116', `User ${connection.user} has all privileges that capture and snapshots need.`)];
  return [
    {
      code: 'QZ2116',
      severity: missing.some((privilege) => capturePrivileges.has(privilege)) ? 'fail' : 'warn',
      sentence: `User ${connection.user} lacks ${missing.join(', ')} on ${connection.name}.`,
      hint: `As an administrator run: GRANT ${missing.join(', ')} ON *.* TO that account; or \`qazyna doctor --fix\`.`,
      fixable: true,
    },
  ];
}

/** Our own connections know it; mysqldump and mydumper may be of a version that does not. */
async function examineLogin(connection: MysqlConnection): Promise<Finding> {
  const [row] = await connection.query(
    "SELECT plugin AS plugin FROM mysql.user WHERE CONCAT(user, '@', host) = CURRENT_USER()",
  );
  if (row?.plugin !== 'mysql_native_password')
    return ok('QZ2144', 'Client programs of every version can log in as it.');
  return {
    code: 'QZ2144',
    severity: 'warn',
    sentence: `User ${connection.user} logs in to ${connection.name} by mysql_native_password, which MySQL’s client programs no longer know since 9.0: a mysqldump of that version makes no snapshots.`,
    hint: "ALTER USER that account IDENTIFIED WITH caching_sha2_password BY '…'; or `qazyna doctor --fix`.",
    fixable: true,
  };
}

/** The same judgement as at the agent's start, one setting at a time: each is put right in turn to find the next. */
export function examineSettings(facts: SourceFacts, server: string): Finding[] {
  const findings: Finding[] = [];
  const steps: { code: string; well: string; fixable: boolean; right: Partial<SourceFacts> }[] = [
    { code: 'QZ2120', well: `${server} is MySQL.`, fixable: false, right: { isMariaDb: false } },
    {
      code: 'QZ2121',
      well: `MySQL ${facts.version} can be captured.`,
      fixable: false,
      right: { versionNumber: 90_000 },
    },
    { code: 'QZ2122', well: 'The binary log is on.', fixable: false, right: { logBin: true } },
    { code: 'QZ2123', well: 'binlog_format is ROW.', fixable: true, right: { binlogFormat: 'ROW' } },
    { code: 'QZ2124', well: 'gtid_mode is ON.', fixable: facts.logBin, right: { gtidMode: 'ON' } },
    {
      code: 'QZ2125',
      well: 'enforce_gtid_consistency is ON.',
      fixable: true,
      right: { enforceGtidConsistency: 'ON' },
    },
  ];
  let patched = facts;
  for (const { code, well, fixable, right } of steps) {
    const trouble = settingsTrouble(patched, server);
    if (trouble?.code === code) {
      findings.push({ code, severity: 'fail', sentence: trouble.message, hint: trouble.hint, fixable });
      patched = { ...patched, ...right };
    } else {
      findings.push(ok(code, well));
    }
  }
  return findings;
}

function settingsTrouble(facts: SourceFacts, server: string) {
  try {
    checkSettings(facts, server);
    return null;
  } catch (error) {
    if (isKind(error, 'configuration')) return error;
    throw error;
  }
}

function examineDurability(facts: SourceFacts, server: string): Finding {
  const { syncBinlog, innodbFlushLogAtTrxCommit } = facts;
  const wrong = [
    ...(syncBinlog === 1 ? [] : [`sync_binlog ${syncBinlog}`]),
    ...(innodbFlushLogAtTrxCommit === 1 ? [] : [`innodb_flush_log_at_trx_commit ${innodbFlushLogAtTrxCommit}`]),
  ];
  if (wrong.length === 0) return ok('QZ2130', 'sync_binlog and innodb_flush_log_at_trx_commit are 1.');
  return {
    code: 'QZ2130',
    severity: 'warn',
    sentence: `${server} has ${wrong.join(' and ')}: after a crash of its host it can lack commits that are in the backup.`,
    hint: 'If its disk allows: SET PERSIST sync_binlog = 1; SET PERSIST innodb_flush_log_at_trx_commit = 1.',
    fixable: false,
  };
}

function examineExpiry(facts: SourceFacts, server: string): Finding {
  const seconds = facts.binlogExpireLogsSeconds;
  if (seconds === 0 || seconds >= safeExpiryDays * daySeconds)
    return ok(
      'QZ2131',
      `Binlog files are kept for ${seconds === 0 ? 'ever' : `${Math.round(seconds / daySeconds)} days`}.`,
    );
  return {
    code: 'QZ2131',
    severity: 'warn',
    sentence: `${server} deletes binlog files after ${(seconds / 3600).toFixed(1)} hours: an agent that stands still for longer loses history.`,
    hint: `SET PERSIST binlog_expire_logs_seconds = ${7 * daySeconds} keeps them for a week.`,
    fixable: false,
  };
}

/** binlog_do_db and binlog_ignore_db keep whole schemas out of the binlog, and so out of the backup. */
async function examineFilters(connection: MysqlConnection, facts: SourceFacts): Promise<Finding[]> {
  if (!facts.logBin || facts.isMariaDb) return [];
  const statement = facts.versionNumber >= 80_200 ? 'SHOW BINARY LOG STATUS' : 'SHOW MASTER STATUS';
  const [row] = await connection.query(statement);
  const only = String(row?.Binlog_Do_DB ?? '');
  const without = String(row?.Binlog_Ignore_DB ?? '');
  if (only === '' && without === '') return [ok('QZ2132', 'The binary log leaves no schema out.')];
  const what = only === '' ? `leaves out the schemas ${without}` : `holds only the schemas ${only}`;
  return [
    {
      code: 'QZ2132',
      severity: 'fail',
      sentence: `The binary log of ${connection.name} ${what}: the rest would be missing after a restore.`,
      hint: 'Remove binlog_do_db and binlog_ignore_db from its my.cnf and restart it.',
      fixable: false,
    },
  ];
}

async function examineChecksum(connection: MysqlConnection): Promise<Finding[]> {
  const values = await globalVariables(connection, ['binlog_checksum']);
  if (values.get('binlog_checksum')?.toUpperCase() !== 'NONE') return [ok('QZ2133', 'Binlog events carry checksums.')];
  return [
    {
      code: 'QZ2133',
      severity: 'warn',
      sentence: `${connection.name} writes binlog events without checksums: damage on its disk would go unnoticed.`,
      hint: "SET PERSIST binlog_checksum = 'CRC32'.",
      fixable: false,
    },
  ];
}

/** Without them the archive knows the columns of a table by number alone, until a snapshot holds its definition. */
async function examineRowMetadata(connection: MysqlConnection): Promise<Finding> {
  const values = await globalVariables(connection, ['binlog_row_metadata']);
  if (values.get('binlog_row_metadata')?.toUpperCase() === 'FULL')
    return ok('QZ2140', 'Row events carry the names of their columns.');
  return {
    code: 'QZ2140',
    severity: 'warn',
    sentence: `${connection.name} writes row events without column names: \`qazyna history\` shows a table made after the newest snapshot with @1, @2, … in their place.`,
    hint: "SET PERSIST binlog_row_metadata = 'FULL' costs some bytes for each statement.",
    fixable: true,
  };
}

async function examineClone(connection: MysqlConnection, facts: SourceFacts): Promise<Finding> {
  if (!hasClone(facts))
    return {
      code: 'QZ2134',
      severity: 'fail',
      sentence: `${connection.name} (${facts.version}) has no clone engine: snapshots are not possible as configured.`,
      hint: 'Set snapshots.engine: logical; clone came with MySQL 8.0.17.',
      fixable: false,
    };
  const [row] = await connection.query(
    "SELECT PLUGIN_STATUS AS state FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'clone'",
  );
  if (row?.state === 'ACTIVE') return ok('QZ2134', 'The clone plugin is active.');
  return {
    code: 'QZ2134',
    severity: 'warn',
    sentence: `The clone plugin is not active on ${connection.name}: snapshots by the clone engine are not possible.`,
    hint: "INSTALL PLUGIN clone SONAME 'mysql_clone.so'; or `qazyna doctor --fix`; or snapshots.engine: logical.",
    fixable: true,
  };
}

async function examineTables(connection: MysqlConnection): Promise<Finding[]> {
  const foreign = await connection.query(
    `SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) AS name, ENGINE AS engine FROM information_schema.TABLES
     WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE <> 'InnoDB'
       AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') ORDER BY 1`,
  );
  const keyless = await connection.query(
    `SELECT CONCAT(t.TABLE_SCHEMA, '.', t.TABLE_NAME) AS name FROM information_schema.TABLES t
     LEFT JOIN information_schema.TABLE_CONSTRAINTS c ON c.TABLE_SCHEMA = t.TABLE_SCHEMA
       AND c.TABLE_NAME = t.TABLE_NAME AND c.CONSTRAINT_TYPE IN ('PRIMARY KEY', 'UNIQUE')
     WHERE t.TABLE_TYPE = 'BASE TABLE' AND c.CONSTRAINT_NAME IS NULL
       AND t.TABLE_SCHEMA NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') ORDER BY 1`,
  );
  return [
    foreign.length === 0
      ? ok('QZ2135', 'All tables are InnoDB.')
      : {
          code: 'QZ2135',
          severity: 'warn',
          sentence: `${foreign.length} tables are not InnoDB, which the clone engine copies empty: ${names(foreign)}.`,
          hint: 'ALTER TABLE … ENGINE=InnoDB, or set snapshots.engine: logical.',
          fixable: false,
        },
    keyless.length === 0
      ? ok('QZ2136', 'All tables have a primary or unique key.')
      : {
          code: 'QZ2136',
          severity: 'warn',
          sentence: `${keyless.length} tables have no primary or unique key, so each changed row is replayed by a full scan: ${names(keyless)}.`,
          hint: 'Give them a primary key (sql_require_primary_key keeps it so).',
          fixable: false,
        },
  ];
}

function names(rows: readonly Record<string, unknown>[]): string {
  const shown = rows.slice(0, namedTables).map((row) => `${row.name}${row.engine ? ` (${row.engine})` : ''}`);
  return shown.join(', ') + (rows.length > namedTables ? ', …' : '');
}

function ok(code: string, sentence: string): Finding {
  return { code, severity: 'ok', sentence, hint: '', fixable: false };
}
