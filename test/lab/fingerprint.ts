/** Everything about a server's data that two equal servers must share: rows, definitions, accounts. Compared as plain text lines. */
export interface Queryable {
  query(sql: string, params?: readonly unknown[]): Promise<Record<string, unknown>[]>;
}

const systemDatabases = new Set(['mysql', 'sys', 'information_schema', 'performance_schema']);
/** Accounts that the server or this project makes; they may differ by purpose. */
const ownAccounts = new Set(['mysql.sys', 'mysql.session', 'mysql.infoschema', 'root']);

const quote = (name: string) => `\`${name.replaceAll('`', '``')}\``;

/** One line a fact: `rows db.table 123 checksum`, `definition …`, `account …`. Sorted, so that a diff reads well. */
export async function fingerprint(server: Queryable): Promise<string[]> {
  const lines: string[] = [];
  for (const row of await server.query('SHOW DATABASES')) {
    const database = String(Object.values(row)[0]);
    if (!systemDatabases.has(database)) lines.push(...(await databaseLines(server, database)));
  }
  lines.push(...(await accountLines(server)));
  return lines.sort();
}

async function databaseLines(server: Queryable, database: string): Promise<string[]> {
  const lines = [`database ${await definition(server, `SHOW CREATE DATABASE ${quote(database)}`)}`];
  for (const row of await server.query(`SHOW FULL TABLES FROM ${quote(database)}`)) {
    const [table, type] = Object.values(row).map(String) as [string, string];
    const name = `${quote(database)}.${quote(table)}`;
    if (type === 'VIEW') {
      lines.push(`view ${await definition(server, `SHOW CREATE VIEW ${name}`)}`);
      continue;
    }
    lines.push(`table ${(await definition(server, `SHOW CREATE TABLE ${name}`)).replace(/ AUTO_INCREMENT=\d+/, '')}`);
    const [sum] = await server.query(`CHECKSUM TABLE ${name} EXTENDED`);
    const [count] = await server.query(`SELECT COUNT(*) AS n FROM ${name}`);
    lines.push(`rows ${name} ${count?.n} ${sum?.Checksum}`);
  }
  for (const [kind, column, where] of [
    ['TRIGGER', 'TRIGGER_NAME', 'information_schema.triggers WHERE TRIGGER_SCHEMA'],
    ['EVENT', 'EVENT_NAME', 'information_schema.events WHERE EVENT_SCHEMA'],
    ['PROCEDURE', 'ROUTINE_NAME', "information_schema.routines WHERE ROUTINE_TYPE = 'PROCEDURE' AND ROUTINE_SCHEMA"],
    ['FUNCTION', 'ROUTINE_NAME', "information_schema.routines WHERE ROUTINE_TYPE = 'FUNCTION' AND ROUTINE_SCHEMA"],
  ] as const) {
    for (const row of await server.query(`SELECT ${column} AS name FROM ${where} = ?`, [database])) {
      const name = `${quote(database)}.${quote(String(row.name))}`;
      lines.push(`${kind.toLowerCase()} ${await definition(server, `SHOW CREATE ${kind} ${name}`)}`);
    }
  }
  return lines;
}

async function accountLines(server: Queryable): Promise<string[]> {
  const lines: string[] = [];
  const accounts = await server.query(
    'SELECT user, host, HEX(authentication_string) AS secret, plugin FROM mysql.user',
  );
  for (const { user, host, secret, plugin } of accounts) {
    if (ownAccounts.has(String(user))) continue;
    lines.push(`account ${user}@${host} ${plugin} ${secret}`);
    for (const grant of await server.query(`SHOW GRANTS FOR ?@?`, [user, host])) {
      lines.push(`grant ${user}@${host} ${Object.values(grant)[0]}`);
    }
  }
  return lines;
}

/** What a SHOW CREATE prints, without the columns that describe the session. */
async function definition(server: Queryable, sql: string): Promise<string> {
  const [row] = await server.query(sql);
  return Object.entries(row ?? {})
    .filter(([key]) => !/character_set_client|collation_connection|Created|sql_mode|time_zone/.test(key))
    .map(([, value]) => String(value))
    .join(' | ');
}
